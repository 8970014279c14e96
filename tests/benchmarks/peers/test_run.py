"""The runner, over programs of a few lines that answer as octuor bench, llama-bench and llama-batched-bench do."""

import json
import sys
from pathlib import Path

import pytest

import report
import run
from engines.base import Engine, EngineError, Environment, Request, Row, Subject, parse_rows, run_inside
from engines.llama_bench import LlamaBench, parse_batched, parse_bench, parse_program, take_model
from engines.llama_cpp import TYPES, gguf_file
from engines.octuor import Octuor

OCTUOR = """
import json, sys
words = dict(zip(sys.argv[2:-1:2], sys.argv[3:-1:2]))
prompts, batches = ([int(n) for n in words[name].split(",") if n] for name in ("--prompt", "--batch"))
rows = [{"kind": "prompt", "tokens": n, "batch": 1, "tokens_per_s": 100.0} for n in prompts]
if int(words["--answer"]):
    rows += [{"kind": "answer", "tokens": 8, "batch": n, "tokens_per_s": 20.0} for n in batches]
print(json.dumps({"rows": rows, "model": {"bytes": 1000}, "limits": {"read_gb_per_s": 50.0, "int8_gop_per_s": None}}))
"""
LLAMA = """
import json, sys
words = dict(zip(sys.argv[1::2], sys.argv[2::2]))
rows = [{"n_prompt": int(n), "n_gen": 0, "avg_ts": 50.0} for n in words["-p"].split(",") if int(n)]
rows += [{"n_prompt": 0, "n_gen": int(words["-n"]), "avg_ts": 10.0}] * bool(int(words["-n"]))
print("loading\\n" + json.dumps(rows, indent=2))
"""
TABLE = """
main: n_kv_max = 512, n_batch = 2048

|    PP |     TG |    B |   N_KV |   T_PP s | S_PP t/s |   T_TG s | S_TG t/s |      T s |    S t/s |
|-------|--------|------|--------|----------|----------|----------|----------|----------|----------|
|    16 |      8 |    4 |     96 |    0.100 |   640.00 |    0.800 |    40.00 |    0.900 |   106.67 |
"""


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    return Subject(layers=1, format_name="q4", threads=2, work=tmp_path)


def program(folder: Path, name: str, text: str) -> list[str]:
    path = folder / f"{name}.py"
    path.write_text(text)
    return [sys.executable, str(path)]


def make_octuor(folder: Path, text: str = OCTUOR) -> Octuor:
    return Octuor(command=program(folder, "octuor_fake", text))


def make_llama(folder: Path) -> LlamaBench:
    gguf = folder / "model.gguf"
    gguf.write_bytes(bytes(1040))
    batched = f"import sys\nprint({TABLE!r}, file=sys.stderr)"
    return LlamaBench("other", program(folder, "bench", LLAMA), program(folder, "batched", batched), gguf)


def measure(subject: Subject, *, by_row: bool, rounds: int) -> tuple[report.Found, dict[str, str]]:
    ours = make_octuor(subject.work)
    engines: list[Engine] = [ours, make_llama(subject.work)]
    found, notes, sizes = report.Found("octuor"), dict[str, str](), dict[str, int]()
    ready = [engine for engine in engines if run.ready(engine, subject, found, notes, sizes)]
    run.run(ready, Request((16, 128), 8, (1, 4)), rounds, by_row, found)
    run.note_sizes(ours.n_bytes, sizes, notes)
    return found, notes


@pytest.mark.parametrize("by_row", [False, True])
def test_every_row_of_every_engine_in_every_round(subject: Subject, by_row: bool) -> None:
    found, _ = measure(subject, by_row=by_row, rounds=2)
    assert not found.failures
    expected: set[report.Key] = {("prompt", 16, 1), ("prompt", 128, 1), ("answer", 8, 1), ("answer", 8, 4)}
    assert set(found.cases()) == expected
    for engine in ("octuor", "other"):
        for case in expected:
            assert set(found.rates(engine, case)) == {1, 2}


def test_engines_alternate(subject: Subject) -> None:
    found, _ = measure(subject, by_row=False, rounds=3)
    order = list(dict.fromkeys((n, name) for n, name, _ in found.rows))
    assert order == [(1, "octuor"), (1, "other"), (2, "other"), (2, "octuor"), (3, "octuor"), (3, "other")]


def test_the_table_has_medians_and_ratios_of_rounds() -> None:
    found = report.Found("octuor")
    for n, (ours, theirs) in enumerate([(10.0, 5.0), (30.0, 10.0), (20.0, 20.0)]):
        found.rows += [(n, "octuor", Row("answer", 8, 1, ours)), (n, "other", Row("answer", 8, 1, theirs))]
    *_, line = report.table(found)
    assert line == "| answer 8 x 1 | 20.0 (10.0-30.0) | 10.0 (5.0-20.0) | 2.00 (1.00-3.00) |"


def test_a_peer_that_is_too_large_is_named(subject: Subject) -> None:
    _, notes = measure(subject, by_row=False, rounds=1)
    assert notes["other"].endswith("1.040 of our bytes (too large to be an equal)")


def test_a_failing_engine_is_reported_and_the_others_go_on(subject: Subject) -> None:
    broken = make_octuor(subject.work, "import sys\nsys.exit('no such kernel')")
    found = report.Found("octuor")
    engines: list[Engine] = [broken, make_llama(subject.work)]
    for engine in engines:
        engine.prepare(subject)
    run.run(engines, Request((16,), 8, ()), 2, False, found)
    assert "no such kernel" in found.failures["octuor"]
    assert {name for _, name, _ in found.rows} == {"other"}
    assert "no such kernel" in report.text("title", {}, found)


def test_a_missing_model_is_named(subject: Subject, tmp_path: Path) -> None:
    engine = LlamaBench("other", ["true"], None, tmp_path / "missing.gguf")
    with pytest.raises(EngineError, match=r"expected a GGUF at .*missing\.gguf"):
        engine.prepare(subject)


def test_reports_name_no_paths(subject: Subject) -> None:
    found, notes = measure(subject, by_row=False, rounds=1)
    assert str(subject.work) not in report.text("title", notes, found)
    text = report.text("title", {"x": "/a/b/llama-bench -mmp 0; see docs/a.md, 3/4"}, found)
    assert "x: llama-bench -mmp 0; see docs/a.md, 3/4" in text


def test_programs_have_a_name_and_words() -> None:
    assert parse_program("other=/a/llama-bench -mmp 0") == ("other", ["/a/llama-bench", "-mmp", "0"])
    for wrong in ("/a/llama-bench", "=x", "a b=x", "other="):
        with pytest.raises(EngineError, match="NAME=PATH"):
            parse_program(wrong)


def test_a_program_may_bring_its_model() -> None:
    assert take_model(["bench", "-t", "2"]) == (None, ["bench", "-t", "2"])
    assert take_model(["bench", "-m", "a.gguf", "-t", "2"]) == (Path("a.gguf"), ["bench", "-t", "2"])


def test_tables_of_the_programs_are_read() -> None:
    assert parse_batched(TABLE) == [Row("answer", 8, 4, 40.0)]
    rows = json.dumps([{"n_prompt": 16, "n_gen": 0, "avg_ts": 5.0}], indent=2)
    assert parse_bench(f"log\n{rows}") == [Row("prompt", 16, 1, 5.0)]
    with pytest.raises(EngineError, match="JSON array"):
        parse_bench("Segmentation fault")
    with pytest.raises(EngineError, match="table"):
        parse_batched("failed to load")


def test_every_octuor_format_below_16_bits_has_a_peer() -> None:
    from octuor.quant import FORMATS

    assert {name for name, row in FORMATS.items() if row.is_tiled} <= TYPES.keys()


def test_gguf_names_say_what_they_hold(subject: Subject) -> None:
    assert gguf_file(subject, None).name == "8x7b-1l-Q4_K.gguf"
    assert gguf_file(subject, "IQ4_XS").name == "8x7b-1l-IQ4_XS.gguf"
    assert gguf_file(subject, "Q4_K+Q8_0").name == "8x7b-1l-Q4_K+Q8_0.gguf"
    with pytest.raises(EngineError, match="--gguf-type"):
        gguf_file(Subject(1, "bf16", 2, subject.work), None)


def test_a_child_answers_through_noise(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "from engines.base import answer, read_inside, Row\n"
        "given, request = read_inside()\n"
        "print('noise', end='')\n"
        "answer([Row('prompt', n, 1, float(given['threads'])) for n in request.prompts])\n"
        "print('goodbye')\n"
    )
    folder = subject.work
    (folder / "child.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    environment = Environment(folder / "venv")
    (folder / "venv" / "bin").mkdir(parents=True)
    (folder / "venv" / "bin" / "python").symlink_to(sys.executable)
    assert parse_rows(run_inside(environment, "child", subject, Request((16, 32)))) == [
        Row("prompt", 16, 1, 2.0),
        Row("prompt", 32, 1, 2.0),
    ]
