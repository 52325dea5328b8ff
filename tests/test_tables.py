"""`csr table` and `csr seeds` on folders written as a run writes them: every number, every format."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from csr_core.ablation import folder, over_seeds_table
from csr_core.errors import InputError, SettingsError
from csr_core.evaluation.counts import write_counts
from csr_core.evaluation.hypotheses import correct
from csr_core.evaluation.seeds import seeds_report
from csr_core.evaluation.statistics import Item, compare, measure
from csr_core.layout import Layout
from csr_core.params import preset_values, render_params
from csr_core.records import read_json, write_json
from csr_core.tables import cell, escape, render, results, seeds_markdown
from tests.e2e.conftest import csr


def answered(rng: np.random.Generator, wrong: float) -> list[Item]:
    return [
        Item(i, i, {"chair_i": (float(rng.binomial(4, wrong)), 4.0), "words": (float(20 + i % 3), 1.0)})
        for i in range(40)
    ]


def make_run(root: Path, seed: int = 0) -> Layout:
    """A base and two iterations on two splits; what an `evaluate` stage leaves of them."""
    rng, layout = np.random.default_rng(seed), Layout(root)
    runs = [{"test": answered(rng, wrong), "shifted": answered(rng, wrong + 0.1)} for wrong in (0.4, 0.3, 0.1)]
    for k, counted in enumerate(runs):
        metrics: dict = {}
        for split, own in counted.items():
            metrics[split] = {name: one.as_dict() for name, one in measure(own, 200).items()}
            for name, difference in compare(own, runs[0][split], 200).items() if k else ():
                metrics[split][name]["vs_base"] = difference.as_dict()
        correct(metrics)
        write_json(layout.metrics(k), metrics)
        write_counts(layout.answers(k), counted)
    return layout


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return make_run(tmp_path)


def test_the_results_are_those_of_the_files(layout: Layout) -> None:
    found = results(layout, {"test": "shifted"}, resamples=200)
    assert found["notes"] == []
    assert len(found["rows"]) == 2 * 2 * 3  # splits, figures, models
    last = next(r for r in found["rows"] if (r["split"], r["figure"], r["iteration"]) == ("test", "chair_i", 2))
    entry = read_json(layout.metrics(2))["test"]["chair_i"]
    assert last["value"] == entry["value"]
    assert last["versus_base"]["difference"] == entry["vs_base"]["difference"] < 0
    assert last["p"] <= last["p_holm"] == min(1, 2 * last["p"]) < 0.01
    assert last["detectable"] > 0
    gain = found["gain"][1]
    first = read_json(layout.metrics(0))["test"]["chair_i"]["value"]
    assert gain["figures"] == ["test/chair_i"]
    assert gain["value"] == pytest.approx((1 - entry["value"]) / (1 - first) - 1)
    gap = next(g for g in found["gaps"] if (g["figure"], g["iteration"]) == ("chair_i", 0))
    assert gap["gap"]["value"] == pytest.approx(read_json(layout.metrics(0))["shifted"]["chair_i"]["value"] - first)
    assert "change" not in gap
    assert all("change" in g for g in found["gaps"] if g["iteration"])


def test_markdown_has_a_row_for_each_figure_and_model(layout: Layout) -> None:
    text = render(results(layout, {"test": "shifted"}, resamples=200), "markdown")
    value = read_json(layout.metrics(2))["test"]["chair_i"]
    row = next(line for line in text.splitlines() if line.startswith("| test | CHAIR_i % | iteration 2 |"))
    assert f"| {100 * value['value']:.1f} [{100 * value['low']:.1f}, {100 * value['high']:.1f}] |" in row
    words = next(line for line in text.splitlines() if line.startswith("| test | words | iteration 2 |"))
    assert words.split(" | ")[6] == "-"  # describes, and is not in the family of hypotheses
    assert "Relative gain over test/chair_i" in text
    assert "| test to shifted | CHAIR_i % | base |" in text


def test_latex_is_well_formed(layout: Layout, tmp_path: Path) -> None:
    text = render(results(layout, {"test": "shifted"}, resamples=200), "latex")
    body = [line for line in text.splitlines() if line.endswith(r"\\") and not line.startswith(r"\caption")]
    assert {len(re.findall(r"(?<!\\)&", line)) for line in body[:13]} == {7}
    assert r"CHAIR\_i \%" in text
    plain = re.sub(r"^%.*$", "", re.sub(r"\\[%&$#_{}]", "", text), flags=re.M)
    assert not re.search("[%#_^~]", plain)
    assert plain.count("{") == plain.count("}")
    assert plain.count("$") % 2 == 0
    assert re.findall(r"\\begin{(\w+)}", text) == re.findall(r"\\end{(\w+)}", text) == ["longtable"] * 3
    if not shutil.which("pdflatex"):
        return  # checked as text only
    document = r"\documentclass{article}\usepackage{booktabs,longtable}\begin{document}" + text + r"\end{document}"
    (tmp_path / "t.tex").write_text(document)
    subprocess.run(["pdflatex", "-halt-on-error", "t.tex"], cwd=tmp_path, check=True, capture_output=True)


def test_what_has_a_meaning_in_latex_is_escaped() -> None:
    assert escape(r"50 % of a_b & {c} #1 \x ^~ $") == (
        r"50 \% of a\_b \& \{c\} \#1 \textbackslash{}x \textasciicircum{}\textasciitilde{} \$"
    )
    assert escape("-1.2 [-2.0, +0.1]") == "$-$1.2 {[}$-$2.0, +0.1{]}"
    assert escape("< 0.001") == "$<$ 0.001"


def test_a_cell_has_no_negative_zero_and_no_interval_without_a_value() -> None:
    entry = {"difference": -0.0001, "low": -0.012, "high": 0.011}
    assert cell(entry, 100, 1, "difference", "+") == "+0.0 [-1.2, +1.1]"
    assert cell({"value": None, "low": None, "high": None}, 100, 1) == cell(None, 100, 1) == "-"


def test_older_runs_give_what_they_have(layout: Layout) -> None:
    """Metrics without p, a figure without a value, answers without counts: the table stands, and says what it lacks."""
    for k in range(3):
        metrics = read_json(layout.metrics(k))
        for entry in metrics["test"].values():
            for key in ("p", "p_holm", "detectable"):
                entry.get("vs_base", {}).pop(key, None)
        metrics["test"]["words"] |= {"value": None, "low": None, "high": None}
        write_json(layout.metrics(k), {"test": metrics["test"]})
        (layout.answers(k) / "counts.parquet").unlink()
    found = results(layout, {"test": "shifted"})
    assert (found["gain"], found["gaps"], len(found["notes"])) == ([], [], 2)
    text = render(found, "markdown")
    assert "older version" in text
    assert re.search(r"\| test \| words \| base \| 40 \| - \| - \| - \| - \|", text)


def test_what_was_not_measured_is_said(layout: Layout) -> None:
    found = results(layout, {"test": "elsewhere"}, resamples=200)
    assert found["notes"] == ["No gap from test to elsewhere: elsewhere was not measured."]
    with pytest.raises(InputError, match="SPLIT/FIGURE, one of test/chair_i"):
        results(layout, figures=["test/nothing"])
    with pytest.raises(SettingsError, match="markdown, latex, json"):
        render(found, "word")


def test_the_command_writes_each_format(layout: Layout) -> None:
    (layout.root / "params.yaml").write_text(render_params(preset_values("steady")))
    done = csr(layout.root, "table", "--format", "json", "--out", "out/table.json", "--set", "evaluate.bootstrap=200")
    assert "wrote out/table.json" in done.stdout
    found = read_json(layout.root / "out/table.json")
    assert found == json.loads(render(results(layout, {"test": "shifted"}, resamples=200), "json"))
    assert csr(layout.root, "table", "--format", "word", check=False).returncode == 2
    assert "test/chair_i" in csr(layout.root, "table", "--iterations", "1", "--gain", "test/chair_i").stdout


def test_the_ablation_tells_the_seeds_of_each_configuration(tmp_path: Path) -> None:
    for seed in range(2):
        make_run(folder(tmp_path, "paper: image alone", seed), seed)
        make_run(folder(tmp_path, "steady: both, raw", seed), seed)
    (folder(tmp_path, "steady: both, raw", 0) / "data/iter_1/answers/counts.parquet").unlink()
    text = over_seeds_table(tmp_path, ["paper: image alone", "steady: both, raw"], 3)
    assert text.startswith("## paper: image alone\n\nMean over the seeds")
    assert "| test | CHAIR_i % | iteration 2 | 2 |" in text
    assert "steady: both, raw: expected counts.parquet" in text


def test_seeds_of_several_runs(layout: Layout, tmp_path: Path) -> None:
    other = make_run(tmp_path / "other", seed=1)
    report = seeds_report([layout.root, other.root])
    values = [read_json(one.metrics(2))["test"]["chair_i"] for one in (layout, other)]
    entry = report[2]["values"]["test"]["chair_i"]
    assert (len(report), entry["seeds"]) == (3, 2)
    assert entry["mean"] == pytest.approx(np.mean([v["value"] for v in values]))
    assert entry["spread"] == pytest.approx(np.std([v["value"] for v in values], ddof=1))
    change = report[2]["differences"]["test"]["chair_i"]
    assert change["mean"] == pytest.approx(np.mean([v["vs_base"]["difference"] for v in values]))
    assert "differences" not in report[0]
    text = seeds_markdown(report)
    assert f"| test | CHAIR_i % | iteration 2 | 2 | {100 * entry['mean']:.1f} [" in text
    # Answers folders are models of their own.
    alone = seeds_report([one.answers(2) for one in (layout, other)])
    assert alone == [{"iteration": 0, "values": report[2]["values"]}]
    done = csr(tmp_path, "seeds", str(layout.root), str(other.root))
    assert done.stdout == text
    with pytest.raises(InputError, match=r"counts\.parquet"):
        seeds_report([tmp_path / "nothing"])
