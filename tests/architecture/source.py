"""What the architecture tests read: the package's modules, their syntax trees, and who imports whom."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "octuor"


@dataclass(frozen=True)
class Import:
    """One imported module. is_typing: only for type checkers; is_lazy: inside a function."""

    module: str
    line: int
    is_typing: bool = False
    is_lazy: bool = False


@dataclass(frozen=True)
class Source:
    """One Python file of the package, by its dotted name without `octuor.`; the root is ""."""

    name: str
    path: Path

    @cached_property
    def tree(self) -> ast.Module:
        """Its syntax tree."""
        return ast.parse(self.path.read_text(), str(self.path))

    @cached_property
    def imports(self) -> tuple[Import, ...]:
        """Everything it imports, at whatever depth."""
        return tuple(_walk(self.tree, is_typing=False, is_lazy=False))

    @property
    def part(self) -> str:
        """The first part of its name: the unit that floors are made of."""
        return self.name.partition(".")[0]


def sources() -> dict[str, Source]:
    """All modules of the package by name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = Source(name, path)
    return found


def own_target(module: str, known: dict[str, Source]) -> str | None:
    """The package's module that an import names ("octuor.x.Name" is octuor.x); None for other packages."""
    if module != "octuor" and not module.startswith("octuor."):
        return None
    name = module.removeprefix("octuor").removeprefix(".")
    while name not in known and name:
        name = name.rpartition(".")[0]
    return name


def _walk(node: ast.AST, *, is_typing: bool, is_lazy: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(alias.name, child.lineno, is_typing, is_lazy)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"line {child.lineno}: a relative import"
            for alias in child.names:
                yield Import(f"{child.module}.{alias.name}", child.lineno, is_typing, is_lazy)
        elif isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            yield from _walk(child, is_typing=True, is_lazy=is_lazy)
        else:
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            yield from _walk(child, is_typing=is_typing, is_lazy=is_lazy or inside)
