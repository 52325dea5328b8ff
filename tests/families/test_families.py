"""Every family from a tiny random checkpoint of its own classes: all stages, and what must hold whatever the family."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from csr_core.config import Settings
from csr_core.dpo.pairs import PairCollator, usable_pairs
from csr_core.dpo.shared import shares_prompts
from csr_core.dpo.train import probe_batch
from csr_core.evaluation.answers import greedy_rows
from csr_core.layout import Layout
from csr_core.loop import iterate
from csr_core.miniature import world
from csr_core.miniature.draw import draw
from csr_core.policy import Policy, load_policy
from csr_core.policy.adapters import merge_float32, save_merged
from csr_core.policy.pictures import takes_features
from csr_core.records import PREFERENCES, SCORES, read_json, read_table, write_table
from csr_core.search.passes import inner_model
from csr_core.search.prefixes import Prefixes
from csr_core.stages.finetune import finetune
from tests.families.checkpoints import FAMILIES, save
from tests.families.world import QUESTION, reward_accuracy, scenes, settings_for, told_by_picture

TOKENS, PIXELS = 10, 10**6
QUESTIONS = (QUESTION, "Is there a dog?", "What?")

# Which families do not share prompts between rows of a search, or between the answers of a pair, and why.
WINDOWS = {"Gemma 3", "PaliGemma 2"}
OWN_HEAD = {"InstructBLIP"}
MORE_PACKAGES = {"SmolVLM": "num2words"}  # asked for by its processor


@dataclass(frozen=True)
class Made:
    """A family's checkpoint, and an adapter trained on pairs that only the picture tells apart."""

    family: str
    checkpoint: Path
    settings: Settings
    pairs: list[dict[str, Any]]
    adapter: Path


def skip_without_package(family: str) -> None:
    package = MORE_PACKAGES.get(family)
    if package and importlib.util.find_spec(package) is None:
        pytest.skip(f"{family}'s processor in transformers needs the package {package}, which is not installed")


@pytest.fixture(scope="module", params=list(FAMILIES))
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    family, folder = request.param, tmp_path_factory.mktemp("family")
    skip_without_package(family)
    checkpoint = save(family, folder / "checkpoint")
    changes = ("finetune.learning_rate=1e-2", "finetune.epochs=12", "finetune.batch_size=8")
    settings = settings_for(folder, checkpoint, *changes)
    rows = told_by_picture(folder / "pictures")
    write_table(folder / "preferences" / "preferences.parquet", rows, PREFERENCES)
    adapter = folder / "adapter"
    adapter.mkdir()
    summary = finetune(settings, 1, folder / "preferences", None, adapter)
    assert (summary["pairs"], summary["left_out"]) == (len(rows), [])
    return Made(family, checkpoint, settings, rows, adapter)


def test_the_stages_run(made: Made, tmp_path: Path) -> None:
    """Nothing is left out on the way, and there are sentences, pairs, an adapter and answers at the end."""
    settings = settings_for(tmp_path, made.checkpoint, *scenes(tmp_path / "world", 5))
    layout = Layout(tmp_path)
    iterate(settings, layout)
    assert len({row["prompt_id"] for row in read_table(layout.scores(1), SCORES)}) == 5
    for folder in (layout.prompts(1), layout.candidates(1), layout.scores(1), layout.model(1), layout.answers(1)):
        assert read_json(folder / "summary.json")["left_out"] == [], folder
    assert read_json(layout.model(1) / "summary.json")["pairs"] >= 2
    captions = (layout.answers(1) / "test_captions.jsonl").read_text().splitlines()
    assert len(captions) == 3
    assert read_json(layout.metrics(1))["test"]


def pictures() -> list[Image.Image]:
    """Of unlike shapes, so that a batch has unlike numbers of picture tokens and crops where a family has those."""
    boxes = ((0, 0, 96, 96), (0, 0, 96, 40), (0, 0, 30, 96))
    drawn = world.sample_split("train", 3, seed=9)
    return [draw(scene).crop(box) for scene, box in zip(drawn, boxes, strict=True)]


def test_one_beam_is_stock_greedy(made: Made, tmp_path: Path) -> None:
    """A batch of three equals `model.generate` on the processor's own output for each prompt, token for token."""
    path = save(made.family, tmp_path, talks=False)
    policy = load_policy(made.settings.model.model_copy(update={"path": str(path)}))
    asked = list(zip(pictures(), QUESTIONS, strict=True))
    prompts = [policy.encode(image, question) for image, question in asked]
    # Once as it is; once without an end of turn, so that all rows go on for long.
    endless = dataclasses.replace(
        policy, end_ids=frozenset(), suppressed_ids=tuple(sorted({*policy.suppressed_ids, *policy.end_ids}))
    )
    for one in (policy, endless):
        ours = dict(greedy_rows(Prefixes(one), prompts, TOKENS, batch_size=3))
        theirs = [stock_greedy(one, image, question) for image, question in asked]
        assert [ours[place] for place in range(3)] == theirs
    assert len({tuple(ids) for ids in theirs}) == 3, "the prompts make no difference"
    assert all(len(ids) == TOKENS for ids in theirs)
    assert len({token for ids in theirs for token in ids}) > 5, "they say the same all the time"


def stock_greedy(policy: Policy, image: Image.Image, question: str) -> list[int]:
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
    """What the processor makes of one conversation by itself; some families' take a bare text."""
    if policy.family.template:
        made = policy.processor(images=image, text=question, return_tensors="pt")
        return {name: value for name, value in made.items() if name != "labels"}
    content = [{"type": "image", "image": image}, {"type": "text", "text": question}]
    return dict(
        policy.processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )
    )


def test_what_is_shared(made: Made) -> None:
    """Falling back to copies is right, but slow: it happens where it must and nowhere else."""
    policy = load_policy(made.settings.model)
    prefixes = Prefixes(policy)
    prefixes.get([policy.encode(image, question) for image, question in zip(pictures(), QUESTIONS, strict=True)])
    assert prefixes._shared == (made.family not in WINDOWS)
    apart = takes_features(inner_model(policy.model))  # not before transformers 5.2x
    assert (prefixes.pictures is not None) == (apart and made.family not in OWN_HEAD)
    rows = usable_pairs(policy, made.pairs, PIXELS).rows
    plain, shared = (PairCollator(policy, PIXELS, one)(rows[:2]) for one in (False, True))
    assert shares_prompts(policy, plain, shared) == (made.family not in WINDOWS | OWN_HEAD)


def test_a_shuffled_picture_lowers_the_reward_accuracy(made: Made) -> None:
    policy = load_policy(made.settings.model, made.adapter)
    pairs = usable_pairs(policy, made.pairs, PIXELS)
    right, wrong = (reward_accuracy(policy, pairs, swapped) for swapped in (False, True))
    assert right >= 0.85
    assert wrong <= 0.35


def test_training_starts_from_its_reference(made: Made) -> None:
    """Before the first step both are one model, whatever dropout a family has: the loss is ln 2."""
    first = json.loads((made.adapter / "training.jsonl").read_text().splitlines()[0])
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert first["rewards/margins"] == pytest.approx(0.0, abs=1e-5)


def test_only_the_language_model_is_adapted(made: Made) -> None:
    """All of its linear layers, and nothing else."""
    model = load_policy(made.settings.model).model
    decoder, root = model.get_decoder(), language_root(model)
    linears = {f"{root}.{name}" for name, part in decoder.named_modules() if isinstance(part, torch.nn.Linear)}
    written = load_file(made.adapter / "adapter_model.safetensors")
    adapted = {name.removeprefix("base_model.model.").split(".lora_")[0] for name in written}
    assert adapted == linears
    assert not any(word in name for name in adapted for word in ("vision", "visual", "projec", "connector", "qformer"))


@torch.no_grad()
def test_saved_loaded_and_merged_are_one(made: Made, tmp_path: Path) -> None:
    """The same logits; and of the merged model's weights only the language model's differ from the base, by any bit."""
    policy = load_policy(made.settings.model, made.adapter)
    probe = probe_batch(policy, usable_pairs(policy, made.pairs[:1], PIXELS), PIXELS)
    adapted = policy.model(**probe).logits
    with policy.model.disable_adapter():
        assert (adapted - policy.model(**probe).logits).abs().max() > 0.05, "the adapter changes nothing"
    assert torch.equal(load_policy(made.settings.model, made.adapter).model(**probe).logits, adapted)
    base = load_policy(made.settings.model).model
    save_merged(merge_float32(policy.model, probe), policy, tmp_path / "merged")
    merged = load_policy(made.settings.model, tmp_path / "merged").model
    torch.testing.assert_close(merged(**probe).logits, adapted, atol=1e-4, rtol=1e-4)
    before, after = base.state_dict(), merged.state_dict()
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.startswith(f"{language_root(base)}.") for name in changed), sorted(changed)[:3]


def language_root(model: Any) -> str:
    """The name of the language model inside of `model`."""
    decoder = model.get_decoder()
    return str(next(name for name, module in model.named_modules() if module is decoder))
