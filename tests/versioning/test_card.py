"""The dataset card is read by the hub's library, and by `datasets` as the description of the folder."""

from pathlib import Path
from typing import Any

import pytest
from datasets import load_dataset
from huggingface_hub import DatasetCard

from csr_core.config import Settings
from csr_core.evaluation.compact import compact
from csr_core.preference.card import COLUMNS, card
from csr_core.records import PREFERENCES, write_json, write_table

MODEL = {"path": "models/iter_1", "digest": "ab" * 32, "iteration": 1}
SUMMARY: dict[str, Any] = {
    "prompts": 5,
    "pairs": 2,
    "pairs_of_equal_length_asked": 1,
    "left_out_by_reason": {"only one complete answer": 2, "a | b": 1},
    "left_out": [{"prompt_id": str(k), "reason": "only one complete answer"} for k in range(3)],
    "diversity": {
        "margin": {"mean": 2.5, "median": 2.25, "histogram": {"edges": [1.0, 4.0], "counts": [2]}},
        "words": {"chosen": 12.0, "rejected": 10.0},
        "edit_distance": 0.25,
    },
}


def preferences(folder: Path) -> None:
    row = {
        "images": ["data/iter_2/prompts/images/0.png"],
        "prompt": [{"role": "user", "content": "Describe the image."}],
        "chosen": [{"role": "assistant", "content": "A cat."}],
        "rejected": [{"role": "assistant", "content": "A dog."}],
        "prompt_id": "0",
        "chosen_reward": 2.0,
        "rejected_reward": 1.0,
        "margin": 1.0,
        "chosen_nodes": [1],
        "rejected_nodes": [2],
    }
    write_table(folder / "preferences.parquet", [row, {**row, "prompt_id": "1"}], PREFERENCES)
    write_json(folder / "summary.json", SUMMARY)


def test_the_metadata_is_valid_and_says_what_is_known() -> None:
    data = DatasetCard(card(Settings(), 2, SUMMARY, MODEL)).data
    assert data.tags == ["preference", "dpo", "vision"]
    assert data.size_categories == ["n<1K"]
    assert data.license is None


@pytest.mark.parametrize(("pairs", "size"), [(999, "n<1K"), (1000, "1K<n<10K"), (12_000, "10K<n<100K")])
def test_size_categories_are_those_of_the_hub(pairs: int, size: str) -> None:
    assert DatasetCard(card(Settings(), 1, {**SUMMARY, "pairs": pairs}, MODEL)).data.size_categories == [size]


def test_datasets_loads_the_folder_by_its_card(tmp_path: Path) -> None:
    folder = tmp_path / "preferences"
    preferences(folder)
    (folder / "README.md").write_text(card(Settings(), 2, SUMMARY, MODEL), "utf-8")
    rows = load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
    assert rows.column_names == list(COLUMNS) == PREFERENCES.names
    assert [row["prompt_id"] for row in rows] == ["0", "1"]
    assert rows[0]["chosen"] == [{"role": "assistant", "content": "A cat."}]


def test_counts_margins_settings_and_model_are_told() -> None:
    settings = Settings.model_validate({"reward": {"image_weight": 0.7}})
    text = card(settings, 2, SUMMARY, MODEL)
    for line in (
        "| prompts | 5 |",
        "| left out | 3 |",
        "| left out: only one complete answer | 2 |",
        "| left out: a \\| b | 1 |",
        "| median margin | 2.25 |",
        "| greatest margin | 4 |",
        "| reward.image_weight | 0.7 |",
    ):
        assert line in text
    assert "`models/iter_1`, what iteration 1 made of the base model `miniature`" in text
    assert MODEL["digest"] in text


def test_the_text_is_the_same_on_every_machine() -> None:
    def text(place: str) -> str:
        settings = Settings.model_validate({"model": {"path": f"{place}/llava"}, "reward": {"model": f"{place}/clip"}})
        return card(settings, 1, SUMMARY, {"path": f"{place}/llava", "digest": "ab", "iteration": 0})

    assert text("/home/a") == text("/srv/models")
    assert "`llava`, the base model" in text("/home/a")


def test_main_figures_carry_their_iteration() -> None:
    interval = {"value": 0.123456, "low": 0.1, "high": 0.2, "n": 10}
    figures = {"chair_i": interval, "chair_s": interval, "recall": {**interval, "value": None}}
    assert compact({"test": figures, "shifted": {}}, 3) == {"iter_3": {"test": {"chair_i": 0.1235}, "shifted": {}}}
