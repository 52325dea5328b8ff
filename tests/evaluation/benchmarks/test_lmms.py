"""The bridge to lmms-eval. The package itself is not installed here: a stand-in of that name, in an environment of its
own, is started as it would be, looks at the model it is given, and writes results in the documented form."""

import json

import pytest

from csr_core.config import ModelSettings, Settings
from csr_core.errors import InputError
from csr_core.evaluation.lmms import read_results, run_lmms_eval
from csr_core.layout import Layout
from csr_core.policy import load_policy
from csr_core.policy.adapters import save_adapter
from tests.evaluation.benchmarks.standin import environment


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    return environment(tmp_path_factory.mktemp("lmms"))


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


def test_what_is_missing_is_said(python, tmp_path):
    layout, settings = Layout(tmp_path), Settings(model=ModelSettings(device="cpu"))
    with pytest.raises(InputError, match="--python"):
        run_lmms_eval(settings, layout, 0, ["a"], tmp_path / "none/python")
    with pytest.raises(InputError, match="run iteration 1 first"):
        run_lmms_eval(settings, layout, 1, ["a"], python)
    with pytest.raises(InputError, match="did it run"):
        read_results(tmp_path)
