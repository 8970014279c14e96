"""What makes a dataclass a section of `octuor.toml`."""

from __future__ import annotations

from pydantic import ConfigDict, with_config

strict = with_config(ConfigDict(strict=True, extra="forbid"))  # unknown keys and other types are errors
