"""An environment with a stand-in for lmms-eval, which writes results in the documented form."""

import subprocess
import sys
from pathlib import Path

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


def environment(folder: Path) -> Path:
    """The interpreter of a new environment in `folder` with the stand-in, and nothing else."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "env"], check=True)
    packages = next((folder / "env").glob("lib/python*/site-packages"))
    (packages / "lmms_eval").mkdir()
    (packages / "lmms_eval/__main__.py").write_text(STAND_IN)
    return folder / "env/bin/python"
