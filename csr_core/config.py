"""Every setting of a run, as validated models of `params.yaml`.

Unknown keys, wrong types and impossible values are all reported at once (`csr_core.params`), each with its place in
the file. What each value means stands beside it in `params.yaml`; the presets are in `csr_core.presets`.
"""

from __future__ import annotations

from math import gcd
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelSettings(_Section):
    """The policy: any image-text-to-text checkpoint (`miniature`, a directory, or a hub name)."""

    path: str = "miniature"
    revision: str | None = None
    adapter: str | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    quantization: Literal["nf4", "int8"] | None = None
    device: str = "auto"
    prompt_template: str | None = None
    image_backend: Literal["default", "pil"] = "default"
    trust_remote_code: bool = False


class DataSettings(_Section):
    """Where the prompts of an iteration come from."""

    prompts: str = "miniature"
    images: str | None = None
    prompt: str = "Describe this image in detail."
    per_iteration: int | None = Field(300, ge=1)
    max_pixels: int = Field(50_000_000, ge=1)
    max_prompt_characters: int = Field(4000, ge=1)


class GenerateSettings(_Section):
    """The search over sentences."""

    method: Literal["sample", "diverse_beam"] = "sample"
    width: int = Field(5, ge=2)
    temperature: float = Field(1.0, gt=0.0)
    beam_groups: int = Field(5, ge=1)
    diversity_penalty: float = Field(3.0, ge=0.0)
    keep_best: int = Field(2, ge=0)
    keep_worst: int = Field(2, ge=0)
    keep_by: Literal["reward", "likelihood"] = "reward"
    max_sentences: int | None = Field(8, ge=1)
    max_sentence_tokens: int = Field(70, ge=1)
    max_characters: int | None = Field(None, ge=1)
    sentence_end: Literal["text", "token"] = "text"
    batch_size: int | None = Field(None, ge=1)
    shard_size: int = Field(75, ge=1)

    @model_validator(mode="after")
    def _grows(self) -> GenerateSettings:
        if self.keep_best + self.keep_worst == 0:
            raise ValueError("keep_best and keep_worst are both 0: no node would be grown; set at least one of them")
        if self.method == "diverse_beam" and self.width % self.beam_groups:
            raise ValueError(
                f"width ({self.width}) must be a multiple of beam_groups ({self.beam_groups}): change one of them"
            )
        if self.max_sentences is None and self.max_characters is None:
            raise ValueError("max_sentences and max_characters are both null: a response could grow for ever")
        return self


class RewardSettings(_Section):
    """The reward of a sentence: `image_weight * R_I + (1 - image_weight) * R_T` (equation 4 of the paper)."""

    model: str | list[str] = "miniature"
    device: str = "auto"
    image_weight: float = Field(0.9, ge=0.0, le=1.0)
    combine: Literal["value", "rank"] = "value"
    likelihood: Literal["probability", "mean_probability", "log_probability", "mean_log_probability", "beam_score"] = (
        "probability"
    )
    likelihood_scale: Literal["raw", "standardised"] = "raw"
    relevance_floor: bool = True
    repeats_earn_nothing: bool = False
    clean_text: bool = False
    allow_weak: bool = False
    batch_size: int | None = Field(None, ge=1)

    @property
    def models(self) -> list[str]:
        """The names of the model, or of those of the ensemble."""
        return [self.model] if isinstance(self.model, str) else self.model

    @model_validator(mode="after")
    def _named_once(self) -> RewardSettings:
        if not self.models or len(set(self.models)) < len(self.models):
            raise ValueError(f"model is {self.model!r}: expected a model, or a list of different ones")
        return self


class PairSettings(_Section):
    """From scored trees to (chosen, rejected) pairs."""

    path_score: Literal["sum", "mean", "centred_sum", "threshold_sum", "rank_mean"] = "sum"
    threshold: float = Field(0.67, gt=0.0, lt=1.0)
    min_margin: float = Field(0.0, ge=0.0)
    same_length_share: float = Field(0.0, ge=0.0, le=1.0)
    drop_closest: float = Field(0.0, ge=0.0, lt=1.0)
    imported: list[Annotated[int, Field(ge=1)]] = Field(default_factory=list)


class FinetuneSettings(_Section):
    """DPO with LoRA."""

    beta: float = Field(0.1, gt=0.0)
    likelihood_weight: float = Field(0.0, ge=0.0)
    lora_rank: int = Field(128, ge=1)
    lora_alpha: int = Field(256, ge=1)
    lora_dropout: float = Field(0.0, ge=0.0, lt=1.0)
    target_modules: str | None = None
    learning_rate: float = Field(1e-7, gt=0.0)
    scheduler: Literal["constant", "linear", "cosine"] = "cosine"
    warmup_share: float = Field(0.03, ge=0.0, le=1.0)
    epochs: float = Field(1.0, gt=0.0)
    batch_size: int = Field(1, ge=1)
    accumulation: int = Field(1, ge=1)
    max_tokens: int | None = Field(None, ge=1)
    group_by_length: bool = False
    gradient_checkpointing: bool = False
    carry: Literal["adapter", "merged"] = "adapter"
    held_out_share: float = Field(0.0, ge=0.0, lt=1.0)

    def divides_by(self, processes: int) -> bool:
        """Whether the pairs of an update can be shared out evenly among so many processes."""
        return self.batch_size * self.accumulation % processes == 0

    def shared_by(self, processes: int) -> FinetuneSettings:
        """What each of so many processes does, so that together they do the same: fewer steps, then smaller ones."""
        by_steps = gcd(self.accumulation, processes)
        sizes = {
            "accumulation": self.accumulation // by_steps,
            "batch_size": self.batch_size // (processes // by_steps),
        }
        return self.model_copy(update=sizes)


class SplitSettings(_Section):
    """One held-out split: a folder in COCO's formats, or files named one by one."""

    folder: str
    count: int | None = Field(None, ge=1)


class JudgeSettings(_Section):
    """An endpoint of OpenAI's chat protocol; its key comes from the environment alone (`csr_core.evaluation.judge`)."""

    url: str = Field(pattern=r"^https?://[^@\s]+$")  # no user and password in it
    model: str


class EvaluateSettings(_Section):
    """What is measured after each iteration."""

    splits: dict[str, SplitSettings] = Field(
        default_factory=lambda: {
            "test": SplitSettings(folder="miniature:test", count=500),
            "shifted": SplitSettings(folder="miniature:shifted", count=500),
        }
    )
    benchmarks: dict[str, str] = Field(default_factory=dict)  # name -> folder
    judge: JudgeSettings | None = None
    max_new_tokens: int = Field(128, ge=1)
    batch_size: int | None = Field(None, ge=1)
    shard_size: int = Field(500, ge=1)
    bootstrap: int = Field(2000, ge=100)
    held_out_model: str | None = None
    best_by: str = "chair_i"
    twins: dict[str, str] = Field(default_factory=lambda: {"test": "shifted"})

    @model_validator(mode="after")
    def _twins_differ(self) -> EvaluateSettings:
        if same := [name for name, twin in self.twins.items() if name == twin]:
            raise ValueError(f"twins names {same} as the shifted twin of itself: expected two different splits")
        return self

    @model_validator(mode="after")
    def _known_benchmarks(self) -> EvaluateSettings:
        if self.benchmarks:
            from csr_core.evaluation.benchmarks import BENCHMARKS  # takes a moment, and most runs have none

            if unknown := sorted(set(self.benchmarks) - set(BENCHMARKS)):
                raise ValueError(f"benchmarks has {unknown}: expected names among {', '.join(BENCHMARKS)}")
            if both := sorted(set(self.benchmarks) & set(self.splits)):
                raise ValueError(
                    f"{both} names a split and a benchmark, whose figures need two names: rename the split"
                )
        return self


class GuardSettings(_Section):
    """What is watched after each iteration: a threshold for each guard (null: off), and what follows when one fires."""

    reward_up_recall_down: float | None = 0.05
    reward_up_held_out_down: float | None = 0.0
    shorter: float | None = 0.75
    longer: float | None = 1.5
    repetitive: float | None = 0.05
    truncation: float | None = 0.0
    disagreement: float | None = 0.2
    candidate_variety: float | None = 0.7
    answer_variety: float | None = 0.7
    perplexity: float | None = 0.7
    kl: float | None = 0.5
    both_falling: float | None = 5.0
    training_gap: float | None = 0.4
    stop_on: list[str] = Field(
        default_factory=lambda: [
            "reward_up_recall_down",
            "reward_up_held_out_down",
            "shorter",
            "repetitive",
            "truncation",
        ]
    )
    after_stop: Literal["end", "go_back"] = "end"

    @model_validator(mode="after")
    def _known(self) -> GuardSettings:
        guards = set(type(self).model_fields) - {"stop_on", "after_stop"}
        if unknown := sorted(set(self.stop_on) - guards):
            raise ValueError(f"stop_on names {', '.join(unknown)}: expected guards, {', '.join(sorted(guards))}")
        return self


class RunSettings(_Section):
    """How the work is spread over processes and machines; nothing here changes what comes out."""

    workers: int = Field(1, ge=1)
    task_runner: Literal["threads", "processes", "ray"] = "threads"
    ray_address: str | None = None
    retries: int = Field(2, ge=0)
    num_processes: int | None = Field(None, ge=1)
    fsdp: bool = False


class TrackingSettings(_Section):
    """Where runs are recorded; null keeps all under `mlruns/` of the working folder."""

    mlflow_uri: str | None = None
    experiment: str = "csr"


class Settings(_Section):
    """The whole of `params.yaml`."""

    preset: Literal["paper", "authors-code", "steady"] = "steady"
    seed: int = Field(0, ge=0)
    iterations: int = Field(3, ge=1)
    model: ModelSettings = ModelSettings()
    data: DataSettings = DataSettings()
    generate: GenerateSettings = GenerateSettings()
    reward: RewardSettings = RewardSettings()
    pair: PairSettings = PairSettings()
    finetune: FinetuneSettings = FinetuneSettings()
    evaluate: EvaluateSettings = EvaluateSettings()
    guards: GuardSettings = GuardSettings()
    run: RunSettings = RunSettings()
    tracking: TrackingSettings = TrackingSettings()

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        if self.model.quantization and self.finetune.carry == "merged":
            raise ValueError(
                f"model.quantization is {self.model.quantization!r} and finetune.carry is 'merged': an adapter cannot "
                "be merged into rounded weights without loss; set finetune.carry to 'adapter', or quantization to null"
            )
        ranks = self.reward.combine == "rank"
        if ranks != (self.pair.path_score == "rank_mean"):
            raise ValueError(
                f"reward.combine is {self.reward.combine!r} and pair.path_score is {self.pair.path_score!r}: "
                "ranks and 'rank_mean' go together (as in the authors-code preset); change one of them"
            )
        if ranks and self.reward.repeats_earn_nothing:
            raise ValueError("reward.repeats_earn_nothing has no meaning for ranks: set it to false")
        logs = self.reward.likelihood.endswith("log_probability") and self.reward.likelihood_scale == "raw"
        if self.pair.path_score == "threshold_sum" and logs and self.reward.image_weight < 1:
            raise ValueError(
                f"pair.path_score is 'threshold_sum', which needs rewards above 0, and reward.likelihood is "
                f"{self.reward.likelihood!r}, whose are below: take 'probability', or path_score 'centred_sum'"
            )
        if self.evaluate.held_out_model in self.reward.models:
            raise ValueError(
                f"evaluate.held_out_model is {self.evaluate.held_out_model!r}, which is in reward.model too: a model "
                "that is trained on cannot watch; name another one, or null"
            )
        processes = self.run.num_processes
        if processes and not self.finetune.divides_by(processes):
            size, steps = self.finetune.batch_size, self.finetune.accumulation
            raise ValueError(
                f"run.num_processes is {processes}, which does not divide the pairs of an update, finetune.batch_size "
                f"x finetune.accumulation = {size} x {steps}: change one of them; null takes as many as fit"
            )
        if self.run.fsdp and self.finetune.carry == "merged":
            raise ValueError(
                "run.fsdp is true, and finetune.carry is 'merged', which needs the whole model in one place: set carry "
                "to 'adapter'"
            )
        if self.generate.keep_by == "reward" and self.reward.likelihood == "beam_score":
            raise ValueError(
                "generate.keep_by is 'reward', but reward.likelihood is 'beam_score', which the growing tree does not "
                "know yet: set keep_by to 'likelihood' (as the authors) or another form of likelihood"
            )
        return self
