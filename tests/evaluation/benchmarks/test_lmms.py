"""The bridge to lmms-eval. The package itself is not installed here: a stand-in of that name, in an environment of its
own, is started as it would be, looks at the model it is given, and writes results in the documented form."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from csr_core.config import ModelSettings, Settings
from csr_core.errors import InputError
from csr_core.evaluation.lmms import read_results, run_lmms_eval
from csr_core.layout import Layout
from csr_core.policy import load_policy
from csr_core.policy.adapters import save_adapter
from tests.e2e.conftest import csr

STAND_IN = """
import argparse, json, os, pathlib, sys
parser = argparse.ArgumentParser()
for name in ("model", "model_args", "tasks", "batch_size", "output_path", "limit"):
    parser.add_argument(f"--{name}")
given = parser.parse_args()
folder = pathlib.Path(given.model_args.removeprefix("pretrained="))
if given.tasks == "none":
    sys.exit("there is no task none")
seen = {"model_type,none": 1.0, "weights,none": (folder / "model.safetensors").stat().st_size, "alias": "x",
        "acc,none": 0.5, "acc_stderr,none": 0.05, "em,strict": 0.25, "em_stderr,strict": "N/A",
        "limit,none": float(given.limit or 0), "foreign": float("PYTHONPATH" in os.environ)}
assert json.loads((folder / "config.json").read_text())["model_type"] == "llava", given.model == "llava_hf"
out = pathlib.Path(given.output_path) / "org__model"
out.mkdir(parents=True)
results = {"results": {task: seen for task in given.tasks.split(",")}, "versions": {}, "model_source": given.model}
(out / "20260101_000000_results.json").write_text(json.dumps(results))
(out / "20260101_000000_samples_a.jsonl").write_text("{}")
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    """The interpreter of an environment with the stand-in, and nothing else."""
    folder = tmp_path_factory.mktemp("lmms")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "env"], check=True)
    packages = next((folder / "env").glob("lib/python*/site-packages"))
    (packages / "lmms_eval").mkdir()
    (packages / "lmms_eval/__main__.py").write_text(STAND_IN)
    return folder / "env/bin/python"


def test_an_iteration_is_exported_run_and_read(python, tmp_path):
    from peft import LoraConfig, get_peft_model

    model, layout = ModelSettings(device="cpu"), Layout(tmp_path)
    lora = LoraConfig(r=2, target_modules=r".*language_model.*\.q_proj")
    save_adapter(get_peft_model(load_policy(model).model, lora), layout.model(1), base="miniature")
    more = ["--limit", "8"]
    made = run_lmms_eval(Settings(model=model), layout, 1, ["a", "b"], python, more=more)
    assert made == tmp_path / "evaluations/lmms-eval/iter_1/results.json"
    found = json.loads(made.read_text())
    assert found["tasks"].keys() == {"a", "b"}
    assert found["tasks"]["a"]["acc"] == {"value": 0.5, "stderr": 0.05}
    assert found["tasks"]["a"]["em,strict"] == {"value": 0.25}
    assert "alias" not in found["tasks"]["a"]
    assert found["tasks"]["a"]["limit"]["value"] == 8
    assert found["tasks"]["a"]["foreign"]["value"] == 0
    assert found["tasks"]["a"]["weights"]["value"] > 1e6
    assert not (made.parent / "model").exists()


def test_the_command_line(python, tmp_path):
    csr(tmp_path, "init")
    done = csr(tmp_path, "evaluate", "lmms-eval", "--iteration", "0", "--tasks", "a", "--python", str(python))
    assert "0.5 +- 0.05" in done.stdout
    assert (tmp_path / "evaluations/lmms-eval/iter_0/results.json").is_file()
    arguments = ("evaluate", "lmms-eval", "--iteration", "0", "--tasks", "none", "--python", str(python))
    done = csr(tmp_path, *arguments, check=False)
    assert (done.returncode, "there is no task none" in done.stderr) == (2, True)


def test_what_is_missing_is_said(python, tmp_path):
    layout, settings = Layout(tmp_path), Settings(model=ModelSettings(device="cpu"))
    with pytest.raises(InputError, match="--python"):
        run_lmms_eval(settings, layout, 0, ["a"], tmp_path / "none/python")
    with pytest.raises(InputError, match="run iteration 1 first"):
        run_lmms_eval(settings, layout, 1, ["a"], python)
    with pytest.raises(InputError, match="did it run"):
        read_results(tmp_path)
