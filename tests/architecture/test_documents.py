"""Docstrings are there, files keep their budget, and the README's tree is true."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from architecture.source import PACKAGE, ROOT, Source, sources

SOURCES = sources()
MAX_LINES, MAX_NATIVE_LINES = 400, 600
HEADING = "## The tree"
# Classes of other libraries whose methods ours override: their documentation says what those do.
OUTSIDE = {"TyperGroup", "torch.autograd.Function"}

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def definitions(node: ast.Module | ast.ClassDef) -> Iterator[tuple[ast.Module | ast.ClassDef, Definition]]:
    """Public functions, classes and methods, each with what holds it."""
    for child in node.body:
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not child.name.startswith("_"):
            yield node, child
            if isinstance(child, ast.ClassDef):
                yield from definitions(child)


def protocol_methods() -> set[str]:
    """Methods that a Protocol explains: its implementations need not say it again."""
    found = set()
    for source in SOURCES.values():
        for _, definition in definitions(source.tree):
            if isinstance(definition, ast.ClassDef) and "Protocol" in map(ast.unparse, definition.bases):
                found |= {
                    method.name
                    for method in definition.body
                    if isinstance(method, ast.FunctionDef) and ast.get_docstring(method)
                }
    return found


EXPLAINED = protocol_methods()


@pytest.mark.parametrize("source", SOURCES.values(), ids=lambda source: source.name or "octuor")
def test_public_things_have_docstrings(source: Source) -> None:
    assert ast.get_docstring(source.tree), f"{source.path}: the module"
    for holder, definition in definitions(source.tree):
        is_method = isinstance(holder, ast.ClassDef) and not isinstance(definition, ast.ClassDef)
        bases = set(map(ast.unparse, holder.bases)) if isinstance(holder, ast.ClassDef) else set()
        if is_method and (definition.name in EXPLAINED or OUTSIDE & bases):
            continue
        assert ast.get_docstring(definition), f"{source.path}:{definition.lineno}: {definition.name}"


@pytest.mark.parametrize(
    ("folder", "limit"), [(PACKAGE, MAX_LINES), (ROOT / "native", MAX_NATIVE_LINES)], ids=["src", "native"]
)
def test_files_keep_their_budget(folder: Path, limit: int) -> None:
    files = [path for path in folder.rglob("*") if path.suffix in {".py", ".cpp", ".h"}]
    assert files
    for path in files:
        assert len(path.read_text().splitlines()) <= limit, path


# ---- the README's tree ---------------------------------------------------------------------------


def listed_paths(text: str) -> list[str]:
    """Paths of a captioned tree: two spaces a level, the first word is the name, folders end with "/"."""
    found: list[str] = []
    above: list[str] = []
    for line in text.splitlines():
        if not line.strip():
            continue
        indent = len(line) - len(line.lstrip())
        name = line.split()[0]
        assert indent % 2 == 0, f"{line!r}: expected two spaces a level"
        assert indent // 2 <= len(above), f"{line!r}: expected a folder above it"
        above = above[: indent // 2]
        found.append("".join(above) + name)
        if name.endswith("/"):
            above.append(name)
    return found


def readme_tree() -> list[str]:
    section = (ROOT / "README.md").read_text().partition(f"\n{HEADING}")[2]
    block = section.partition("```")[2].partition("\n")[2].partition("```")[0]
    return listed_paths(block)


def test_trees_are_read_as_they_are_written() -> None:
    tree = "a.md      one\nsrc/      two\n  b/      three\n    c.py  four\n  d.py    five\ne/\n"
    assert listed_paths(tree) == ["a.md", "src/", "src/b/", "src/b/c.py", "src/d.py", "e/"]


def test_every_path_in_the_readme_exists() -> None:
    paths = readme_tree()
    assert paths, f"README.md: expected a fenced block under {HEADING}"
    assert len(set(paths)) == len(paths)
    for path in paths:
        found = ROOT / path
        assert found.is_dir() if path.endswith("/") else found.is_file(), path


def test_the_readme_lists_the_package() -> None:
    """Every folder, and every module that is not in one."""
    paths = set(readme_tree())
    at = PACKAGE.relative_to(ROOT)
    for source in SOURCES.values():
        relative = source.path.relative_to(ROOT)
        if relative.parent == at:
            assert source.path.name.startswith("__") or str(relative) in paths, relative
        else:
            assert f"{relative.parent}/" in paths, relative.parent


def test_the_readme_lists_the_tests_and_the_kernels() -> None:
    paths = set(readme_tree())
    assert {"native/", "tests/", "tests/parity/", "docs/", "benchmarks/", "recipes/"} <= paths
