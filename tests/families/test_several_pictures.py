"""Several pictures in one prompt: as the family's own processor and `generate` have it, and through all stages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from csr_core.config import ModelSettings, RewardSettings
from csr_core.errors import InputError
from csr_core.evaluation.answers import greedy_rows
from csr_core.layout import Layout
from csr_core.loop import iterate
from csr_core.miniature.draw import draw
from csr_core.miniature.world import sample_split
from csr_core.policy import Policy, load_policy
from csr_core.prompts import read_prompts
from csr_core.records import PREFERENCES, PROMPTS, SCORES, pictures_of, read_json, read_table
from csr_core.reward.scorer import SentenceScorer
from csr_core.search.prefixes import Prefixes
from tests.families.checkpoints import FAMILIES, save
from tests.families.test_families import TOKENS, pictures, skip_without_package
from tests.families.world import scenes, settings_for

ONE_ALONE = {"InstructBLIP"}
SEVERAL = [family for family in FAMILIES if family not in ONE_ALONE]


def stock_greedy(policy: Policy, images: list[Image.Image], question: str) -> list[int]:
    content: list[dict[str, Any]] = [{"type": "image", "image": image} for image in images]
    inputs = policy.processor.apply_chat_template(
        [{"role": "user", "content": [*content, {"type": "text", "text": question}]}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    inputs = {name: value for name, value in inputs.items() if name not in policy.family.not_inputs}
    out = policy.model.generate(
        **inputs,
        do_sample=False,
        max_new_tokens=TOKENS,
        suppress_tokens=list(policy.suppressed_ids),
        eos_token_id=list(policy.end_ids),
        pad_token_id=policy.pad_id,
    )
    ids: list[int] = out[0, inputs["input_ids"].shape[1] :].tolist()
    return ids[:-1] if ids[-1] in policy.end_ids else ids


@pytest.mark.parametrize("family", SEVERAL)
def test_a_batch_of_one_two_and_three_pictures_is_stock_greedy(family: str, tmp_path: Path) -> None:
    skip_without_package(family)
    policy = load_policy(ModelSettings(path=str(save(family, tmp_path, talks=False)), device="cpu"))
    square, wide, high = pictures()
    asked = [([square, high], "What is unlike?"), ([wide], "What?"), ([high, wide, square], "Describe the image.")]
    ours = dict(greedy_rows(Prefixes(policy), [policy.encode(*one) for one in asked], TOKENS, batch_size=3))
    assert [ours[place] for place in range(3)] == [stock_greedy(policy, *one) for one in asked]
    one, other = Prefixes(policy).get([policy.encode(images, "What?") for images in ([square, high], [high, square])])
    assert (one.logits - other.logits).abs().max() > 1e-3, "their order is not seen"


def test_a_family_of_one_picture_says_so(tmp_path: Path) -> None:
    policy = load_policy(ModelSettings(path=str(save("InstructBLIP", tmp_path)), device="cpu"))
    with pytest.raises(InputError, match="2 pictures in one prompt, but InstructBlipProcessor takes one"):
        policy.encode(pictures()[:2], "What?")


@pytest.mark.parametrize("family", ["LLaVA-OneVision", "Gemma 3"])
def test_all_stages(family: str, tmp_path: Path) -> None:
    """Prompts on two pictures beside such on one, one of them with a picture that is not there."""
    checkpoint, folder = save(family, tmp_path / "checkpoint"), tmp_path / "world"
    changes = scenes(folder, 6)
    rows = [json.loads(line) for line in (folder / "prompts.jsonl").read_text().splitlines()]
    names = [row["image"] for row in rows]
    rows[0]["image"], rows[1]["image"] = names[:2], [names[2], "images/gone.png"]
    rows[2] = {"id": rows[2]["id"], "prompt": rows[2]["prompt"], "images": names[2:5]}
    (folder / "prompts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    layout = Layout(tmp_path)
    iterate(settings_for(tmp_path, checkpoint, *changes), layout)
    table = {row["prompt_id"]: row for row in read_table(layout.prompts(1), PROMPTS)}
    assert sorted(len(pictures_of(row)) for row in table.values()) == [1, 1, 1, 2, 3]
    [left_out] = read_json(layout.prompts(1) / "summary.json")["left_out"]
    assert "gone.png is missing" in left_out["reason"]
    assert {row["prompt_id"] for row in read_table(layout.scores(1), SCORES)} == set(table)
    pairs = {row["prompt_id"]: row for row in read_table(layout.preferences(1), PREFERENCES)}
    assert any(len(row["images"]) > 1 for row in pairs.values())
    assert all(row["images"] == pictures_of(table[name]) for name, row in pairs.items())
    summary = read_json(layout.model(1) / "summary.json")
    assert (summary["pairs"], summary["left_out"]) == (len(pairs), [])


def test_a_sentence_has_the_relevance_of_the_picture_it_fits_best() -> None:
    scorer = SentenceScorer(RewardSettings(device="cpu"))
    drawn = list(sample_split("train", 2, seed=0))
    images = [draw(scene) for scene in drawn]
    for number, image in enumerate(images):
        scorer.add_image(str(number), image)
    scorer.add_images("both", images)
    texts = [f"There is a {placed.name}." for scene in drawn for placed in scene.objects]
    one, two, both = (scorer.relevances([(name, text) for text in texts]) for name in ("0", "1", "both"))
    assert both == [max(pair) for pair in zip(one, two, strict=True)]
    assert both not in (one, two)
    scorer.forget()
    assert not scorer.knows("both")


def test_forms_of_prompts(tmp_path: Path) -> None:
    rows = [
        {"id": "a", "image": ["x.png", "y.png"], "input": "<image>\n<image>\nWhat is unlike?"},
        {"id": "b", "images": ["x.png", "y.png"], "prompt": "What is unlike?"},
        {"id": "c", "images": ["x.png"], "prompt": "What is unlike?"},
        {"id": "d", "images": ["x.png", 3], "prompt": "What is unlike?"},
        {"id": "e", "images": [], "prompt": "What is unlike?"},
        {"id": "f", "images": ["y.png", "x.png"], "prompt": "What is unlike?"},
    ]
    (tmp_path / "p.json").write_text(json.dumps(rows))
    found = read_prompts(tmp_path / "p.json", None)
    names = {row["prompt_id"]: [Path(path).name for path in pictures_of(row)] for row in found.rows}
    assert names == {"a": ["x.png", "y.png"], "c": ["x.png"], "f": ["y.png", "x.png"]}
    assert found.rows[0]["prompt"] == "What is unlike?"
    reasons = {item["prompt_id"]: item["reason"].split(":")[0] for item in found.left_out}
    assert reasons == {"b": "duplicate prompt", "d": "fields missing", "e": "fields missing"}


def test_a_dataset_with_pictures_in_lists(tmp_path: Path) -> None:
    from datasets import Dataset, Features, List, Value
    from datasets import Image as ImageColumn

    for number, image in enumerate(pictures()):
        image.save(tmp_path / f"{number}.png")
    rows = [{"id": "a", "images": [str(tmp_path / "0.png"), str(tmp_path / "1.png")], "prompt": "What is unlike?"}]
    kinds = Features({"id": Value("string"), "images": List(ImageColumn()), "prompt": Value("string")})
    dataset = Dataset.from_list(rows, features=kinds)
    dataset.save_to_disk(str(tmp_path / "set"))
    found = read_prompts(tmp_path / "set", None, extract=tmp_path / "out")
    paths = pictures_of(found.rows[0])
    assert [Image.open(path).size for path in paths] == [(96, 96), (96, 40)]
