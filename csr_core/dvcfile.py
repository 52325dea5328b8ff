"""Write `dvc.yaml` for the iterations, the models and the data of a run: `python -m csr_core.dvcfile`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml

from csr_core.config import Settings
from csr_core.layout import Layout
from csr_core.prompts import local_paths

# A line `- <name>` stands for any number of dependencies; `code` is the version of a stage's code.
TEMPLATE = """\
# `dvc repro` runs the same stages as the flow, through the same code, and leaves the same files (docs/dvc.md).
# Another number of iterations, another model or other data in params.yaml: `python -m csr_core.dvcfile` writes it anew.
# Outputs are kept while a stage runs (persist), so that a stage which is up to date or half done is not started anew.
vars:
  - loop:  # start: what the iteration starts from; asked, scored: what its pairs are made of, or imported from
      - <loop>
  - made:  # iterations whose pairs are made, not imported
      - <made>

stages:
  splits:
    cmd: csr stage prepare --iteration 0
    params:
      - evaluate.splits
      - <code prepare>
    outs:
      - data/splits: {persist: true}
  base:
    cmd: csr stage evaluate --iteration 0
    deps:
      - data/splits
      - <held out>
      - <watching>
      - <base>
    params:
      - model
      - evaluate
      - reward.model
      - <code evaluate>
    outs:
      - data/iter_0/answers: {persist: true}
      - metrics/iter_0.json: {persist: true}
    metrics:
      - metrics/summary/iter_0.json: {persist: true}
  prepare:
    foreach: ${made}
    do:
      cmd: csr stage prepare --iteration ${item.k}
      deps:
        - <prompts>
      params:
        - seed
        - data
        - <code prepare>
      outs:
        - data/iter_${item.k}/prompts: {persist: true}
  generate:
    foreach: ${made}
    do:
      cmd: csr stage generate --iteration ${item.k}
      deps:
        - data/iter_${item.k}/prompts
        - <growing>
        - ${item.start}
        - ${item.judged}
      params:
        - seed
        - model
        - generate
        - reward
        - <code generate>
      outs:
        - data/iter_${item.k}/candidates: {persist: true}
  score:
    foreach: ${made}
    do:
      cmd: csr stage score --iteration ${item.k}
      deps:
        - data/iter_${item.k}/prompts
        - data/iter_${item.k}/candidates
        - <reward>
      params:
        - reward
        - <code score>
      outs:
        - data/iter_${item.k}/scores: {persist: true}
  pair:
    foreach: ${loop}
    do:
      cmd: csr stage pair --iteration ${item.k}
      deps:
        - ${item.asked}
        - ${item.scored}
      params:
        - seed
        - reward
        - pair
        - <code pair>
      outs:
        - data/iter_${item.k}/preferences: {persist: true}
  finetune:
    foreach: ${loop}
    do:
      cmd: csr stage finetune --iteration ${item.k}
      deps:
        - ${item.asked}
        - data/iter_${item.k}/preferences
        - ${item.start}
        - ${item.judged}
      params:
        - seed
        - model
        - finetune
        - <code finetune>
      outs:
        - models/iter_${item.k}: {persist: true}
  evaluate:
    foreach: ${loop}
    do:
      cmd: csr stage evaluate --iteration ${item.k}
      deps:
        - data/splits
        - <held out>
        - <watching>
        - data/iter_0/answers
        - metrics/iter_${item.previous}.json  # stands for the previous answers; for k = 1 those are listed already
        - models/iter_${item.k}
      params:
        - model
        - evaluate
        - reward.model
        - <code evaluate>
      outs:
        - data/iter_${item.k}/answers: {persist: true}
        - metrics/iter_${item.k}.json: {persist: true}
      metrics:
        - metrics/summary/iter_${item.k}.json: {persist: true}
  guard:
    foreach: ${loop}
    do:
      cmd: csr stage guard --iteration ${item.k}
      deps:
        - metrics/iter_0.json
        - metrics/iter_${item.k}.json
        - ${item.scored}
        - models/iter_${item.k}
      params:
        - guards
        - finetune.beta
        - generate.width
        - pair.path_score
        - <code guard>
      outs:
        - metrics/guards/iter_${item.k}.json: {persist: true}
        - data/iter_${item.k}/verdict.json: {persist: true}
"""
PLAN = "csr_core/stages/plan.py"
WEIGHTS = "csr_core/miniature/weights"


def render(settings: Settings, root: Path = Path()) -> str:
    """The text of `root/dvc.yaml`: stages `splits` and `base`, and `prepare@K` ... `evaluate@K` of each iteration.

    Models and data in folders or files count by content (the miniature's, and the version of each stage's code, where
    `root` is a checkout of this project). What is named on a hub counts by its name, which is among the settings.
    """
    checkout = (root / PLAN).is_file()
    base = _model(settings.model.path, "llava", root, checkout)
    reward = [path for name in settings.reward.models for path in _model(name, "clip", root, checkout)]
    held_out = settings.evaluate.held_out_model
    lines: dict[str, Sequence[str]] = {
        "base": base,
        "reward": reward,
        "growing": reward if settings.generate.keep_by == "reward" else [],
        "prompts": local_paths(settings.data),
        "held out": [
            *(s.folder for s in settings.evaluate.splits.values() if not s.folder.startswith("miniature:")),
            *settings.evaluate.benchmarks.values(),
        ],
        "watching": [*reward, *(_model(held_out, "clip", root, checkout) if held_out else [])],
    }
    for stage in ("prepare", "generate", "score", "pair", "finetune", "evaluate", "guard"):
        lines[f"code {stage}"] = [f"{PLAN}: [VERSIONS.{stage}]"] if checkout else []
    if settings.model.adapter:
        base = [settings.model.adapter, *base]
        lines["base"] = base
    loop = {k: _iteration(k, settings, base) for k in range(1, settings.iterations + 1)}
    made = {
        k: {name: item[name] for name in ("k", "start", "judged")}
        for k, item in loop.items()
        if k not in settings.pair.imported
    }
    loops = {
        name: [f"{_yaml(str(k))}: {_yaml(item)}" for k, item in items.items()] or ["{}"]
        for name, items in (("loop", loop), ("made", made))
    }
    return _filled(TEMPLATE, lines, loops)


def _iteration(k: int, settings: Settings, base: Sequence[str]) -> dict[str, object]:
    """What the stages of iteration K depend on beside what all iterations do."""
    layout = Layout()
    # A stage cannot name one dependency twice, but a file of it.
    if k in settings.pair.imported:
        asked, first = layout.imported(k), "preferences.parquet"
        scored = asked / "summary.json"
    else:
        asked, first, scored = layout.prompts(k), "prompts.parquet", layout.scores(k)
    start = layout.model(k - 1) if k > 1 else base[0] if base else asked / first  # the last stands for no files here
    judged = layout.verdict(k - 1) if k > 1 else layout.splits  # nothing is judged before the first iteration
    paths = {"start": start, "asked": asked, "scored": scored, "judged": judged}
    return {"k": k, "previous": k - 1, **{name: str(path) for name, path in paths.items()}}


def _model(path: str, shipped: str, root: Path, checkout: bool) -> list[str]:
    if path == "miniature":
        return [f"{WEIGHTS}/{shipped}"] if checkout else []
    return [path] if (root / path).is_dir() else []


def _filled(template: str, lines: dict[str, Sequence[str]], loops: dict[str, list[str]]) -> str:
    """Put the lists in the places of their marks, and leave out a `deps:` that stays empty."""
    made: list[str] = []
    for line in template.splitlines():
        indent, mark, name = line.partition("- <")
        name = name.removesuffix(">")
        if mark:
            made += [indent + item for item in loops.get(name) or [f"- {item}" for item in lines[name]]]
        else:
            if line.strip() == "params:" and made[-1].strip() == "deps:":
                made.pop()
            made.append(line)
    return "\n".join(made) + "\n"


def _yaml(value: object) -> str:
    """`value` on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6, sort_keys=False, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")


if __name__ == "__main__":
    from csr_core.params import load_settings

    Path("dvc.yaml").write_text(render(load_settings(Path("params.yaml"))), "utf-8")
    print("wrote dvc.yaml from params.yaml")
