"""The stage on real small models: what it writes, that batches do not matter, that bad pictures harm nobody else."""

import json
import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from csr_core.config import EvaluateSettings, ModelSettings, RewardSettings, Settings
from csr_core.errors import InputError
from csr_core.evaluation.answers import Ask, Encoder, greedy_answers
from csr_core.evaluation.cli import evaluate_chair, evaluate_pope
from csr_core.evaluation.counts import read_counts
from csr_core.evaluation.statistics import measure
from csr_core.policy import load_policy
from csr_core.reward.scorer import SentenceScorer
from csr_core.search.sentences import split_sentences
from csr_core.stages.evaluate import evaluate
from tests.reward import open_clips

GOLDEN = Path(__file__).resolve().parents[2] / "../shared/data/golden"
COLOURS = ("red", "green", "blue", "white", "black", "orange")


@pytest.fixture(scope="module")
def model():
    return ModelSettings(device="cpu")  # the shipped miniature


def make_split(folder):
    """Six pictures; dog -> bench in the odd ones; three questions each."""
    (folder / "images").mkdir(parents=True)
    names = [f"{number:04d}.png" for number in range(len(COLOURS))]
    for number, (name, colour) in enumerate(zip(names, COLOURS, strict=True)):
        Image.new("RGB", (96 + 8 * (number % 2), 96), colour).save(folder / "images" / name)
    objects = ["dog", "bench", "cat"]
    (folder / "instances.json").write_text(
        json.dumps(
            {
                "info": {"companions": {"dog": "bench"}},
                "images": [{"id": 100 + i, "file_name": name} for i, name in enumerate(names)],
                "categories": [{"id": i, "name": name} for i, name in enumerate(objects)],
                "annotations": [
                    {"image_id": 100 + i, "category_id": c} for i in range(6) for c in ([0, 1] if i % 2 else [0])
                ],
            }
        )
    )
    prompts = [
        {"id": f"p{i}", "image": f"images/{name}", "prompt": "Describe the image."} for i, name in enumerate(names)
    ]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in prompts))
    questions = [
        {"image": name, "text": f"Is there a {o} in the image?", "label": "yes" if o == "dog" else "no"}
        for name in names
        for o in objects
    ]
    (folder / "questions.jsonl").write_text(
        "".join(json.dumps({"question_id": i, "category": "random", **row}) + "\n" for i, row in enumerate(questions))
    )
    return folder


@pytest.fixture
def split(tmp_path):
    return make_split(tmp_path / "split")


def run(model, split, out, batch_size=4, shard_size=500, **more):
    (out / "answers").mkdir(parents=True)
    own = EvaluateSettings(batch_size=batch_size, shard_size=shard_size, max_new_tokens=24, bootstrap=200)
    settings = Settings(model=model, evaluate=own)
    summary = evaluate(settings, {"own": split}, None, out, out / "answers", out / "metrics.json", **more)
    return summary, json.loads((out / "metrics.json").read_text())["own"]


def lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_writes_answers_and_figures_that_agree(model, split, tmp_path):
    summary, metrics = run(model, split, tmp_path / "out")
    answers = tmp_path / "out/answers"
    captions, questions = lines(answers / "own_captions.jsonl"), lines(answers / "own_questions.jsonl")
    assert [row["image_id"] for row in captions] == [100, 101, 102, 103, 104, 105]
    assert [row["question_id"] for row in questions] == list(range(18))
    assert summary == json.loads((answers / "summary.json").read_text())
    assert summary["left_out"] == []
    for name in ("chair_i", "chair_s", "recall", "words", "repeats", "prior_absent", "prior_present", "pope_accuracy"):
        assert 0 <= metrics[name]["low"] <= metrics[name]["value"] <= metrics[name]["high"]
    assert (metrics["chair_i"]["n"], metrics["pope_f1"]["n"], metrics["prior_present"]["n"]) == (6, 18, 3)
    # the base's own captions, whole, are its control
    assert metrics["chair_i_control"]["value"] == metrics["chair_i"]["value"]
    # the command line says the same of the same files
    outside = evaluate_chair(answers / "own_captions.jsonl", split / "instances.json")
    assert outside["recall"]["value"] == metrics["recall"]["value"]
    outside = evaluate_pope(answers / "own_questions.jsonl", [split / "questions.jsonl"])
    assert outside["pope_accuracy"]["value"] == metrics["pope_accuracy"]["value"]


def test_counts_give_the_figures_again(model, split, tmp_path):
    """What is kept of each answer makes the same figures, and the corrected p spans them all."""
    _, base = run(model, split, tmp_path / "base")
    counted = read_counts(tmp_path / "base/answers")["own"]
    again = {name: figure.as_dict() for name, figure in measure(counted, 200).items()}
    assert again == {name: {key: base[name][key] for key in again[name]} for name in again}
    assert set(base) - set(again) == {"chair_i_control"}
    _, metrics = run(model, split, tmp_path / "out", base=tmp_path / "base/answers")
    claimed = {name for name, entry in metrics.items() if "p_holm" in entry.get("vs_base", {})}
    assert claimed == {"chair_i", "chair_s", "recall", "pope_accuracy"}


def test_batch_and_shard_size_do_not_matter(model, split, tmp_path):
    run(model, split, tmp_path / "one", batch_size=1, shard_size=2)
    assert len(list((tmp_path / "one").glob("part-*.json"))) == 3
    run(model, split, tmp_path / "eight", batch_size=8)
    for name in (
        "answers/own_captions.jsonl",
        "answers/own_questions.jsonl",
        "answers/summary.json",
        "answers/counts.parquet",
        "metrics.json",
    ):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "eight" / name).read_bytes()


@pytest.mark.skipif(
    not GOLDEN.is_dir(), reason="needs the models of ../shared/data/golden, which are not part of this repository"
)
def test_another_checkpoint_and_template(split, tmp_path):
    golden = ModelSettings(path=str(GOLDEN / "tiny-llava"), device="cpu", prompt_template="vicuna-v1")
    run(golden, split, tmp_path / "one", batch_size=1)
    _, metrics = run(golden, split, tmp_path / "eight", batch_size=8)
    assert metrics["pope_accuracy"]["n"] == 18
    for name in ("answers/own_captions.jsonl", "answers/own_questions.jsonl", "metrics.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "eight" / name).read_bytes()


def test_compares_with_other_answers(model, split, tmp_path):
    run(model, split, tmp_path / "base")
    base = tmp_path / "base/answers"
    other = shutil.copytree(base, tmp_path / "other")
    rows = lines(other / "own_captions.jsonl")
    (other / "own_captions.jsonl").write_text(
        "".join(json.dumps({**row, "caption": "A cat. A dog. A dog."}) + "\n" for row in rows)
    )
    summary, metrics = run(model, split, tmp_path / "out", base=other, previous=base)
    assert metrics["chair_i"]["vs_previous"] == {
        **{"difference": 0, "low": 0, "high": 0, "p": 1, "p_holm": 1, "detectable": None}
    }
    # the other's captions: 6 cats that are not there of 18 mentions, dog found and bench not: 6 of 9 objects
    expected = metrics["chair_i"]["value"] - 6 / 18
    assert metrics["chair_i"]["vs_base"]["difference"] == pytest.approx(expected)
    assert metrics["recall"]["vs_base"]["difference"] == pytest.approx(metrics["recall"]["value"] - 6 / 9)
    control = summary["splits"]["own"]["truncation_control"]
    assert [(p["k"], p["chair_i"], p["recall"]) for p in control] == [
        (1, 1.0, 0.0),
        (2, pytest.approx(1 / 2), pytest.approx(6 / 9)),
        (3, pytest.approx(1 / 3), pytest.approx(6 / 9)),
    ]


def test_bad_pictures_are_left_out_and_named(model, split, tmp_path):
    run(model, split, tmp_path / "whole")
    (split / "images/0002.png").write_bytes(b"no picture")
    (split / "images/0004.png").unlink()
    summary, metrics = run(model, split, tmp_path / "out")
    assert sorted(item["prompt_id"] for item in summary["left_out"]) == [
        "102", "104", "random/12", "random/13", "random/14", "random/6", "random/7", "random/8",
    ]  # fmt: skip
    assert all("0002.png" in item["reason"] or "0004.png" in item["reason"] for item in summary["left_out"])
    assert (metrics["chair_i"]["n"], metrics["pope_accuracy"]["n"]) == (4, 12)
    for kind, key in (("captions", "image_id"), ("questions", "question_id")):
        whole = {row[key]: row for row in lines(tmp_path / f"whole/answers/own_{kind}.jsonl")}
        assert all(whole[row[key]] == row for row in lines(tmp_path / f"out/answers/own_{kind}.jsonl"))


def test_no_picture_at_all_is_an_error(model, split, tmp_path):
    shutil.rmtree(split / "images")
    with pytest.raises(InputError, match="nothing could be answered"):
        run(model, split, tmp_path / "out")


def test_a_wrong_split_is_found_before_the_model_is_loaded(split, tmp_path):
    (split / "instances.json").write_text("{}")
    with pytest.raises(InputError, match="COCO's instances format"):
        run(ModelSettings(path=str(tmp_path / "no model")), split, tmp_path / "out")


def test_count_takes_the_first_pictures(model, split, tmp_path):
    (tmp_path / "out/answers").mkdir(parents=True)
    chosen = EvaluateSettings.model_validate(
        {"splits": {"own": {"folder": str(split), "count": 2}}, "max_new_tokens": 8, "bootstrap": 100}
    )
    settings = Settings(model=model, evaluate=chosen)
    summary = evaluate(
        settings, {"own": split}, None, tmp_path / "out", tmp_path / "out/answers", tmp_path / "out/metrics.json"
    )
    assert (summary["splits"]["own"]["captions"], summary["splits"]["own"]["questions"]) == (2, 6)


def test_encoder_shares_nothing_that_differs(model, split):
    """Inputs put together from shared parts are the processor's own, whether or not parts are kept."""
    policy = load_policy(model)
    kept, forgetful = Encoder(policy, 10**6), Encoder(policy, 10**6, cache_bytes=0)
    for prompt in ("Describe the image.", "Is there a dog in the image?"):
        for number, colour in enumerate(COLOURS):
            path = split / f"images/{number:04d}.png"
            picture = Image.new("RGB", (96 + 8 * (number % 2), 96), colour)
            expected = policy.encode(picture, prompt)
            for encoder in (kept, forgetful):
                found = encoder.encode(path, prompt)
                for a, b in ((found.sequence, expected.sequence), (found.features, expected.features)):
                    assert a.keys() == b.keys()
                    assert all(torch.equal(a[name], b[name]) for name in a)


def most_likely(policy, inputs, count):
    """Token by token, recomputed without cache for one sample: the most likely one that may be written."""
    ids, written = inputs.sequence["input_ids"], []
    while len(written) < count:
        row = torch.cat([ids, torch.tensor(written, dtype=ids.dtype)])[None]
        with torch.no_grad():
            logits = policy.model(
                input_ids=row, attention_mask=torch.ones_like(row), pixel_values=inputs.features["pixel_values"]
            ).logits[0, -1]
        logits = logits.clone()
        logits[list(policy.suppressed_ids)] = -torch.inf
        token = int(logits.argmax())
        if token in policy.end_ids:
            break
        written.append(token)
    return written


def test_answers_are_greedy_and_in_order(model, split):
    policy = load_policy(model)
    asks = [Ask(str(i), split / f"images/{i:04d}.png", p) for i in (1, 0) for p in ("Describe.", "Is there a dog?")]
    encoder = Encoder(policy, 10**6)
    inputs = [encoder.encode(ask.image, ask.prompt) for ask in asks]
    favourite = most_likely(policy, inputs[0], 1)[0]
    # Forbidding what the model likes best must change the answer, and everything that follows from it.
    for forbidden in ((), (favourite,)):
        strict = replace(policy, suppressed_ids=(*policy.suppressed_ids, *forbidden))
        texts, left_out = greedy_answers(asks, 6, 4, Encoder(strict, 10**6))
        assert left_out == []
        assert texts == [policy.decode(most_likely(strict, one, 6)).strip() for one in inputs]


def test_a_held_out_model_watches(model, split, tmp_path):
    """The mean over captions of the mean cosine of their sentences, beside the base's."""
    held_out = str(open_clips.clip(tmp_path / "clip"))
    state = tmp_path / "state"
    for name, more in (("base", {"state": state}), ("next", {"base": tmp_path / "base/answers", "state": state})):
        out = tmp_path / name
        (out / "answers").mkdir(parents=True)
        own = EvaluateSettings(max_new_tokens=24, bootstrap=200, held_out_model=held_out)
        settings = Settings(model=model, evaluate=own)
        evaluate(settings, {"own": split}, None, out, out / "answers", out / "metrics.json", **more)
    metrics = json.loads((tmp_path / "next/metrics.json").read_text())["own"]["held_out_relevance"]
    rows = lines(tmp_path / "next/answers/own_captions.jsonl")
    assert metrics["value"] == pytest.approx(sum(row["held_out_relevance"] for row in rows) / 6)
    assert (metrics["n"], metrics["vs_base"]["difference"]) == (6, 0)
    scorer = SentenceScorer(RewardSettings(model=held_out, device="cpu"))
    scorer.add_image("a", Image.open(split / "images/0000.png").convert("RGB"))
    said = split_sentences(rows[0]["caption"])
    expected = sum(scorer.relevances([("a", text) for text in said])) / len(said)
    assert rows[0]["held_out_relevance"] == pytest.approx(expected, abs=1e-4)
    # Each picture's embedding is kept for the next iteration, of either model.
    with sqlite3.connect(state / "embeddings.sqlite") as kept:
        assert kept.execute("select count(*), count(distinct model) from pictures").fetchone() == (12, 2)
