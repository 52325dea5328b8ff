"""Score and pair, end to end, on hand-made candidates with the shipped miniature CLIP."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from csr_core.config import PairSettings, RewardSettings, Settings
from csr_core.errors import InputError
from csr_core.preference.pairs import CLOSEST, NO_ANSWER, NO_SAME_LENGTH
from csr_core.records import CANDIDATES, PREFERENCES, PROMPTS, read_json, read_table, write_table
from csr_core.reward.scorer import SentenceScorer
from csr_core.stages.pair import pair
from csr_core.stages.score import score
from tests.stages.test_score import clip, lay_out, row, tree  # noqa: F401  # clip is a fixture

REWARD = RewardSettings(device="cpu")


@pytest.fixture
def scored(tmp_path, clip) -> Path:  # noqa: F811
    prompts, candidates = lay_out(tmp_path, count=6, parts=2)
    (tmp_path / "scores").mkdir()
    score(Settings(reward=REWARD), prompts, candidates, tmp_path / "scores", SentenceScorer(REWARD, clip))
    return tmp_path


def make(folder: Path, settings: PairSettings, **more: int) -> tuple[dict, list[dict]]:
    out = folder / f"preferences-{len(list(folder.glob('preferences-*')))}"
    out.mkdir()
    whole = Settings(reward=REWARD, pair=settings, seed=more.get("seed", 0))
    summary = pair(whole, more.get("iteration", 1), folder / "prompts", folder / "scores", out)
    assert read_json(out / "summary.json") == json.loads(json.dumps(summary))
    assert pq.read_schema(out / "preferences.parquet").equals(PREFERENCES)
    return summary, read_table(out, PREFERENCES)


def test_rows_are_what_preference_training_reads(scored) -> None:
    summary, rows = make(scored, PairSettings())
    assert summary["pairs"] == summary["prompts"] == len(rows) == 6
    assert [item["prompt_id"] for item in rows] == [f"p{index}" for index in range(6)]
    texts = {(item["prompt_id"], item["node"]): item["text"] for item in read_table(scored / "candidates")}
    for index, item in enumerate(rows):
        assert item["images"] == [str(scored / f"{index}.png")]
        assert item["prompt"] == [{"role": "user", "content": "Describe."}]
        for side in ("chosen", "rejected"):
            joined = "".join(texts[item["prompt_id"], number] for number in item[f"{side}_nodes"])
            assert item[side] == [{"role": "assistant", "content": joined.strip()}]
        assert item["margin"] == pytest.approx(item["chosen_reward"] - item["rejected_reward"])
        assert item["margin"] > 0
        assert item["chosen_nodes"] in ([1, 2], [1, 5])  # two sentences earn more than one
    assert summary["diversity"]["sentences"]["chosen"] == 2.0


def test_chosen_reward_is_the_sum_over_the_path(scored) -> None:
    _, rows = make(scored, PairSettings())
    rewards = {(item["prompt_id"], item["node"]): item["reward"] for item in read_table(scored / "scores")}
    for item in rows:
        for side in ("chosen", "rejected"):
            parts = [rewards[item["prompt_id"], number] for number in item[f"{side}_nodes"]]
            assert item[f"{side}_reward"] == pytest.approx(sum(parts))


def test_equal_length_for_all_or_for_a_share(scored) -> None:
    summary, rows = make(scored, PairSettings(same_length_share=1.0))
    assert all(len(item["chosen_nodes"]) == len(item["rejected_nodes"]) for item in rows)
    assert summary["pairs_of_equal_length_asked"] == len(rows) == 6
    summary, _ = make(scored, PairSettings(same_length_share=0.5))
    assert 0 < summary["pairs_of_equal_length_asked"] < 6
    again, _ = make(scored, PairSettings(same_length_share=0.5))
    assert again == summary


def test_closest_are_left_out_and_named(scored) -> None:
    _, every = make(scored, PairSettings())
    summary, rows = make(scored, PairSettings(drop_closest=0.34))
    closest = sorted(every, key=lambda item: item["margin"])[:2]
    assert {item["prompt_id"] for item in summary["left_out"]} == {item["prompt_id"] for item in closest}
    assert summary["left_out_by_reason"] == {CLOSEST: 2}
    assert len(rows) == 4


def test_prompts_without_a_pair_are_counted_with_their_reason(tmp_path, clip) -> None:  # noqa: F811
    prompts, _ = lay_out(tmp_path, count=3, parts=1)
    trees = {index: tree(f"p{index}", index) for index in range(3)}
    for item in trees[1]:
        item["is_final"] = False
    del trees[2][3:]  # one answer of two sentences, and the one added: of one
    trees[2].append(row("p2", 4, 0, " There is a boat.", -3.0, True))
    rows = [item for items in trees.values() for item in items]
    write_table(tmp_path / "candidates" / "part-00000.parquet", rows, CANDIDATES)
    (tmp_path / "scores").mkdir()
    score(Settings(reward=REWARD), prompts, tmp_path / "candidates", tmp_path / "scores", SentenceScorer(REWARD, clip))
    summary, pairs = make(tmp_path, PairSettings(same_length_share=1.0))
    assert [item["prompt_id"] for item in pairs] == ["p0"]
    assert summary["left_out"] == [
        {"prompt_id": "p1", "reason": NO_ANSWER},
        {"prompt_id": "p2", "reason": NO_SAME_LENGTH},
    ]


def test_no_pair_at_all_teaches(scored) -> None:
    with pytest.raises(InputError, match=r"not one of 6 prompts.*margin too small: 6.*min_margin"):
        make(scored, PairSettings(min_margin=1e6))


def test_prompt_of_another_run_is_left_out(scored) -> None:
    kept = [item for item in read_table(scored / "prompts") if item["prompt_id"] != "p3"]
    write_table(scored / "prompts" / "prompts.parquet", kept, PROMPTS)
    summary, rows = make(scored, PairSettings())
    assert "p3" not in {item["prompt_id"] for item in rows}
    assert summary["left_out"] == [{"prompt_id": "p3", "reason": "not among the prompts of this iteration"}]
    assert len(rows) == 5
