"""Whether a named reward model is on this machine. Nothing is fetched here."""

from __future__ import annotations

import os
from pathlib import Path

from csr_core.config import RewardSettings
from csr_core.policy.sources import OFFLINE, cached, problem


def not_here(settings: RewardSettings) -> str | None:
    """What to do to have `reward.model` on this machine; None where it is here, or where that cannot be told."""
    return next((told for name in settings.models if (told := _not_here(name))), None)


def unreachable(settings: RewardSettings) -> str | None:
    """As `not_here`, of the first model that cannot be fetched either."""
    for name in settings.models:
        if (told := _not_here(name)) and problem(str(_hub_name(name))):
            return told
    return None


def _not_here(name: str) -> str | None:
    hub = _hub_name(name)
    if hub is None:
        return None
    folder = cached(hub)
    if folder is not None and any(file.suffix in (".safetensors", ".bin", ".pt") for file in folder.iterdir()):
        return None
    offline = f" ({OFFLINE} is set: nothing is fetched while it is)" if os.environ.get(OFFLINE) else ""
    return (
        f"{name} is not on this machine: fetch it with `hf download {hub}`{offline}; without network here, "
        "do so on another machine and copy its cache (set HF_HOME to where it lies), or give an open_clip folder as "
        "reward.model"
    )


def _hub_name(model: str) -> str | None:
    """OWNER/NAME of the weights that `reward.model` names; None of a folder, a file, or what is fetched otherwise."""
    name, _, pretrained = model.partition(":")
    if not pretrained or name == "local-dir" or Path(model).exists() or Path(pretrained).is_file():
        return None
    if name == "hf-hub":
        return pretrained
    from csr_core.memory.shapes import known_towers

    if model in known_towers():
        return str(known_towers()[model]["hub"])
    import open_clip

    known = (open_clip.get_pretrained_cfg(name, pretrained) or {}).get("hf_hub")
    return "/".join(known.split("/")[:2]) if known else None
