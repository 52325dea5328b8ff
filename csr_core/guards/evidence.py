"""What the guards look at, read from the files that the stages left."""

from __future__ import annotations

import json
import statistics
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from csr_core.config import Settings
from csr_core.layout import Layout
from csr_core.records import SCORES, read_json, read_table
from csr_core.reward.calibration import normalised


@dataclass(frozen=True)
class Evidence:
    """Of one iteration; None where there is none.

    figures, base_figures: {name: {value, low, high, vs_base, ...}} of the main split. rewarded: which of them the
    reward makes grow. answers: descriptions of its pictures. agreement: rank correlation of R_T and R_I over
    candidates; variety: distinct share of a picture's candidate sentences; both of the first iteration too.
    chosen_gain, rejected_gain: log-probability at the end of training less the reference's, nats. trained_accuracy,
    held_out_accuracy: share of pairs told apart at the end, of `held_out_pairs` each.
    """

    figures: dict[str, Any]
    base_figures: dict[str, Any]
    rewarded: str = "relevance"
    answers: list[str] = field(default_factory=list)
    base_answers: list[str] = field(default_factory=list)
    agreement: float | None = None
    first_agreement: float | None = None
    variety: float | None = None
    first_variety: float | None = None
    chosen_gain: float | None = None
    rejected_gain: float | None = None
    trained_accuracy: float | None = None
    held_out_accuracy: float | None = None
    held_out_pairs: int = 0


def read_evidence(iteration: int, layout: Layout, split: str, settings: Settings) -> Evidence:
    """What is known of `iteration` (1, 2, ...), of the base and of the first iteration."""
    own, base = (read_json(layout.metrics(k))[split] for k in (iteration, 0))
    agreement, variety = candidates(layout.scores(iteration), settings.generate.width)
    first_agreement, first_variety = candidates(layout.scores(1), settings.generate.width)
    return Evidence(
        own,
        base,
        "relevance_total" if settings.pair.path_score == "sum" else "relevance",
        _captions(layout.answers(iteration), split),
        _captions(layout.answers(0), split),
        agreement,
        first_agreement,
        variety,
        first_variety,
        **training(layout.model(iteration), settings.finetune.beta),
    )


def candidates(scores: Path, width: int) -> tuple[float | None, float | None]:
    """(rank correlation of likelihood and relevance, distinct share of a picture's sentences) of scored candidates.

    The correlation is Spearman's over all sentences that were scored. The share is the mean over pictures of distinct
    sentences / sentences written, letter case and white space aside; each grown node was asked for `width` of them, of
    which equal ones are one candidate.
    """
    if not scores.is_dir():
        return None, None  # the pairs of this iteration were imported
    from scipy.stats import spearmanr

    likely, seen, texts = [], [], defaultdict(set)
    grown: Counter[str] = Counter()
    for row in read_table(scores, SCORES):
        grown[row["prompt_id"]] += bool(row["expanded"])
        if row["relevance"] is not None and row["likelihood"] is not None:
            likely.append(row["likelihood"])
            seen.append(row["relevance"])
            texts[row["prompt_id"]].add(normalised(row["text"]))
    if len(set(likely)) < 2 or len(set(seen)) < 2:
        return None, None
    share = statistics.fmean(len(said) / (width * max(1, grown[name])) for name, said in texts.items())
    return float(spearmanr(likely, seen).statistic), share


def training(model: Path, beta: float) -> dict[str, Any]:
    """What the log of a training and its summary tell; the last tenth of the steps counts."""
    log, summary = model / "training.jsonl", model / "summary.json"
    if not log.is_file() or not summary.is_file():
        return {}
    rows = [json.loads(line) for line in log.read_text("utf-8").splitlines() if line.strip()]
    last = rows[-max(1, len(rows) // 10) :]
    chosen, rejected = _mean(last, "rewards/chosen"), _mean(last, "rewards/rejected")
    held_out = read_json(summary).get("held_out") or {}
    return {
        # The rewards of DPO are beta times the log-ratio to the reference.
        "chosen_gain": None if chosen is None else chosen / beta,
        "rejected_gain": None if rejected is None else rejected / beta,
        "trained_accuracy": held_out.get("trained_accuracy"),
        "held_out_accuracy": held_out.get("accuracy"),
        "held_out_pairs": held_out.get("pairs", 0),
    }


def _mean(rows: Sequence[dict[str, float]], name: str) -> float | None:
    values = [row[name] for row in rows if name in row]
    return statistics.fmean(values) if values else None


def _captions(answers: Path, split: str) -> list[str]:
    file = answers / f"{split}_captions.jsonl"
    if not file.is_file():
        return []
    return [json.loads(line)["caption"] for line in file.read_text("utf-8").splitlines() if line.strip()]
