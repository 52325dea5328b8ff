"""Where the files of a named model lie, so that a stage depends on their content and not on the name."""

from __future__ import annotations

from pathlib import Path

from csr_core.config import ModelSettings, RewardSettings


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
    """The folder of the reward model; none for a named open_clip model, whose name and tag fix its weights."""
    if settings.model == "miniature":
        from csr_core.miniature.weights import shipped

        return [shipped("clip")]
    folder = Path(settings.model)
    return [folder] if folder.is_dir() else []
