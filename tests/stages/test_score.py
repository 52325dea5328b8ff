"""The score stage on hand-made trees, with the shipped miniature CLIP."""

import json
import math
import statistics
from pathlib import Path
from typing import Any

import pytest

from csr_core.config import GenerateSettings, PairSettings, RewardSettings, Settings
from csr_core.errors import InputError
from csr_core.miniature.draw import draw
from csr_core.miniature.world import object_sentence, place_sentence, sample_split
from csr_core.records import CANDIDATES, PROMPTS, SCORES, read_json, read_table, write_table
from csr_core.reward.relevance import load_relevance
from csr_core.reward.scorer import SentenceScorer
from csr_core.stages.score import score

WORLD = list(sample_split("validation", 8, 3))


@pytest.fixture(scope="module")
def clip():
    return load_relevance(RewardSettings(device="cpu"))


def row(prompt_id: str, number: int, parent: int | None, text: str, likelihood: float, final: bool) -> dict[str, Any]:
    tokens = list(range(len(text.split())))
    return {
        "prompt_id": prompt_id,
        "node": number,
        "parent": parent,
        "depth": 0,
        "text": text,
        "token_ids": tokens,
        "log_likelihood": likelihood,
        "score": likelihood,
        "is_final": final,
        "expanded": False,
    }


def tree(prompt_id: str, index: int) -> list[dict[str, Any]]:
    """Root, a sentence on the place, and below it present and other objects; node 5 repeats node 1."""
    scene = WORLD[index]
    first, *_ = sorted(scene.names)
    return [
        row(prompt_id, 0, None, "", 0.0, False),
        row(prompt_id, 1, 0, " " + place_sentence(scene.place), -0.5, False),
        row(prompt_id, 2, 1, " " + object_sentence(first), -1.0, True),
        row(prompt_id, 3, 1, " " + object_sentence("clock" if first != "clock" else "boat"), -2.0, True),
        row(prompt_id, 4, 0, " " + object_sentence(first), -3.0, True),
        row(prompt_id, 5, 1, " " + place_sentence(scene.place), -4.0, True),
    ]


def lay_out(folder: Path, count: int = 4, parts: int = 2) -> tuple[Path, Path]:
    """Folders of prompts and candidates, `count` prompts in `parts` parts."""
    prompts = []
    for index in range(count):
        image = folder / f"{index}.png"
        draw(WORLD[index]).save(image)
        prompts.append(
            {"prompt_id": f"p{index}", "image": str(image), "prompt": "Describe.", "image_sha256": f"{index}"}
        )
    write_table(folder / "prompts" / "prompts.parquet", prompts, PROMPTS)
    for part in range(parts):
        rows = [item for index in range(part, count, parts) for item in tree(f"p{index}", index)]
        write_table(folder / "candidates" / f"part-{part:05}.parquet", rows, CANDIDATES)
    return folder / "prompts", folder / "candidates"


def run(folder: Path, clip: Any, reward: RewardSettings, **more: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    out = folder / "out"
    out.mkdir(exist_ok=True)
    settings = Settings(reward=reward, **more)
    summary = score(settings, folder / "prompts", folder / "candidates", out, SentenceScorer(reward, clip))
    return summary, read_table(out, SCORES)


def test_parts_columns_and_summary(tmp_path, clip) -> None:
    lay_out(tmp_path)
    summary, rows = run(tmp_path, clip, RewardSettings(device="cpu"))
    assert sorted(file.name for file in (tmp_path / "out").glob("*.parquet")) == [
        "part-00000.parquet",
        "part-00001.parquet",
    ]
    assert [item["prompt_id"] for item in rows[::6]] == ["p0", "p2", "p1", "p3"]
    assert read_json(tmp_path / "out" / "summary.json") == json.loads(json.dumps(summary))
    assert (summary["prompts"], summary["sentences"], summary["repeats"], summary["left_out"]) == (4, 20, 4, [])
    assert summary["images"] == 4
    for item in rows:
        assert item["dropped"] is item["likelihood_rank"] is item["relevance_rank"] is None
        if item["parent"] is None:
            assert item["reward"] is item["relevance"] is item["likelihood"] is None
        else:
            assert item["likelihood"] == pytest.approx(math.exp(item["log_likelihood"]))
            assert item["reward"] == pytest.approx(0.9 * item["relevance"] + 0.1 * item["likelihood"])
    present, other = rows[2], rows[3]
    assert present["relevance"] == rows[4]["relevance"]  # equal sentences
    assert present["relevance"] > other["relevance"] + 5


def test_equal_sentences_of_a_part_are_embedded_once(tmp_path, clip) -> None:
    lay_out(tmp_path, parts=1)
    summary, rows = run(tmp_path, clip, RewardSettings(device="cpu"))
    distinct = {item["text"].strip() for item in rows if item["text"]}
    assert summary["distinct_sentences_embedded"] == len(distinct) < summary["sentences"]


def test_a_part_is_the_same_whoever_made_the_others(tmp_path, clip) -> None:
    lay_out(tmp_path)
    run(tmp_path, clip, RewardSettings(device="cpu"))
    made = {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    for name in ("part-00001.parquet", "part-00001.json", "summary.json"):
        (tmp_path / "out" / name).unlink()
    run(tmp_path, clip, RewardSettings(device="cpu"))
    assert made == {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}


@pytest.mark.parametrize(("batch_size", "parts"), [(1, 1), (3, 4), (256, 2)])
def test_batch_and_shard_size_do_not_change_scores(tmp_path, clip, batch_size, parts) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    lay_out(tmp_path / "a", count=5, parts=parts)
    lay_out(tmp_path / "b", count=5, parts=3)
    sizes = (batch_size, 5)
    tables = [
        run(tmp_path / name, clip, RewardSettings(device="cpu", batch_size=size, likelihood_scale="standardised"))[1]
        for name, size in zip("ab", sizes, strict=True)
    ]
    first, second = ({(item["prompt_id"], item["node"]): item for item in table} for table in tables)
    assert first.keys() == second.keys()
    for key, item in first.items():
        for name in ("relevance", "likelihood", "reward") if item["parent"] is not None else ():
            assert item[name] == pytest.approx(second[key][name], rel=1e-5, abs=1e-5)


def test_standardised_over_all_nodes_of_the_tree(tmp_path, clip) -> None:
    lay_out(tmp_path)
    _, rows = run(tmp_path, clip, RewardSettings(device="cpu", likelihood_scale="standardised", image_weight=0.5))
    told = [item for item in rows if item["prompt_id"] == "p1" and item["parent"] is not None]
    seen, likely = ([item[name] for item in told] for name in ("relevance", "likelihood"))
    assert statistics.fmean(likely) == pytest.approx(statistics.fmean(seen))
    assert statistics.pstdev(likely) == pytest.approx(statistics.pstdev(seen))
    assert max(told, key=lambda item: item["likelihood"])["node"] == 1
    assert all(item["reward"] == pytest.approx((item["relevance"] + item["likelihood"]) / 2) for item in told)


def test_repeat_on_its_own_path_earns_nothing(tmp_path, clip) -> None:
    lay_out(tmp_path)
    _, rows = run(tmp_path, clip, RewardSettings(device="cpu", repeats_earn_nothing=True))
    assert {item["node"] for item in rows if item["reward"] == 0.0} == {5}
    # Node 4 has the words of node 2, on another path.
    assert all(item["reward"] > 0.0 for item in rows if item["node"] == 4)


def test_ranks_among_siblings(tmp_path, clip) -> None:
    lay_out(tmp_path)
    ranks = RewardSettings(device="cpu", combine="rank", likelihood="beam_score", relevance_floor=False)
    grown = GenerateSettings(keep_by="likelihood")
    _, rows = run(tmp_path, clip, ranks, generate=grown, pair=PairSettings(path_score="rank_mean"))
    nodes = {item["node"]: item for item in rows if item["prompt_id"] == "p0"}
    assert [nodes[number]["likelihood_rank"] for number in (1, 4)] == [0.5, 1.0]
    assert [nodes[number]["likelihood_rank"] for number in (2, 3, 5)] == pytest.approx([1 / 3, 2 / 3, 1.0])
    assert sorted(nodes[number]["relevance_rank"] for number in (2, 3, 5)) == pytest.approx([1 / 3, 2 / 3, 1.0])
    assert nodes[2]["likelihood"] == pytest.approx(-0.5)  # its score less its parent's
    assert nodes[2]["reward"] == pytest.approx(-(0.1 / 3 + 0.9 * nodes[2]["relevance_rank"]))


def test_cleaning_drops_a_node_with_all_below_it(tmp_path, clip) -> None:
    lay_out(tmp_path, count=1, parts=1)
    rows = tree("p0", 0)
    rows[1]["text"] = " ."
    write_table(tmp_path / "candidates" / "part-00000.parquet", rows, CANDIDATES)
    summary, scored = run(tmp_path, clip, RewardSettings(device="cpu", clean_text=True))
    assert [item["dropped"] for item in scored] == [None, "short", "ancestor", "ancestor", None, "ancestor"]
    assert [item["reward"] is not None for item in scored] == [False] * 4 + [True, False]
    assert summary["dropped"] == {"short": 1, "ancestor": 3}


def test_vanished_picture_and_broken_trees_leave_the_rest_unharmed(tmp_path, clip) -> None:
    lay_out(tmp_path, count=8, parts=1)
    (tmp_path / "1.png").unlink()
    (tmp_path / "2.png").write_bytes(b"no picture")
    rows = [item for index in (0, 1, 2, 3, 4) for item in tree(f"p{index}", index)] + tree("stranger", 5)
    rows += tree("nan", 6) + tree("orphan", 7)
    for item in rows:
        if item["prompt_id"] == "p3" and item["node"] == 2:
            item["log_likelihood"] = float("nan")
        if item["prompt_id"] == "p4" and item["node"] == 2:
            item["parent"] = 77
    write_table(tmp_path / "candidates" / "part-00000.parquet", rows, CANDIDATES)
    summary, scored = run(tmp_path, clip, RewardSettings(device="cpu"))
    assert {item["prompt_id"] for item in scored} == {"p0"}
    reasons = {item["prompt_id"]: item["reason"] for item in summary["left_out"]}
    assert reasons.keys() == {"p1", "p2", "p3", "p4", "stranger", "nan", "orphan"}
    for prompt_id, said in {"p1": "missing", "p2": "not a picture", "p3": "node 2", "p4": "77"}.items():
        assert said in reasons[prompt_id]
    assert summary["prompts"] == 1


def test_nothing_left_is_an_error_with_the_first_reason(tmp_path, clip) -> None:
    lay_out(tmp_path, count=1, parts=1)
    (tmp_path / "0.png").unlink()
    with pytest.raises(InputError, match=r"p0: .*0\.png is missing"):
        run(tmp_path, clip, RewardSettings(device="cpu"))


def test_tables_of_another_stage_or_of_two_runs_are_refused(tmp_path, clip) -> None:
    lay_out(tmp_path, count=2, parts=1)
    write_table(tmp_path / "candidates" / "part-00007.parquet", tree("p1", 1), CANDIDATES)
    with pytest.raises(InputError, match="two runs"):
        run(tmp_path, clip, RewardSettings(device="cpu"))
    write_table(tmp_path / "candidates" / "part-00000.parquet", [{"prompt_id": "p", "image": "x"}], PROMPTS)
    with pytest.raises(InputError, match="another stage"):
        run(tmp_path, clip, RewardSettings(device="cpu"))
    with pytest.raises(InputError, match="run the stage"):
        score(
            Settings(),
            tmp_path / "prompts",
            tmp_path / "nowhere",
            tmp_path / "out",
            SentenceScorer(RewardSettings(), clip),
        )
