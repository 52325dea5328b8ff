"""Run a stage once for the same content: its key, its stamp, and outputs that appear whole or not at all.

The stamp of a finished stage (`.csr/stamps/NAME@K.json`) holds the key it was made under, the digests of what it made,
and, for the report, the settings it ran with. A stage is up to date when the key is the same and the files still have
those digests, whoever made them: the Prefect flow, `dvc repro` or `csr stage`.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock

from csr_core.digests import Digests, digest_value
from csr_core.errors import InputError
from csr_core.layout import Layout
from csr_core.progress import doing, shown
from csr_core.progress_line import Display
from csr_core.records import publish, read_json, write_json
from csr_core.stages import costs
from csr_core.stages.plan import VERSIONS, StageCall
from csr_core.stages.shards import make_missing

CHECKING = "checking what is there"


@dataclass(frozen=True)
class StageResult:
    """What a stage made, by content; the same whether it ran or was found up to date."""

    label: str
    key: str
    outputs: dict[str, str]
    summary: dict[str, Any]
    cached: bool = field(compare=False, default=False)
    seconds: float = field(compare=False, default=0.0)
    told: str = field(compare=False, default="")  # what progress has to say at the end


def stage_key(call: StageCall, digests: Digests) -> str:
    """SHA-256 of all that decides the stage's result: inputs by content, its settings, the version of its code."""
    content = [digests.path(path) for path in call.inputs]
    missing = [str(path) for path, digest in zip(call.inputs, content, strict=True) if digest is None]
    if missing:
        raise InputError(
            f"{call.label} needs {', '.join(missing)}: run the stage that makes it first, or check the path"
        )
    return digest_value(
        {"stage": call.name, "version": VERSIONS[call.name], "settings": call.settings, "inputs": content}
    )


def up_to_date(call: StageCall, layout: Layout, digests: Digests) -> StageResult | None:
    """The stage's result where its stamp and its files say it is done; None where there is work to do."""
    stamp = _stamp(call, layout)
    if not stamp.is_file():
        return None
    made = read_json(stamp)
    if made["key"] != stage_key(call, digests) or made["outputs"] != digests.paths(call.outputs.values()):
        return None
    return StageResult(call.label, made["key"], made["outputs"], made["summary"], cached=True, seconds=made["seconds"])


def run_stage(call: StageCall, layout: Layout, workers: int = 1) -> StageResult:
    """Run the stage unless it is up to date. Two at once do the work once: the second waits and finds it done.

    `workers`: processes that share the shards that are missing.
    """
    with (
        shown(call.title, layout.progress(call.label)) as line,
        _lock(call, layout),
        _digests(call, layout) as digests,
    ):
        with doing(CHECKING):
            found = up_to_date(call, layout, digests)
        if found is None:
            return _make(call, layout, digests, workers, line)
    note_found(found, layout)
    return found


def note_found(result: StageResult, layout: Layout) -> None:
    """Record that a stage had nothing to do."""
    costs.note_cached(layout, result.label, result.seconds, result.summary)


def note_whole(call: StageCall, layout: Layout, seconds: float, **more: Any) -> None:
    """Remember what the whole of a finished stage took, its shards included, which other processes made.

    more: `workers` and `resumed` (see `stage_costs`), where only the caller knows them.
    """
    stamp = _stamp(call, layout)
    if stamp.is_file():
        write_json(stamp, {**read_json(stamp), "seconds": round(seconds, 3)})
    costs.amend(layout, call.label, seconds=round(seconds, 3), **more)


def missing_shards(call: StageCall, layout: Layout) -> list[int]:
    """Numbers of the shards that have to be made before `run_stage` only has to put them together."""
    if call.shards is None:
        return []
    with _digests(call, layout) as digests:
        if up_to_date(call, layout, digests):
            return []
        return call.shards.missing(_work_folder(call, layout, stage_key(call, digests)))


def shard_is_done(call: StageCall, layout: Layout, number: int) -> bool:
    """Whether there is nothing to do for this shard."""
    assert call.shards is not None, f"{call.label} has no shards"
    with _digests(call, layout) as digests:
        work = _work_folder(call, layout, stage_key(call, digests))
        return call.shards.has(work, number) or up_to_date(call, layout, digests) is not None


def run_shard(call: StageCall, layout: Layout, number: int) -> None:
    """Make one shard unless it is there; `run_stage` goes on from it."""
    assert call.shards is not None, f"{call.label} has no shards"
    with (
        shown(call.title, layout.progress(call.label)),
        _lock(call, layout, f".shard-{number}"),
        _digests(call, layout) as digests,
    ):
        key = stage_key(call, digests)
        work = _work_folder(call, layout, key)
        if not call.shards.has(work, number):
            costs.begin_use()
            call.shards.make(work, [number])
            costs.note_shard(layout, call.label, key, number)


@contextmanager
def _lock(call: StageCall, layout: Layout, suffix: str = "") -> Iterator[None]:
    layout.state.mkdir(parents=True, exist_ok=True)
    with FileLock(layout.state / f"{call.label}{suffix}.lock"):
        yield


@contextmanager
def _digests(call: StageCall, layout: Layout) -> Iterator[Digests]:
    digests = Digests(layout.state / "digests" / f"{call.label}.json")
    try:
        yield digests
    finally:
        digests.save()


def _work_folder(call: StageCall, layout: Layout, key: str) -> Path:
    """Where the outputs are made. Parts that a killed run left under this very key are gone on with.

    Those of other keys are of no use any more.
    """
    cut = f".{call.shards.cut}" if call.shards else ""
    work = layout.state / "unfinished" / f"{call.label}.{key[:16]}{cut}"
    for other in work.parent.glob(f"{call.label}.*"):
        if other != work:
            shutil.rmtree(other, ignore_errors=True)
    work.mkdir(parents=True, exist_ok=True)
    return work


def _make(call: StageCall, layout: Layout, digests: Digests, workers: int, line: Display | None) -> StageResult:
    started = time.monotonic()
    costs.begin_use()
    key = stage_key(call, digests)
    work = _work_folder(call, layout, key)
    resumed = any(work.iterdir())
    if call.shards is not None:
        if line is not None:
            line.expect(*call.shards.extent(call.shards.missing(work)))
        make_missing(call.shards, work, workers)
    summary = call.run(work)
    _stamp(call, layout).unlink(missing_ok=True)
    for name, final in call.outputs.items():
        publish(work / name if name else work, final)
    shutil.rmtree(work, ignore_errors=True)
    outputs = {path: digest for path, digest in digests.paths(call.outputs.values()).items() if digest is not None}
    seconds = time.monotonic() - started
    write_json(
        _stamp(call, layout),
        {
            "key": key,
            "outputs": outputs,
            "summary": summary,
            "seconds": round(seconds, 3),
            "settings": call.settings,
            **({"untried": call.untried} if call.untried else {}),
        },
    )
    costs.note_made(layout, call.label, key, seconds=seconds, summary=summary, resumed=resumed)
    told = line.told() if line is not None else ""
    return StageResult(call.label, key, outputs, summary, seconds=seconds, told=told)


def _stamp(call: StageCall, layout: Layout) -> Path:
    return layout.state / "stamps" / f"{call.label}.json"
