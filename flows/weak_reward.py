"""No run starts on a reward model that the trial refuses."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path


def refuse_weak_reward(params: Path, overrides: Sequence[str] = ()) -> None:
    """Put the reward model on a short trial, where one is due and was not made before.

    In a process of its own: here neither torch's import nor CUDA is wanted before stages are forked. Where the trial
    itself cannot be made, or a setting does without it, that is printed and the run goes on: its stages say what is
    wrong with the model.

    Raises:
        SettingsError: the model is refused.
    """
    from csr_core.layout import Layout
    from csr_core.params import load_settings
    from csr_core.reward.trial_data import NO_ANNOTATIONS
    from csr_core.reward.verdict import ALLOWED, is_due, kept_trial, needs_none, refuse_unfit, refuse_weak

    settings, state = load_settings(params, overrides), Layout().state
    if needs_none(settings):
        return
    refuse_unfit(settings)
    if not is_due(settings):
        _say_once(ALLOWED if settings.reward.allow_weak else f"the reward model was not tried: {NO_ANNOTATIONS}")
        return
    if (trial := kept_trial(settings, state)) is None:
        print("the reward model on a short trial ...", flush=True)
        command = [sys.executable, "-m", "flows.cli", "reward", "check", "--short", "--force", "--params", str(params)]
        command += [word for change in overrides for word in ("--set", change)]
        done = subprocess.run(command, capture_output=True, text=True)
        trial = kept_trial(settings, state)
        if trial is None:
            _say_once(f"the reward model was not tried: {done.stderr.strip()[-2000:]}")
    refuse_weak(trial)


@cache
def _say_once(line: str) -> None:
    """`csr run` asks before Prefect starts, and its flow again in the same process."""
    print(line, file=sys.stderr, flush=True)
