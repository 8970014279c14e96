"""Typed tables of TOML files: what recipes are read with."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from octuor.errors import ConfigError

T = TypeVar("T")

# TOML values that a field takes, by the field's annotation; ModelConfig checks its own
KINDS: dict[str, tuple[type, ...]] = {
    "bool": (bool,),
    "int": (int,),
    "int | None": (int,),
    "float": (int, float),
    "float | None": (int, float),
    "str": (str,),
    "str | None": (str,),
    "tuple[str, ...]": (list,),
    "tuple[float, ...]": (list,),
    "dict[str, float]": (dict,),
    "dict[str, str]": (dict,),
}
_ELEMENTS: dict[str, tuple[type, ...]] = {"tuple[str, ...]": (str,), "tuple[float, ...]": (int, float)}


def read_tables(path: Path, needed: Sequence[str]) -> dict[str, Any]:
    """The tables of a TOML file; ConfigError where it cannot be read, is none, or lacks a needed one."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"recipe: expected a TOML file, cannot read {path} ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: expected TOML, found a mistake ({error})") from error
    for table in needed:
        if table not in data:
            raise ConfigError(f"{path}: expected a [{table}] table, found only {sorted(data)}")
    return data


def fill(kind: type[T], table: Any, where: str) -> T:
    """A frozen dataclass from a table of its fields; lists become tuples. ConfigError names the field that is wrong."""
    if not isinstance(table, dict):
        raise ConfigError(f"{where}: expected a table, found {table!r}")
    annotations = {field.name: str(field.type) for field in fields(kind)}  # type: ignore[arg-type]
    if unknown := sorted(set(table) - set(annotations)):
        raise ConfigError(f"{where}: unknown fields {unknown}; known are {sorted(annotations)}")
    values = {}
    for name, value in table.items():
        wanted = KINDS.get(annotations[name])
        elements = _ELEMENTS.get(annotations[name])
        if wanted is not None and not _is_a(value, wanted):
            names = " or ".join(kind.__name__ for kind in wanted)
            raise ConfigError(f"{where} {name}: expected a value of type {names}, found {value!r}")
        if elements is not None and not all(_is_a(element, elements) for element in value):
            names = " or ".join(kind.__name__ for kind in elements)
            raise ConfigError(f"{where} {name}: expected a list of {names}, found {value!r}")
        values[name] = value if elements is None else tuple(value)
    try:
        return kind(**values)
    except TypeError as error:
        raise ConfigError(f"{where}: incomplete ({error})") from error


def _is_a(value: Any, kinds: tuple[type, ...]) -> bool:
    return isinstance(value, kinds) and (isinstance(value, bool) == (bool in kinds))
