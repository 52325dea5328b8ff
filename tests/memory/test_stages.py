"""The estimate against what torch allocates on a LLaVA with random weights, and what is advised if it does not fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import midsize
from benchmarks.allocated import peak_allocated
from csr_core.config import FinetuneSettings, GenerateSettings, Settings
from csr_core.dpo.pairs import Pairs
from csr_core.dpo.train import train
from csr_core.memory.advice import changes_that_fit, told
from csr_core.memory.shapes import known, skeleton, tower_shape, vlm_shape
from csr_core.memory.stages import Load, Planned, finetune_need, fitting_batch, generate_need, needs, usual_load
from csr_core.params import load_settings
from csr_core.policy import Policy
from csr_core.presets import preset_files
from csr_core.search.tree import Grower, Tree

SMALL = midsize.Shape(256, 688, 4, 4, 256, 1024, 4, 4, sentences=3)
PIXELS, GIB = 160, 1024**3


def planned(policy: Policy, load: Load, **changes: object) -> Planned:
    patches = (PIXELS // 16) ** 2
    shape = vlm_shape(policy.model, (patches, patches + 1), None)
    settings = Settings(iterations=1, **changes)  # type: ignore[arg-type]
    return Planned(settings, shape, None, "cpu", load)


def close(measured: int, estimated: int) -> None:
    assert abs(estimated - measured) <= 0.15 * measured, (measured / 1e6, estimated / 1e6)


def weights(policy: Policy) -> int:
    return sum(one.numel() * one.element_size() for one in policy.model.parameters())


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_finetune_is_estimated_within_15_percent(tmp_path: Path, checkpointing: bool) -> None:
    policy = midsize.llava(PIXELS, shape=SMALL)
    rows = midsize.pairs(policy, 4, PIXELS, tmp_path / "images")
    settings = FinetuneSettings(
        lora_rank=16, learning_rate=1e-4, batch_size=2, warmup_share=0.0, gradient_checkpointing=checkpointing
    )
    before = weights(policy)
    longest = [max(len(row[side]) for row in rows) for side in ("chosen_ids", "rejected_ids")]
    load = Load(midsize.prompts(policy, 1, PIXELS)[0].length, answer=sum(longest) // 2)
    estimated = finetune_need(planned(policy, load, finetune=settings)).total
    above = peak_allocated(lambda: train(policy, Pairs(rows, []), settings, 0, 10**6, tmp_path / "work"))
    close(before + above, estimated)


def test_generate_is_estimated_within_15_percent() -> None:
    policy = midsize.llava(PIXELS, shape=SMALL)
    prompts = midsize.prompts(policy, 8, PIXELS)
    settings = GenerateSettings(keep_by="likelihood", max_sentences=3, batch_size=8)
    trees = [Tree(f"p{n}", prompt) for n, prompt in enumerate(prompts)]
    above = peak_allocated(lambda: Grower(policy, settings).grow(trees))
    ids = [len(node.ids) for tree in trees for node in tree.nodes[1:]]
    load = Load(prompts[0].length, sentence=round(sum(ids) / len(ids)), pictures=len(prompts))
    close(weights(policy) + above, generate_need(planned(policy, load, generate=settings), 8).total)


def paper(device: str, **changes: object) -> Planned:
    settings = load_settings(preset_files()["llava-1.5-7b-paper"], [f"{key}={value}" for key, value in changes.items()])
    found = known(settings.model, None)
    assert found is not None
    shape = vlm_shape(skeleton(found.config), found.photo, None)
    return Planned(settings, shape, tower_shape(settings.reward), device, usual_load(settings, shape))


def test_llava_7b_on_a_gpu_needs_what_its_weights_say_at_least() -> None:
    found = {need.stage: need for need in needs(paper("cuda"))}
    assert list(found) == ["generate", "score", "finetune", "evaluate"]
    assert found["finetune"].parts["weights"] == 7_063_427_072 * 2
    assert found["finetune"].parts["adapter, gradients, optimizer"] == 319_815_680 * 22
    assert 15 * GIB < found["finetune"].total < 24 * GIB
    assert all(need.total == sum(need.parts.values()) for need in found.values())


def test_a_larger_card_takes_a_larger_batch() -> None:
    plan = paper("cuda")
    small, large = fitting_batch(plan, 40 * GIB), fitting_batch(plan, 80 * GIB)
    assert 1 <= small < large <= 256
    assert generate_need(plan, large).total <= 0.8 * 80 * GIB < generate_need(plan, large + 1).total


def test_the_mildest_change_that_fits_is_advised() -> None:
    plan = paper("cuda", **{"finetune.gradient_checkpointing": "false"})
    need = next(need.total for need in needs(plan) if need.stage == "finetune")
    advised = changes_that_fit(plan, "finetune", need - 1)
    assert advised is not None
    assert told(advised[0]) == "finetune.gradient_checkpointing=true"
    assert advised[1] < need
    tight = changes_that_fit(plan, "finetune", 13 * GIB)
    assert tight is not None
    assert "model.quantization=nf4" in told(tight[0])
    assert tight[1] <= 13 * GIB
    assert changes_that_fit(plan, "finetune", GIB) is None
