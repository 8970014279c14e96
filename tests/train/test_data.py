"""Training data without torch: which tokens count, and rows that a seed and a state decide."""

from __future__ import annotations

import json
import lzma
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from command_line import environment
from octuor.errors import CheckpointError, ConfigError, TokenizerError
from octuor.tokenizer import encode_chat
from octuor.train.data import MIN_PIECE, Source, TokenStream, encode_document, load_source, load_sources
from octuor.train.recipe import Stage, read_recipe
from tokenizer_file import mixtral_tokenizer

SHARE_ERROR = 0.03  # of a share of 0.25, over about 9,000 documents drawn: seven standard deviations
TALK = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hi there."},
    {"role": "user", "content": "And you?"},
    {"role": "assistant", "content": "Fine."},
]


def test_these_modules_need_no_torch() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import octuor.train.data, octuor.train.recipe, octuor.cli.train"
    )  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(), timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


# Documents


def test_a_text_counts_but_for_bos() -> None:
    tokenizer = mixtral_tokenizer()
    ids, learned = encode_document(tokenizer, {"text": "Once upon a time"})
    assert ids == [tokenizer.bos_id, *tokenizer.encode("Once upon a time"), tokenizer.eos_id]
    assert learned == [False] + [True] * (len(ids) - 1)


def test_of_a_talk_only_the_answers_count() -> None:
    tokenizer = mixtral_tokenizer()
    ids, learned = encode_document(tokenizer, {"messages": TALK})
    assert len(ids) == len(learned)
    counted = [token_id for token_id, counts in zip(ids, learned, strict=True) if counts]
    eos = tokenizer.eos_id
    assert counted == [*tokenizer.encode("Hi there."), eos, *tokenizer.encode("Fine."), eos]
    prompt = encode_chat(tokenizer, TALK[:-1])  # what chat would answer is what training has learned to follow
    assert ids[: len(prompt)] == prompt
    assert not any(learned[: len(encode_chat(tokenizer, TALK[:2]))])


# Files


def write_rows(path: Path, rows: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(lzma.compress(data) if path.suffix == ".xz" else data)
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.xz"])
def test_a_source_is_its_documents_one_after_another(tmp_path: Path, suffix: str) -> None:
    rows: list[dict[str, Any]] = [{"text": "One."}, {"messages": TALK}, {"text": "Zwei Äpfel."}]
    write_rows(tmp_path / f"chat/x{suffix}", rows)
    source = load_source(tmp_path, "chat/x", mixtral_tokenizer(), tmp_path / "kept")
    assert source.n_documents == 3
    for index, row in enumerate(rows):
        own = slice(source.offsets[index], source.offsets[index + 1])
        ids, learned = encode_document(mixtral_tokenizer(), row)
        assert source.ids[own].tolist() == ids
        assert source.learned[own].tolist() == learned
    assert len(source.ids) == len(source.learned) == source.offsets[-1]


class Forgotten:
    """A tokenizer that must not be asked."""

    n_words = mixtral_tokenizer().n_words


def test_a_second_start_does_not_tokenize(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "a.jsonl", [{"text": "One."}, {"text": "Two."}])
    first = load_source(tmp_path, "a", mixtral_tokenizer(), tmp_path / "kept")
    again = load_source(tmp_path, "a", Forgotten(), tmp_path / "kept")  # type: ignore[arg-type]
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["a.npz"]
    for name in ("ids", "learned", "offsets"):
        assert np.array_equal(getattr(first, name), getattr(again, name))
    write_rows(path, [{"text": "Three blind mice."}])
    assert load_source(tmp_path, "a", mixtral_tokenizer(), tmp_path / "kept").n_documents == 1


def test_the_sources_of_a_recipe(tmp_path: Path) -> None:
    recipe = read_recipe(Path(__file__).parents[2] / "recipes" / "pocket-first.toml")
    for name in recipe.sources:
        write_rows(tmp_path / f"{name}.jsonl", [{"text": name}])
    seen: list[str] = []
    sources = load_sources(
        recipe, tmp_path, mixtral_tokenizer(), tmp_path / "kept", lambda name, tokens: seen.append(f"{name} {tokens}")
    )
    assert seen == [f"{name} {len(sources[name].ids)}" for name in recipe.sources]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b'{"text": "a"}\n{"text"', r"a.jsonl:2: expected one JSON object a line"),
        (b'{"text": "a"}\n["b"]\n', r'a.jsonl:2: expected an object with "text" or "messages", found \["b"\]'),
        (b'{"body": "a"}\n', r'a.jsonl:1: expected an object with "text" or "messages"'),
        (b'{"text": 1}\n', r"a.jsonl:1: expected an object"),
        (b'{"text": "caf\xe9"}\n', r"a.jsonl: expected whole UTF-8 text"),
    ],
)
def test_rows_that_are_none(tmp_path: Path, data: bytes, says: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(data)
    with pytest.raises(CheckpointError, match=says):
        load_source(tmp_path, "a", mixtral_tokenizer(), tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def test_other_damage(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"expected none.jsonl or none.jsonl.xz in"):
        load_source(tmp_path, "none", mixtral_tokenizer(), tmp_path / "kept")
    path = write_rows(tmp_path / "torn.jsonl.xz", [{"text": str(number)} for number in range(1000)])
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(CheckpointError, match=r"torn.jsonl.xz: expected whole UTF-8 text"):
        load_source(tmp_path, "torn", mixtral_tokenizer(), tmp_path / "kept")
    (tmp_path / "empty.jsonl").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"empty.jsonl: expected at least one row"):
        load_source(tmp_path, "empty", mixtral_tokenizer(), tmp_path / "kept")
    write_rows(tmp_path / "odd.jsonl", [{"messages": TALK}, {"messages": TALK[2:]}])
    with pytest.raises(TokenizerError, match=r"odd.jsonl:2: messages\[0\]: expected a user message before"):
        load_source(tmp_path, "odd", mixtral_tokenizer(), tmp_path / "kept")


# Rows


def made_up(name: str, first_id: int, n_documents: int, length: int) -> Source:
    """Document m of a source is `length` times the id first_id + m; only its BOS-like first token does not count."""
    ids = np.repeat(np.arange(first_id, first_id + n_documents, dtype=np.uint16), length)
    learned = np.tile(np.arange(length) > 0, n_documents)
    return Source(name, ids, learned, np.arange(0, len(ids) + 1, length))


def documents(row: np.ndarray) -> list[int]:
    """The ids of a row's documents in order, each once."""
    return row[np.flatnonzero(np.diff(row, prepend=-1))].tolist()


SHORT = made_up("short", 1000, 50, 10)
LONG = made_up("long", 2000, 30, 40)
BOTH = {"short": SHORT, "long": LONG}
MIXED = (Stage(0.5, {"short": 1, "long": 3}), Stage(1.0, {"long": 1}))


def test_a_row_is_whole_documents_but_for_the_last() -> None:
    ids, learned = TokenStream({"long": LONG}, (Stage(1.0, {"long": 1}),), 100, seed=0).row(0)
    assert (ids.shape, learned.shape) == ((101,), (100,))
    assert ids.dtype == np.int32
    assert learned.dtype == np.bool_
    runs = [len(run) for run in np.split(ids, np.flatnonzero(np.diff(ids)) + 1)]
    assert runs == [40, 40, 21]
    # learned[i] is about ids[i + 1], the token that follows
    assert learned.tolist() == [True] * 39 + [False] + [True] * 39 + [False] + [True] * 20


@pytest.mark.parametrize(("left", "counts"), [(MIN_PIECE - 1, False), (MIN_PIECE, True)])
def test_a_piece_too_short_to_teach_does_not_count(left: int, counts: bool) -> None:
    ids, learned = TokenStream({"long": LONG}, (Stage(1.0, {"long": 1}),), 40 + left - 1, seed=0).row(0)
    assert len(documents(ids)) == 2
    assert learned[40:].tolist() == [counts] * (left - 1)


def test_a_document_shorter_than_a_piece_counts() -> None:
    _, learned = TokenStream({"short": SHORT}, (Stage(1.0, {"short": 1}),), 19, seed=0).row(0)
    assert learned.tolist() == [True] * 9 + [False] + [True] * 9


def test_every_document_comes_once_before_any_comes_again() -> None:
    stream = TokenStream({"short": SHORT}, (Stage(1.0, {"short": 1}),), 10 * 50 - 1, seed=0)
    orders = [documents(stream.row(0)[0]) for _ in range(3)]
    assert all(sorted(order) == list(range(1000, 1050)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3


def rows_of(stream: TokenStream, n: int, stage: int = 0) -> list[list[int]]:
    return [stream.row(stage)[0].tolist() for _ in range(n)]


def test_a_seed_decides_the_rows() -> None:
    one, same, other = (rows_of(TokenStream(BOTH, MIXED, 200, seed), 20) for seed in (1, 1, 2))
    assert one == same != other


def test_a_state_gives_the_rows_that_would_have_come() -> None:
    stream = TokenStream(BOTH, MIXED, 200, seed=1)
    rows_of(stream, 17)
    state = json.loads(json.dumps(stream.state()))
    expected = rows_of(stream, 20) + rows_of(stream, 20, stage=1)
    resumed = TokenStream(BOTH, MIXED, 200, seed=1)
    resumed.restore(state)
    assert rows_of(resumed, 20) + rows_of(resumed, 20, stage=1) == expected


def test_weights_are_shares_of_tokens_whatever_the_documents_lengths() -> None:
    stream = TokenStream(BOTH, MIXED, 4095, seed=3)
    tokens = Counter(np.concatenate([stream.row(0)[0] for _ in range(50)]) // 1000)
    assert tokens[1] / tokens.total() == pytest.approx(0.25, abs=SHARE_ERROR)
    assert {token // 1000 for row in rows_of(stream, 5, stage=1) for token in row} == {2}
