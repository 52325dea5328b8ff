"""Prompts and pictures from anywhere: what cannot be used is left out and named, the rest is unharmed."""

import json
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image

from csr_core.config import DataSettings, Settings
from csr_core.errors import InputError
from csr_core.images import open_image
from csr_core.prompts import read_prompts
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
