"""Which benchmarks there are, which files of theirs are missing, and what answers already written score."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from csr_core.config import JudgeSettings, Settings
from csr_core.errors import InputError, SettingsError
from csr_core.evaluation.benchmarks import BENCHMARKS, JUDGED
from csr_core.evaluation.cli import Result
from csr_core.evaluation.statistics import measure
from csr_core.records import write_jsonl
from csr_core.stages.benchmarks import judge_answers, missing, read_answers, read_benchmark, scored


def listing(folders: Mapping[str, str]) -> str:
    """A block a benchmark: its source and its files, each marked as there or missing in its folder (name -> folder)."""
    blocks = []
    for name, module in BENCHMARKS.items():
        folder = folders.get(name)
        lacking = missing(name, Path(folder)) if folder else module.FILES
        state = "no folder named" if folder is None else f"{len(lacking)} missing in" if lacking else "complete in"
        lines = [f"{name:<12} {module.TITLE}: {state}{f' {folder}' if folder else ''}", f"  {module.SOURCE}"]
        for pattern, source in module.FILES.items():
            mark = "?" if folder is None else "-" if pattern in lacking else "+"
            lines.append(f"  {mark} {pattern:<32} {source}")
        blocks.append("\n".join(lines))
    end = "+ there, - missing, ? not looked for. Name folders with evaluate.benchmarks, such as {gqa: data/gqa}"
    return "\n\n".join([*blocks, end])


def score_answers(
    name: str, folder: Path, answers: Path, judge: JudgeSettings | None, kept: Path, resamples: int = 2000
) -> tuple[Result, dict[str, Any]]:
    """(figures, summary) of a file of answers to a benchmark, rows `key, answer` as the stage writes them.

    judge: rates where that is needed; what it says is kept in the file `kept`, and in `NAME_judgements.jsonl` beside
    the answers.

    Raises:
        SettingsError: no such benchmark. InputError: a file is not what it should be, or answers no question.
    """
    if name not in BENCHMARKS:
        raise SettingsError(f"there is no benchmark {name}: expected one of {', '.join(BENCHMARKS)}")
    benchmark, texts = read_benchmark(name, folder), read_answers(answers)
    if not any(question.key in texts for question in benchmark.questions):
        raise InputError(
            f"{answers} answers no question of {folder}: its first key is {next(iter(texts))!r}, the benchmark's "
            f"{benchmark.questions[0].key!r}"
        )
    settings, judgements = Settings.model_validate({"evaluate": {"judge": judge}}), []
    if name in JUDGED and judge is not None:
        judgements = judge_answers(settings, benchmark, texts, kept)
        write_jsonl(answers.with_name(f"{name}_judgements.jsonl"), judgements)
    items = scored(benchmark, texts, judgements)
    unanswered = sum(question.key not in texts for question in benchmark.questions)
    figures = {figure: interval.as_dict() for figure, interval in measure(items, resamples).items()}
    return figures, {"questions": len(benchmark.questions), "unanswered": unanswered}
