"""Imports only go down, heavy ones stay where they belong, and starting costs little."""

import json
import re
import subprocess
import sys
from graphlib import TopologicalSorter

import pytest

import octuor
from architecture.source import ROOT, own_target, sources
from octuor.cli import COMMANDS

SOURCES = sources()
# The package's own front, which looks names up lazily, and `python -m octuor` stand above all floors.
FRONT = ("", "__main__")
TORCH_PARTS = ("train", "tune", "integrations")
HOMES = {  # beside those
    "torch": ("ops.torch", "ops.torch_functions", "ops.torch_leaves"),
    "matplotlib": ("bench.plot", "bench.serve.plot", "routing.plot", "routing.coloured_text", "routing.values"),
    "aiohttp": ("bench.serve.client",),
}
ROOMS = {
    **dict.fromkeys(("uvicorn", "pydantic", "prometheus_client", "opentelemetry"), ("server",)),
    **dict.fromkeys(("fastapi", "starlette"), ("server", "ui")),
    **dict.fromkeys(("lm_eval", "datasets", "vaderSentiment"), ("evaluate",)),
    "gradio": ("ui",),
    "httpx": ("ui",),
    "llguidance": ("grammar",),
    "sqlite3": ("accounts", "ui"),
}
HEAVY = {
    "numpy",
    "torch",
    "transformers",
    "sentencepiece",
    "tokenizers",
    "huggingface_hub",
    "matplotlib",
    "mistral_common",
}


def floors() -> dict[str, int]:
    """Part of the package -> floor, from the table in docs/architecture.md."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    section = text.partition("\n## Floors\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (\d+) \| ([^|]+) \|", section, re.MULTILINE)
    return {name.rstrip("/"): int(floor) for floor, names in rows for name in re.findall(r"`([^`]+)`", names)}


FLOORS = floors()


def test_every_part_has_a_floor() -> None:
    assert {source.part for source in SOURCES.values() if source.name not in FRONT} == set(FLOORS)


@pytest.mark.parametrize("name", [name for name in SOURCES if name not in FRONT])
def test_imports_only_go_down(name: str) -> None:
    """Lazy imports and those for type checkers count too: they are knowledge all the same."""
    source = SOURCES[name]
    for found in source.imports:
        target = own_target(found.module, SOURCES)
        if target is None or found.module == "octuor._native":
            continue
        where = f"{source.path.name}:{found.line} imports {found.module}"
        if target == "":
            assert found.module == "octuor.__version__", f"{where}: the package's front is for users"
        else:
            assert FLOORS[SOURCES[target].part] <= FLOORS[source.part], where


def test_no_module_needs_itself() -> None:
    """Modules that import each other when they load depend on who comes first."""
    graph = {
        name: {
            own_target(found.module, SOURCES) for found in source.imports if not found.is_typing and not found.is_lazy
        }
        - {None, name, *FRONT}
        for name, source in SOURCES.items()
    }
    # `from octuor.quant.base import X` in quant/__init__ is the package and its own part, not a cycle
    for name, targets in graph.items():
        graph[name] = {target for target in targets if target and not name.startswith(f"{target}.")}
    assert len(list(TopologicalSorter(graph).static_order())) == len(graph)


@pytest.mark.parametrize("library", [*HOMES, "transformers"])
def test_optional_libraries_stay_in_their_homes(library: str) -> None:
    for source in SOURCES.values():
        for found in source.imports:
            if found.module.partition(".")[0] == library:
                homes = HOMES.get(library, ())
                assert source.name in homes or source.part in TORCH_PARTS, f"{source.path}:{found.line}"


@pytest.mark.parametrize("library", ROOMS)
def test_libraries_stay_in_their_rooms(library: str) -> None:
    for source in SOURCES.values():
        for found in source.imports:
            if found.module.partition(".")[0] == library:
                assert source.part in ROOMS[library], f"{source.path}:{found.line}"


@pytest.mark.parametrize("library", ["sentencepiece", "tokenizers", "huggingface_hub", "rich"])
def test_slow_libraries_are_imported_when_they_are_used(library: str) -> None:
    for source in SOURCES.values():
        for found in source.imports:
            if found.module.partition(".")[0] == library:
                assert found.is_lazy or found.is_typing, f"{source.path}:{found.line}"


# ---- what is loaded ------------------------------------------------------------------------------


def loaded_after(code: str) -> set[str]:
    """Names of the modules that a fresh interpreter has loaded after running `code`."""
    script = f"import sys\n{code}\nimport json\nprint('\\n' + json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def assert_light(modules: set[str]) -> None:
    assert not HEAVY & {name.partition(".")[0] for name in modules}


def test_importing_octuor_loads_nothing_else() -> None:
    before = loaded_after("pass")
    after = loaded_after("import octuor")
    assert_light(after)
    assert {name for name in after - before if name.startswith("octuor")} == {"octuor"}


def test_public_names_load_no_torch_and_no_network_library() -> None:
    """NumPy comes with them: arrays are what they are about."""
    modules = loaded_after("import octuor\nfor name in octuor.__all__: getattr(octuor, name)")
    assert not (HEAVY - {"numpy"}) & {name.partition(".")[0] for name in modules}


HELP = """
from octuor.cli import main
for command in {commands}:
    sys.argv = ["octuor", *command, "--help"]
    try:
        main()
    except SystemExit as end:
        assert end.code == 0, end.code
"""


def test_help_is_light() -> None:
    modules = loaded_after(HELP.format(commands=[[]]))
    assert_light(modules)
    assert {name for name in modules if name.startswith("octuor") and name.count(".") == 1} <= {
        "octuor.cli",
        "octuor.errors",
        *(f"octuor.cli.{command}" for command in COMMANDS),
    }


def test_every_commands_help_is_light() -> None:
    assert_light(loaded_after(HELP.format(commands=[[command] for command in COMMANDS])))


# ---- public names --------------------------------------------------------------------------------


def test_public_names() -> None:
    """A name more or less is a change for users: it belongs in CHANGELOG.md."""
    assert octuor.__all__ == [
        "Generation",
        "Message",
        "Model",
        "ModelConfig",
        "OctuorError",
        "Routing",
        "SamplingParams",
        "Token",
        "Usage",
        "load",
    ]
    for name in octuor.__all__:
        found = getattr(octuor, name)
        assert found.__name__ == name
        assert found.__module__.startswith("octuor.")


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="module 'octuor' has no attribute 'laod'"):
        octuor.laod  # noqa: B018
