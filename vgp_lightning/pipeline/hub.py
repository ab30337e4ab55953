"""A planner on the Hugging Face Hub: fetched without its code, and uploaded as a whole folder."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, snapshot_download  # diffusers needs it, so it is there
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

# All that a planner is made of: data. No code, and weights in the format safetensors alone.
_FETCHED = (
    *("model_index.json", "scheduler/scheduler_config.json", "*/config.json"),
    *("*/diffusion_pytorch_model*.safetensors", "training/*.yaml", "README.md", "evaluation.json", "rollout.gif"),
)
_OPTIONS = ("revision", "token", "cache_dir", "force_download", "local_files_only")
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def is_repository(name: str) -> bool:
    """Return whether a name can be that of a repository on the Hub, such as ``me/hopper``, and of no local folder."""
    path = Path(name)
    return _REPOSITORY.fullmatch(name) is not None and not path.exists() and not path.parent.exists()


def fetch_folder(repository: str, options: Mapping[str, Any] | None = None) -> Path:
    """Download a planner from the Hub, without its code, and return its folder in the library's cache.

    Args:
        repository: Its name, such as ``me/hopper``.
        options: Those of ``from_pretrained``, of which revision, token, cache_dir, force_download and local_files_only
            are used.

    Raises:
        ValueError: If the Hub has no such planner, or cannot be reached and the cache has none.
    """
    used = {name: value for name, value in (options or {}).items() if name in _OPTIONS and value is not None}
    try:
        folder = Path(snapshot_download(repository, allow_patterns=list(_FETCHED), **used))
    except (LocalEntryNotFoundError, HFValidationError, HfHubHTTPError, OSError) as error:
        reason = "cannot be reached" if isinstance(error, LocalEntryNotFoundError) else "has no such repository for you"
        raise ValueError(
            f"there is no folder {repository} here, and the Hugging Face Hub {reason} ({type(error).__name__}). Give "
            "the path of a folder, or the name of a repository; for a private one log in first: hf auth login"
        ) from error
    if not (folder / "model_index.json").is_file():
        raise ValueError(f"{repository} on the Hugging Face Hub has no model_index.json, so it is no planner")
    return folder


def find_origin(name: object) -> Path | None:
    """Return the folder that a planner was loaded from; None: it was not, or the folder is gone.

    Args:
        name: What diffusers notes of it: a folder, or the name of a repository on the Hub.

    Raises:
        ValueError: If the Hub cannot be reached.
    """
    if name and is_repository(str(name)):  # loaded by diffusers, which fetches neither card nor configs
        return fetch_folder(str(name))
    return Path(str(name)) if name and Path(str(name)).is_dir() else None


def upload_folder(
    folder: Path,
    repository: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    commit_message: str | None = None,
    create_pr: bool = False,
    subfolder: str | None = None,
) -> str:
    """Upload a folder to the Hub, into a repository that is made if there is none, and return the commit's address.

    Args:
        folder: The pipeline folder.
        repository: Its name, such as ``me/hopper``.
        private: Whether a new repository is private; None: as the account has it.
        token: The account's; None: that of ``hf auth login``.
        commit_message: What the commit says.
        create_pr: Open a pull request in place of a commit.
        subfolder: Where in the repository; None: at its top.

    Raises:
        ValueError: If the Hub refuses it or cannot be reached.
    """
    api = HfApi(token=token)
    try:
        made = api.create_repo(repository, private=private, exist_ok=True).repo_id
        done = api.upload_folder(
            repo_id=made,
            folder_path=folder,
            path_in_repo=subfolder,
            commit_message=commit_message or "Upload ValueGuidedPlannerPipeline",
            create_pr=create_pr,
            ignore_patterns=[".*", "*.old/*", "*.building-*/*"],
        )
    except Exception as error:  # also those of the library's transport, which is none of its documented types
        raise ValueError(
            f"{folder} could not be put on the Hugging Face Hub as {repository}: {type(error).__name__}: {error}. Log "
            "in with a token that may write: hf auth login"
        ) from error
    return str(done)
