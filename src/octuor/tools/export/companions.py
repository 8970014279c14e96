"""What goes with the weights into another program's folder: tokenizer files and the chat template."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from octuor.checkpoint.base import Checkpoint
from octuor.errors import CheckpointError
from octuor.tokenizer import Tokenizer, open_tokenizer
from octuor.tools.export.tokenizer_json import tokenizer_json

CARRIED = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja")
# Conversations as tokenizer/instruct.py encodes them. In v1 files [INST] is text, in later ones a control token; a
# blank goes before what follows a control token, which tokenizers add themselves.
_LOOP = (
    "{{{{ bos_token }}}}"
    "{{% if messages[0]['role'] == 'system' %}}{{% set system = messages[0]['content'] %}}"
    "{{% set turns = messages[1:] %}}{{% else %}}{{% set system = '' %}}{{% set turns = messages %}}{{% endif %}}"
    "{{% for message in turns %}}"
    "{{% if message['role'] == 'user' %}}"
    "{{{{ '{inst}' }}}}{{% if system and {system_at} %}}{{{{ system + '\\n\\n' }}}}{{% endif %}}"
    "{{{{ message['content'] + '{end}' }}}}"
    "{{% elif message['role'] == 'assistant' %}}{{{{ '{reply}' + message['content']{trim} + eos_token }}}}"
    "{{% else %}}{{{{ raise_exception('expected the roles user and assistant after a system message') }}}}"
    "{{% endif %}}{{% endfor %}}"
)
_V1 = _LOOP.format(inst="[INST] ", system_at="loop.first", end=" [/INST]", reply=" ", trim="")
_V3 = _LOOP.format(inst="[INST]", system_at="loop.last", end="[/INST]", reply="", trim=".rstrip()")


def tokenizer_files(checkpoint: Checkpoint) -> dict[str, bytes]:
    """The tokenizer by the name that other programs look for, and what lies beside it in the source's folder."""
    files: dict[str, bytes] = {}
    data = checkpoint.tokenizer_bytes()
    if data is not None and checkpoint.tokenizer_kind is not None:
        files[checkpoint.tokenizer_kind] = data
    if checkpoint.source.is_dir():
        found = ((name, checkpoint.source / name) for name in ("tokenizer.json", *CARRIED))
        files |= {name: path.read_bytes() for name, path in found if path.is_file()}
    return files


def huggingface_tokenizer(checkpoint: Checkpoint) -> dict[str, bytes]:
    """All that transformers' AutoTokenizer reads, by name: what lies there, and what is missing made from the rest."""
    files = tokenizer_files(checkpoint)
    tokenizer = checkpoint_tokenizer(checkpoint)
    if tokenizer is not None:
        if "tokenizer.json" not in files:
            files["tokenizer.json"] = tokenizer_json(files["tokenizer.model"])
        files.setdefault("tokenizer_config.json", tokenizer_config(tokenizer))
    return files


def chat_template(checkpoint: Checkpoint) -> str | None:
    """The source's own template, else one for its tokenizer; None where it has no tokenizer."""
    if checkpoint.source.is_dir():
        if (checkpoint.source / "chat_template.jinja").is_file():
            return (checkpoint.source / "chat_template.jinja").read_text()
        own = _template_of(checkpoint.source / "tokenizer_config.json")
        if own is not None:
            return own
    tokenizer = checkpoint_tokenizer(checkpoint)
    return None if tokenizer is None else template_for(tokenizer)


def template_for(tokenizer: Tokenizer) -> str:
    """The Jinja template of the conversations that Mixtral-Instruct was trained on, for this tokenizer."""
    return _V1 if tokenizer.control_id("[INST]") is None else _V3


def checkpoint_tokenizer(checkpoint: Checkpoint) -> Tokenizer | None:
    """The checkpoint's tokenizer, opened."""
    data = checkpoint.tokenizer_bytes()
    return None if data is None else open_tokenizer(data)


def tokenizer_config(tokenizer: Tokenizer) -> bytes:
    """A tokenizer_config.json with which transformers' AutoTokenizer reads the tokenizer beside it as the model's."""
    names = {token_id: name for name, token_id in tokenizer.control_ids.items()}
    data: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",  # tokenizer.json as it is
        "add_bos_token": True,
        "add_eos_token": False,
        "bos_token": names[tokenizer.bos_id],
        "eos_token": names[tokenizer.eos_id],
        "unk_token": "<unk>",
        "clean_up_tokenization_spaces": False,
        "chat_template": template_for(tokenizer),
    }
    return (json.dumps(data, indent=2) + "\n").encode()


def _template_of(config: Path) -> str | None:
    try:
        template = json.loads(config.read_bytes()).get("chat_template") if config.is_file() else None
    except (ValueError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{config}: expected a JSON object, found {error}; download it again") from error
    if isinstance(template, list):  # several by name
        entries = [entry for entry in template if isinstance(entry, dict)]
        template = next((entry.get("template") for entry in entries if entry.get("name") == "default"), None)
    return template if isinstance(template, str) else None
