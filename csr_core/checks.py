"""Everything that can be known before a run: files, pictures, models, memory, disk, and time from a short trial."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from csr_core.config import Settings
from csr_core.errors import CsrError, SettingsError
from csr_core.layout import Layout
from csr_core.prompts import MINIATURE, local_paths

GIB = 1024**3
TRIAL_SIZES = (2, 6)  # prompts; two sizes tell loading time and time a prompt apart


@dataclass(frozen=True)
class Finding:
    """One line of `csr check`; `ok` is False where the run would fail."""

    ok: bool
    what: str
    detail: str


def missing_files(settings: Settings) -> list[str]:
    """Every file or folder that the settings name and that is not there, each with what to change."""
    problems = []

    def need(key: str, value: str | None, hint: str) -> None:
        if value is not None and not Path(value).exists():
            problems.append(f"{key}: there is no {value}; {hint}")

    data = settings.data
    hints = {data.images: ("data.images", "give the folder of the pictures, or null for the folder of the prompts")}
    for path in local_paths(data):
        key, hint = hints.get(path, ("data.prompts", "give a file, a folder of pictures or a dataset (docs/data.md)"))
        need(key, path, hint)
    if _looks_like_path(settings.model.path):
        need("model.path", settings.model.path, "give a checkpoint's folder, or a Hugging Face name")
    need("model.adapter", settings.model.adapter, "give the folder of a PEFT adapter, or null")
    for name in settings.reward.models:
        if ":" not in name and _looks_like_path(name):
            need("reward.model", name, "give an open_clip folder, or NAME:PRETRAINED")
    for k in settings.pair.imported:
        need("pair.imported", str(Layout().imported(k)), f"csr import preferences --iteration {k}, or take {k} out")
    for name, split in settings.evaluate.splits.items():
        if not split.folder.startswith("miniature:"):
            need(f"evaluate.splits.{name}.folder", split.folder, "give a folder with prompts.jsonl and instances.json")
            if Path(split.folder).is_dir():
                need(f"evaluate.splits.{name}", str(Path(split.folder) / "prompts.jsonl"), "see docs/data.md")
    for name, folder in settings.evaluate.benchmarks.items():
        need(f"evaluate.benchmarks.{name}", folder, "`csr evaluate --list` says what to put there")
        if Path(folder).is_dir():
            from csr_core.stages.benchmarks import missing

            for pattern, source in missing(name, Path(folder)).items():
                need(f"evaluate.benchmarks.{name}", str(Path(folder) / pattern), f"get it: {source}")
    return problems


def refuse_missing_files(settings: Settings) -> None:
    """Raise one SettingsError that names every missing file."""
    if problems := missing_files(settings):
        lines = "\n".join(f"  - {problem}" for problem in problems)
        raise SettingsError(f"{len(problems)} file(s) or folder(s) of the settings are missing:\n{lines}")


def check(settings: Settings, trial: bool = True) -> Iterator[Finding]:
    """All findings, cheap ones first; stops at the first group of failures that makes the rest meaningless."""
    problems = missing_files(settings)
    yield from (Finding(False, "files", problem) for problem in problems)
    if problems:
        return
    yield Finding(True, "files", "all files and folders of the settings are there")
    yield from _pictures(settings)
    loadable = list(_models(settings))
    yield from loadable
    yield from _room(settings)
    if trial and all(finding.ok for finding in loadable):
        yield from _trial(settings)


def _looks_like_path(name: str) -> bool:
    return name != "miniature" and (name.startswith((".", "/", "~")) or name.count("/") != 1)


def _pictures(settings: Settings) -> Iterator[Finding]:
    if settings.data.prompts == MINIATURE:
        yield Finding(True, "prompts", f"{settings.data.per_iteration or 300} scenes an iteration, drawn when needed")
        return
    from csr_core.images import open_image
    from csr_core.progress import Progress
    from csr_core.prompts import prompts_of

    data = settings.data
    try:
        with tempfile.TemporaryDirectory() as folder:
            found = prompts_of(data, Path(folder))
            with Progress("pictures", len(found.rows), "pictures") as bar:
                for row in found.rows:
                    try:
                        open_image(row["image"], data.max_pixels)
                    except CsrError as error:
                        found.drop(row["prompt_id"], str(error))
                    bar.advance()
    except CsrError as error:
        yield Finding(False, "prompts", str(error))
        return
    unreadable = {item["prompt_id"] for item in found.left_out} & {row["prompt_id"] for row in found.rows}
    usable = len(found.rows) - len(unreadable)
    yield Finding(usable > 0, "prompts", f"{usable} usable, {len(found.left_out)} left out")
    for item in found.left_out[:20]:
        yield Finding(True, "left out", f"{item['prompt_id']}: {item['reason']}")


def _models(settings: Settings) -> Iterator[Finding]:
    from csr_core.policy import load_policy
    from csr_core.reward.scorer import SentenceScorer

    started = time.monotonic()
    try:
        policy = load_policy(settings.model, Path(settings.model.adapter) if settings.model.adapter else None)
        count = sum(parameter.numel() for parameter in policy.model.parameters())
        kind, spent = type(policy.model).__name__, time.monotonic() - started
        yield Finding(
            True, "policy", f"{kind}, {count / 1e6:.1f} M parameters on {policy.device}, {spent:.0f} s to load"
        )
    except CsrError as error:
        yield Finding(False, "policy", str(error))
    try:
        SentenceScorer(settings.reward)
        yield Finding(True, "reward model", f"{settings.reward.model} loads")
    except CsrError as error:
        yield Finding(False, "reward model", str(error))


def _room(settings: Settings) -> Iterator[Finding]:
    """Memory for the weights, their gradients' share and activations; disk for adapters, tables and drawn pictures."""
    import psutil

    from csr_core.stages.models import policy_files

    weights = sum(f.stat().st_size for folder in policy_files(settings.model) for f in folder.glob("*.safetensors"))
    memory_needed, memory = 2 * weights + 2 * GIB, psutil.virtual_memory().available
    yield Finding(
        memory > memory_needed, "memory", f"about {memory_needed / GIB:.1f} GiB needed, {memory / GIB:.1f} free"
    )
    copies = 1.0 if settings.finetune.carry == "merged" else 0.3
    disk_needed = settings.iterations * (copies * weights + 0.05 * GIB) + 0.1 * GIB
    disk = shutil.disk_usage(Path.cwd()).free
    yield Finding(disk > disk_needed, "disk", f"at most {disk_needed / GIB:.1f} GiB needed, {disk / GIB:.1f} free")


def _trial(settings: Settings) -> Iterator[Finding]:
    """Run the stages on a few prompts and extrapolate: time = loading + prompts * time a prompt."""
    spent: dict[str, list[float]] = {}
    try:
        for size in TRIAL_SIZES:
            for stage, seconds in _trial_run(settings, size).items():
                spent.setdefault(stage, []).append(seconds)
    except CsrError as error:
        yield Finding(False, "trial", str(error))
        return
    prompts, total = settings.data.per_iteration or _count(settings), 0.0
    for stage, (small, large) in spent.items():
        each = max(large - small, 0.0) / (TRIAL_SIZES[1] - TRIAL_SIZES[0])
        whole = small + each * (prompts - TRIAL_SIZES[0])
        total += whole
        yield Finding(True, "time", f"{stage}: about {whole:.0f} s an iteration ({each:.2f} s a prompt)")
    yield Finding(
        True, "time", f"all: about {total * settings.iterations / 60:.0f} minutes, fine-tuning and evaluation not in it"
    )


def _trial_run(settings: Settings, size: int) -> dict[str, float]:
    from csr_core.stages.plan import plan
    from csr_core.stages.runner import run_stage

    data = settings.data.model_copy(update={"per_iteration": size})
    pair = settings.pair.model_copy(update={"imported": []})
    small = settings.model_copy(update={"data": data, "pair": pair})
    with tempfile.TemporaryDirectory() as folder:
        layout = Layout(Path(folder))
        return {
            name: run_stage(plan(name, 1, small, layout), layout).seconds for name in ("prepare", "generate", "score")
        }


def _count(settings: Settings) -> int:
    from csr_core.prompts import prompts_of

    return len(prompts_of(settings.data).rows)
