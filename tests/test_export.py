"""The trained model as others get it: loaded by transformers and PEFT alone, it says what the run's own model says."""

import os
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from csr_core.config import ModelSettings, Settings
from csr_core.errors import InputError
from csr_core.export import export_model, rounded_share
from csr_core.layout import Layout
from csr_core.policy import load_policy
from csr_core.policy.adapters import save_adapter
from csr_core.policy.loading import model_path
from csr_core.records import write_json

MODEL = ModelSettings(device="cpu")
FIGURE = {"value": 0.2, "low": 0.1, "high": 0.3, "n": 7}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run of one iteration whose adapter says something."""
    from peft import LoraConfig, get_peft_model

    root = tmp_path_factory.mktemp("run")
    policy = load_policy(MODEL)
    lora = LoraConfig(r=4, target_modules=r".*language_model.*\.(q_proj|v_proj)", init_lora_weights=False)
    torch.manual_seed(0)
    save_adapter(get_peft_model(policy.model, lora), Layout(root).model(1), base="miniature")
    for k in (0, 1):
        write_json(Layout(root).metrics(k), {"test": {"chair_i": FIGURE, "recall": FIGURE}})
    Layout(root).preferences(1).mkdir(parents=True)
    (Layout(root).preferences(1) / "README.md").write_text("pairs")
    (Layout(root).preferences(1) / "preferences.parquet").write_bytes(b"pairs")
    return root


def logits(model, processor) -> torch.Tensor:
    from csr_core.policy import Policy

    policy = Policy(model.eval(), processor, torch.device("cpu"), 0, frozenset(), ())
    inputs = policy.encode(Image.new("RGB", (64, 64), "red"), "Describe the image.")
    batch = {name: value[None] for name, value in inputs.sequence.items()} | inputs.features
    with torch.no_grad():
        return model(**batch).logits


def test_the_adapter(run, tmp_path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText, AutoProcessor

    made = export_model(Settings(model=MODEL), Layout(run), 1, tmp_path / "out")
    assert sorted(path.name for path in made.folder.iterdir()) == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    base = AutoModelForImageTextToText.from_pretrained(model_path(MODEL))
    theirs = PeftModel.from_pretrained(base, str(made.folder))
    own = load_policy(MODEL, Layout(run).model(1))
    processor = AutoProcessor.from_pretrained(model_path(MODEL))
    assert torch.equal(logits(theirs, processor), logits(own.model, own.processor))


def test_the_whole_model(run, tmp_path) -> None:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    made = export_model(Settings(model=MODEL), Layout(run), 1, tmp_path / "out", merged=True)
    assert made.kept == pytest.approx(1)
    model = AutoModelForImageTextToText.from_pretrained(made.folder)
    assert model.dtype == torch.float32  # the shipped one's
    own = load_policy(MODEL, Layout(run).model(1))
    expected = logits(own.model, own.processor)
    assert torch.allclose(logits(model, AutoProcessor.from_pretrained(made.folder)), expected, atol=1e-4)
    small = export_model(Settings(model=MODEL), Layout(run), 1, tmp_path / "small", merged=True, dtype="bfloat16")
    assert 0.9 < (small.kept or 0) < 1.1
    assert AutoModelForImageTextToText.from_pretrained(small.folder, dtype="auto").dtype == torch.bfloat16


def test_what_rounding_leaves() -> None:
    """bfloat16 has 8 bits: near 1 its steps are 1/128. A change by 1/64 is kept whole, one by 1/1024 is lost."""
    one = torch.ones(2, 2)
    assert rounded_share([(one, one + 1 / 64)], torch.bfloat16) == pytest.approx(1)
    assert rounded_share([(one, one + 1 / 1024)], torch.bfloat16) == 0
    assert rounded_share([(one, one + 1 / 1024)], torch.float32) == pytest.approx(1)
    # Half of the squared change is lost with the second of two equal ones.
    changes = [(one, one + 1 / 64), (1024 * one, 1024 * one + 1 / 64)]
    assert rounded_share(changes, torch.bfloat16) == pytest.approx(0.5)


def test_the_card_says_where_it_comes_from(run, tmp_path) -> None:
    made = export_model(Settings(model=MODEL), Layout(run), 1, tmp_path / "out")
    text = (made.folder / "README.md").read_text()
    front = yaml.safe_load(text.split("---")[1])
    assert front["library_name"] == "peft"
    assert "base_model" not in front  # the miniature is on no hub
    assert "| iteration 1 | 20.0 [10.0, 30.0] | 20.0 [10.0, 30.0] |" in text
    for source in ("base model", "reward model miniature", "preference pairs of iteration 1", "model of iteration 1"):
        [line] = [line for line in text.splitlines() if line.startswith(f"| {source} |")]
        assert len(line.split("|")[2].strip()) == 64
    assert "| reward.image_weight | 0.9 |" in text
    assert os.sep + "tmp" not in text
    # The same wherever the run lies.
    moved = tmp_path / "moved"
    shutil.copytree(run, moved)
    again = export_model(Settings(model=MODEL), Layout(moved), 1, tmp_path / "again")
    assert (again.folder / "README.md").read_text() == text


def test_the_card_has_the_settings_of_the_run_and_not_of_a_file(run, tmp_path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(run, moved)
    layout = Layout(moved)
    noted = {
        "score": {"reward": {"model": ["miniature"], "image_weight": 0.5}},
        "finetune": {
            "model": {"path": "/gone/base", "prompt": None},
            "finetune": {"beta": 0.3},
            "seed": 3,
            "iteration": 1,
        },
    }
    for stage, part in noted.items():
        stamp = {"key": "", "outputs": {}, "summary": {}, "seconds": 1.0, "settings": part}
        write_json(layout.state / "stamps" / f"{stage}@1.json", stamp)
    made = export_model(Settings(model=MODEL), layout, 1, tmp_path / "out", merged=True)  # the base is found as given
    text = (made.folder / "README.md").read_text()
    for line in ("| reward.image_weight | 0.5 |", "| finetune.beta | 0.3 |", "| seed | 3 |", "| model.path | base |"):
        assert line in text
    assert "generate.width" not in text  # no stage noted it: it may be another run's
    assert "preset" not in text
    assert "stopped" not in text


def test_the_card_says_that_a_guard_stopped_the_iteration(run, tmp_path) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(run, moved)
    saw = [
        {"guard": "shorter", "fired": True, "sentence": "Answers shrink.", "value": 0.5},
        {"guard": "repetitive", "fired": False, "sentence": "Few repeats.", "value": 0.1},
    ]
    write_json(Layout(moved).guards(1), saw)
    write_json(Layout(moved).verdict(1), {"stopped": True})
    made = export_model(Settings(model=MODEL), Layout(moved), 1, tmp_path / "out")
    told = "**A guard stopped iteration 1 (shorter): no iteration is good, the base is. Answers shrink.**"
    assert told in (made.folder / "README.md").read_text().splitlines()


def test_nothing_is_overwritten_or_made_up(run, tmp_path) -> None:
    with pytest.raises(InputError, match="iteration 2 first"):
        export_model(Settings(model=MODEL), Layout(run), 2, tmp_path / "out")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").touch()
    with pytest.raises(InputError, match="holds something"):
        export_model(Settings(model=MODEL), Layout(run), 1, tmp_path / "out")
