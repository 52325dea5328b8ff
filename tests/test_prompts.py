"""Prompts and pictures from anywhere: what cannot be used is left out and named, the rest is unharmed."""

import json
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from csr_core.checks import check, missing_files
from csr_core.config import DataSettings, PairSettings, Settings
from csr_core.errors import InputError, SettingsError
from csr_core.finding import Finding, verdict
from csr_core.images import find_image, open_image
from csr_core.params import settings_from
from csr_core.picture_checks import pictures
from csr_core.prompts import prompts_of, read_prompts
from csr_core.records import PROMPTS, read_table
from csr_core.stages.prepare import prepare


def picture(path: Path, mode: str = "RGB", size: tuple[int, int] = (8, 6)) -> Path:
    Image.new(mode, size).save(path)
    return path


def bomb(path: Path, side: int = 60_000) -> Path:
    """A small PNG whose header says side x side pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
    )
    return path


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "RGBA", "LA", "CMYK", "I;16"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("x.tif" if mode == "CMYK" else "x.png")
    image = open_image(picture(path, mode))
    assert (image.mode, image.size) == ("RGB", (8, 6))


def test_transparent_pixels_become_white(tmp_path: Path) -> None:
    Image.new("RGBA", (2, 2), (255, 0, 0, 0)).save(tmp_path / "x.png")
    assert open_image(tmp_path / "x.png").getpixel((0, 0)) == (255, 255, 255)


def test_unusable_pictures_say_why(tmp_path: Path) -> None:
    whole = picture(tmp_path / "whole.jpg", size=(300, 300)).read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "empty.png").write_bytes(b"")
    bomb(tmp_path / "bomb.png")
    reasons = {
        "cut.jpg": "to its end",
        "text.png": "not a picture",
        "empty.png": "not a picture",
        "gone.png": "missing",
    }
    for name, reason in {**reasons, "bomb.png": "pixels|too large"}.items():
        with pytest.raises(InputError, match=reason):
            open_image(tmp_path / name)


def test_all_forms_of_prompts_mean_the_same(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    ours = [{"id": "7", "image": "a.png", "prompt": "Describe."}]
    (tmp_path / "ours.json").write_text(json.dumps(ours))
    (tmp_path / "ours.jsonl").write_text(json.dumps(ours[0]) + "\n")
    (tmp_path / "authors.json").write_text(json.dumps([{"id": "7", "image": "a.png", "input": "<image>\nDescribe."}]))
    expected = [{"prompt_id": "7", "image": str(tmp_path / "a.png"), "prompt": "Describe."}]
    for name in ("ours.json", "ours.jsonl", "authors.json"):
        assert read_prompts(tmp_path / name, None).rows == expected


CONVERSATION = [{"from": "human", "value": "<image>\nDescribe."}, {"from": "gpt", "value": "Never read."}]
VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions. USER: <image>\nDescribe. ASSISTANT:"
)


@pytest.mark.parametrize(
    "asked",
    [
        {"question": "Describe."},
        {"conversations": CONVERSATION},
        {
            "conversations": [
                {"from": "system", "value": "Be brief."},
                *CONVERSATION,
                {"from": "human", "value": "And?"},
            ]
        },
        {"conversations": [{"from": "human", "value": VICUNA}]},  # the authors' preference sets
        {"prompt": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Describe."}]}]},  # TRL's
        {"messages": [{"role": "user", "content": "<image>Describe."}]},
    ],
)
@pytest.mark.parametrize("picture_key", [{"image": "a.png"}, {"images": ["a.png"]}])
def test_the_ways_to_ask_mean_the_same(tmp_path: Path, asked: dict[str, Any], picture_key: dict[str, Any]) -> None:
    (tmp_path / "p.json").write_text(json.dumps([{"id": "7", **picture_key, **asked}]))
    expected = [{"prompt_id": "7", "image": str(tmp_path / "a.png"), "prompt": "Describe."}]
    assert read_prompts(tmp_path / "p.json", None).rows == expected


def test_the_content_tells_json_from_lines_of_json(tmp_path: Path) -> None:
    row = {"id": "7", "image": "a.png", "prompt": "Describe."}
    for text in (json.dumps([row], indent=1), json.dumps(row) + "\n"):
        for name in ("p.json", "p.jsonl", "p.txt"):
            (tmp_path / name).write_text(text)
            assert len(read_prompts(tmp_path / name, None).rows) == 1


def test_llava_asks_several_times_about_one_picture(tmp_path: Path) -> None:
    """LLaVA's ids name pictures, so an id comes again with another question; an equal question is a duplicate."""
    again = [{"from": "human", "value": "How many?\n<image>"}]
    rows = [{"id": "9", "image": "a.png", "conversations": talk} for talk in (CONVERSATION, again, CONVERSATION)]
    (tmp_path / "llava.json").write_text(json.dumps([*rows, {"id": "text", "conversations": again}]))
    found = read_prompts(tmp_path / "llava.json", None)
    assert [(row["prompt_id"], row["prompt"]) for row in found.rows] == [("9", "Describe."), ("9#2", "How many?")]
    assert [item["reason"].split(":")[0] for item in found.left_out] == ["duplicate prompt", "fields missing"]


@pytest.mark.parametrize(
    "name", ["000000000009.jpg", "COCO_train2014_000000000009.jpg", "coco/train2017/000000000009.jpg"]
)
@pytest.mark.parametrize(
    "there", ["000000000009.jpg", "COCO_train2014_000000000009.jpg", "train2014/COCO_train2014_000000000009.jpg"]
)
def test_coco_pictures_are_found_by_either_name(tmp_path: Path, name: str, there: str) -> None:
    (tmp_path / there).parent.mkdir(exist_ok=True)
    picture(tmp_path / there)
    (tmp_path / "p.json").write_text(json.dumps([{"id": "9", "image": name, "input": "Describe.\n<image>"}]))
    assert read_prompts(tmp_path / "p.json", tmp_path).rows[0]["image"] == str(tmp_path / there)


def test_a_picture_that_is_nowhere_keeps_its_name(tmp_path: Path) -> None:
    assert find_image(tmp_path, "000000000009.jpg") == tmp_path / "000000000009.jpg"


def test_a_folder_of_pictures_with_one_prompt(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for name in ("b.png", "more/a.JPG", "more/b.png"):
        picture(folder / name)
    (folder / "notes.txt").write_text("not a picture")
    (folder / ".hidden.png").write_text("not shown")
    data = DataSettings(prompts=str(folder), prompt="What is it?")
    found = prompts_of(data)
    assert [row["prompt_id"] for row in found.rows] == ["b.png", "more/a.JPG", "more/b.png"]
    assert {row["prompt"] for row in found.rows} == {"What is it?"}
    assert all(open_image(row["image"]).size == (8, 6) for row in found.rows)
    made = prepare(Settings(data=data), 1, tmp_path / "out", tmp_path / "final")
    assert made == {"prompts": 3, "left_out": []}
    with pytest.raises(SettingsError, match="say what to ask"):
        prompts_of(data.model_copy(update={"prompt": " "}))


def test_a_folder_of_neither_names_the_accepted_forms(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("?")
    with pytest.raises(InputError, match=r"neither a dataset nor pictures.*\n  - a JSON list"):
        read_prompts(tmp_path, None)


def test_parquet_with_pictures_inside(tmp_path: Path) -> None:
    """As datasets lie on the hub: data/train-*.parquet, other splits beside it."""
    from datasets import Dataset, Features, List, Value
    from datasets import Image as ImageFeature

    features = Features({"images": List(ImageFeature()), "question": Value("string"), "question_id": Value("int64")})
    (tmp_path / "data").mkdir()
    image = {"bytes": picture(tmp_path / "x.png").read_bytes(), "path": "x.png"}
    for split, count in {"train": 2, "test": 1}.items():
        rows = [{"images": [image], "question": f"What is {split} {n}?", "question_id": n} for n in range(count)]
        Dataset.from_list(rows, features=features).to_parquet(str(tmp_path / "data" / f"{split}-0.parquet"))
    (tmp_path / "x.png").unlink()
    for source in (tmp_path, tmp_path / "data" / "train-0.parquet"):
        found = read_prompts(source, None, extract=tmp_path / "pictures")
        assert [row["prompt_id"] for row in found.rows] == ["0", "1"]
        assert open_image(found.rows[1]["image"]).size == (8, 6)


def test_a_dataset_by_name_comes_from_the_cache_when_offline(tmp_path: Path) -> None:
    """The cache of `datasets` as a load with network leaves it; asked for in a process that is offline."""
    from datasets import load_dataset

    (tmp_path / "p.jsonl").write_text(json.dumps({"id": "7", "image": "a.png", "prompt": "Describe."}))
    load_dataset("json", data_files={"train": str(tmp_path / "p.jsonl")}, cache_dir=str(tmp_path / "cache"))
    [made] = (tmp_path / "cache").glob("json/default-*/0.0.0/*/dataset_info.json")
    place = tmp_path / "cache/owner___name/default/0.0.0/0123456789abcdef"
    place.mkdir(parents=True)
    for file in made.parent.iterdir():
        file.rename(place / file.name.replace("json-", "name-"))
    info = json.loads((place / "dataset_info.json").read_text())
    (place / "dataset_info.json").write_text(json.dumps({**info, "dataset_name": "name"}))
    code = "from csr_core.prompts import read_prompts; import sys; print(read_prompts(sys.argv[1], None).rows)"
    environment = {**os.environ, "HF_DATASETS_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}

    def ask(name: str) -> str:
        command = [sys.executable, "-c", code, name]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=Path(__file__).parents[1])
        return done.stdout + done.stderr

    assert "{'prompt_id': '7', 'image': 'a.png', 'prompt': 'Describe.'}" in ask("hf://owner/name:train")
    gone = ask("hf://owner/other")
    assert "the dataset owner/other cannot be had" in gone
    assert "HF_HUB_OFFLINE is set" in gone
    assert "hf download --repo-type dataset owner/other" in gone


def test_what_is_no_name_of_a_dataset_is_refused() -> None:
    with pytest.raises(SettingsError, match="hf://OWNER/NAME"):
        read_prompts("hf://name", None)


def test_check_finds_the_prompts_of_each_form(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "p.json").write_text(json.dumps([{"id": "7", "image": "a.png", "conversations": CONVERSATION}]))
    for source in (tmp_path, tmp_path / "p.json"):
        told = Settings(data=DataSettings(prompts=str(source)))
        assert not missing_files(told)
        assert "1 usable, 0 left out" in [finding.detail for finding in check(told, trial=False)]
    assert "data.prompts" in missing_files(Settings(data=DataSettings(prompts=str(tmp_path / "gone"))))[0]
    assert not missing_files(Settings(data=DataSettings(prompts="hf://owner/name")))
    assert "csr import preferences --iteration 7" in missing_files(Settings(pair=PairSettings(imported=[7])))[0]


def test_check_says_where_missing_pictures_are(tmp_path: Path) -> None:
    """One line for all of them; a folder nearby that holds them is named, and one that does not is not."""
    rows = [{"id": str(n), "image": f"{n}.png", "prompt": "What is it?"} for n in range(30)]
    (tmp_path / "p.json").write_text(json.dumps(rows))
    settings = Settings(data=DataSettings(prompts=str(tmp_path / "p.json")))
    [prompts, left_out] = pictures(settings.data)
    assert (prompts.ok, prompts.detail) == (False, "0 usable, 30 left out")
    assert left_out.note
    assert str(left_out).startswith(f"note  left out: 30 such as 0: {tmp_path / '0.png'} is missing")
    (tmp_path / "images").mkdir()
    for n in range(29):
        Image.new("RGB", (4, 4)).save(tmp_path / "images" / f"{n}.png")
    assert f"set data.images: {tmp_path / 'images'}" in next(pictures(settings.data)).detail
    there = settings.data.model_copy(update={"images": str(tmp_path / "images")})
    assert next(pictures(there)).detail == "29 usable, 1 left out"


def test_check_ends_with_a_verdict() -> None:
    good, bad, note = Finding(True, "a", ""), Finding(False, "b", ""), Finding(True, "c", "", note=True)
    assert verdict([good, good, note]) == "all 2 checks passed: csr run is next"
    assert verdict([good, bad, bad, note]) == "2 of 3 failed: mend these first"


@pytest.mark.parametrize("file", ["prompts.jsonl", "prompts.json", "questions.jsonl", "coco_pope_random.json"])
def test_check_takes_the_splits_that_are_read(tmp_path: Path, file: str) -> None:
    split = {"evaluate": {"splits": {"test": {"folder": str(tmp_path)}}, "twins": {}}}
    (tmp_path / "instances.json").write_text("{}")
    assert "prompts.jsonl" in missing_files(settings_from(split))[0]
    (tmp_path / file).write_text("")
    assert not missing_files(settings_from(split))
    (tmp_path / "instances.json").unlink()
    assert "instances.json" in missing_files(settings_from(split))[0]


def test_a_dataset_on_disk_with_pictures_inside(tmp_path: Path) -> None:
    from datasets import Dataset, Features, Value
    from datasets import Image as ImageFeature

    features = Features({"id": Value("string"), "image": ImageFeature(), "prompt": Value("string")})
    rows = {"id": ["1"], "image": [Image.new("RGB", (4, 4), "red")], "prompt": ["What is it?"]}
    Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / "set"))
    found = read_prompts(tmp_path / "set", None, extract=tmp_path / "pictures")
    assert open_image(found.rows[0]["image"]).getpixel((0, 0)) == (255, 0, 0)


def test_bad_rows_are_left_out_and_named(tmp_path: Path) -> None:
    rows = [
        {"id": "good", "image": "a.png", "prompt": "Describe."},
        {"id": "empty", "image": "a.png", "prompt": " <image> "},
        {"id": "long", "image": "a.png", "prompt": "x" * 5000},
        {"id": "good", "image": "b.png", "prompt": "Again?"},
        {"id": "same", "image": "a.png", "prompt": "Describe."},
        {"id": "field", "prompt": "Describe."},
        ["row"],
    ]
    (tmp_path / "p.jsonl").write_text("\n".join([*map(json.dumps, rows), "{broken"]))
    found = read_prompts(tmp_path / "p.jsonl", None)
    assert [row["prompt_id"] for row in found.rows] == ["good"]
    reasons = {item["prompt_id"]: item["reason"] for item in found.left_out}
    assert len(found.left_out) == 7
    for key, part in {"empty": "empty", "long": "5000", "good": "duplicate id", "same": "duplicate prompt"}.items():
        assert part in reasons[key]


@pytest.mark.parametrize(
    ("text", "part"), [("{", "line 1"), ("{}", "list"), ("[]", "empty"), ('[{"id": 1}]', "no usable")]
)
def test_an_unusable_file_says_why(tmp_path: Path, text: str, part: str) -> None:
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(InputError, match=part):
        read_prompts(tmp_path / "p.json", None)


def settings(source: Path, per_iteration: int | None = None) -> Settings:
    return Settings(data=DataSettings(prompts=str(source), per_iteration=per_iteration))


def test_prepare_leaves_out_bad_pictures_and_takes_fresh_prompts_each_time(tmp_path: Path) -> None:
    for number in range(6):
        picture(tmp_path / f"{number}.png")
    bomb(tmp_path / "bomb.png")
    names = [f"{number}.png" for number in range(6)] + ["bomb.png", "gone.png"]
    rows = [{"id": name, "image": name, "prompt": "Describe."} for name in names]
    (tmp_path / "p.json").write_text(json.dumps(rows))
    everything = prepare(settings(tmp_path / "p.json"), 1, tmp_path / "out", tmp_path / "final")
    assert everything["prompts"] == 6
    assert sorted(item["prompt_id"] for item in everything["left_out"]) == ["bomb.png", "gone.png"]
    halves = []
    for k in (1, 2):
        prepare(settings(tmp_path / "p.json", 4), k, tmp_path / f"out{k}", tmp_path / "final")
        halves.append({row["prompt_id"] for row in read_table(tmp_path / f"out{k}", PROMPTS)})
    assert not halves[0] & halves[1]


def test_no_readable_picture_at_all_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text(json.dumps([{"id": "1", "image": "gone.png", "prompt": "Describe."}]))
    with pytest.raises(InputError, match="none of the 1 prompts"):
        prepare(settings(tmp_path / "p.json"), 1, tmp_path / "out", tmp_path / "final")
