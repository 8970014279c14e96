"""What is said of data: lengths, repeats, leaks, languages, rows that cannot be learned from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from command_line import octuor
from octuor.errors import ConfigError
from octuor.tune.check import Check, check, describe, fold
from octuor.tune.data import Dataset, load_data
from octuor.tune.language import guess_language
from octuor.tune.recipe import Data, Method, Preference, TuneRecipe
from tokenizer_file import mixtral_tokenizer

SENTENCES = {
    "en": "The children were playing in the garden when it began to rain, and they ran home to their mother.",
    "fr": "Les enfants jouaient dans le jardin quand la pluie a commencé, et ils sont rentrés chez leur mère.",
    "de": "Die Kinder spielten im Garten, als es zu regnen begann, und sie liefen nach Hause zu ihrer Mutter.",
    "es": "Los niños jugaban en el jardín cuando empezó a llover, y se fueron corriendo a casa con su madre.",
    "it": "I bambini giocavano nel giardino quando ha cominciato a piovere, e sono corsi a casa dalla loro madre.",
    "pt": "As crianças estavam no jardim quando começou a chover, e não foram para casa com a mãe.",
    "nl": "De kinderen speelden in de tuin toen het begon te regenen, en ze zijn naar huis gegaan met hun moeder.",
    "Cyrillic": "Дети играли в саду, когда начался дождь.",
    "ja": "雨が降り始めたとき、子供たちは庭で遊んでいました。",
    "zh": "下雨的时候，孩子们正在花园里玩耍。",
    "ko": "비가 내리기 시작했을 때 아이들은 정원에서 놀고 있었다.",
    "unknown": "x = [f(n) for n in range(10)] 12345",
}


@pytest.mark.parametrize("language", SENTENCES)
def test_a_sentence_of_each_language(language: str) -> None:
    assert guess_language(SENTENCES[language]) == language


def row(asked: str, answered: str = "Fine.") -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]}


def loaded(tmp_path: Path, train: list[Any], held: list[Any] = [], **data: Any) -> tuple[Dataset, TuneRecipe]:  # noqa: B006
    for name, rows in (("train", train), ("held", held)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = ("held.jsonl",) if held else ()
    recipe = TuneRecipe(Method(), Data(("train.jsonl",), files, **data), folder=tmp_path)
    return load_data(recipe, mixtral_tokenizer()), recipe


def checked(tmp_path: Path, train: list[Any], held: list[Any] = [], **data: Any) -> Check:  # noqa: B006
    return check(*loaded(tmp_path, train, held, **data))


def test_repeats_are_found_and_told_apart(tmp_path: Path) -> None:
    rows = [row("How are you?"), row("Who?"), row("How are you?"), row("how  are YOU"), row("Who?", "Me.")]
    found = checked(tmp_path, rows).train
    assert found.duplicates == [("train.jsonl:3", "train.jsonl:1")]
    assert found.near_duplicates == [("train.jsonl:4", "train.jsonl:1")]
    assert found.shapes == {"talks": 5}


def test_leaks_are_found_after_folding(tmp_path: Path) -> None:
    found = checked(tmp_path, [row("How are you?"), row("Who?")], [row("HOW are you"), row("who", "Me."), row("Why?")])
    assert found.leaks == [("held.jsonl:1", "train.jsonl:1")]
    assert found.shared_prompts == [("held.jsonl:2", "train.jsonl:2")]


def test_folding() -> None:
    assert fold("  Ｈello,\n WORLD! Straße ") == fold("hello world STRASSE")
    assert fold("résumé") != fold("resume")


def test_lengths_and_what_is_cut(tmp_path: Path) -> None:
    data, recipe = loaded(tmp_path, [row("a"), row("word " * 30), row("b", "word " * 30)], max_tokens=20)
    found = check(data, recipe).train
    assert (found.rows, found.truncated) == (2, 1)
    assert [problem.where for problem in found.problems] == ["train.jsonl:2"]  # its answer begins after the cut
    assert found.lengths[3] > 20
    assert sum(n for _, n in found.histogram) == 2
    assert found.tokens == sum(len(example.pieces[0].ids) for example in data.train.examples)
    assert max(example.n_longest for example in data.train.examples) == 20


def test_bad_rows_are_left_out_and_named(tmp_path: Path) -> None:
    bad = {"messages": [{"role": "assistant", "content": "I begin."}]}
    found = checked(tmp_path, [row("a"), bad, {"prompt": "a", "chosen": "b", "rejected": "c"}, {"x": 1}]).train
    assert (found.rows, [problem.where for problem in found.problems]) == (
        1, ["train.jsonl:4", "train.jsonl:2", "train.jsonl:3"],
    )  # fmt: skip


def test_preferences_are_asked_for_by_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    recipe = TuneRecipe(Method(), Data(("train.jsonl",)), preference=Preference(), folder=tmp_path)
    data = load_data(recipe, mixtral_tokenizer())
    assert check(data, recipe).train.shapes == {"pairs": 1}
    with pytest.raises(ConfigError, match=r"found none in train.jsonl; the first: train.jsonl:1: expected no prefer"):
        load_data(TuneRecipe(Method(), Data(("train.jsonl",)), folder=tmp_path), mixtral_tokenizer())


def test_a_share_held_out_is_the_same_every_time_and_never_in_both(tmp_path: Path) -> None:
    rows = [row(f"Question {n % 80}") for n in range(160)]  # each twice
    first, recipe = loaded(tmp_path, rows, validation_share=0.25)
    assert 0 < len(first.validation.rows) < len(first.train.rows)
    found = check(first, recipe)
    assert found.leaks == []
    assert len(found.train.duplicates) * 2 == len(first.train.rows)
    again, _ = loaded(tmp_path, rows, validation_share=0.25)
    assert again.digest == first.digest
    assert loaded(tmp_path, rows[:-1], validation_share=0.25)[0].digest != first.digest


def test_the_report_says_it_in_words(tmp_path: Path) -> None:
    text = describe(checked(tmp_path, [row("The cat is on the mat and it is not for you"), row("a"), row("a")]))
    assert "train: 3 talks; " in text
    assert "rows equal to an earlier one: 1\n    train.jsonl:3 = train.jsonl:2" in text
    assert "languages: unknown 66.7%, en 33.3%" in text


# ---- the command ---------------------------------------------------------------------------------


def test_check_only_prints_a_report_and_json(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps(row("Hello")) + "\n")
    recipe = tmp_path / "tune.toml"
    recipe.write_text('[data]\ntrain = ["rows.jsonl"]\n')
    done = octuor("tune", recipe, "--check-only")
    assert (done.code, done.out) == (0, "")
    assert "train: 1 talks" in done.err
    done = octuor("tune", recipe, "--check-only", "--json")
    assert (done.code, done.err) == (0, "")
    assert json.loads(done.out)["train"]["rows"] == 1


def test_bad_rows_stop_a_run_unless_they_shall_be_skipped(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(json.dumps(row("Hello")) + "\n{}\n")
    recipe = tmp_path / "tune.toml"
    recipe.write_text('[data]\ntrain = ["rows.jsonl"]\n')
    done = octuor("tune", recipe, "--check-only")
    assert done.code == 1
    assert "rows.jsonl:2: expected messages" in done.err.splitlines()[-1]
    assert '1 such rows: mend them, or set [data] on_bad_row = "skip"' in done.err.splitlines()[-1]
    recipe.write_text('[data]\ntrain = ["rows.jsonl"]\non_bad_row = "skip"\n')
    assert octuor("tune", recipe, "--check-only").code == 0
