"""Files of a finished run, made up: what the tracking reads of each stage, in the stages' own formats."""

from pathlib import Path
from typing import Any

from PIL import Image

from csr_core.digests import Digests
from csr_core.layout import Layout
from csr_core.params import preset_values, render_params
from csr_core.records import PREFERENCES, write_json, write_jsonl, write_table
from tasks.run import Run
from tasks.tracking import Track

STEPS = 5
PAIRS = 8
STAGES = ("prepare", "generate", "score", "pair", "finetune", "evaluate", "guard")


def make_run(folder: Path, *overrides: str) -> Run:
    folder.mkdir(parents=True, exist_ok=True)
    params = folder / "params.yaml"
    params.write_text(render_params(preset_values("steady")))
    return Run(params, overrides, folder, Layout(folder))


def made(run: Run, stage: str, iteration: int, cached: bool = False) -> dict[str, Any]:
    """What the stage tells of itself once its files lie there."""
    outputs = Digests().paths(run.call(stage, iteration).outputs.values())
    return {
        "label": f"{stage}@{iteration}",
        "key": f"key of {stage}@{iteration}",
        "outputs": {path: digest for path, digest in outputs.items() if digest is not None},
        "left_out": 2,
        "seconds": 1.5,
        "cached": cached,
    }


def record(
    track: Track, iteration: int, cached: bool = False, chair: float = 0.3, stopped_by: str | None = None
) -> None:
    """Write an iteration's files and record its stages, as the flow does."""
    write_metrics(track.run.layout, iteration, chair)
    if iteration:
        write_preferences(track.run.layout, iteration)
        write_model(track.run.layout, iteration)
        write_guards(track.run.layout, iteration, stopped_by)
    for stage in STAGES if iteration else ("prepare", "evaluate"):
        with track.stage(stage, iteration) as child:
            child.finished(made(track.run, stage, iteration, cached), f"md5 of {stage}")


def write_guards(layout: Layout, iteration: int, stopped_by: str | None) -> None:
    found = [
        {"guard": name, "value": 0.9, "threshold": 0.75, "fired": name == stopped_by, "sentence": f"{name}, in words."}
        for name in ("shorter", "repetitive")
    ]
    write_json(layout.guards(iteration), found)
    write_json(layout.verdict(iteration), {"stopped": stopped_by is not None})


def write_metrics(layout: Layout, iteration: int, chair: float) -> None:
    def interval(value: float | None) -> dict[str, Any]:
        ends = {"low": None, "high": None} if value is None else {"low": value - 0.05, "high": value + 0.05}
        return {"value": value, **ends, "n": 10}

    figures = {"chair_i": interval(chair), "recall": interval(1 - chair), "pope_accuracy": interval(0.8)}
    write_json(layout.metrics(iteration), {"test": figures, "shifted": {**figures, "chair_i": interval(None)}})
    write_jsonl(layout.answers(iteration) / "test_captions.jsonl", [{"image_id": "1", "caption": "A cat."}])


def write_preferences(layout: Layout, iteration: int) -> None:
    rows = []
    for n in range(PAIRS):
        image = layout.root / "images" / f"{n}.png"
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (30 * n, 100, 200)).save(image)
        rows.append(
            {
                "images": [str(image)],
                "prompt": [{"role": "user", "content": "What does the picture show?"}],
                "chosen": [{"role": "assistant", "content": f"A cat costs $5 and a dog $6_{{{n}}}. " * 9}],
                "rejected": [{"role": "assistant", "content": "A bus. 猫"}],
                "prompt_id": str(n),
                "chosen_reward": 2.0 + n,
                "rejected_reward": 1.0,
                "margin": 1.0 + n,
                "chosen_nodes": [1],
                "rejected_nodes": [2],
            }
        )
    write_table(layout.preferences(iteration) / "preferences.parquet", rows, PREFERENCES)
    summary = {
        "prompts": PAIRS + 2,
        "pairs": PAIRS,
        "left_out_by_reason": {"too close": 2},
        "left_out": [{"prompt_id": "x", "reason": "too close"}, {"prompt_id": "y", "reason": "too close"}],
        "diversity": {"margin": {"mean": 4.5, "median": 4.5}},
    }
    write_json(layout.preferences(iteration) / "summary.json", summary)


def write_model(layout: Layout, iteration: int) -> None:
    folder = layout.model(iteration)
    log = [
        {"step": step, "loss": 0.7 - 0.1 * step, "rewards/margins": 0.1 * step, "logps/chosen": -9.0, "note": "text"}
        for step in range(1, STEPS + 1)
    ]
    write_jsonl(folder / "training.jsonl", log)
    write_json(folder / "summary.json", {"final": {"loss": 0.2, "rewards/margins": 0.5, "rewards/accuracies": 1.0}})
    write_json(folder / "adapter_config.json", {"iteration": iteration})
    (folder / "adapter_model.safetensors").write_bytes(b"weights of iteration %d" % iteration)
