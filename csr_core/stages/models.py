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
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return [Path(snapshot_download(settings.path, local_files_only=True))]
    except (LocalEntryNotFoundError, HFValidationError):
        return []  # not here yet: the name, which is among the settings, stands for it


def reward_files(settings: RewardSettings) -> list[Path]:
    """The folder of the reward model; none for a named open_clip model, whose name and tag fix its weights."""
    if settings.model == "miniature":
        from csr_core.miniature.weights import shipped

        return [shipped("clip")]
    folder = Path(settings.model)
    return [folder] if folder.is_dir() else []
