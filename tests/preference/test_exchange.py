"""Preference sets to and from other programs: what each reads, and round trips that lose nothing."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from csr_core.errors import InputError, SettingsError
from csr_core.images import open_image
from csr_core.preference.exchange import FORMATS, export_preferences, read_preferences
from csr_core.records import PREFERENCES, read_table, write_table
from csr_core.stages.imported import bring_in, take_over
from tests.dpo.world import GOLDEN, scene_preferences

PIXELS = 1_000_000
ROW_KEYS = ["prompt_id", "prompt", "chosen", "rejected", "chosen_reward", "rejected_reward", "margin"]
VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions. USER: <image>\nDescribe the image. ASSISTANT:"
)

Row = dict[str, Any]


@pytest.fixture
def pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Row]:
    """Pairs of a run in the working folder, with scores that are no round numbers and texts that are not plain."""
    monkeypatch.chdir(tmp_path)
    rows = scene_preferences(Path("pictures"), 4)
    for number, row in enumerate(rows):
        row |= {"chosen_reward": 1 / 3 + number, "rejected_reward": -0.1, "margin": 1 / 3 + number + 0.1}
        row |= {"chosen_nodes": [1, 4, 9], "rejected_nodes": [2]}
        row["prompt"] = [{"role": "user", "content": f'Décris l\'image {number} :\n"que vois-tu ?"'}]
        row["rejected"] = [{"role": "assistant", "content": row["rejected"][0]["content"] + "\n\n犬と猫。 </s>"}]
    return rows


def imported(source: Path, images: Path | None = None) -> tuple[list[Row], list[dict[str, str]]]:
    """The set as an iteration gets it, through both of its steps."""
    bring_in(source, images, PIXELS, Path("imported"), replace=True)
    summary = take_over(Path("imported"), 1, Path("preferences"))
    return read_table(Path("preferences"), PREFERENCES), summary["left_out"]


@pytest.mark.parametrize("form", FORMATS)
def test_a_round_trip_loses_nothing(pairs: list[Row], form: str) -> None:
    found = export_preferences(pairs, form, Path("out/set"))
    assert (len(found.rows), found.left_out) == (len(pairs), [])
    back, left_out = imported(Path("out/set"))
    assert left_out == []
    assert [{**row, "images": None} for row in back] == [{**row, "images": None} for row in pairs]
    if form == "trl":  # datasets gives pictures that are not held inside by where they are
        assert [[os.path.relpath(image) for image in row["images"]] for row in back] == [row["images"] for row in pairs]
    else:
        assert [row["images"] for row in back] == [row["images"] for row in pairs]


@pytest.mark.parametrize("form", FORMATS)
def test_with_its_pictures_a_folder_can_be_moved(pairs: list[Row], form: str, tmp_path: Path) -> None:
    content = {row["prompt_id"]: Path(row["images"][0]).read_bytes() for row in pairs}
    export_preferences(pairs, form, Path("out"), copy_images=True)
    (tmp_path / "elsewhere").mkdir()
    Path("out").rename("elsewhere/set")
    Path("pictures").rename("gone")
    back, left_out = imported(Path("elsewhere/set"))
    assert left_out == []
    assert {row["prompt_id"]: Path(row["images"][0]).read_bytes() for row in back} == content
    assert [[row[key] for key in ROW_KEYS] for row in back] == [[row[key] for key in ROW_KEYS] for row in pairs]


def test_the_authors_form(pairs: list[Row]) -> None:
    """LLaVA's loader joins --image_folder and `image`, and puts the picture where it finds `<image>`."""
    export_preferences(pairs[:1], "authors", Path("out"))
    [row] = json.loads(Path("out/preferences.json").read_text("utf-8"))
    assert open_image(Path("out") / row["image"]).size == (96, 96)
    asked = {"from": "human", "value": "<image>\n" + pairs[0]["prompt"][0]["content"]}
    for key, side in {"conversations": "chosen", "rejected_conversations": "rejected"}.items():
        assert row[key] == [asked, {"from": "gpt", "value": pairs[0][side][0]["content"]}]
    assert set(row) == {"id", "image", "conversations", "rejected_conversations", "csr"}


def test_the_llama_factory_form(pairs: list[Row]) -> None:
    """Its loader: datasets' JSON, the columns that dataset_info.json names, pictures from dataset_dir on."""
    from datasets import load_dataset

    export_preferences(pairs, "llama-factory", Path("out"))
    told = json.loads(Path("out/dataset_info.json").read_text())["csr"]
    assert (told["formatting"], told["ranking"]) == ("sharegpt", True)
    rows = load_dataset("json", data_files=f"out/{told['file_name']}", split="train", cache_dir="cache")
    assert len(rows) == len(pairs)
    columns, row = told["columns"], rows[0]
    assert [turn["from"] for turn in row[columns["messages"]]] == ["human"]  # an odd number of turns
    assert row[columns["messages"]][0]["value"].count("<image>") == len(row[columns["images"]]) == 1
    assert Path("out", row[columns["images"]][0]).is_file()
    for side in ("chosen", "rejected"):
        assert row[columns[side]] == {"from": "gpt", "value": pairs[0][side][0]["content"]}


def test_the_ms_swift_form(pairs: list[Row]) -> None:
    export_preferences(pairs, "ms-swift", Path("out"))
    rows = [json.loads(line) for line in Path("out/preferences.jsonl").read_text("utf-8").splitlines()]
    assert len(rows) == len(pairs)
    assert [turn["role"] for turn in rows[0]["messages"]] == ["user", "assistant"]
    assert rows[0]["messages"][0]["content"] == "<image>" + pairs[0]["prompt"][0]["content"]
    assert rows[0]["messages"][1]["content"] == pairs[0]["chosen"][0]["content"]
    assert rows[0]["rejected_response"] == pairs[0]["rejected"][0]["content"]
    assert Path("out", rows[0]["images"][0]).is_file()


@pytest.mark.parametrize("copied", [False, True])
def test_trl_trains_on_the_exported_set(pairs: list[Row], copied: bool) -> None:
    """As its users would: load_dataset on the folder, DPOTrainer with the model's own processor."""
    from datasets import load_dataset
    from peft import LoraConfig
    from PIL import Image
    from trl import DPOConfig, DPOTrainer

    from csr_core.config import ModelSettings
    from csr_core.policy import load_policy

    export_preferences(pairs, "trl", Path("out"), copied)
    rows = load_dataset("out", split="train", cache_dir="cache")
    assert isinstance(rows[0]["images"][0], Image.Image)
    policy = load_policy(ModelSettings(device="cpu"))
    options = DPOConfig(
        output_dir="trained", per_device_train_batch_size=2, max_steps=2, report_to=[], use_cpu=True, max_length=None,
        save_strategy="no", logging_steps=1, bf16=False, gradient_checkpointing=False,
    )  # fmt: skip
    trainer = DPOTrainer(
        model=policy.model,
        args=options,
        train_dataset=rows,
        processing_class=policy.processor,
        peft_config=LoraConfig(r=4, target_modules=r".*language_model.*\.(q_proj|v_proj)"),
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[0] == pytest.approx(0.693147, abs=1e-4)  # the policy is its reference before the first step
    assert len(losses) == 2


def authors_row(number: int, **changes: Any) -> Row:
    talk = [[{"from": "human", "value": VICUNA}, {"from": "gpt", "value": text}] for text in ("A dog.", "A boat.")]
    row = {"id": f"{number:012d}", "image": f"train2014/COCO_train2014_{number:012d}.jpg"}
    return {**row, "conversations": talk[0], "rejected_conversations": talk[1], **changes}


def test_the_authors_sets_are_read_as_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rendered prompts are taken apart; pictures are found under COCO's names; bad rows are left out and named."""
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    Path("coco").mkdir()
    for number in (1, 3):
        Image.new("RGB", (8, 8)).save(f"coco/{number:012d}.jpg")
    Path("coco/000000000004.jpg").write_text("not a picture")
    turn = {"from": "gpt", "value": "A dog."}
    bad = {
        "fields missing": authors_row(1, conversations=[turn, turn]),
        "equal texts": authors_row(1, conversations=authors_row(1)["rejected_conversations"]),
        "empty prompt or answer": authors_row(
            1, conversations=[{"from": "human", "value": VICUNA}, {**turn, "value": " "}]
        ),
        "two prompts": authors_row(1, conversations=[{"from": "human", "value": "Why?"}, turn]),
        "no picture": {**authors_row(5), "image": None},
        "coco/COCO_train2014_000000000002.jpg is missing": authors_row(2, image="COCO_train2014_000000000002.jpg"),
        "coco/000000000004.jpg is not a picture that can be read": authors_row(4),
        "not an object, but list": [],
    }
    rows = [authors_row(1), authors_row(3, image="/their/machine/COCO_train2014_000000000003.jpg"), *bad.values()]
    Path("set.json").write_text(json.dumps(rows))
    found = read_preferences("set.json", Path("coco"), Path("extract"), PIXELS)
    assert [row["prompt"][0]["content"] for row in found.rows] == ["Describe the image."] * 2
    assert [row["images"] for row in found.rows] == [["coco/000000000001.jpg"], ["coco/000000000003.jpg"]]
    assert [row["margin"] for row in found.rows] == [None, None]
    reasons = [item["reason"] for item in found.left_out]
    assert [reason.startswith(part) for reason, part in zip(reasons, bad, strict=True)] == [True] * len(bad), reasons


def test_the_golden_pairs_of_the_authors_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not (GOLDEN / "trees_ids.json").is_file():
        pytest.skip("needs ../shared/data/golden, which is not part of this repository")
    golden = GOLDEN.resolve()
    monkeypatch.chdir(tmp_path)
    runs = json.loads((golden / "trees_ids.json").read_text())["results"]
    asked = {row["id"]: row["input"] for row in json.loads((golden / "prompts.json").read_text())}
    for run in runs:  # theirs are JPEGs of COCO by name; these are PNGs
        run["pair"]["image"] = run["pair"]["image"].replace("COCO_train2014_", "").replace(".jpg", ".png")
    Path("set.json").write_text(json.dumps([run["pair"] for run in runs]))
    found = read_preferences("set.json", golden / "images", Path("extract"), PIXELS)
    assert found.left_out == []
    for row, run in zip(found.rows, runs, strict=True):
        assert row["prompt"][0]["content"] == asked[run["id"]].replace("<image>", "").strip()
        assert row["chosen"][0]["content"] == run["pair"]["conversations"][1]["value"]
        assert row["rejected"][0]["content"] == run["pair"]["rejected_conversations"][1]["value"]


def test_pairs_of_another_run(pairs: list[Row]) -> None:
    """Their pictures are named from the folder of that run on."""
    write_table(Path("run/data/iter_1/preferences/preferences.parquet"), pairs, PREFERENCES)
    Path("pictures").rename("run/pictures")
    back, left_out = imported(Path("run/data/iter_1/preferences"), Path("run"))
    assert left_out == []
    assert back == [{**row, "images": [f"run/{row['images'][0]}"]} for row in pairs]


def test_what_cannot_be_written_is_named_and_the_rest_is(pairs: list[Row]) -> None:
    Path(pairs[0]["images"][0]).unlink()
    pairs[1]["images"] *= 2
    found = export_preferences(pairs, "authors", Path("out"))
    assert [item["reason"].split(":")[0] for item in found.left_out] == [
        f"{pairs[0]['images'][0]} is missing", "2 pictures"
    ]  # fmt: skip
    assert len(json.loads(Path("out/preferences.json").read_text("utf-8"))) == 2
    assert len(export_preferences(pairs, "ms-swift", Path("swift")).rows) == 3


def test_pictures_of_one_name_are_kept_apart(pairs: list[Row]) -> None:
    from PIL import Image

    for number, row in enumerate(pairs):
        path = Path(f"p{number % 2}/x.png")
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (4, 4), (number % 2, 0, 0)).save(path)
        row["images"] = [str(path)]
    found = export_preferences(pairs, "ms-swift", Path("out"), copy_images=True)
    assert len({row["images"][0] for row in found.rows}) == len(list(Path("out/images").iterdir())) == 2
    for row, number in zip(found.rows, (0, 1, 0, 1), strict=True):
        assert open_image(Path("out") / row["images"][0]).getpixel((0, 0)) == (number, 0, 0)


def test_nothing_is_overwritten_or_half_written(pairs: list[Row]) -> None:
    export_preferences(pairs, "authors", Path("out"))
    with pytest.raises(SettingsError, match="is there already"):
        export_preferences(pairs, "authors", Path("out"))
    Path("pictures").rename("gone")
    with pytest.raises(InputError, match="none of 4 pairs"):
        export_preferences(pairs, "authors", Path("other"))
    assert sorted(path.name for path in Path().iterdir()) == ["gone", "out"]
    with pytest.raises(SettingsError, match="expected one of authors, trl"):
        export_preferences(pairs, "alpaca", Path("other"))


def test_pictures_alone_are_no_pairs(pairs: list[Row]) -> None:
    with pytest.raises(InputError, match=r"missing': 4}.. Accepted are preference"):
        read_preferences("pictures", None, Path("extract"), PIXELS)


@pytest.mark.parametrize(("text", "part"), [("{}", "Accepted are preference sets"), ("[1]", "no usable pair")])
def test_an_unusable_set_names_the_accepted_forms(tmp_path: Path, text: str, part: str) -> None:
    (tmp_path / "set.json").write_text(text)
    with pytest.raises(InputError, match=part):
        read_preferences(tmp_path / "set.json", None, tmp_path / "x", PIXELS)
