"""Everything that can be known before a run: files, pictures, models, memory, disk, and time from a short trial."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from csr_core.config import ModelSettings, Settings
from csr_core.errors import CsrError, SettingsError
from csr_core.evaluation.measured import measured_elsewhere
from csr_core.finding import Finding
from csr_core.layout import Layout
from csr_core.prompts import local_paths

if TYPE_CHECKING:
    from csr_core.memory.report import Estimate  # torch's import takes seconds, and `csr run` asks for files alone

GIB = 1024**3
TRIAL_SIZES = (2, 6)  # prompts; two sizes tell loading time and time a prompt apart


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
                from csr_core.evaluation.splits import files_to_ask

                need(f"evaluate.splits.{name}", str(Path(split.folder) / "instances.json"), "see docs/data.md")
                if not files_to_ask(Path(split.folder)):
                    prompts = str(Path(split.folder) / "prompts.jsonl")
                    need(f"evaluate.splits.{name}", prompts, "give prompts, questions or both (docs/data.md)")
    for name, folder in settings.evaluate.benchmarks.items():
        need(f"evaluate.benchmarks.{name}", folder, "`csr evaluate --list` says what to put there")
        if Path(folder).is_dir():
            from csr_core.stages.benchmarks import missing

            for pattern, source in missing(name, Path(folder)).items():
                need(f"evaluate.benchmarks.{name}", str(Path(folder) / pattern), f"get it: {source}")
    return problems


def refuse_missing_files(settings: Settings) -> None:
    """Raise one SettingsError that names every missing file, or says what else is certain to fail on this machine."""
    if problems := missing_files(settings):
        lines = "\n".join(f"  - {problem}" for problem in problems)
        raise SettingsError(f"{len(problems)} file(s) or folder(s) of the settings are missing:\n{lines}")
    if settings.model.quantization is not None and settings.run.task_runner != "ray":
        import torch

        from csr_core.policy.quantization import refuse_unusable
        from csr_core.stages.gpus import visible_gpus

        # CUDA itself is left alone: no process forked from this one could use it then.
        on_gpu = settings.model.device != "cpu" and bool(visible_gpus())
        refuse_unusable(settings.model, torch.device("cuda" if on_gpu else "cpu"))


def refuse_missing_gpus(settings: Settings) -> None:
    """Raise a SettingsError where fine-tuning, hours from now, would ask for GPUs that this machine lacks.

    What the nodes of a Ray cluster have is known to Ray alone.
    """
    from csr_core.stages.launch import process_count

    if settings.run.task_runner != "ray":
        process_count(settings)


def check(settings: Settings, trial: bool = True) -> Iterator[Finding]:
    """All findings, cheap ones first. What is missing is told, and what can be known without it as well.

    Nothing is fetched: a named model that is not on this machine is a finding.
    """
    from csr_core.memory.report import estimate
    from csr_core.picture_checks import pictures
    from csr_core.policy.loading import resolve_device
    from csr_core.policy.quantization import refuse_unusable
    from csr_core.reward.verdict import tried, unfit

    problems = missing_files(settings)
    yield from (Finding(False, "files", problem) for problem in problems)
    if not problems:
        yield Finding(True, "files", "all files and folders of the settings are there")
    try:
        refuse_missing_gpus(settings)
    except SettingsError as error:
        yield Finding(False, "GPUs", str(error))
    if not any(problem.startswith("data.") for problem in problems):
        yield from pictures(settings.data)
    if said := measured_elsewhere(settings.data.prompts, (split.folder for split in settings.evaluate.splits.values())):
        yield Finding(True, "measured on", said, note=True)
    folder, found = _folder(settings.model), None
    try:
        refuse_unusable(settings.model, resolve_device(settings.model.device))
        found = None if _is_missing_path(settings) else estimate(settings, folder)
    except CsrError as error:
        yield Finding(False, "settings", str(error))
    loadable = [*_policy(settings, folder, found), *_reward_model(settings)]
    yield from loadable
    loads = any(finding.ok and finding.what == "reward model" for finding in loadable)
    if unfit(settings) or (trial and loads):  # the first is known without a trial
        yield tried(settings, Layout().state)
    yield from _memory(settings, found)
    if found is not None:
        yield _disk(settings, found, fetched=folder is not None)
    if trial and not problems and all(finding.ok for finding in loadable):
        yield from _trial(settings)
        if found is not None:
            yield from _measured(found)


def _folder(settings: ModelSettings) -> Path | None:
    """Where the base checkpoint lies on this machine; None where it does not, or not whole."""
    from csr_core.policy.loading import missing_files as missing_checkpoint_files
    from csr_core.stages.models import policy_files

    return next((folder for folder in policy_files(settings) if not missing_checkpoint_files(folder)), None)


def _looks_like_path(name: str) -> bool:
    return name != "miniature" and (name.startswith((".", "/", "~")) or name.count("/") != 1)


def _is_missing_path(settings: Settings) -> bool:
    return _looks_like_path(settings.model.path) and not Path(settings.model.path).is_dir()


def _policy(settings: Settings, folder: Path | None, found: Estimate | None) -> Iterator[Finding]:
    from csr_core.memory.report import download
    from csr_core.policy import load_policy
    from csr_core.policy.sources import to_do

    if _is_missing_path(settings):
        return  # told among the files
    named = settings.model.path != "miniature" and not Path(settings.model.path).is_dir()
    if named and folder is None:
        size = f"{download(found) / 1e9:.1f} GB" if found else ""
        todo = to_do(settings.model.path, settings.model.revision, size)
        yield Finding(False, "policy", f"{settings.model.path} is not on this machine, or not whole: {todo}")
        return
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


def _reward_model(settings: Settings) -> Iterator[Finding]:
    from csr_core.reward.scorer import SentenceScorer
    from csr_core.reward.source import not_here

    names = settings.reward.models
    if any(":" not in name and _looks_like_path(name) and not Path(name).exists() for name in names):
        return  # told among the files
    if todo := not_here(settings.reward):
        yield Finding(False, "reward model", todo)
        return
    try:
        SentenceScorer(settings.reward)
        yield Finding(True, "reward model", f"{', '.join(names)} loads")
    except CsrError as error:
        yield Finding(False, "reward model", str(error))


def _memory(settings: Settings, found: Estimate | None) -> Iterator[Finding]:
    from csr_core.memory.report import lines

    if found is not None:
        yield from (Finding(fits, "memory", text) for fits, text in lines(found))
    elif not _looks_like_path(settings.model.path):
        name = settings.model.path
        yield Finding(True, "memory", f"unknown, like the sizes of {name}: `hf download {name} config.json` is enough")


def _disk(settings: Settings, found: Estimate, fetched: bool) -> Finding:
    """Disk for what is to be fetched, for an adapter or a whole model each iteration in float32, and for tables."""
    from csr_core.memory.quantities import adapter_values
    from csr_core.memory.report import download

    values = adapter_values(found.plan.vlm, settings.finetune.lora_rank)
    kept = 4 * (found.plan.vlm.parameters if settings.finetune.carry == "merged" else values)
    runs = int(settings.iterations * (kept + 0.05 * GIB) + 0.1 * GIB)
    fetch = 0 if fetched else download(found)
    disk = shutil.disk_usage(Path.cwd()).free
    more = f", and {fetch / GIB:.1f} for the model to be fetched" if fetch else ""
    told = f"at most {runs / GIB:.1f} GiB needed by a run{more}; {disk / GIB:.1f} free"
    return Finding(disk > runs + fetch, "disk", told)


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


def _measured(found: Estimate) -> Iterator[Finding]:
    """Peaks of a small trial of each stage beside what the estimate says of the same."""
    from csr_core.memory.trial import PROMPTS, measure

    _let_go()
    try:
        for one in measure(found.plan):
            told = f"{one.peak / GIB:.1f} GiB at its peak, {one.estimate.total / GIB:.1f} estimated for the same"
            yield Finding(one.peak <= found.have, "memory", f"{one.stage}, measured on {PROMPTS} prompts: {told}")
    except CsrError as error:
        yield Finding(True, "memory", f"not measured: {error}")


def _let_go() -> None:
    """Give back what this process still holds of a GPU, which others are to use now."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


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
