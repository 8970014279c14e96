"""Models on the Hugging Face Hub, looked at or downloaded. The only file that imports huggingface_hub."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from octuor.checkpoint.tensors import DTYPES
from octuor.errors import CheckpointError

PATTERNS = ["*.safetensors", "*.json", "tokenizer.model*"]
# Mistral's own copy of the same weights, which would double the download
IGNORED = ["consolidated*"]


@dataclass(frozen=True)
class HubModel:
    """What a repository says of itself before anything is downloaded.

    config   contents of its config.json
    formats  dtype of its tensors, in lower case -> bytes
    """

    config: bytes
    formats: Mapping[str, int]


def find_model(repo_id: str) -> HubModel:
    """Look at the model `org/name`: its config.json and the headers of its safetensors files, some hundred kB.

    Raises CheckpointError as download does, and where the repository holds no safetensors files.
    """
    from huggingface_hub import HfApi, errors, hf_hub_download
    from huggingface_hub.utils.tqdm import disable_progress_bars, enable_progress_bars

    with _explained(repo_id):
        try:
            config = Path(hf_hub_download(repo_id, "config.json")).read_bytes()
            disable_progress_bars()
            try:
                found = HfApi().get_safetensors_metadata(repo_id)
            finally:
                enable_progress_bars()
        except (errors.EntryNotFoundError, errors.NotASafetensorsRepoError) as error:
            raise CheckpointError(
                f"{repo_id}: expected config.json and safetensors files on the Hub, found others; "
                "download the file you want and name it"
            ) from error
    widths = {name: dtype.itemsize for name, dtype in DTYPES.items()}
    return HubModel(
        config, {name.lower(): count * widths.get(name, 1) for name, count in found.parameter_count.items()}
    )


def download(repo_id: str) -> Path:
    """The folder that holds the model `org/name`, downloaded unless it is in huggingface_hub's cache.

    Progress, resuming, the cache's place and access tokens are huggingface_hub's own.
    Raises CheckpointError if the model is not there, needs a login, or cannot be reached.
    """
    from huggingface_hub import snapshot_download

    with _explained(repo_id):
        return Path(snapshot_download(repo_id, allow_patterns=PATTERNS, ignore_patterns=IGNORED))


@contextmanager
def _explained(repo_id: str) -> Iterator[None]:
    """Failures of the Hub as CheckpointErrors that say what to do."""
    from huggingface_hub import errors

    # the HTTP library's own, whichever this version uses
    transport_error: type[BaseException] = errors.HfHubHTTPError.__bases__[0]

    try:
        yield
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
