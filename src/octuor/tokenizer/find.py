"""Where Mixtral's genuine tokenizer file lies on this machine when no checkpoint brings one."""

from importlib.util import find_spec
from pathlib import Path

from octuor.errors import TokenizerError


def find_mistral_common_tokenizer(version: str = "v1") -> Path:
    """Path of the SentencePiece model inside the package mistral-common, which is not imported (0.6 s).

    version   "v1": 32,000 pieces, Mixtral 8x7B and Mistral 7B; "v3": 32,768 pieces, Mixtral 8x22B Instruct

    Raises TokenizerError if the package is not installed or no longer ships the file.
    """
    spec = find_spec("mistral_common")
    if spec is None or not spec.submodule_search_locations:
        raise TokenizerError(
            "Mixtral's tokenizer: expected it in the package mistral-common, which is not installed; "
            "run `pip install mistral-common` or name a tokenizer.model"
        )
    folder = Path(spec.submodule_search_locations[0]) / "data"
    found = sorted(folder.glob(f"*tokenizer*.model.{version}"))
    if not found:
        raise TokenizerError(
            f"{folder}: expected a tokenizer.model.{version}, this mistral-common has none; "
            "install another version of mistral-common or name a tokenizer.model"
        )
    return found[-1]  # the newest: the names carry the date
