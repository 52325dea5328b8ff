"""What each stage reads, writes and depends on. One table for the Prefect flow, `dvc repro` and the command line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from csr_core.config import Settings
from csr_core.errors import SettingsError
from csr_core.layout import Layout
from csr_core.records import read_json, write_json
from csr_core.stages import STAGES, shard_work
from csr_core.stages.guard import last_good, main_split, stopped
from csr_core.stages.shards import Shards

# Raised when a stage's code changes its results: old outputs are then made again.
VERSIONS = {"prepare": 2, "generate": 4, "score": 4, "pair": 2, "finetune": 3, "evaluate": 3, "guard": 1}

FOUND = 64  # stands for a batch size that was found from the free memory, once that was too large

# Settings that change how fast a stage runs, never what comes out.
WITHOUT_INFLUENCE: dict[str, Any] = {
    "generate": {"batch_size", "shard_size"},
    "reward": {"batch_size", "device", "allow_weak"},
    "model": {"device"},
    "evaluate": {"batch_size": True, "shard_size": True, "best_by": True, "twins": True, "judge": {"url"}},
}


@dataclass(frozen=True)
class StageCall:
    """One stage of one iteration, ready to run: `run(out)` writes the outputs into the temporary folder `out`."""

    name: str
    iteration: int
    inputs: tuple[Path, ...]
    settings: dict[str, Any]  # the part of the settings that decides the result
    outputs: dict[str, Path]  # name below the temporary folder ("" for itself) -> final place
    run: Callable[[Path], dict[str, Any]]
    shards: Shards | None = None  # of a stage that is worked on in shards; `run` makes those that are missing
    iterations: int = 0  # of the run, where that is known: for the words that progress is told in
    untried: str = ""  # for the report: that a setting let the reward model through without its trial

    @property
    def label(self) -> str:
        return f"{self.name}@{self.iteration}"

    @property
    def title(self) -> str:
        """For people, e.g. generate 1/3."""
        if self.iteration == 0:
            return f"{self.name} {'base' if self.name == 'evaluate' else 'held-out'}"
        return f"{self.name} {self.iteration}" + (f"/{self.iterations}" if self.iteration <= self.iterations else "")


def plan(name: str, iteration: int, settings: Settings, layout: Layout, halved: int = 0) -> StageCall:
    """The call of stage `name` in `iteration` (0: only prepare and evaluate, of the base).

    `halved`: how often batches are halved against the settings, after running out of memory; no influence on results.

    Raises:
        SettingsError: no such stage, or one that iteration 0 does not have; or the pairs of the iteration are imported,
            and the stage only serves to make them.
    """
    if name not in STAGES or iteration < 0 or (iteration == 0 and name not in ("prepare", "evaluate")):
        raise SettingsError(
            f"no stage {name}@{iteration}: stages are {', '.join(STAGES)}, of iterations 1, 2, ...; the base, 0, has "
            "prepare and evaluate alone"
        )
    if name in ("prepare", "generate", "score") and iteration in settings.pair.imported:
        raise SettingsError(
            f"{name}@{iteration} has nothing to do: the pairs of iteration {iteration} are imported (pair.imported). "
            f"Go on with pair@{iteration}, or take {iteration} out of pair.imported to have them made here"
        )
    if iteration > 1 and settings.guards.after_stop == "end" and stopped(iteration - 1, layout):
        raise SettingsError(
            f"{name}@{iteration}: a guard stopped iteration {iteration - 1} (see {layout.guards(iteration - 1)}), and "
            "guards.after_stop is 'end'. To go on, take the guard out of guards.stop_on, raise its threshold, or set "
            "guards.after_stop: go_back"
        )
    builders = {"prepare": _prepare, "generate": _generate, "score": _score, "pair": _pair, "finetune": _finetune}
    build = {**builders, "evaluate": _evaluate, "guard": _guard}[name]
    call = replace(build(iteration, settings, layout), iterations=settings.iterations)
    if not halved:
        return call
    return replace(
        build(iteration, smaller_batches(settings, halved), layout),
        settings=call.settings,
        iterations=settings.iterations,
    )


def smaller_batches(settings: Settings, halved: int) -> Settings:
    """Batches halved so many times; fine-tuning gathers as many more, so that its steps stay the same.

    A fine-tuning batch that is odd is halved no further: its steps would be of another size. What was to be found from
    the free memory counts as 64: that finding was wrong then.
    """
    size, gathered = settings.finetune.batch_size, settings.finetune.accumulation
    for _ in range(halved):
        size, gathered = (size // 2, gathered * 2) if size % 2 == 0 else (size, gathered)
    changes: dict[str, dict[str, int]] = {"finetune": {"batch_size": size, "accumulation": gathered}}
    for section in ("generate", "reward", "evaluate"):
        changes[section] = (
            {"batch_size": max(1, (getattr(settings, section).batch_size or FOUND) >> halved)} if halved else {}
        )
    parts = {name: getattr(settings, name).model_copy(update=update) for name, update in changes.items()}
    return settings.model_copy(update=parts)


def start_model(iteration: int, settings: Settings, layout: Layout) -> Path | None:
    """What iteration K starts from, on top of the base: the model of iteration K - 1; None is the base alone.

    With `guards.after_stop: go_back` it is the model of the last iteration before K that no guard stopped.
    """
    before = start_iteration(iteration, settings, layout)
    if before:
        return layout.model(before)
    return Path(settings.model.adapter) if settings.model.adapter else None


def start_iteration(iteration: int, settings: Settings, layout: Layout) -> int:
    """The iteration whose model `iteration` starts from; 0 is the base."""
    return last_good(iteration, layout) if settings.guards.after_stop == "go_back" else iteration - 1


def _prepare(k: int, settings: Settings, layout: Layout) -> StageCall:
    from csr_core.prompts import MINIATURE, local_paths
    from csr_core.stages.prepare import prepare, prepare_splits

    if k == 0:
        drawn = {n: s.model_dump() for n, s in settings.evaluate.splits.items() if s.folder.startswith(MINIATURE + ":")}
        return StageCall(
            "prepare", 0, (), {"splits": drawn}, {"": layout.splits}, lambda out: prepare_splits(settings, out)
        )
    inputs = tuple(Path(path) for path in local_paths(settings.data))
    part = {**_section(settings, "data"), "seed": settings.seed, "iteration": k}
    final = layout.prompts(k)
    return StageCall("prepare", k, inputs, part, {"": final}, lambda out: prepare(settings, k, out, final))


def _generate(k: int, settings: Settings, layout: Layout) -> StageCall:
    start = start_model(k, settings, layout)

    def run(out: Path) -> dict[str, Any]:
        from csr_core.stages.generate import generate

        return generate(settings, k, layout.prompts(k), start, out, layout.state)

    part = {**_sections(settings, "model", "generate"), "seed": settings.seed, "iteration": k}
    inputs = [*_model_inputs(settings, start), layout.prompts(k)]
    if settings.generate.keep_by == "reward":
        part |= _sections(settings, "reward")
        inputs += _reward_inputs(settings)
    shards = Shards(
        partial(shard_work.sizes_generate, settings, layout.prompts(k)),
        partial(shard_work.make_generate, settings, k, layout.prompts(k), start, layout.state),
        (".parquet", ".json"),
        cut=str(settings.generate.shard_size),
        unit="prompts",
    )
    return StageCall("generate", k, tuple(inputs), part, {"": layout.candidates(k)}, run, shards)


def _score(k: int, settings: Settings, layout: Layout) -> StageCall:
    from csr_core.reward.verdict import untried

    def run(out: Path) -> dict[str, Any]:
        from csr_core.stages.score import score

        return score(settings, layout.prompts(k), layout.candidates(k), out, state=layout.state)

    inputs = (*_reward_inputs(settings), layout.prompts(k), layout.candidates(k))
    shards = Shards(
        partial(shard_work.sizes_score, layout.candidates(k)),
        partial(shard_work.make_score, settings, layout.prompts(k), layout.candidates(k), layout.state),
        (".parquet", ".json"),
        cut="parts",  # of the candidates, which are among the inputs
        unit="nodes",
    )
    call = StageCall("score", k, inputs, _sections(settings, "reward"), {"": layout.scores(k)}, run, shards)
    return replace(call, untried=untried(settings))


def _pair(k: int, settings: Settings, layout: Layout) -> StageCall:
    imported = layout.imported(k)

    def take_over(out: Path) -> dict[str, Any]:
        from csr_core.stages.imported import take_over

        return take_over(imported, k, out)

    if k in settings.pair.imported:
        return StageCall("pair", k, (imported,), {"imported": True}, {"": layout.preferences(k)}, take_over)

    def run(out: Path) -> dict[str, Any]:
        from csr_core.preference.card import card
        from csr_core.stages.pair import pair

        summary = pair(settings, k, layout.prompts(k), layout.scores(k), out)
        (out / "README.md").write_text(card(settings, k, summary, _origin(k, settings, layout)), "utf-8")
        return summary

    part = {**_sections(settings, "pair", "reward"), "seed": settings.seed, "iteration": k}
    return StageCall("pair", k, (layout.prompts(k), layout.scores(k)), part, {"": layout.preferences(k)}, run)


def _origin(k: int, settings: Settings, layout: Layout) -> dict[str, Any]:
    """The model that wrote the candidates of iteration K: the base's path, the iteration it comes from, its digest."""
    from csr_core.digests import Digests, digest_value

    digests = Digests(layout.state / "digests" / "models.json")
    content = [digests.path(path) for path in _model_inputs(settings, start_model(k, settings, layout))]
    digests.save()
    return {
        "path": settings.model.path,
        "digest": digest_value(content),
        "iteration": start_iteration(k, settings, layout),
    }


def _finetune(k: int, settings: Settings, layout: Layout) -> StageCall:
    start = start_model(k, settings, layout)

    def run(out: Path) -> dict[str, Any]:
        from csr_core.stages.finetune import finetune

        return finetune(settings, k, layout.preferences(k), start, out)

    part = {**_sections(settings, "model", "finetune"), "seed": settings.seed, "iteration": k}
    pictures = layout.imported(k) if k in settings.pair.imported else layout.prompts(k)  # hold their digests
    inputs = (*_model_inputs(settings, start), pictures, layout.preferences(k))
    return StageCall("finetune", k, inputs, part, {"": layout.model(k)}, run)


def _evaluate(k: int, settings: Settings, layout: Layout) -> StageCall:
    model = layout.model(k) if k else start_model(1, settings, layout)
    previous, base = (layout.answers(k - 1), layout.answers(0)) if k > 0 else (None, None)
    splits = {
        name: layout.splits / name if split.folder.startswith("miniature:") else Path(split.folder)
        for name, split in settings.evaluate.splits.items()
    }

    def run(out: Path) -> dict[str, Any]:
        from csr_core.evaluation.compact import compact
        from csr_core.stages.evaluate import evaluate

        (out / "answers").mkdir(parents=True, exist_ok=True)
        files = (out, out / "answers", out / "metrics.json")
        summary = evaluate(settings, splits, model, *files, previous, base, layout.state)
        write_json(out / "main.json", compact(read_json(out / "metrics.json"), k))
        return summary

    inputs = [*_model_inputs(settings, model), *splits.values(), *(p for p in (previous, base) if p)]
    inputs += [Path(folder) for folder in settings.evaluate.benchmarks.values()]
    inputs += _watching_inputs(settings)
    outputs = {"answers": layout.answers(k), "metrics.json": layout.metrics(k), "main.json": layout.main_metrics(k)}
    part = {**_sections(settings, "model", "evaluate"), "reward_model": settings.reward.model}
    shards = Shards(
        partial(shard_work.sizes_evaluate, settings, splits),
        partial(shard_work.make_evaluate, settings, splits, model),
        (".json",),
        cut=str(settings.evaluate.shard_size),
        unit="answers",
    )
    return StageCall("evaluate", k, tuple(dict.fromkeys(inputs)), part, outputs, run, shards)


def _sections(settings: Settings, *names: str) -> dict[str, Any]:
    return {name: _section(settings, name) for name in names}


def _section(settings: Settings, name: str) -> dict[str, Any]:
    section: BaseModel = getattr(settings, name)
    return section.model_dump(exclude=WITHOUT_INFLUENCE.get(name, set()))


def _model_inputs(settings: Settings, adapter: Path | None) -> list[Path]:
    from csr_core.stages.models import policy_files

    return [*policy_files(settings.model), *([adapter] if adapter else [])]


def _watching_inputs(settings: Settings) -> list[Path]:
    from csr_core.evaluation.watching import watching_models
    from csr_core.stages.models import reward_files

    return [path for model in watching_models(settings) for path in reward_files(model)]


def _guard(k: int, settings: Settings, layout: Layout) -> StageCall:
    def run(out: Path) -> dict[str, Any]:
        from csr_core.stages.guard import guard

        return guard(settings, k, layout, out)

    made = [layout.metrics(k), layout.metrics(0), layout.answers(k), layout.answers(0), layout.model(k)]
    if k not in settings.pair.imported:
        made.append(layout.scores(k))
    if 1 not in settings.pair.imported:
        made.append(layout.scores(1))
    part = {
        **_sections(settings, "guards"),
        "beta": settings.finetune.beta,
        "width": settings.generate.width,
        "path_score": settings.pair.path_score,
        "split": main_split(settings),
    }
    del part["guards"]["after_stop"]  # of the iterations that follow
    outputs = {"guards.json": layout.guards(k), "verdict.json": layout.verdict(k)}
    return StageCall("guard", k, tuple(dict.fromkeys(made)), part, outputs, run)


def _reward_inputs(settings: Settings) -> list[Path]:
    from csr_core.stages.models import reward_files

    return reward_files(settings.reward)
