"""Where the files of a named model lie, so that a stage depends on their content and not on the name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from csr_core.config import ModelSettings, RewardSettings
from csr_core.digests import Digests, digest_value

if TYPE_CHECKING:
    from csr_core.reward.embeddings import Embeddings


def policy_files(settings: ModelSettings) -> list[Path]:
    """The folder of the base checkpoint; of a hub name, its snapshot in the local cache where it was fetched before."""
    if settings.path == "miniature":
        from csr_core.miniature.weights import shipped

        return [shipped("llava")]
    folder = Path(settings.path)
    if folder.is_dir():
        return [folder]
    from csr_core.policy.sources import cached

    here = cached(settings.path, settings.revision)
    return [here] if here else []  # not here yet: the name and revision, which are among the settings, stand for it


def reward_files(settings: RewardSettings) -> list[Path]:
    """The folders of the reward models; none for a named open_clip model, whose name and tag fix its weights."""
    from csr_core.miniature.weights import shipped

    folders = [shipped("clip") if name == "miniature" else Path(name) for name in settings.models]
    return [folder for folder in folders if folder.is_dir()]


def kept_embeddings(settings: RewardSettings, state: Path) -> Embeddings:
    """What the reward model, known by its files, made of pictures before; `state`: the run's folder for such things.

    The device belongs to it, since another one's numbers differ in their last bits.
    """
    import open_clip

    from csr_core.policy.loading import resolve_device
    from csr_core.reward.embeddings import Embeddings

    digests = Digests(state / "digests" / "reward.json")
    files = [digests.path(path) for path in reward_files(settings)]
    digests.save()
    model = digest_value([settings.models, *files, open_clip.__version__, resolve_device(settings.device).type])
    return Embeddings(state / "embeddings.sqlite", model)
