"""The benchmarks of a run within the stage `evaluate`: read, asked in shards, judged where that is needed, scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from types import ModuleType
from typing import Any

from csr_core.config import Settings
from csr_core.errors import InputError
from csr_core.evaluation.benchmarks import BENCHMARKS, JUDGED
from csr_core.evaluation.benchmarks.common import Question
from csr_core.evaluation.sources import read_rows
from csr_core.evaluation.statistics import Item, compare, measure
from csr_core.records import write_jsonl

Row = dict[str, Any]
NO_JUDGE = "evaluate.judge is null: the answers are written, and nothing rates them"
OTHER_JUDGE = "the other model's answers were judged by another model or with other instructions: no difference"


@dataclass
class Benchmark:
    """A benchmark's questions, read from its folder."""

    name: str
    module: ModuleType
    questions: list[Question]
    left_out: list[dict[str, str]]
    stated: dict[str, Any]


def read_benchmark(name: str, folder: Path) -> Benchmark:
    """Raises InputError where the folder, or a file that is needed, is missing or unusable, or holds no question."""
    module = BENCHMARKS[name]
    if lacking := missing(name, folder):
        listed = "; ".join(f"{pattern}: {source}" for pattern, source in lacking.items())
        raise InputError(f"evaluate.benchmarks.{name}: {folder} lacks {listed} ({module.SOURCE})")
    try:
        found = module.read(folder)
    except (ValueError, KeyError, TypeError, AttributeError) as error:  # JSON that is broken, or of another shape
        raise InputError(
            f"evaluate.benchmarks.{name}: a file in {folder} is not as {module.SOURCE} has it "
            f"({type(error).__name__}: {error}). Fetch it again"
        ) from error
    keys = [question.key for question in found.questions]
    if not keys or len(set(keys)) < len(keys):
        why = f"the first: {found.left_out[0]['reason']}" if found.left_out else "is a file in there twice?"
        raise InputError(f"evaluate.benchmarks.{name}: {folder} has no questions, or repeats them; {why}")
    return Benchmark(name, module, found.questions, found.left_out, found.stated)


def missing(name: str, folder: Path) -> dict[str, str]:
    """The files that the folder lacks: pattern -> where to get them."""
    return {pattern: source for pattern, source in BENCHMARKS[name].FILES.items() if not any(folder.glob(pattern))}


def read_benchmarks(settings: Settings) -> list[Benchmark]:
    return [read_benchmark(name, Path(folder)) for name, folder in settings.evaluate.benchmarks.items()]


def cut(benchmark: Benchmark, size: int) -> list[frozenset[str]]:
    """The pictures of each shard."""
    pictures = list(dict.fromkeys(question.picture for question in benchmark.questions))
    return [frozenset(pictures[start : start + size]) for start in range(0, len(pictures), size)]


def answer(settings: Settings, encoder: Any, benchmark: Benchmark, pictures: frozenset[str]) -> Row:
    """A shard: {answers: {key: text}, left_out}."""
    from csr_core.evaluation.answers import Ask, greedy_answers

    texts: dict[str, str] = {}
    left_out: list[dict[str, str]] = []
    chosen = sorted((q for q in benchmark.questions if q.picture in pictures), key=lambda q: q.max_new_tokens)
    for longest, group in groupby(chosen, key=lambda question: question.max_new_tokens):
        asks = [Ask(question.key, question.image, question.prompt) for question in group]
        said, lost = greedy_answers(asks, longest, settings.evaluate.batch_size, encoder, benchmark.name)
        texts |= {ask.key: text for ask, text in zip(asks, said, strict=True) if text is not None}
        left_out += lost
    return {"answers": texts, "left_out": left_out}


def conclude(
    settings: Settings,
    benchmark: Benchmark,
    parts: Sequence[Row],
    answers: Path,
    others: Mapping[str, Path],
    state: Path | None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write the answers (and judgements) of all shards to the folder `answers`; returns (figures, summary), the
    items that were counted among the latter.

    others: "previous" and "base" -> the answers folders of other models, for paired differences. state: where the
    judge's words are kept for the next time.

    Raises:
        InputError: not one question could be answered.
    """
    texts = {key: text for part in parts for key, text in part["answers"].items()}
    left_out = [*benchmark.left_out, *(item for part in parts for item in part["left_out"])]
    if not texts:
        reason = left_out[0]["reason"] if left_out else ""
        raise InputError(f"evaluate.benchmarks.{benchmark.name}: nothing could be answered. {reason}")
    rows = [
        {"key": question.key, "image": question.picture, "prompt": question.prompt, "answer": texts[question.key]}
        for question in benchmark.questions
        if question.key in texts
    ]
    write_jsonl(_answers_file(answers, benchmark), rows)
    summary: dict[str, Any] = {"questions": len(benchmark.questions), "answered": len(texts), "left_out": left_out}
    if benchmark.stated:
        summary["stated"] = benchmark.stated
    judgements: list[Row] = []
    if benchmark.name in JUDGED:
        judgements = judge_answers(settings, benchmark, texts, (state or answers) / "judgements.jsonl")
        write_jsonl(_judgements_file(answers, benchmark), judgements)
        summary["judge"] = NO_JUDGE if settings.evaluate.judge is None else settings.evaluate.judge.model
        summary["unjudged"] = len(texts) - len(judgements)
    items, resamples = scored(benchmark, texts, judgements), settings.evaluate.bootstrap
    figures: dict[str, Any] = {name: figure.as_dict() for name, figure in measure(items, resamples).items()}
    for label, folder in others.items():
        if not _answers_file(folder, benchmark).is_file():
            continue
        their_texts = read_answers(_answers_file(folder, benchmark))
        their_judgements = _rows(_judgements_file(folder, benchmark))
        if _judges(judgements) != _judges(their_judgements) and judgements and their_judgements:
            summary[f"vs_{label}"] = OTHER_JUDGE
            their_judgements = []
        theirs = scored(benchmark, their_texts, their_judgements)
        for name, difference in compare(items, theirs, resamples).items():
            figures[name][f"vs_{label}"] = difference.as_dict()
    summary["items"] = items
    return figures, summary


def judge_answers(settings: Settings, benchmark: Benchmark, texts: Mapping[str, str], kept: Path) -> list[Row]:
    """The judgements of `texts`; none without a judge. `kept`: see `csr_core.evaluation.judge.judge`."""
    if settings.evaluate.judge is None:
        return []
    from csr_core.evaluation.judge import judge

    module = benchmark.module
    requests = {q.key: module.judge_request(q, texts[q.key]) for q in benchmark.questions if q.key in texts}
    return judge(settings.evaluate.judge, requests, module.read_judgement, kept, f"{benchmark.name} judge")


def scored(benchmark: Benchmark, texts: Mapping[str, str], judgements: Sequence[Row]) -> list[Item]:
    """The items of the answers in `texts`, by key."""
    more = ({row["key"]: row["value"] for row in judgements},) if benchmark.name in JUDGED else ()
    items: list[Item] = benchmark.module.score(benchmark.questions, texts, *more)
    return items


def read_answers(file: Path) -> dict[str, str]:
    """The texts in a file of rows `key, answer` (or `question_id, text`), by key.

    Raises:
        InputError: it has no such rows.
    """
    rows = read_rows(file, (("key", "question_id"), ("answer", "text")))
    return {str(row.get("key", row.get("question_id"))): str(row.get("answer", row.get("text"))) for row in rows}


def _answers_file(folder: Path, benchmark: Benchmark) -> Path:
    return folder / f"{benchmark.name}_answers.jsonl"


def _judgements_file(folder: Path, benchmark: Benchmark) -> Path:
    return folder / f"{benchmark.name}_judgements.jsonl"


def _rows(file: Path) -> list[Row]:
    return read_rows(file, ("key", "value")) if file.is_file() and file.stat().st_size else []


def _judges(judgements: Sequence[Row]) -> set[tuple[str, str]]:
    return {(row["model"], row["prompt_version"]) for row in judgements}
