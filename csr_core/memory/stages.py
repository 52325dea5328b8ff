"""What each stage needs at its peak: the parts of `quantities` that are there at the same time.

Lengths are a photo's (640 x 480), a prompt's and sentences' as they are in the mean; a run on larger pictures or longer
answers needs more.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from csr_core.config import Settings
from csr_core.memory import quantities as part
from csr_core.memory.shapes import TEXT_TOKENS, TowerShape, VlmShape
from csr_core.policy.loading import resolve_dtype
from csr_core.policy.pictures import Pictures
from csr_core.search.batches import MOST_ON_CPU, MOST_ON_GPU, USED
from csr_core.search.prefixes import READ_TOGETHER
from csr_core.search.slots import LEAST_ROWS

STAGES = ("generate", "score", "finetune", "evaluate")
SENTENCES = 8  # of an answer where max_sentences is null
# What a stage's process takes without any model: of a GPU for CUDA itself; of main memory the libraries.
PROGRAM = {"cuda": 2**29, "cpu": 2**30}
TRIED = 2  # tables of LEAST_ROWS prompts that finding out whether rows can share holds at a time


@dataclass(frozen=True)
class Load:
    """Lengths in tokens. answer: of a whole answer in a preference pair."""

    prompt: int
    sentence: int = 22
    answer: int = 0
    pictures: int = Pictures.KEPT  # whose features are kept


@dataclass(frozen=True)
class Need:
    """Bytes at the peak of a stage, by part."""

    stage: str
    parts: dict[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return sum(self.parts.values())


@dataclass(frozen=True)
class Planned:
    """The settings with the sizes of their models, on a kind of device: `cuda`, `cpu` or `mps`."""

    settings: Settings
    vlm: VlmShape
    tower: TowerShape | None
    device: str
    load: Load

    @property
    def element(self) -> int:
        dtype: torch.dtype = resolve_dtype(self.settings.model.dtype, torch.device(self.device))
        return dtype.itemsize

    @property
    def base(self) -> int:
        """The weights, and of iterations after the first the adapter of the one before in float32."""
        adapter = 0
        if self.settings.finetune.carry == "adapter" and (self.settings.iterations > 1 or self.settings.model.adapter):
            adapter = 4 * part.adapter_values(self.vlm, self.settings.finetune.lora_rank)
        return part.weights(self.vlm, self.element, self.settings.model.quantization) + adapter


def usual_load(settings: Settings, vlm: VlmShape) -> Load:
    """Sentences of 22 tokens, and answers of as many as they may have."""
    sentences = settings.generate.max_sentences or SENTENCES
    return Load(vlm.picture_tokens + TEXT_TOKENS, answer=sentences * 22)


def needs(plan: Planned) -> list[Need]:
    """What each stage needs with the settings' batches; where they are null, with the smallest."""
    found = [
        generate_need(plan, plan.settings.generate.batch_size or 1),
        score_need(plan),
        finetune_need(plan),
        evaluate_need(plan, plan.settings.evaluate.batch_size or 1),
    ]
    program = PROGRAM["cuda" if plan.device == "cuda" else "cpu"]
    return [Need(need.stage, {**need.parts, "program": program} if need.parts else {}) for need in found]


def generate_need(plan: Planned, batch: int) -> Need:
    """Of the search with `batch` nodes decoded together, `width` rows each.

    As many trees are under way as nodes; each has its prompt at rest and in the table that rows read, and the children
    of a level (keep x width of them) with their logits until the level is chosen from.
    """
    settings, vlm, load, element = plan.settings.generate, plan.vlm, plan.load, plan.element
    width, kept = settings.width, settings.keep_best + settings.keep_worst
    sentences = settings.max_sentences or SENTENCES
    before = load.sentence * sentences // 2
    levels = 1 if sentences > 1 else 0
    at_rest = batch * kept * (width * load.sentence + before) * levels
    decoding = {
        "prompts": part.keys_values(vlm, batch * load.prompt, element) + part.slots(vlm, batch, load.prompt, element),
        "rows": part.slots(vlm, batch * width, settings.max_sentence_tokens + 1, element),
        "sentences": part.keys_values(vlm, at_rest, element)
        + levels * (part.slots(vlm, batch, before, element) + batch * kept * width * vlm.vocabulary * 4),
        "logits": part.logits(vlm, batch * width),
    }
    tower, reward = {}, 0
    if settings.keep_by == "reward" and plan.tower is not None:
        tower, reward = {"reward model": part.tower_weights(plan.tower)}, part.tower_work(plan.tower, _pictures(plan))
    work = max(part.layer_work(vlm, READ_TOGETHER * load.prompt, element), part.vision_work(vlm, element), reward)
    return Need("generate", {"weights": plan.base, **tower, **_decoding(plan, decoding), "work": work})


def evaluate_need(plan: Planned, batch: int) -> Need:
    """Of `batch` answers decoded together, one row each."""
    vlm, load, element = plan.vlm, plan.load, plan.element
    decoding = {
        "prompts": part.keys_values(vlm, batch * load.prompt, element) + part.slots(vlm, batch, load.prompt, element),
        "rows": part.slots(vlm, batch, plan.settings.evaluate.max_new_tokens, element),
        "logits": 2 * batch * vlm.vocabulary * 4,
    }
    work = max(part.layer_work(vlm, READ_TOGETHER * load.prompt, element), part.vision_work(vlm, element))
    return Need("evaluate", {"weights": plan.base, **_decoding(plan, decoding), "work": work})


def _decoding(plan: Planned, parts: dict[str, int]) -> dict[str, int]:
    """The tables of decoding and pictures' features; at least what it takes to find out whether rows can share."""
    tried = TRIED * part.slots(plan.vlm, LEAST_ROWS, plan.load.prompt, plan.element)
    if tried > sum(parts.values()):
        parts = {"trying shared prompts": tried}
    return {**parts, "picture features": part.picture_features(plan.vlm, plan.load.pictures, plan.element)}


def score_need(plan: Planned) -> Need:
    """Of the reward model with a batch of pictures; empty where its sizes are not known."""
    if plan.tower is None:
        return Need("score")
    return Need(
        "score",
        {"reward model": part.tower_weights(plan.tower), "work": part.tower_work(plan.tower, _pictures(plan))},
    )


def _pictures(plan: Planned) -> int:
    """Pictures the reward model sees at once (`csr_core.reward.relevance`)."""
    return 8 if plan.device == "cuda" else 1


def finetune_need(plan: Planned) -> Need:
    """Of DPO: a row a pair, [prompt | chosen | rejected], and the output layer over both answers.

    What the forward pass left is still there when the output layer's backward pass is at its largest.
    """
    vlm, load, settings, element = plan.vlm, plan.load, plan.settings.finetune, plan.element
    tokens, answers = load.prompt + 2 * load.answer, settings.batch_size * 2 * (1 + load.answer)
    values = part.adapter_values(vlm, settings.lora_rank)
    further = plan.settings.iterations > 1 and settings.carry == "adapter"
    saved = part.activations(
        vlm, settings.batch_size, tokens, settings.lora_rank, element, settings.gradient_checkpointing
    )
    work = max(
        part.head_work(vlm, answers, element, triton=plan.device == "cuda"),
        part.layer_work(vlm, settings.batch_size * tokens, element),
    )
    return Need(
        "finetune",
        {
            "weights": part.weights(vlm, element, plan.settings.model.quantization),
            "adapter, gradients, optimizer": part.training_state(values, element, further),
            "activations": saved,
            "picture features": part.picture_features(vlm, settings.batch_size, element),
            "work": work,
        },
    )


def fitting_batch(plan: Planned, free: int) -> int:
    """The largest batch of the search that USED of `free` holds, 1 where none does; found by halving."""
    most = MOST_ON_GPU if plan.device == "cuda" else MOST_ON_CPU
    least = 1
    free -= PROGRAM["cuda" if plan.device == "cuda" else "cpu"]
    while least < most:
        middle = (least + most + 1) // 2
        if generate_need(plan, middle).total <= USED * free:
            least = middle
        else:
            most = middle - 1
    return least
