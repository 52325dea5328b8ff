"""Stage `evaluate`: greedy answers on the held-out splits and the benchmarks, and their figures, with intervals.

Pictures are asked about in shards; a shard that is done leaves `part-NNNNN.json` with its answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from csr_core.config import Settings
from csr_core.errors import InputError
from csr_core.evaluation.chair import chair
from csr_core.evaluation.counts import write_counts
from csr_core.evaluation.hypotheses import correct
from csr_core.evaluation.pope import question_item
from csr_core.evaluation.report import Rows, split_metrics
from csr_core.evaluation.sources import read_rows
from csr_core.evaluation.splits import Split, read_split
from csr_core.evaluation.watching import add_relevance, watching_models
from csr_core.progress import add_to_figure, doing
from csr_core.records import read_json, write_json, write_jsonl
from csr_core.stages import benchmarks
from csr_core.stages.benchmarks import Benchmark
from csr_core.stages.models import kept_embeddings
from csr_core.stages.shards import missing_parts, part

if TYPE_CHECKING:
    from csr_core.reward.scorer import SentenceScorer

YES_NO_TOKENS = 16  # enough for a yes or no with its reason: only the first sentence is read
FILES = (".json",)  # what a finished shard leaves

Row = dict[str, Any]


def evaluate(
    settings: Settings,
    splits: Mapping[str, Path],
    adapter: Path | None,
    parts: Path,
    answers: Path,
    metrics: Path,
    previous: Path | None = None,
    base: Path | None = None,
    state: Path | None = None,
) -> dict[str, Any]:
    """Measure the model of `adapter` (None: the base) on `splits` (name -> folder, see `read_split`) and benchmarks.

    Writes, for each split, `answers/{split}_captions.jsonl` and `answers/{split}_questions.jsonl`, for each benchmark
    of the settings `answers/{name}_answers.jsonl`; the figures to `metrics` as {split or benchmark: {name: {value, low,
    high, n}}}, where figures also have `vs_previous` and `vs_base` (paired differences with p) where `previous` and
    `base`, answers folders of other models, are given; what each answer counted, for comparisons of any kind, to
    `answers/counts.parquet`; and `answers/summary.json`. `parts` holds the shards' answers; those that are there
    already are kept. `state`: the run's folder for what is kept between runs, here a judge's words.

    Raises:
        InputError: a split cannot be used, the model cannot be loaded, or not one picture of a split can be read.
    """
    # All splits and benchmarks are read before the model is loaded: a wrong file is found at once.
    found, asked = _read(settings, splits), benchmarks.read_benchmarks(settings)
    cut = _cut(settings, found, asked)
    make_shards(settings, splits, adapter, parts, missing_parts(parts, len(cut), FILES))
    figures: dict[str, Any] = {}
    summary: dict[str, Any] = {"splits": {}, "left_out": []}
    counted = {}
    scorers: list[SentenceScorer] = []
    for split in found:
        done = [read_json(part(parts, number, ".json")) for number, (of, _) in enumerate(cut) if of is split]
        left_out = [*split.left_out, *(item for one in done for item in one["left_out"])]
        told = {kind: _in_order(split, kind, done) for kind in ("captions", "questions")}
        files = {row["image_id"]: row["path"] for row in split.captions}
        if told["captions"]:
            scorers = scorers or _scorers(settings, state)
            with doing(f"{split.name}: relevance of descriptions"):
                add_relevance(told["captions"], files, scorers, settings.data.max_pixels)
        for kind, made in told.items():
            write_jsonl(answers / f"{split.name}_{kind}.jsonl", made)
        rows = _answers(answers, split.name)
        if not any(rows):
            raise InputError(
                f"evaluate.splits.{split.name}: nothing could be answered. {left_out[0]['reason'] if left_out else ''}"
            )
        others = {
            label: _answers(folder, split.name) for label, folder in (("previous", previous), ("base", base)) if folder
        }
        with doing(f"{split.name}: figures and their intervals"):
            figures[split.name], summary["splits"][split.name] = split_metrics(
                split, *rows, others, settings.evaluate.bootstrap
            )
        left_out += summary["splits"][split.name].pop("left_out")
        counted[split.name] = summary["splits"][split.name].pop("items")
        summary["left_out"] += [{"split": split.name, **item} for item in left_out]
    folders = {label: folder for label, folder in (("previous", previous), ("base", base)) if folder}
    for one in asked:
        done = [read_json(part(parts, number, ".json")) for number, (of, _) in enumerate(cut) if of is one]
        figures[one.name], told = benchmarks.conclude(settings, one, done, answers, folders, state)
        counted[one.name] = told.pop("items")
        summary["left_out"] += [{"benchmark": one.name, **item} for item in told.pop("left_out")]
        summary.setdefault("benchmarks", {})[one.name] = told
    correct(figures)
    write_counts(answers, counted)
    write_json(metrics, figures)
    write_json(answers / "summary.json", summary)
    return summary


def _scorers(settings: Settings, state: Path | None) -> list[SentenceScorer]:
    """Of the models that watch, each loaded once, with what they made of the pictures in earlier iterations."""
    from csr_core.reward.scorer import SentenceScorer

    models = watching_models(settings)
    return [SentenceScorer(model, kept=kept_embeddings(model, state) if state else None) for model in models]


def shard_sizes(settings: Settings, splits: Mapping[str, Path]) -> list[int]:
    """Answers of each shard."""
    sizes = []
    for of, pictures in _cut(settings, _read(settings, splits), benchmarks.read_benchmarks(settings)):
        asked = (
            [q.picture for q in of.questions]
            if isinstance(of, Benchmark)
            else [row["path"] for row in (*of.captions, *of.questions)]
        )
        sizes.append(sum(picture in pictures for picture in asked))
    return sizes


def make_shards(
    settings: Settings, splits: Mapping[str, Path], adapter: Path | None, parts: Path, numbers: Sequence[int]
) -> None:
    """Answer for the shards with these numbers: {captions: {row: text}, questions: {row: text}, left_out}, or for a
    benchmark {answers: {key: text}, left_out}."""
    from csr_core.evaluation.answers import Encoder
    from csr_core.policy import load_policy

    if not numbers:
        return
    cut = _cut(settings, _read(settings, splits), benchmarks.read_benchmarks(settings))
    policy = load_policy(settings.model, adapter)
    for number in numbers:
        of, pictures = cut[number]
        encoder = Encoder(policy, settings.data.max_pixels)
        if isinstance(of, Benchmark):
            write_json(part(parts, number, ".json"), benchmarks.answer(settings, encoder, of, pictures))
            continue
        left_out: list[dict[str, str]] = []
        texts = {kind: _answer(settings, encoder, of, kind, pictures, left_out) for kind in ("captions", "questions")}
        likely = _likelihoods(settings, encoder, adapter is not None, of, texts["captions"])
        write_json(part(parts, number, ".json"), {**texts, "likelihoods": likely, "left_out": left_out})


def _read(settings: Settings, splits: Mapping[str, Path]) -> list[Split]:
    return [_read_once(name, folder, _count(settings, name), _stamp(folder)) for name, folder in splits.items()]


@lru_cache(maxsize=8)
def _read_once(name: str, folder: Path, count: int | None, stamp: tuple[Any, ...]) -> Split:
    """The split, read again only when its files change: it is asked for by each shard, and to count them."""
    return read_split(name, folder, count)


def _stamp(folder: Path) -> tuple[Any, ...]:
    files = sorted(path for path in folder.glob("*") if path.is_file())
    return tuple((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files)


def _cut(
    settings: Settings, splits: Sequence[Split], asked: Sequence[Benchmark]
) -> list[tuple[Split | Benchmark, frozenset[Any]]]:
    """For each shard its split or benchmark, and its pictures: what is asked about one picture is asked in one."""
    size = settings.evaluate.shard_size
    out: list[tuple[Split | Benchmark, frozenset[Any]]] = []
    for split in splits:
        pictures = list(dict.fromkeys(row["path"] for row in (*split.captions, *split.questions)))
        out += [(split, frozenset(pictures[start : start + size])) for start in range(0, len(pictures), size)]
    for benchmark in asked:
        out += [(benchmark, chosen) for chosen in benchmarks.cut(benchmark, size)]
    return out


def _count(settings: Settings, name: str) -> int | None:
    chosen = settings.evaluate.splits.get(name)
    return chosen.count if chosen else None


def _answer(
    settings: Settings, encoder: Any, split: Split, kind: str, pictures: frozenset[Path], left_out: list[dict[str, str]]
) -> dict[str, str]:
    """The answers about some pictures by the row's place in the split; adds to `left_out` what could not be asked."""
    from csr_core.evaluation.answers import Ask, greedy_answers

    captions = kind == "captions"
    rows = split.captions if captions else split.questions
    chosen = [place for place, row in enumerate(rows) if row["path"] in pictures]
    texts, missing = greedy_answers(
        [Ask(_key(kind, rows[place]), rows[place]["path"], rows[place][_PROMPT[kind]]) for place in chosen],
        settings.evaluate.max_new_tokens if captions else YES_NO_TOKENS,
        settings.evaluate.batch_size,
        encoder,
        f"{split.name} {kind}",
        lambda index, text: _show_so_far(split, kind, rows[chosen[index]], text),
    )
    left_out += missing
    return {str(place): text for place, text in zip(chosen, texts, strict=True) if text is not None}


def _show_so_far(split: Split, kind: str, row: Row, text: str) -> None:
    """The running metrics: CHAIR_i and POPE's accuracy of a split, as its figures will have them."""
    name = split.name.replace("{", "(").replace("}", ")")  # braces would be places for numbers
    if kind == "captions":
        for score in chair([{"image_id": row["image_id"], "caption": text}], split.truth, split.parser).scores:
            wrong, mentions = score.item().counts["chair_i"]
            add_to_figure(name + " CHAIR_i {value:.1%} of {n:,.0f}", wrong, mentions)
    elif (label := row["label"].strip().lower()) in ("yes", "no"):
        right, one = question_item(("", ""), "", label == "yes", text).counts["pope_accuracy"]
        add_to_figure(name + " POPE {value:.1%} of {n:,.0f}", right, one)


def _likelihoods(
    settings: Settings, encoder: Any, adapted: bool, split: Split, captions: dict[str, str]
) -> dict[str, dict[str, float]]:
    """How likely the descriptions are, by the row's place in the split."""
    from csr_core.evaluation.answers import Ask
    from csr_core.evaluation.likelihoods import answer_likelihoods

    rows = [split.captions[int(place)] for place in captions]
    asks = [Ask(_key("captions", row), row["path"], row["prompt"]) for row in rows]
    found = answer_likelihoods(settings, encoder, adapted, asks, list(captions.values()), f"{split.name} captions")
    return {place: one for place, one in zip(captions, found, strict=True) if one is not None}


_PROMPT = {"captions": "prompt", "questions": "text"}
_KEPT = {
    "captions": ("image_id", "image", "prompt"),
    "questions": ("question_id", "image", "text", "label", "category"),
}


def _key(kind: str, row: Row) -> str:
    return str(row["image_id"]) if kind == "captions" else f"{row['category']}/{row['question_id']}"


def _in_order(split: Split, kind: str, parts: Sequence[Row]) -> list[Row]:
    """The answered rows of a split as they stand in it, whatever the shards were."""
    answer = "caption" if kind == "captions" else "answer"
    texts = {int(place): text for one in parts for place, text in one[kind].items()}
    likely = {int(place): found for one in parts for place, found in one["likelihoods"].items()}
    rows = split.captions if kind == "captions" else split.questions
    more = likely if kind == "captions" else {}
    return [
        {key: rows[place][key] for key in _KEPT[kind]} | {answer: texts[place]} | more.get(place, {})
        for place in sorted(texts)
    ]


def _answers(folder: Path, split: str) -> tuple[Rows, Rows]:
    """(captions, questions) of an answers folder; empty where a model was not asked."""
    captions, questions = folder / f"{split}_captions.jsonl", folder / f"{split}_questions.jsonl"
    return (
        read_rows(captions, ("image_id", "caption")) if captions.is_file() and captions.stat().st_size else [],
        read_rows(questions, ("question_id", "answer")) if questions.is_file() and questions.stat().st_size else [],
    )
