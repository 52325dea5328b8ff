"""The short trial of a reward model before a run, remembered by content of the model and of the annotations."""

from __future__ import annotations

import importlib.metadata
from dataclasses import asdict
from pathlib import Path

from csr_core.config import Settings
from csr_core.digests import Digests, digest_value
from csr_core.errors import CsrError, SettingsError
from csr_core.prompts import MINIATURE
from csr_core.records import read_json, write_json
from csr_core.reward.claims import wordings
from csr_core.reward.trial import BARS, OVERALL, Trial
from csr_core.reward.trial_data import NO_ANNOTATIONS, SHORT, find_data, instances_of, try_model

VERSION = 1  # raised when the trial's code changes what it finds
FILE = "reward_trial.json"  # in the run's folder of remembered things


def is_due(settings: Settings) -> bool:
    """Whether a run needs a trial first, and there is something to try the model on.

    Not where a setting allows any model, where all pairs are imported and nothing is rewarded, and not of the shipped
    model on its own world, which is known to pass.
    """
    if settings.reward.allow_weak or set(range(1, settings.iterations + 1)) <= set(settings.pair.imported):
        return False
    if settings.data.prompts == MINIATURE:
        return settings.reward.models != ["miniature"]
    return instances_of(settings) is not None


def kept_trial(settings: Settings, state: Path) -> Trial | None:
    """The short trial of this very model on these very annotations, where there was one; `state`: where it is kept."""
    try:
        kept = read_json(state / FILE)
        return Trial.from_dict(kept["trial"]) if kept["key"] == _key(settings, state) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None  # only a memory


def short_trial(settings: Settings, state: Path) -> Trial | None:
    """The kept one, or a trial now, which is then kept; None where there is nothing to try the model on.

    Raises:
        InputError: the model cannot be loaded, or the annotations cannot be used.
    """
    if (kept := kept_trial(settings, state)) is not None:
        return kept
    data = find_data(settings, short=True)
    if data is None:
        return None
    trial = try_model(settings, data)
    write_json(state / FILE, {"key": _key(settings, state), "trial": trial.as_dict()})
    return trial


def tried(settings: Settings, state: Path) -> tuple[bool, str, str]:
    """A line of `csr check`: whether a run may start, the line's name, and what the short trial found."""
    name = "reward trial"
    try:
        trial = short_trial(settings, state)
    except CsrError as error:
        return True, name, f"not made: {error}"
    if trial is None:
        return True, name, f"not made: {NO_ANNOTATIONS}"
    if not trial.passed:
        return settings.reward.allow_weak, name, refusal(trial)
    share = trial.figures[OVERALL]
    told = (
        f"{100 * share.value:.1f} % ({100 * share.low:.1f} - {100 * share.high:.1f}) of true sentences above false ones"
    )
    return True, name, f"{told} on {trial.data}"


def refusal(trial: Trial) -> str:
    """What is said of a model that does not pass."""
    reasons = "\n".join(f"  - {line}" for line in trial.objections)
    return (
        f"the reward model {trial.model} does not tell true from false sentences well enough on {trial.data}:\n"
        f"{reasons}\n"
        "Trained on such rewards, a model learns to say less or other things, not truer ones. Name another "
        "reward.model (is this one meant for such pictures, are its weights right?), look at all figures with "
        "csr reward check, or go on all the same with --set reward.allow_weak=true"
    )


def refuse_weak(trial: Trial | None) -> None:
    """Raise a SettingsError where the trial was not passed."""
    if trial is not None and not trial.passed:
        raise SettingsError(refusal(trial))


def _key(settings: Settings, state: Path) -> str:
    from csr_core.stages.models import reward_files

    digests = Digests(state / "digests" / "reward_trial.json")
    model = [settings.reward.models, settings.reward.relevance_floor, *map(digests.path, reward_files(settings.reward))]
    data: list[str | None] = [MINIATURE]
    if settings.data.prompts != MINIATURE and (found := instances_of(settings)) is not None:
        data = [digests.path(found[0]), str(found[0].resolve()), str(found[1])]
    digests.save()
    rule = [VERSION, wordings(), {style: asdict(bar) for style, bar in BARS.items()}, SHORT]
    return digest_value([*model, *data, *rule, importlib.metadata.version("open_clip_torch")])
