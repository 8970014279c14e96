"""Download a model from the Hugging Face Hub. The only file that imports huggingface_hub."""

from __future__ import annotations

from pathlib import Path

from octuor.errors import CheckpointError

PATTERNS = ["*.safetensors", "*.json", "tokenizer.model*"]
# Mistral's own copy of the same weights, which would double the download
IGNORED = ["consolidated*"]


def download(repo_id: str) -> Path:
    """The folder that holds the model `org/name`, downloaded unless it is in huggingface_hub's cache.

    Progress, resuming, the cache's place and access tokens are huggingface_hub's own.
    Raises CheckpointError if the model is not there, needs a login, or cannot be reached.
    """
    from huggingface_hub import errors, snapshot_download

    # the HTTP library's own, whichever this version uses
    transport_error: type[BaseException] = errors.HfHubHTTPError.__bases__[0]

    try:
        return Path(snapshot_download(repo_id, allow_patterns=PATTERNS, ignore_patterns=IGNORED))
    except errors.GatedRepoError as error:
        raise CheckpointError(
            f"{repo_id}: its owner asks you to accept terms; do so at https://huggingface.co/{repo_id}, "
            "then run `hf auth login`"
        ) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise CheckpointError(
            f"{repo_id}: no such folder here and no such model on the Hugging Face Hub; check the spelling, "
            "or run `hf auth login` if it is private"
        ) from error
    except (OSError, transport_error) as error:
        raise CheckpointError(
            f"{repo_id}: no such folder here, and the Hugging Face Hub could not be reached or the download "
            f"failed ({_first_line(error)}); try again with a network (finished files are kept), or name a folder "
            "with config.json and *.safetensors, or a pack made by `octuor convert`"
        ) from error


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
