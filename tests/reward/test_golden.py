"""Scores, ranks, paths and pairs of the authors' code on its golden trees, with the CLIP these were made with."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import normalize

from csr_core.config import GenerateSettings, PairSettings, RewardSettings, Settings
from csr_core.images import open_image
from csr_core.preference import complete_answers, pair_of_tree
from csr_core.records import CANDIDATES, PROMPTS, SCORES, read_table, write_table
from csr_core.reward.relevance import image_relevance
from csr_core.reward.scorer import SentenceScorer
from csr_core.stages.score import score

GOLDEN = Path(__file__).resolve().parents[2] / "../shared/data/golden"
pytestmark = pytest.mark.skipif(
    not GOLDEN.is_dir(),
    reason="needs outputs of the authors' code in ../shared/data/golden, which are not part of this repository",
)

REWARD = RewardSettings(
    device="cpu", combine="rank", likelihood="beam_score", relevance_floor=False, clean_text=True, batch_size=16
)
PAIR = PairSettings(path_score="rank_mean")


class TransformersClip:
    """The golden checkpoint is in transformers' layout, which open_clip does not read."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

        self.model = CLIPModel.from_pretrained(folder).eval()
        self.processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
        self.tokenizer = AutoTokenizer.from_pretrained(folder)

    def prepare(self, image):
        return self.processor(images=image, return_tensors="pt")["pixel_values"][0]

    @torch.no_grad()
    def embed_images(self, pixels):
        pooled = self.model.vision_model(pixel_values=pixels).pooler_output
        return normalize(self.model.visual_projection(pooled), dim=-1)

    @torch.no_grad()
    def embed_texts(self, texts):
        rows = [self.model.text_model(**self.tokenizer([text], return_tensors="pt")).pooler_output for text in texts]
        return normalize(self.model.text_projection(torch.cat(rows)), dim=-1), [False] * len(texts)


@pytest.fixture(scope="module")
def golden():
    return json.loads((GOLDEN / "trees_ids.json").read_text())["results"]


def _own_text(node: dict, nodes: list[dict]) -> str:
    if node["parent"] is None:
        return node["text"]
    mine, above = (item["text"].partition("ASSISTANT:")[2] for item in (node, nodes[node["parent"]]))
    assert mine.startswith(above)
    return mine[len(above) :]


def _candidates(run: dict) -> list[dict]:
    return [
        {
            "prompt_id": run["id"],
            "node": node["i"],
            "parent": node["parent"],
            "depth": node["depth"],
            "text": _own_text(node, run["nodes"]),
            "token_ids": node.get("gen_ids", []),
            "log_likelihood": node.get("seq_score", 0.0),  # the golden data holds no other; unused with beam_score
            "score": node["score"],
            "is_final": node["is_final"],
            "expanded": node["expand_order"] is not None,
        }
        for node in run["nodes"]
    ]


@pytest.fixture(scope="module")
def scored(golden, tmp_path_factory):
    folder = tmp_path_factory.mktemp("golden")
    prompts = [
        {"prompt_id": run["id"], "image": str(GOLDEN / "images" / run["image"]), "prompt": run["question"]}
        for run in golden
    ]
    write_table(folder / "prompts" / "prompts.parquet", prompts, PROMPTS)
    for part, runs in enumerate((golden[:3], golden[3:])):
        rows = [row for run in runs for row in _candidates(run)]
        write_table(folder / "candidates" / f"part-{part:05}.parquet", rows, CANDIDATES)
    by_likelihood = GenerateSettings(keep_by="likelihood")
    settings = Settings(preset="authors-code", generate=by_likelihood, reward=REWARD, pair=PAIR)
    (folder / "out").mkdir()
    scorer = SentenceScorer(REWARD, TransformersClip(GOLDEN / "tiny-clip"))
    summary = score(settings, folder / "prompts", folder / "candidates", folder / "out", scorer)
    assert summary["prompts"] == 5
    rows = read_table(folder / "out", SCORES)
    return {run["id"]: [row for row in rows if row["prompt_id"] == run["id"]] for run in golden}


def test_every_node_has_their_scores_and_ranks(golden, scored) -> None:
    compared = 0
    for run in golden:
        assert [row["node"] for row in scored[run["id"]]] == [node["i"] for node in run["nodes"]]
        for row, node in zip(scored[run["id"]], run["nodes"], strict=True):
            assert row["dropped"] == node["dropped"]
            for ours, theirs in (("relevance", "clip_score"), ("likelihood", "seq_score")):
                expected = None if node["dropped"] or node["parent"] is None else pytest.approx(node[theirs], abs=1e-4)
                assert row[ours] == expected
            assert row["likelihood_rank"] == node.get("rank")
            assert row["relevance_rank"] == node.get("clip_rank")
            compared += row["relevance"] is not None
    assert compared == sum(1 for run in golden for node in run["nodes"] if node.get("clip_score") is not None) > 200


def test_paths_and_pairs_are_theirs(golden, scored) -> None:
    for run in golden:
        answers = {answer.nodes: answer for answer in complete_answers(scored[run["id"]], "rank_mean")}
        theirs = {tuple(path["nodes"][1:]): path["mean"] for path in run["paths"]}
        assert {nodes: -answer.value for nodes, answer in answers.items()} == pytest.approx(theirs, abs=1e-9)
        pair = pair_of_tree(run["id"], scored[run["id"]], PAIR, same_length=False)
        assert not isinstance(pair, str)
        for side, path, key in (
            (pair.chosen, "chosen_path", "conversations"),
            (pair.rejected, "rejected_path", "rejected_conversations"),
        ):
            assert [0, *side.nodes] == run["paths"][run[path]]["nodes"]
            assert side.text == run["pair"][key][1]["value"]


@pytest.mark.parametrize("index", range(8))
def test_relevance_from_given_embeddings(index) -> None:
    tensors = load_file(GOLDEN / "tensors.safetensors")
    clip = TransformersClip(GOLDEN / "tiny-clip")
    image = open_image(GOLDEN / "images" / json.loads((GOLDEN / "prompts.json").read_text())[index]["image"])
    assert torch.allclose(clip.prepare(image), tensors[f"{index}.clip_pixel_values"][0], atol=1e-3)
    with torch.no_grad():
        pooled = clip.model.text_model(input_ids=tensors[f"{index}.clip_input_ids"]).pooler_output
        texts = normalize(clip.model.text_projection(pooled), dim=-1)
    relevance = image_relevance(clip.embed_images(clip.prepare(image)[None])[0], texts, floor=False)
    assert relevance.tolist() == pytest.approx(tensors[f"{index}.clip_logits_per_image"][0].tolist(), abs=1e-3)
