"""Where a named model lies on this machine, and what to do where it does not. Nothing is fetched here."""

from __future__ import annotations

import os
from pathlib import Path

OFFLINE = "HF_HUB_OFFLINE"
SECONDS = 10.0  # to wait for the hub's answer


def cached(name: str, revision: str | None = None) -> Path | None:
    """The snapshot of a hub's model in the local cache, whole or not; None where nothing of it was fetched."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None


def to_do(name: str, revision: str | None = None, size: str = "") -> str:
    """How to get a hub's model onto this machine. `size`: such as "14.1 GB"."""
    at = f" --revision {revision}" if revision else ""
    offline = f" ({OFFLINE} is set: nothing is fetched while it is)" if os.environ.get(OFFLINE) else ""
    return (
        f"fetch it with `hf download {name}{at}`{f', {size}' if size else ''}{offline}; without network here, do so on "
        "another machine and copy its cache (set HF_HOME to where it lies), or give the folder of a copy as model.path"
    )


def problem(name: str, revision: str | None = None) -> str | None:
    """What keeps a hub's model from being fetched, and what to do about it; None where nothing is known to."""
    from huggingface_hub import HfApi, errors

    # Of the hub's HTTP library, which is another in other versions.
    http_error: type[Exception] = errors.HfHubHTTPError.__mro__[1]
    try:
        HfApi().model_info(name, revision=revision, timeout=SECONDS)
    except errors.HfHubHTTPError as error:  # the hub's answer; None where it may be another one in a minute
        return told(name, revision, error)
    except (OSError, http_error):
        return told(name, revision, errors.OfflineModeIsEnabled())
    except ValueError:  # no name that the hub could know: the stage says so
        return None
    return None


def told(name: str, revision: str | None, error: BaseException) -> str | None:
    """What went wrong with a hub's model and what to do about it, from the hub's own errors behind `error`.

    None where the cause is another one.
    """
    from huggingface_hub import errors

    page = f"https://huggingface.co/{name}"
    for cause in _causes(error):
        if isinstance(cause, errors.GatedRepoError):
            return (
                f"{name} is gated: accept its licence at {page} with your account, then log in on this machine with "
                "`hf auth login` (or `huggingface-cli login`), or set HF_TOKEN"
            )
        if isinstance(cause, errors.RevisionNotFoundError):
            return (
                f"{name} has no revision {revision!r}: set model.revision to a branch, tag or commit of {page}, "
                "or to null"
            )
        if isinstance(cause, errors.RepositoryNotFoundError):
            return (
                f"there is no model {name} on the hub, or it is private: check the name in model.path; for a private "
                "one log in with `hf auth login`"
            )
        if isinstance(cause, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled):
            return f"{name} is not on this machine and the hub cannot be reached: {to_do(name, revision)}"
    return None


def _causes(error: BaseException) -> list[BaseException]:
    found: list[BaseException] = []
    one: BaseException | None = error
    while one is not None and one not in found:
        found.append(one)
        one = one.__cause__ or one.__context__
    return found
