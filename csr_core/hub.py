"""Upload a folder to the Hugging Face hub; only ever because somebody asked for it."""

from __future__ import annotations

from pathlib import Path

from csr_core.errors import InputError


def push(folder: Path, repository: str, private: bool = True) -> str:
    """Upload `folder` as the model `repository` (OWNER/NAME), made first if it is not there; returns its address.

    The token is the one of `hf auth login`, or HF_TOKEN; it is never among the settings.

    Raises:
        InputError: not logged in, no right to write there, the hub is out of reach, or HF_HUB_OFFLINE is set.
    """
    import httpx
    from huggingface_hub import HfApi, constants, get_token
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    if constants.HF_HUB_OFFLINE:
        raise InputError("HF_HUB_OFFLINE is set, so nothing is uploaded: unset it, and push again")
    if get_token() is None:
        raise InputError("nobody is logged in to the hub: run `hf auth login` with a token that may write")
    if repository.count("/") != 1:
        raise InputError(f"expected --to OWNER/NAME, got {repository!r}")
    hub = HfApi(library_name="csr-pipeline")
    try:
        hub.create_repo(repository, private=private, exist_ok=True)
        done = hub.upload_folder(
            folder_path=str(folder), repo_id=repository, commit_message="Model trained by Calibrated Self-Rewarding"
        )
    except (HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, httpx.HTTPError, OSError) as error:
        raise InputError(
            f"{folder} could not be uploaded to {repository}: {error}. May your token write there, and is the hub in "
            "reach? The folder itself is whole; push again when that is mended"
        ) from error
    return str(done.repo_url)
