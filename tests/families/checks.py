"""What must hold for every family; the tests of the families call these."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file

from csr_core.config import ModelSettings
from csr_core.dpo.pairs import usable_pairs
from csr_core.dpo.train import probe_batch
from csr_core.evaluation.answers import greedy_rows
from csr_core.layout import Layout
from csr_core.loop import iterate
from csr_core.miniature import world
from csr_core.miniature.draw import draw
from csr_core.policy import Policy, load_policy
from csr_core.policy.adapters import merge_float32, save_merged
from csr_core.records import PREFERENCES, SCORES, read_json, read_table, write_table
from csr_core.search.decoding import Prefixes
from csr_core.stages.finetune import finetune
from tests.families.world import (
    QUESTION,
    reward_accuracy,
    scenes,
    settings_for,
    told_by_picture,
)

TOKENS = 10


def the_stages_run(checkpoint: Path, folder: Path, *changes: str) -> None:
    """generate, score, pair, finetune, evaluate: with sentences, pairs, a trained adapter and answers at the end."""
    settings = settings_for(folder, checkpoint, *scenes(folder / "world", 5), *changes)
    layout = Layout(folder)
    iterate(settings, layout)
    nodes = read_table(layout.scores(1), SCORES)
    assert len({row["prompt_id"] for row in nodes}) == 5
    assert read_json(layout.candidates(1) / "summary.json")["left_out"] == []
    assert read_json(layout.scores(1) / "summary.json")["left_out"] == []
    summary = read_json(layout.model(1) / "summary.json")
    assert summary["pairs"] >= 2, summary
    assert summary["left_out"] == [], summary
    assert summary["steps"] >= 1
    answers = (layout.answers(1) / "test_captions.jsonl").read_text().splitlines()
    assert len(answers) == 3
    assert read_json(layout.metrics(1))["test"]


def pictures() -> list[Image.Image]:
    """Of unlike shapes, so that a batch has unlike numbers of picture tokens and crops where a family has those."""
    boxes = ((0, 0, 96, 96), (0, 0, 96, 40), (0, 0, 30, 96))
    drawn = world.sample_split("train", 3, seed=9)
    return [draw(scene).crop(box) for scene, box in zip(drawn, boxes, strict=True)]


def greedy_is_stock_greedy(policy: Policy, questions: tuple[str, ...] = (QUESTION, "Is there a dog?", "What?")) -> None:
    """One beam equals `model.generate` on the processor's own output for one prompt, token for token."""
    asked = list(zip(pictures(), questions, strict=True))
    prompts = [policy.encode(image, question) for image, question in asked]
    endless = dataclasses.replace(
        policy, end_ids=frozenset(), suppressed_ids=tuple(sorted({*policy.suppressed_ids, *policy.end_ids}))
    )
    for one in (policy, endless):
        ours = dict(greedy_rows(Prefixes(one), prompts, TOKENS, batch_size=3))
        for place, (image, question) in enumerate(asked):
            theirs = _stock(one, image, question)
            assert ours[place] == theirs, f"{question}: {ours[place]} {theirs}"


def _stock(policy: Policy, image: Image.Image, question: str) -> list[int]:
    inputs = stock_inputs(policy, image, question)
    out = policy.model.generate(
        **inputs,
        do_sample=False,
        max_new_tokens=TOKENS,
        suppress_tokens=list(policy.suppressed_ids),
        eos_token_id=list(policy.end_ids) or len(policy.tokenizer) + 100,
        pad_token_id=policy.pad_id,
    )
    ids: list[int] = out[0, inputs["input_ids"].shape[1] :].tolist()
    return ids[:-1] if ids[-1] in policy.end_ids else ids


def stock_inputs(policy: Policy, image: Image.Image, question: str) -> dict[str, Any]:
    """What the processor makes of one conversation by itself; PaliGemma's takes a bare text."""
    if policy.family.template:
        made = policy.processor(images=image, text=question, return_tensors="pt")
        return {name: value for name, value in made.items() if name != "labels"}
    content = [{"type": "image", "image": image}, {"type": "text", "text": question}]
    made = policy.processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    return dict(made)


def only_the_picture_tells(settings: Any, folder: Path) -> None:
    """After DPO on pairs that only the picture tells apart: rewards with right and wrong pictures, what was trained,
    and the adapter saved, loaded and merged."""
    rows = told_by_picture(folder / "told")
    write_table(folder / "preferences" / "preferences.parquet", rows, PREFERENCES)
    out = folder / "adapter"
    out.mkdir()
    summary = finetune(settings, 1, folder / "preferences", None, out)
    assert summary["pairs"] == len(rows)
    policy = load_policy(settings.model, out)
    pairs = usable_pairs(policy, rows, 10**6)
    right, wrong = (reward_accuracy(policy, pairs, swapped) for swapped in (False, True))
    assert right >= 0.85, (right, wrong, summary["final"])
    assert wrong <= 0.35, (right, wrong)
    _only_the_language_model_is_adapted(policy, out)
    _saved_loaded_and_merged_are_one(policy, settings.model, out, folder / "merged")


def _only_the_language_model_is_adapted(policy: Policy, adapter: Path) -> None:
    base = policy.model.get_base_model()
    decoder = base.get_decoder()
    root = next(name for name, module in base.named_modules() if module is decoder)
    adapted = {name.removeprefix("base_model.model.") for name in load_file(adapter / "adapter_model.safetensors")}
    assert adapted
    assert all(name.startswith(f"{root}.") for name in adapted), sorted(adapted)[:3]
    assert not any("vision" in name or "project" in name for name in adapted)
    layers = {name.split(".lora_")[0] for name in adapted}
    linears = {n for n, m in decoder.named_modules() if hasattr(m, "base_layer") and "lora" not in n}
    assert layers == {f"{root}.{name}" for name in linears}
    assert any(name.endswith("mlp.down_proj") for name in layers)


@torch.no_grad()
def _saved_loaded_and_merged_are_one(policy: Policy, model: ModelSettings, adapter: Path, out: Path) -> None:
    table = read_table(adapter.parent / "preferences", PREFERENCES)
    probe = probe_batch(policy, usable_pairs(policy, table[:1], 10**6), 10**6)
    with_adapter = policy.model(**probe).logits
    with policy.model.disable_adapter():
        without = policy.model(**probe).logits
    assert (with_adapter - without).abs().max() > 0.05, "the adapter changes nothing"
    again = load_policy(model, adapter).model(**probe).logits
    assert torch.equal(again, with_adapter)
    before = load_policy(model).model.state_dict()
    root = _root(load_policy(model).model)
    save_merged(merge_float32(policy.model, probe), policy, out)
    merged = load_policy(model, out).model
    torch.testing.assert_close(merged(**probe).logits, with_adapter, atol=1e-4, rtol=1e-4)
    after = merged.state_dict()
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.startswith(f"{root}.") for name in changed), sorted(changed)[:3]
    assert json.loads((out / "config.json").read_text())["model_type"]


def _root(model: Any) -> str:
    decoder = model.get_decoder()
    return str(next(name for name, module in model.named_modules() if module is decoder))
