"""Models on the Hugging Face Hub, looked at or downloaded. The only file that imports huggingface_hub."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from octuor.checkpoint.tensors import DTYPES
from octuor.errors import CheckpointError

# Beside the weights: configs, quantizers' settings, tokenizers.
SMALL = ["*.json", "tokenizer.model*"]
# Which of a repository's weights are downloaded: the first kind that it has, for many hold the same weights twice.
KINDS = (
    ["model*.safetensors", "*gptq*.safetensors", "*awq*.safetensors", "output*.safetensors"],
    ["consolidated*.safetensors"],
    ["pytorch_model*.bin"],
    ["consolidated*.pt", "consolidated*.pth"],
    ["*.safetensors"],
    ["qmodel.pt"],
)


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

    others = CheckpointError(
        f"{repo_id}: expected config.json and safetensors files on the Hub, found others; "
        "download the file you want and name it"
    )
    if ":" in repo_id:  # a GGUF file
        raise others
    with _explained(repo_id):
        try:
            config = Path(hf_hub_download(repo_id, "config.json")).read_bytes()
            disable_progress_bars()
            try:
                found = HfApi().get_safetensors_metadata(repo_id)
            finally:
                enable_progress_bars()
        except (errors.EntryNotFoundError, errors.NotASafetensorsRepoError) as error:
            raise others from error
    widths = {name: dtype.itemsize for name, dtype in DTYPES.items()}
    return HubModel(
        config, {name.lower(): count * widths.get(name, 1) for name, count in found.parameter_count.items()}
    )


def download(model: str) -> Path:
    """What holds the model `org/name`, downloaded unless it is in huggingface_hub's cache: its folder.

    model  `org/name:Q4_K_M` takes the GGUF file, or its shards, with these letters in the name, and returns the first

    Progress, resuming, the cache's place and access tokens are huggingface_hub's own.
    Raises CheckpointError if the model is not there, needs a login, or cannot be reached, and where a repository has
    GGUF files of which none, or more than one, is named.
    """
    from huggingface_hub import snapshot_download

    repo_id, _, wanted = model.partition(":")
    with _explained(repo_id):
        names = _file_names(repo_id)
        if wanted or _is_gguf_only(names):
            chosen = _choose_gguf(repo_id, names, wanted)
            folder = Path(snapshot_download(repo_id, allow_patterns=chosen))
            return folder / chosen[0]
        return Path(snapshot_download(repo_id, allow_patterns=[*_weights(names), *SMALL]))


def _file_names(repo_id: str) -> list[str]:
    """Files of a repository; none where there is no network, for the model may be in the cache all the same."""
    from huggingface_hub import HfApi, errors

    transport_error = _transport_error()
    try:
        return sorted(HfApi().list_repo_files(repo_id))
    except (errors.GatedRepoError, errors.RepositoryNotFoundError):
        raise
    except (OSError, transport_error):
        return []


def _weights(names: Sequence[str]) -> list[str]:
    """Patterns of the weights to take; all kinds where the names are not known."""
    for patterns in KINDS:
        if any(fnmatch(name, pattern) for name in names for pattern in patterns):
            return patterns
    return [pattern for patterns in KINDS for pattern in patterns]


def _is_gguf_only(names: Sequence[str]) -> bool:
    has_weights = any(fnmatch(name, pattern) for name in names for patterns in KINDS for pattern in patterns)
    return not has_weights and any(name.endswith(".gguf") for name in names)


def _choose_gguf(repo_id: str, names: Sequence[str], wanted: str) -> list[str]:
    """The one GGUF file whose name has these letters, with all its shards."""
    files = [name for name in names if name.endswith(".gguf")]
    models: dict[str, list[str]] = {}
    for name in files:
        if wanted.lower() in name.lower():
            models.setdefault(re.sub(r"-\d{5}-of-\d{5}(?=\.gguf$)", "", name), []).append(name)
    if len(models) != 1:
        found = ", ".join(files[:6]) + (", ..." if len(files) > 6 else "")
        raise CheckpointError(
            f"{repo_id}: expected one GGUF file with {wanted!r} in its name, found {len(models)} of "
            f"{found or 'none'}; name one, as in {repo_id}:Q4_K_M"
        )
    return next(iter(models.values()))


@contextmanager
def _explained(repo_id: str) -> Iterator[None]:
    """Failures of the Hub as CheckpointErrors that say what to do."""
    from huggingface_hub import errors

    transport_error = _transport_error()
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


def _transport_error() -> type[BaseException]:
    """The HTTP library's own, whichever this version of huggingface_hub uses."""
    from huggingface_hub import errors

    return errors.HfHubHTTPError.__bases__[0]


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
