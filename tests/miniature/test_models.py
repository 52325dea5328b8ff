"""The shipped tiny models, and small ones built from nothing."""

import hashlib
import subprocess
import sys

import pytest
from PIL import Image

from csr_core.errors import InputError
from csr_core.miniature import gates, shipped, weights, world
from csr_core.miniature.build import GateMissedError, build, measure

SCALE = 0.005


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A small build, its measures and what it said."""
    folder, said = tmp_path_factory.mktemp("small"), []
    return folder, build(folder, seed=5, scale=SCALE, progress=said.append), said


def ask(directory, pictures, prompts, tokens):
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model = AutoModelForImageTextToText.from_pretrained(directory).eval()
    return gates.answer(model, AutoProcessor.from_pretrained(directory), pictures, prompts, tokens)


def test_importing_the_package_is_light():
    code = "import csr_core.miniature, sys; print([m for m in ('torch', 'transformers', 'numpy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_a_small_build_loads_and_answers(small):
    folder, measured, said = small
    assert set(gates.GATES) <= set(measured)
    assert any("s left" in line for line in said)
    answers = ask(folder / "llava", [Image.new("RGB", (50, 200))] * 2, [world.DESCRIBE, "Is there a zebra here?"], 8)
    assert len(answers) == 2
    assert not any(special in text for text in answers for special in ("<image>", "<pad>", "<unk>", "<s>"))
    assert gates.similarities(folder / "clip", [world.sample_scene("validation", 0, 0)]).shape == (1, 27)
    for name in ("llava", "clip"):
        assert "licence" in (folder / name / "README.md").read_text().lower()


def test_building_again_gives_the_same_weights_and_another_seed_others(small, tmp_path):
    folder, _, _ = small

    def digest(root):
        files = sorted(root.rglob("*.safetensors"))
        return [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]

    build(tmp_path / "same", seed=5, scale=SCALE, progress=str)
    build(tmp_path / "other", seed=6, scale=SCALE / 4, progress=str)
    assert len(digest(folder)) == 2
    assert digest(folder) == digest(tmp_path / "same")
    assert not set(digest(folder)) & set(digest(tmp_path / "other"))


def test_a_missed_gate_is_named(small, monkeypatch, tmp_path):
    _, measured, _ = small
    lines = gates.missed(measured | {"recall": 0.5, "clip_companion_order": 0.99})
    assert "recall is 0.500, must be 0.9 to 1.0" in lines
    assert not any("clip" in line for line in lines)
    monkeypatch.setattr("csr_core.miniature.clip.STEPS", 2)
    monkeypatch.setattr("csr_core.miniature.llava.STEPS", 2)
    monkeypatch.setattr("csr_core.miniature.build.VALIDATION_SCENES", 10)
    with pytest.raises(GateMissedError, match=r"seed 5 miss: .*recall is"):
        build(tmp_path, seed=5, progress=str)


def test_llava_sees_through_the_clips_own_eyes():
    import open_clip
    import torch
    from transformers import AutoModelForImageTextToText

    clip = open_clip.create_model(f"local-dir:{shipped('clip')}").eval()
    tower = AutoModelForImageTextToText.from_pretrained(shipped("llava")).eval().model.vision_tower
    pictures = torch.rand(2, 3, 96, 96)
    with torch.inference_mode():
        mine = tower(pictures).pooler_output @ clip.visual.proj
        assert torch.allclose(mine, clip.encode_image(pictures), atol=1e-4)


def test_shipped_models_pass_their_gates():
    measured = measure(weights.WEIGHTS, count=200)
    assert gates.missed(measured) == []
    size = sum(file.stat().st_size for file in weights.WEIGHTS.rglob("*") if file.is_file())
    assert size <= 15e6


def test_missing_weights_are_reported(monkeypatch, tmp_path):
    monkeypatch.setattr(weights, "WEIGHTS", tmp_path)
    with pytest.raises(InputError, match=r"lacks config\.json.*csr miniature build"):
        shipped("llava")
    with pytest.raises(ValueError, match="unknown model 'lava'"):
        shipped("lava")
