"""The short trial of a reward model before a run, remembered by content of the model and of the annotations."""

from __future__ import annotations

import importlib.metadata
from dataclasses import asdict
from pathlib import Path

from csr_core.config import Settings
from csr_core.digests import Digests, digest_value
from csr_core.errors import CsrError, SettingsError
from csr_core.finding import Finding
from csr_core.prompts import MINIATURE
from csr_core.records import read_json, write_json
from csr_core.reward.claims import wordings
from csr_core.reward.trial import BARS, OVERALL, Trial
from csr_core.reward.trial_data import NO_ANNOTATIONS, SHORT, find_data, instances_of, try_model

VERSION = 1  # raised when the trial's code changes what it finds
FILE = "reward_trial.json"  # in the run's folder of remembered things
SHIPPED = "miniature"  # what reward.model calls the CLIP of the drawn world

ALLOWED = "reward.allow_weak is set: the reward model is not held to its trial"


def needs_none(settings: Settings) -> bool:
    """Whether no trial is asked for: all pairs are imported and nothing is rewarded, or the model is known to pass.

    That is the shipped one on its own world.
    """
    if set(range(1, settings.iterations + 1)) <= set(settings.pair.imported):
        return True
    return settings.data.prompts == MINIATURE and settings.reward.models == [SHIPPED]


def is_due(settings: Settings) -> bool:
    """Whether a run needs a trial first, and there is something to try the model on; not where any model is allowed."""
    if settings.reward.allow_weak or needs_none(settings):
        return False
    return settings.data.prompts == MINIATURE or instances_of(settings) is not None


def unfit(settings: Settings) -> str:
    """Why the reward model is refused without a trial: the shipped one on pictures of another world; else nothing.

    Where the prompts' own pictures are annotated, a trial says more: they may be drawn scenes.
    """
    if needs_none(settings) or settings.data.prompts == MINIATURE or SHIPPED not in settings.reward.models:
        return ""
    if instances_of(settings, splits=False) is not None:
        return ""
    return (
        f"reward.model is 'miniature', whose CLIP knows drawn scenes alone, and data.prompts is "
        f"{settings.data.prompts}: its rewards of other pictures are noise, and so is what a model learns from them. "
        "Name a reward.model that knows such pictures (docs/reward-models.md), or go on all the same with "
        "--set reward.allow_weak=true"
    )


def untried(settings: Settings) -> str:
    """For the report: that the run went on whatever its reward model is worth; else nothing."""
    if not settings.reward.allow_weak or needs_none(settings):
        return ""
    told = "reward.allow_weak was set: the reward model was not held to its trial"
    if unfit(settings):
        return f"{told}. It is the miniature's, which knows drawn scenes alone: rewards of other pictures are noise"
    return f"{told}, and nothing here says that its rewards are right (csr reward check)"


def refuse_unfit(settings: Settings) -> None:
    """Raise a SettingsError where the reward model is refused without a trial; it looks at names of files alone."""
    if (why := unfit(settings)) and not settings.reward.allow_weak:
        raise SettingsError(why)


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


def tried(settings: Settings, state: Path) -> Finding:
    """A line of `csr check`: what the short trial found, and whether a run may start; a note where none was made."""
    name, allowed = "reward trial", settings.reward.allow_weak
    if why := unfit(settings):
        return Finding(allowed, name, why, note=allowed)
    try:
        trial = short_trial(settings, state)
    except CsrError as error:
        return Finding(True, name, f"not made: {error}", note=True)
    if trial is None:
        return Finding(True, name, f"not made: {NO_ANNOTATIONS}", note=True)
    if not trial.passed:
        return Finding(allowed, name, refusal(trial), note=allowed)
    share = trial.figures[OVERALL]
    told = (
        f"{100 * share.value:.1f} % ({100 * share.low:.1f} - {100 * share.high:.1f}) of true sentences above false ones"
    )
    return Finding(True, name, f"{told} on {trial.data}")


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
