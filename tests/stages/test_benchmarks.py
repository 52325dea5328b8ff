"""All benchmarks through the stage: asked by the engine in shards, resumed, cached by content, compared."""

import json
from pathlib import Path

import pytest

from csr_core.config import Settings
from csr_core.dvcfile import render
from csr_core.errors import InputError, SettingsError
from csr_core.evaluation.benchmarks import BENCHMARKS
from csr_core.layout import Layout
from csr_core.params import settings_from
from csr_core.records import read_json, write_jsonl
from csr_core.stages.benchmarks import read_answers
from csr_core.stages.evaluate import evaluate, make_shards, shard_sizes
from csr_core.stages.plan import plan
from csr_core.stages.runner import missing_shards, run_shard, run_stage
from tests.evaluation.benchmarks import folders
from tests.evaluation.benchmarks.endpoint import endpoint


def settings(places: dict[str, Path], **more: object) -> Settings:
    own = {"splits": {}, "bootstrap": 100, "benchmarks": {name: str(place) for name, place in places.items()}, **more}
    return settings_from({"model": {"device": "cpu"}, "evaluate": own})


def rows(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    root = tmp_path_factory.mktemp("benchmarks")
    return {name: make(root / name) for name, make in folders.MAKERS.items()}


@pytest.fixture(scope="module")
def done(places, tmp_path_factory):
    """The base's evaluation on all ten."""
    out = tmp_path_factory.mktemp("base")
    summary = evaluate(settings(places), {}, None, out, out / "answers", out / "metrics.json")
    return out, summary


def test_each_of_the_ten_has_answers_and_figures(done):
    """Every question is answered by the miniature, every figure lies in its interval, and `unparsed` is among them."""
    out, summary = done
    metrics = read_json(out / "metrics.json")
    assert set(metrics) == set(BENCHMARKS)
    for name, figures in metrics.items():
        told = summary["benchmarks"][name]
        written = rows(out / "answers" / f"{name}_answers.jsonl")
        assert len(written) == told["questions"] == told["answered"]
        assert 0 <= figures["unparsed"]["value"] <= 1
        for figure in figures.values():
            assert figure["low"] <= figure["value"] <= figure["high"]
    assert metrics["mme"]["perception"]["high"] <= 2000
    assert summary["left_out"] == []
    stated = {"ids": True, "prompt": "Describe the image.", "max_new_tokens": 24, "parser": "corrected"}
    assert summary["benchmarks"]["chair"]["stated"] == {**stated, "reference_captions": False}


def test_without_a_judge_the_figure_is_absent_and_this_is_said(done):
    out, summary = done
    metrics = read_json(out / "metrics.json")
    for name, figure in (("llava_bench", "relative_score"), ("mm_vet", "score")):
        assert figure not in metrics[name]
        assert metrics[name]["unjudged"]["value"] == 1
        assert "null" in summary["benchmarks"][name]["judge"]


def test_shards_and_batches_do_not_matter_and_done_ones_are_kept(places, done, tmp_path):
    """A run of one picture a shard, of which one was made before, with other words in it to tell that it is kept."""
    small = {name: places[name] for name in ("gqa", "mmbench")}
    own = settings(small, shard_size=1, batch_size=2)
    count = len(shard_sizes(own, {}))
    assert count == 2 + 2
    evaluate(own, {}, None, tmp_path, tmp_path / "answers", tmp_path / "metrics.json")
    assert len(list(tmp_path.glob("part-*.json"))) == count
    for name in small:
        made = (tmp_path / "answers" / f"{name}_answers.jsonl").read_bytes()
        assert made == (done[0] / "answers" / f"{name}_answers.jsonl").read_bytes()
    again = tmp_path / "again"
    make_shards(own, {}, None, again, [0])
    kept = read_json(again / "part-00000.json")
    kept["answers"] = dict.fromkeys(kept["answers"], "kept")
    (again / "part-00000.json").write_text(json.dumps(kept))
    evaluate(own, {}, None, again, again / "answers", again / "metrics.json")
    said = {row["key"]: row["answer"] for row in rows(again / "answers/gqa_answers.jsonl")}
    assert {key for key, text in said.items() if text == "kept"} == set(kept["answers"])


def test_differences_to_other_models(places, done, tmp_path):
    """Against the base, which is the same model, every difference is 0; against answers that are all right, it is what
    the accuracy lacks to 1."""
    own = settings({"gqa": places["gqa"]})
    right = tmp_path / "right"
    right.mkdir()
    truth = {"201": "yes", "202": "traffic light", "203": "left"}
    lines = [json.dumps({"key": key, "answer": text}) for key, text in truth.items()]
    (right / "gqa_answers.jsonl").write_text("\n".join(lines))
    base = done[0] / "answers"
    evaluate(own, {}, None, tmp_path, tmp_path / "answers", tmp_path / "metrics.json", right, base)
    accuracy = read_json(tmp_path / "metrics.json")["gqa"]["accuracy"]
    assert accuracy["vs_base"]["difference"] == 0
    assert accuracy["vs_previous"]["difference"] == pytest.approx(accuracy["value"] - 1)


def test_answers_may_hold_any_sign(places, tmp_path):
    """What JSON leaves as it is, other line ends for instance, does not break the rows of a file."""
    file = tmp_path / "answers.jsonl"
    write_jsonl(file, [{"key": "201", "answer": "yes\u2028or\x85no\n"}, {"key": "202", "answer": "no"}])
    assert read_answers(file) == {"201": "yes\u2028or\x85no\n", "202": "no"}


def test_judged_answers_have_a_figure_with_its_judge(places, tmp_path):
    """The endpoint gives GPT-4 8 and the model 6 every time: 6/8."""
    with endpoint(lambda body: "8 6\nGood.") as server:
        judged = {"judge": {"url": server.url, "model": "strict"}}
        own, out = settings({"llava_bench": places["llava_bench"]}, **judged), tmp_path / "out"
        summary = evaluate(own, {}, None, out, out / "answers", out / "metrics.json", state=tmp_path / "state")
        figures = read_json(out / "metrics.json")["llava_bench"]
        assert figures["relative_score"]["value"] == 0.75
        assert figures["unjudged"]["value"] == 0
        assert summary["benchmarks"]["llava_bench"]["judge"] == "strict"
        made = rows(out / "answers/llava_bench_judgements.jsonl")
        assert [(row["key"], row["model"], row["value"]) for row in made] == [(k, "strict", [8, 6]) for k in "012"]
        # the same answers once more: nothing is asked again, and the difference to the base is there
        asked, more = len(server.bodies), tmp_path / "more"
        base = out / "answers"
        evaluate(own, {}, None, more, more / "answers", more / "metrics.json", base=base, state=tmp_path / "state")
        assert len(server.bodies) == asked
        assert read_json(more / "metrics.json")["llava_bench"]["relative_score"]["vs_base"]["difference"] == 0


def test_the_stage_is_resumed_and_cached_by_what_is_in_the_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders.gqa(Path("data/gqa"))
    own, layout = settings({"gqa": Path("data/gqa")}, shard_size=1), Layout()
    layout.splits.mkdir(parents=True)
    assert missing_shards(plan("evaluate", 0, own, layout), layout) == [0, 1]
    run_shard(plan("evaluate", 0, own, layout), layout, 0)
    assert missing_shards(plan("evaluate", 0, own, layout), layout) == [1]
    assert not run_stage(plan("evaluate", 0, own, layout), layout).cached
    assert run_stage(plan("evaluate", 0, own, layout), layout).cached
    assert "accuracy" in read_json(layout.metrics(0))["gqa"]
    assert read_json(layout.main_metrics(0))["iter_0"]["gqa"].keys() == {"accuracy", "unparsed"}
    file = Path("data/gqa/testdev_balanced_questions.json")
    file.write_text(file.read_text().replace("left", "right"))
    assert not run_stage(plan("evaluate", 0, own, layout), layout).cached


def test_dvc_depends_on_the_folders():
    text = render(settings({"gqa": Path("data/gqa")}))
    assert text.count("- data/gqa") == 2  # of the base's evaluation and of each iteration's


def test_a_bad_picture_harms_nobody_else(tmp_path):
    folder = folders.gqa(tmp_path / "gqa")
    (folder / "images/n2.jpg").write_bytes(b"no picture")
    out = tmp_path / "out"
    summary = evaluate(settings({"gqa": folder}), {}, None, out, out / "answers", out / "metrics.json")
    assert [(item["benchmark"], item["prompt_id"]) for item in summary["left_out"]] == [("gqa", "203")]
    assert read_json(out / "metrics.json")["gqa"]["accuracy"]["n"] == 2


def test_a_missing_file_is_found_before_the_model_is_loaded(tmp_path):
    own = settings({"gqa": tmp_path / "nothing"}).model_copy(update={"model": {"path": "no such model"}})
    with pytest.raises(InputError, match=r"evaluate.benchmarks.gqa.*testdev_balanced_questions.json"):
        evaluate(own, {}, None, tmp_path, tmp_path, tmp_path / "metrics.json")


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"benchmarks": {"mne": "data/mme"}}, "mme, seed_bench"),
        ({"benchmarks": {"gqa": "g"}, "splits": {"gqa": {"folder": "s"}}}, "rename the split"),
        ({"judge": {"url": "https://user:secret@host/v1", "model": "m"}}, "evaluate.judge.url"),
        ({"judge": {"url": "https://host/v1", "model": "m", "key": "secret"}}, "no such setting"),
    ],
)
def test_settings_that_cannot_be_used(changes, part):
    with pytest.raises(SettingsError, match=part):
        settings_from({"evaluate": changes})
