"""The product's search, scoring and pairing against golden data; see the README there for what its files hold."""

import json
import re
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from csr_core.config import Settings
from csr_core.images import open_image
from csr_core.policy import Policy, PromptInputs, load_policy
from csr_core.presets import AUTHORS_CODE, AUTHORS_CODE_LLAVA
from csr_core.prompts import read_prompts
from csr_core.search.beaming import BeamSearches
from csr_core.search.jobs import Job
from csr_core.search.prefixes import Prefixes
from csr_core.search.sentences import period_id, sentence_rule
from tests.golden.clip import TransformersClip
from tests.golden.tally import Tally
from tests.golden.trees import compare_trees

CASE_NAME = re.compile(r"(\d+)\.(?:root|node(\d+))\.b(\d+)g(\d+)p([\d.]+)m(\d+)")
CLIP_TEXTS = 3


@dataclass
class Golden:
    """A folder of golden data, read."""

    folder: Path
    tensors: dict[str, torch.Tensor]
    beams: dict[str, Any]
    trees: dict[str, Any]

    @classmethod
    def read(cls, folder: Path) -> "Golden":
        beams, trees = (json.loads((folder / name).read_text("utf-8")) for name in ("gbs.json", "trees_ids.json"))
        return cls(folder, load_file(folder / "tensors.safetensors"), beams, trees)


def golden_settings(golden: Golden, changes: Mapping[str, Any]) -> Settings:
    """The authors-code preset with the arguments the trees were made with, and `changes` ("section.key": value)."""
    args = golden.trees["args"]
    flat = {
        **AUTHORS_CODE,
        **AUTHORS_CODE_LLAVA,
        "model.path": str(golden.folder / "tiny-llava"),
        "model.device": "cpu",
        "model.dtype": "float32",
        "generate.width": args["token_beams"],
        "generate.beam_groups": args["groups"],
        "generate.diversity_penalty": args["diversity"],
        "generate.max_sentence_tokens": args["max_new_tokens"],
        "generate.max_characters": args["max_length"],
        "generate.batch_size": 8,
        "reward.image_weight": args["alpha"],
        "reward.device": "cpu",
        **changes,
    }
    sections: dict[str, dict[str, Any]] = defaultdict(dict)
    for name, value in flat.items():
        section, _, key = name.partition(".")
        sections[section][key] = value
    return Settings.model_validate({"preset": "authors-code", **sections})


def compare(folder: Path, changes: Mapping[str, Any] | None = None) -> Tally:
    """Compare with everything in `folder`; `changes` to the settings are there to see that they make a difference."""
    golden, tally = Golden.read(folder), Tally()
    settings = golden_settings(golden, changes or {})
    policy = load_policy(settings.model)
    clip = TransformersClip(folder / "tiny-clip")
    with tempfile.TemporaryDirectory() as scratch:
        found = read_prompts(folder / "prompts.json", folder / "images")
        rows = sorted(found.rows, key=lambda row: row["prompt_id"])
        tally.check("prompts read", "prompts.json", len(rows), len(json.loads((folder / "prompts.json").read_text())))
        prompts = _compare_tensors(golden, policy, clip, rows, tally)
        _compare_beams(golden, policy, settings, prompts, tally)
        compare_trees(golden.trees, policy, settings, clip, rows, Path(scratch), tally)
    return tally


def _compare_tensors(
    golden: Golden, policy: Policy, clip: TransformersClip, rows: list[dict[str, Any]], tally: Tally
) -> list[PromptInputs]:
    """Pixels, ids and logits of every prompt; returns the prompts as model inputs."""
    tensors, prompts, used = golden.tensors, [], set()

    def check(kind: str, name: str, got: torch.Tensor) -> None:
        used.add(name)
        if name in tensors:
            tally.check(kind, name, got, tensors[name])

    placeholder = golden.beams["image_token_id"]
    for index, row in enumerate(rows):
        image = open_image(row["image"])
        prompt = policy.encode(image, row["prompt"])
        prompts.append(prompt)
        ids = prompt.sequence["input_ids"]
        check("pixels", f"{index}.pixel_values", prompt.features["pixel_values"])
        check("prompt ids", f"{index}.input_ids_expanded", ids[None])
        check("prompt ids", f"{index}.input_ids", torch.tensor([_collapsed(ids.tolist(), placeholder)]))
        check("logits", f"{index}.logits_last", Prefixes(policy).get([prompt])[0].logits[None])
        with torch.inference_mode():
            whole = policy.model(**{name: value[None] for name, value in prompt.sequence.items()}, **prompt.features)
        check("logits", f"{index}.logits", whole.logits)
        pixels = clip.prepare(image)[None]
        check("clip pixels", f"{index}.clip_pixel_values", pixels)
        texts = tensors[f"{index}.clip_input_ids"]
        check("clip ids", f"{index}.clip_input_ids", _clip_ids(clip, texts))
        with torch.inference_mode():
            scores = clip.model(input_ids=texts, pixel_values=pixels, attention_mask=_mask(clip, texts))
        check("clip logits", f"{index}.clip_logits_per_image", scores.logits_per_image)
    tally.check("tensors known", "tensors.safetensors", sorted(tensors.keys() - used), [])
    return prompts


def _clip_ids(clip: TransformersClip, ids: torch.Tensor) -> torch.Tensor:
    """What the tokenizer makes of the texts that `ids` stand for (the data holds the ids alone)."""
    texts = clip.tokenizer.batch_decode(ids, skip_special_tokens=True)
    return clip.tokenizer(texts, padding=True, return_tensors="pt")["input_ids"]


def _mask(clip: TransformersClip, ids: torch.Tensor) -> torch.Tensor:
    """1 up to the first end of text, which is also the padding."""
    ends = (ids == clip.tokenizer.eos_token_id).long()
    return ((ends.cumsum(1) - ends) == 0).long()


def _collapsed(ids: list[int], placeholder: int) -> list[int]:
    return [token for index, token in enumerate(ids) if token != placeholder or ids[index - 1] != placeholder]


def _compare_beams(
    golden: Golden, policy: Policy, settings: Settings, prompts: list[PromptInputs], tally: Tally
) -> None:
    """Every case of diverse group beam search, those of equal settings in one batch."""
    file, groups = golden.beams, defaultdict(list)
    for case in file["cases"]:
        key = (case["num_beams"], case["groups"], case["penalty"], case["max_new_tokens"])
        groups[key].append(case)
        _compare_case_itself(golden, case, policy, tally)
    repeats = prompts[0].sequence["input_ids"].tolist().count(file["image_token_id"])
    tally.check("beam search inputs", "n_image_tokens", repeats, file["n_image_tokens"])
    prefixes = Prefixes(policy)
    for (width, count, penalty, limit), cases in groups.items():
        generate = settings.generate.model_copy(
            update={
                "width": width,
                "beam_groups": count,
                "diversity_penalty": penalty,
                "max_sentence_tokens": limit,
            }
        )
        vocabulary = policy.model.get_output_embeddings().weight.shape[0]
        rule = sentence_rule(generate.sentence_end, policy.tokenizer, vocabulary)
        searches, decoder = BeamSearches(policy, generate, rule), prefixes.decoder()
        jobs = {Job(_case_prompt(golden, case), (), last=True): case for case in cases}
        decoder.admit(prefixes.get([job.prompt for job in jobs]))
        searches.enter(list(jobs), range(len(jobs)))
        while searches.sentences:
            found, parents, tokens = searches.hypotheses(decoder)
            for job, of_job in found:
                _compare_case(jobs[job], of_job, policy, tally)
            if len(parents):
                decoder.advance(parents, tokens)


def _case_prompt(golden: Golden, case: dict[str, Any]) -> PromptInputs:
    one, many = golden.beams["image_token_id"], golden.beams["n_image_tokens"]
    ids = [token for token in case["prompt_ids"] for _ in range(many if token == one else 1)]
    sequence = {"input_ids": torch.tensor(ids), "attention_mask": torch.ones(len(ids), dtype=torch.long)}
    return PromptInputs(sequence, {"pixel_values": golden.tensors[case["pixel_values"]]})


def _compare_case_itself(golden: Golden, case: dict[str, Any], policy: Policy, tally: Tally) -> None:
    """What a case says of itself against its name, the tensors and the trees."""
    told = CASE_NAME.fullmatch(case["name"])
    if told is None:
        tally.check("beam search inputs", case["name"], case["name"], CASE_NAME.pattern)
        return
    prompt = int(told[1])
    # The nodes' cases are from another run than the trees here, in which the prompts' ids drift.
    ids = golden.tensors[f"{prompt}.input_ids"][0].tolist() if told[2] is None else case["prompt_ids"]
    got = [ids, f"{prompt}.pixel_values", int(told[3]), int(told[4]), float(told[5]), int(told[6])]
    want = [case[name] for name in ("prompt_ids", "pixel_values", "num_beams", "groups", "penalty", "max_new_tokens")]
    tally.check("beam search inputs", case["name"], got, want)
    known = [period_id(policy.tokenizer), policy.pad_id]
    tally.check("beam search inputs", case["name"], known, [case["eos"], case["pad"]])


def _compare_case(case: dict[str, Any], found: list[Any], policy: Policy, tally: Tally) -> None:
    rows = [[*one.ids, case["eos"]] if len(one.ids) < case["max_new_tokens"] else [*one.ids] for one in found]
    longest = max(map(len, rows))
    padded = [row + [policy.pad_id] * (longest - len(row)) for row in rows]
    tally.check("beam search rows", case["name"], padded, case["rows"])
    tally.check("beam search scores", case["name"], [one.score for one in found], case["sequences_scores"])
    got = sorted(((one.group, list(one.ids), one.score) for one in found), key=lambda one: one[:2])
    want = [(one["group"], one["ids_without_eos"], one["score"]) for one in case["hyps_by_group"]]
    tally.check("beam search hypotheses", case["name"], got, sorted(want, key=lambda one: one[:2]))
