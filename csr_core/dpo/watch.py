"""What is watched while training runs: progress, numbers that are none, and when to save. Imports transformers."""

from __future__ import annotations

import math
import time
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from csr_core.dpo.ranks import by_first
from csr_core.errors import CsrError
from csr_core.progress import Progress, show_figure

# What is shown of TRL's log while training runs.
FIGURES = {"loss": "loss {value:.3f}", "rewards/accuracies": "chosen > rejected {value:.0%}"}


class TrainingError(CsrError):
    """Training went where no further step makes sense."""


class Watch(TrainerCallback):
    """Shows each step, stops on a loss that is no number, and asks for a checkpoint every `save_every` seconds."""

    def __init__(self, bar: Progress, save_every: float) -> None:
        self.bar, self.save_every = bar, save_every
        self._saved = time.monotonic()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.global_step:
            self.bar.advance(state.global_step, earlier=True)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        now = time.monotonic()
        due = now - self._saved >= self.save_every
        if state.global_step < state.max_steps and by_first(lambda: due):
            self._saved = now
            control.should_save = True

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if not logs or "loss" not in logs:
            return
        loss = logs["loss"]
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss of step {state.global_step} is {loss}: training stopped, nothing was kept. Likely a "
                f"learning rate that is too high (finetune.learning_rate = {args.learning_rate}), float16 overflow "
                "(set model.dtype to bfloat16 or float32), or a base model that is broken (try `csr check`)"
            )
        # The mean of as many as the stage's summary takes it of.
        last = [row for row in state.log_history[-max(1, len(state.log_history) // 10) :] if "loss" in row]
        for name, text in FIGURES.items():
            show_figure(text, sum(row[name] for row in last if name in row) / len(last))
        self.bar.advance(1)
