from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from csr_core.config import ModelSettings
from csr_core.dpo.pairs import PairCollator, answer_ids, pair_batch, usable_pairs
from csr_core.errors import InputError
from csr_core.policy import Policy, PromptInputs, load_policy
from tests.dpo.world import GOLDEN, QUESTION, golden_model, message, preference, scene_preferences

PIXELS = 1_000_000
DOG, CAT = "There is a dog.", "There is a cat."
# LLaVA-1.5's own template in short: no end of turn, a blank after each answer.
OPEN_ENDED = (
    "{% for message in messages %}{% if message['role'] == 'user' %}USER: "
    "{% for part in message['content'] if part['type'] == 'image' %}<image>\n{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "{% else %} ASSISTANT: {{ message['content'][0]['text'] }} {% endif %}{% endfor %}"
    "{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)


@pytest.fixture(scope="module")
def miniature() -> Policy:
    return load_policy(ModelSettings(device="cpu"))


@pytest.fixture(scope="module")
def golden() -> Policy:
    return load_policy(golden_model())


def with_template(tmp_path: Path, template: str) -> Policy:
    file = tmp_path / "template.jinja"
    file.write_text(template, "utf-8")
    return load_policy(golden_model(str(file)))


def test_answers_end_with_the_end_of_turn_and_nothing_after(miniature: Policy, golden: Policy) -> None:
    for policy in (miniature, golden):
        ids = answer_ids(policy, QUESTION, "There is a dog. There is a cat.")
        assert ids[-1] == policy.tokenizer.eos_token_id
        assert policy.end_ids.isdisjoint(ids[:-1])
        assert policy.decode(ids).strip() == "There is a dog. There is a cat."


def test_an_answer_has_the_tokens_that_the_model_writes_after_its_prompt(golden: Policy) -> None:
    ids = answer_ids(golden, QUESTION, " A dog runs.")  # the search keeps the blank in front
    assert golden.tokenizer.convert_ids_to_tokens(ids)[0] == "▁A"
    assert ids == answer_ids(golden, QUESTION, "A dog runs.")
    apart = golden.tokenizer(" A dog runs.</s>", add_special_tokens=False)["input_ids"]
    assert apart != ids, "tokenised apart, as TRL's vision collator does, the answer would begin with another token"


def test_a_template_without_end_of_turn_gets_one(tmp_path: Path) -> None:
    policy = with_template(tmp_path, OPEN_ENDED)
    ids = answer_ids(policy, QUESTION, "A dog runs.")
    assert policy.tokenizer.convert_ids_to_tokens(ids)[-2:] == [".", "</s>"]  # and no "▁" between


def test_a_prompt_that_ends_inside_a_token_is_refused_with_the_place(tmp_path: Path) -> None:
    policy = with_template(tmp_path, OPEN_ENDED.replace("%} ASSISTANT:{%", "%} ASSISTANT: {%"))
    with pytest.raises(InputError, match=r"part at token \d+.*model.prompt_template"):
        answer_ids(policy, QUESTION, "A dog runs.")


def test_a_template_that_writes_the_prompt_in_another_way_is_refused(tmp_path: Path) -> None:
    policy = with_template(tmp_path, OPEN_ENDED.replace("%} ASSISTANT:{%", "%} ASSISTANT: <think>{%"))
    with pytest.raises(InputError, match="differently when an answer follows"):
        answer_ids(policy, QUESTION, "A dog runs.")


def test_batch_by_hand() -> None:
    """Two prompts of 2 and 1 tokens, padding id 0: rows chosen 1, chosen 2, rejected 1, rejected 2."""

    def sample(ids: list[int], shade: float) -> PromptInputs:
        tokens = torch.tensor(ids)
        return PromptInputs(
            {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)},
            {"pixel_values": torch.full((1, 1), shade)},
        )

    batch = pair_batch([sample([5, 6], 0.25), sample([7], 0.75)], [[8, 2], [9, 9, 2]], [[2], [4, 2]], pad_id=0)
    assert batch["input_ids"].tolist() == [[5, 6, 8, 2], [7, 9, 9, 2], [5, 6, 2, 0], [7, 4, 2, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 1, 0]]
    assert batch["completion_mask"].tolist() == [[0, 0, 1, 1], [0, 1, 1, 1], [0, 0, 1, 0], [0, 1, 1, 0]]
    assert batch["pixel_values"].flatten().tolist() == [0.25, 0.75, 0.25, 0.75]


@pytest.fixture
def table(tmp_path: Path) -> list[dict[str, Any]]:
    return scene_preferences(tmp_path, 3)


def test_the_prompt_of_a_batch_is_the_prompt_of_the_search(golden: Policy) -> None:
    image = GOLDEN / "images/000000000000.png"
    pairs = usable_pairs(golden, [preference("a", image, "A dog.", "A cat.")], PIXELS)
    batch = PairCollator(golden, PIXELS)(pairs.rows)
    ids, mask = batch["input_ids"][0], batch["completion_mask"][0].bool()
    from csr_core.images import open_image

    encoded = golden.encode(open_image(image), QUESTION).sequence["input_ids"]
    assert ids[~mask].tolist() == encoded.tolist()
    assert int(ids[0]) == golden.tokenizer.bos_token_id
    assert ids[mask].tolist() == answer_ids(golden, QUESTION, "A dog.")


def test_unusable_pairs_are_left_out_and_named(miniature: Policy, table: list[dict[str, Any]], tmp_path: Path) -> None:
    whole = Path(table[0]["images"][0]).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("no picture")
    fine = table[0]["images"][0]
    bad = {
        "gone": preference("gone", tmp_path / "none.png", DOG, CAT),
        "cut": preference("cut", tmp_path / "cut.png", DOG, CAT),
        "text": preference("text", tmp_path / "text.png", DOG, CAT),
        "same": preference("same", fine, "There is a dog.", " There is a dog. "),
        "empty": preference("empty", fine, " ", "There is a dog."),
        "no picture": preference("no picture", fine, DOG, CAT) | {"images": []},
        "two turns": preference("two turns", fine, DOG, CAT) | {"prompt": message("user", "A") + message("user", "B")},
        "placeholder": preference("placeholder", fine, "There is a <image>.", "There is a dog."),
        "unknown": preference("unknown", fine, "There is a dog.", "There is a <unk>."),
    }
    pairs = usable_pairs(miniature, [*bad.values(), *table], PIXELS)
    assert [row["prompt_id"] for row in pairs.rows] == ["p0", "p1", "p2"]
    reasons = {entry["prompt_id"]: entry["reason"] for entry in pairs.left_out}
    assert list(reasons) == list(bad)
    expected = {
        "gone": "missing",
        "cut": "cannot be read to its end",
        "text": "not a picture",
        "same": "the same tokens",
        "empty": "expected chosen",
        "no picture": "one picture or several, came none",
        "two turns": "expected prompt",
        "placeholder": "<image>",
        "unknown": "the rejected answer, read back from its text, holds special tokens ['<unk>']",
    }
    assert {name: part in reasons[name] for name, part in expected.items()} == dict.fromkeys(expected, True), reasons


def test_a_pair_may_have_several_pictures(miniature: Policy, table: list[dict[str, Any]]) -> None:
    """Beside one with a single picture in a batch; each answer has all pictures of its prompt before it."""
    two = preference("two", "", DOG, CAT) | {"images": [table[0]["images"][0], table[1]["images"][0]]}
    rows = usable_pairs(miniature, [two, table[0]], PIXELS).rows
    assert [len(row["images"]) for row in rows] == [2, 1]
    batch = PairCollator(miniature, PIXELS)(rows)
    per_row = (batch["input_ids"] == miniature.model.config.image_token_id).sum(-1)
    assert per_row.tolist() == [18, 9, 18, 9]
    assert len(batch["pixel_values"]) == 6


def test_long_pairs_are_left_out_whole(miniature: Policy, table: list[dict[str, Any]]) -> None:
    pairs = usable_pairs(miniature, table, PIXELS)
    lengths = {}
    for row in pairs.rows:
        batch = PairCollator(miniature, PIXELS)([row])
        lengths[row["prompt_id"]] = batch["input_ids"].shape[1]
    limit = sorted(lengths.values())[1]
    kept = usable_pairs(miniature, table, PIXELS, max_tokens=limit)
    assert [row["prompt_id"] for row in kept.rows] == [name for name, length in lengths.items() if length <= limit]
    assert all(f"finetune.max_tokens = {limit}" in entry["reason"] for entry in kept.left_out)


def test_no_pair_at_all_says_why(miniature: Policy, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none of the 1 preference pairs.*none\.png is missing"):
        usable_pairs(miniature, [preference("gone", tmp_path / "none.png", DOG, CAT)], PIXELS)
    with pytest.raises(InputError, match=r"none of the 0.*pair stage"):
        usable_pairs(miniature, [], PIXELS)


def test_pictures_are_opened_with_their_batch(miniature: Policy, table: list[dict[str, Any]]) -> None:
    pairs = usable_pairs(miniature, table, PIXELS)
    Path(table[1]["images"][0]).unlink()
    with pytest.raises(InputError, match="missing"):
        PairCollator(miniature, PIXELS)(pairs.rows)
