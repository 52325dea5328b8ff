"""Whole trees, their scores and pairs, through the product's search and stages, against the golden ones."""

from collections import defaultdict
from pathlib import Path
from typing import Any

from csr_core.config import Settings
from csr_core.images import open_image
from csr_core.policy import Policy
from csr_core.preference import complete_answers
from csr_core.records import CANDIDATES, PREFERENCES, PROMPTS, SCORES, read_table, write_table
from csr_core.reward.scorer import SentenceScorer
from csr_core.search.sentences import period_id
from csr_core.search.tree import Grower, Node, Tree
from csr_core.stages.pair import pair
from csr_core.stages.score import score
from tests.golden.clip import TransformersClip
from tests.golden.tally import Tally

Row = dict[str, Any]


def compare_trees(
    golden: Row,
    policy: Policy,
    settings: Settings,
    clip: TransformersClip,
    rows: list[Row],
    scratch: Path,
    tally: Tally,
) -> None:
    """Grow, score and pair the golden prompts, and compare each step. `rows`: of the PROMPTS table."""
    by_id = {row["prompt_id"]: row for row in rows}
    runs = [run for run in golden["results"] if run["id"] in by_id]
    tally.check("trees", "ids", [run["id"] for run in golden["results"]], [run["id"] for run in runs])
    tally.check("trees", "period_id", period_id(policy.tokenizer), golden["period_id"])
    chosen = [by_id[run["id"]] for run in runs]
    trees = [Tree(row["prompt_id"], policy.encode(open_image(row["image"]), row["prompt"])) for row in chosen]
    Grower(policy, settings.generate, settings.seed).grow(trees)
    write_table(scratch / "prompts/prompts.parquet", chosen, PROMPTS)
    write_table(scratch / "candidates/part-00000.parquet", [row for tree in trees for row in tree.rows()], CANDIDATES)
    scorer = SentenceScorer(settings.reward, clip)
    score(settings, scratch / "prompts", scratch / "candidates", scratch / "scores", scorer)
    pair(settings, 1, scratch / "prompts", scratch / "scores", scratch / "pairs")
    scored: dict[str, list[Row]] = defaultdict(list)
    for row in read_table(scratch / "scores", SCORES):
        scored[row["prompt_id"]].append(row)
    pairs = {row["prompt_id"]: row for row in read_table(scratch / "pairs", PREFERENCES)}
    for run, tree, prompt in zip(runs, trees, chosen, strict=True):
        _compare_prompt(run, tree, prompt, policy, tally)
        _compare_nodes(run, tree, tally)
        _compare_cost(run, tree, settings.generate.width, tally)
        _compare_scores(run, scored[run["id"]], tally)
        _compare_paths(run, scored[run["id"]], pairs.get(run["id"]), settings, tally)


def _compare_prompt(run: Row, tree: Tree, prompt: Row, policy: Policy, tally: Tally) -> None:
    got = [prompt["prompt"], Path(prompt["image"]).name, policy.render(prompt["prompt"])]
    tally.check("tree prompts", run["id"], got, [run["question"], run["image"], run["prompt"]])


def _compare_nodes(run: Row, tree: Tree, tally: Tally) -> None:
    tally.check("tree sizes", run["id"], len(tree.nodes), len(run["nodes"]))
    # A node is grown when its first child comes into being.
    grown = sorted({node.parent for node in tree.nodes[1:]}, key=lambda parent: _first_child(tree, parent))
    root_ids = run["nodes"][0]["prompt_ids"]
    for node, want in zip(tree.nodes, run["nodes"], strict=False):
        case = f"{run['id']} node {want['i']}"
        order = grown.index(node.id) if node.expanded else None
        got: Row = {"i": node.id, "parent": node.parent, "depth": node.depth, "is_final": node.is_final}
        got |= {"expand_order": order}
        tally.check("tree structure", case, got, {name: want[name] for name in got})
        tally.check("node scores", case, node.score, float(want["score"]))
        if "prompt_ids" in want:
            tally.check("node ids", case, [*root_ids, *node.written], want["prompt_ids"])
        if node.parent is not None:
            _compare_child(node, tree, want, case, tally)


def _first_child(tree: Tree, parent: int | None) -> int:
    return next(node.id for node in tree.nodes if node.parent == parent)


def _compare_child(node: Node, tree: Tree, want: Row, case: str, tally: Tally) -> None:
    parent = tree.nodes[node.parent or 0]
    got: Row = {"gen_ids": list(node.ids), "n_pad": node.padding, "decoded_len": node.characters, "beam": node.path[-1]}
    tally.check("node ids", case, got, {name: want[name] for name in got})
    tally.check("sentence scores", case, node.score - parent.score, want["seq_score"])
    response = "".join(one.text for one in [*tree.ancestors(node), node])
    # Their prompt's spaces around the picture come from decoding it; the response is what follows.
    tally.check("node texts", case, response.strip(), want["text"].partition("ASSISTANT:")[2].strip())


def _compare_cost(run: Row, tree: Tree, width: int, tally: Tally) -> None:
    """The counts of their run, which follow from the tree: `width` copies of the prompt for every node grown."""
    grown = [node for node in tree.nodes if node.expanded]
    prefill = width * sum(tree.prompt.length + len(node.written) for node in grown)
    steps = sum(max(len(one.ids) for one in tree.nodes if one.parent == node.id) - 1 for node in grown)
    tokens = tree.prompt.length + sum(len(node.ids) for node in tree.nodes)
    stat = run["sample_stat"]
    got = [len(grown), len(grown), prefill, steps, width * steps, tree.prompt.length, tokens, prefill + width * steps]
    want = [stat["calls"], stat["prefill"]["forwards"], stat["prefill"]["tokens"], stat["decode"]["forwards"]]
    want += [stat["decode"]["tokens"], stat["root_prompt_tokens"], stat["tree_tokens"], stat["ref_tokens"]]
    tally.check("counts", run["id"], got, want)


def _compare_scores(run: Row, scored: list[Row], tally: Tally) -> None:
    # Theirs marks the node that is dropped, and not the nodes below it.
    for row, want in zip(scored, run["nodes"], strict=False):
        case = f"{run['id']} node {want['i']}"
        dropped = None if row["dropped"] == "ancestor" else row["dropped"]
        tally.check("dropped nodes", case, dropped, want["dropped"])
        tally.check("cleaned texts", case, None if row["parent"] is None else row["text"].strip(), want["new_text"])
        tally.check("clip scores", case, row["relevance"], want.get("clip_score"))
        ranks = [row["likelihood_rank"], row["relevance_rank"]]
        tally.check("ranks", case, ranks, [want.get("rank"), want.get("clip_rank")])
    counted = sum(row["relevance"] is not None for row in scored)
    tally.check("counts", f"{run['id']} scored", counted, run["score_stat"]["clip_calls"])


def _compare_paths(run: Row, scored: list[Row], found: Row | None, settings: Settings, tally: Tally) -> None:
    """Their rewards are ranks, lower is better; ours have the sign turned."""
    answers = complete_answers(scored, settings.pair.path_score)
    got = {(0, *one.nodes): -one.value for one in answers}
    want = {tuple(path["nodes"]): path for path in run["paths"]}
    tally.check("paths", run["id"], sorted(got), sorted(want))
    for nodes, path in want.items():
        mean = got.get(nodes, float("nan"))
        case = f"{run['id']} path {nodes}"
        tally.check("path scores", case, [mean * len(nodes), mean], [path["cumulative"], path["mean"]])
    sides = ("chosen", "rejected")
    for side in sides:
        index = run[f"{side}_path"]
        nodes = run["paths"][index]["nodes"] if 0 <= index < len(run["paths"]) else None
        tally.check(
            "chosen and rejected", f"{run['id']} {side}", [0, *found[f"{side}_nodes"]] if found else None, nodes
        )
    theirs = [run["pair"]["conversations"][1]["value"], run["pair"]["rejected_conversations"][1]["value"]]
    ours = [found[side][0]["content"] for side in sides] if found else None
    tally.check("pair texts", run["id"], ours, [text.strip() for text in theirs])
