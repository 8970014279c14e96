"""Programs written for transformers, over our engine and over transformers' own model. Run with `make test-parity`.

Both read the same folder, so both must give the same logits, and from them transformers makes the same texts.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from adapter_files import random_adapter
from integrations.settings import be_quiet, write_tiny
from octuor.errors import OctuorError, RequestError
from octuor.integrations.transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    MistralForCausalLM,
    MixtralForCausalLM,
    SequencesCache,
)
from octuor.tokenizer import encode_chat
from parity.cases import CASES
from parity.oracle import write_folder
from tiny_models import EOS, TINY

TOLERANCE = 2e-5  # of logits of about 1


@pytest.fixture(scope="module", autouse=True)
def _quiet(one_thread: None) -> None:  # noqa: ARG001
    be_quiet()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def ours(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, device_map="auto", dtype=torch.float16, cache_dtype="f32")


@pytest.fixture(scope="module")
def theirs(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    found = AutoTokenizer.from_pretrained(folder)
    found.pad_token, found.padding_side = found.eos_token, "left"
    return found


def padded(side: str, lengths: tuple[int, ...], seed: int = 0) -> dict[str, torch.Tensor]:
    """Random ids, padded to the longest."""
    draw = torch.Generator().manual_seed(seed)
    ids = torch.full((len(lengths), max(lengths)), EOS)
    mask = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        at = slice(max(lengths) - length, None) if side == "left" else slice(0, length)
        ids[row, at] = torch.randint(3, TINY.vocab_size, (length,), generator=draw)
        mask[row, at] = 1
    return {"input_ids": ids, "attention_mask": mask}


def close(found: torch.Tensor, expected: torch.Tensor, mask: torch.Tensor | None = None) -> bool:
    gap = (found - expected).abs().amax(-1)
    return bool((gap if mask is None else gap * mask).max() < TOLERANCE * expected.abs().max())


@pytest.mark.parametrize("side", ["left", "right"])
def test_logits_of_padded_rows(ours: Any, theirs: Any, side: str) -> None:
    inputs = padded(side, (7, 12, 3))
    with torch.no_grad():
        assert close(ours(**inputs).logits, theirs(**inputs).logits, inputs["attention_mask"])


def test_steps_over_a_cache(ours: Any, theirs: Any) -> None:
    with torch.no_grad():
        inputs = padded("left", (9, 5))
        expected = theirs(**inputs).logits
        cache: Any = None
        for start, stop in ((0, 6), (6, 7), (7, 9)):
            found = ours(
                inputs["input_ids"][:, start:stop],
                attention_mask=inputs["attention_mask"][:, :stop],
                past_key_values=cache,
            )
            cache = found.past_key_values
            assert isinstance(cache, SequencesCache)
            assert cache.get_seq_length() == stop
            mask = inputs["attention_mask"][:, start:stop]
            assert close(found.logits, expected[:, start:stop], mask)
        cache.crop(-3)
        again = ours(inputs["input_ids"][:, 6:], attention_mask=inputs["attention_mask"], past_key_values=cache)
        assert close(again.logits, expected[:, 6:])
        cache.crop(-3)
        cache.reorder_cache(torch.tensor([1, 1]))
        swapped = {name: value[[1, 1]] for name, value in inputs.items()}
        again = ours(swapped["input_ids"][:, 6:], attention_mask=swapped["attention_mask"], past_key_values=cache)
        assert close(again.logits, expected[[1, 1], 6:])


def test_a_long_prompt_runs_in_parts(ours: Any, theirs: Any) -> None:
    with torch.no_grad():
        inputs = padded("left", (700, 513, 1, 700))
        found = ours(**inputs, logits_to_keep=2).logits
        assert found.shape == (4, 2, TINY.vocab_size)
        assert close(found, theirs(**inputs, logits_to_keep=2).logits, inputs["attention_mask"][:, -2:])


def test_router_logits_and_the_loss(ours: Any, theirs: Any) -> None:
    with torch.no_grad():
        inputs = padded("left", (11, 11))
        labels = inputs["input_ids"].clone()
        labels[0, :4] = -100
        found = ours(**inputs, labels=labels, output_router_logits=True)
        expected = theirs(**inputs, labels=labels, output_router_logits=True)
        assert len(found.router_logits) == TINY.n_layers
        for own, other in zip(found.router_logits, expected.router_logits, strict=True):
            assert close(own, other)
        plain = theirs(**inputs, labels=labels)  # without the balance loss
        assert abs(float(found.loss) - float(plain.loss)) < TOLERANCE


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_cache": False},
        {"num_beams": 3, "num_return_sequences": 2},
        {"num_return_sequences": 3, "do_sample": True, "temperature": 0.8, "top_k": 20, "top_p": 0.9},
        {"repetition_penalty": 1.2, "no_repeat_ngram_size": 2},
    ],
    ids=["greedy", "no cache", "beams", "samples", "penalties"],
)
def test_generate_gives_what_transformers_own_model_gives(ours: Any, theirs: Any, options: dict[str, Any]) -> None:
    inputs = padded("left", (6, 10), seed=1)
    texts = []
    for model in (ours, theirs):
        torch.manual_seed(0)
        config = transformers.GenerationConfig(
            max_new_tokens=16, bos_token_id=1, eos_token_id=EOS, pad_token_id=EOS, **options
        )
        texts.append(model.generate(**inputs, generation_config=config))
    assert torch.equal(*texts)


def test_prompt_lookup_does_not_change_a_greedy_answer(ours: Any) -> None:
    ids = torch.tensor([[1, 500, 600, 700, 500, 600, 700, 500, 600]])
    plain = ours.generate(ids, max_new_tokens=20, do_sample=False)
    assert torch.equal(ours.generate(ids, max_new_tokens=20, do_sample=False, prompt_lookup_num_tokens=4), plain)


def test_a_cache_goes_on_in_the_next_call(ours: Any) -> None:
    ids = torch.tensor([[1, 500, 600, 700]])
    first = ours.generate(ids, max_new_tokens=5, return_dict_in_generate=True, do_sample=False)
    follow = torch.cat([first.sequences, torch.tensor([[800, 900]])], dim=1)
    told = ours.generate(follow, past_key_values=first.past_key_values, max_new_tokens=5, do_sample=False)
    assert torch.equal(told, ours.generate(follow, max_new_tokens=5, do_sample=False))


def test_the_first_program_of_the_model_card(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    inputs = tokenizer("Hello my name is", return_tensors="pt")
    outputs = model.generate(**inputs, max_new_tokens=20)
    assert outputs.shape[1] <= inputs["input_ids"].shape[1] + 20
    assert tokenizer.decode(outputs[0], skip_special_tokens=True).startswith("Hello my name is")


def test_in_four_bits_it_is_packed_once(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCTUOR_HOME", str(tmp_path))
    config = transformers.BitsAndBytesConfig(load_in_4bit=True)
    for options in (
        {"load_in_4bit": True},
        {"quantization_config": config},
        {"load_in_4bit": True, "device_map": "auto"},
    ):
        model = AutoModelForCausalLM.from_pretrained(folder, **options)
        expert = model.octuor.checkpoint.get("layers.0.experts.0.gate")
        assert expert.format.name == "q4"
    assert len(list((tmp_path / "packs").iterdir())) == 1


def test_the_chat_pipeline(ours: Any, theirs: Any, tokenizer: Any) -> None:
    messages = [{"role": "user", "content": "Who are you?"}]
    answers = [
        transformers.pipeline("text-generation", model=model, tokenizer=tokenizer)(
            messages, max_new_tokens=8, do_sample=False
        )
        for model in (ours, theirs)
    ]
    assert answers[0] == answers[1]
    assert answers[0][0]["generated_text"][0] == messages[0]


def test_a_streamer_gets_every_token(ours: Any, tokenizer: Any) -> None:
    class Heard(transformers.TextStreamer):
        text = ""

        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:  # noqa: ARG002
            self.text += text

    streamer = Heard(tokenizer, skip_prompt=True)
    inputs = tokenizer("One two", return_tensors="pt")
    out = ours.generate(**inputs, max_new_tokens=6, do_sample=False, streamer=streamer)
    assert streamer.text == tokenizer.decode(out[0, inputs["input_ids"].shape[1] :])


def test_the_pocket_model_is_the_default() -> None:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(), AutoTokenizer.from_pretrained()
    assert isinstance(model, MixtralForCausalLM)
    talk = [
        {"role": "user", "content": "Hello!"},
        {"role": "assistant", "content": "Hi."},
        {"role": "user", "content": "  Who? "},
    ]
    ids = tokenizer.apply_chat_template(talk, return_dict=True)["input_ids"]
    assert ids == list(encode_chat(model.octuor.tokenizer, talk))


def test_a_dense_model_with_a_window(tmp_path: Path) -> None:
    case = next(case for case in CASES if case.config.is_dense and case.config.sliding_window is not None)
    folder = write_folder(case, tmp_path)
    ours = AutoModelForCausalLM.from_pretrained(folder, cache_dtype="f32")
    theirs: Any = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert isinstance(ours, MistralForCausalLM)
    ids = torch.randint(3, case.config.vocab_size, (2, 12), generator=torch.Generator().manual_seed(2))
    options: dict[str, Any] = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    assert torch.equal(ours.generate(ids, **options), theirs.generate(ids, **options))


def test_an_adapter_changes_every_program(folder: Path, ours: Any, tmp_path: Path) -> None:
    adapted = AutoModelForCausalLM.from_pretrained(
        folder, adapter=random_adapter(tmp_path / "one", TINY, 3), cache_dtype="f32"
    )
    ids = [1, 500, 600, 700]
    with torch.no_grad():
        found = adapted(torch.tensor([ids])).logits[0]
    assert close(found, torch.from_numpy(adapted.octuor.logits(ids)))
    assert not close(found, torch.from_numpy(ours.octuor.logits(ids)))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"inputs_embeds": torch.zeros(1, 2, TINY.dim)}, "input_ids"),
        ({"input_ids": torch.tensor([[1, 2]]), "output_attentions": True}, "output_attentions"),
        ({"input_ids": torch.tensor([[1, TINY.vocab_size]])}, "token ids"),
        ({"input_ids": torch.tensor([[1, 2]]), "attention_mask": torch.ones(1, 5)}, "attention_mask"),
        ({"input_ids": torch.tensor([[1, 2]]), "position_ids": torch.tensor([[4, 5]])}, "position_ids"),
    ],
)
def test_what_cannot_be_done_is_said(ours: Any, wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(OctuorError, match=said):
        ours(**wrong)


def test_wrong_arguments_are_said(folder: Path, ours: Any) -> None:
    with pytest.raises(TypeError, match="devicemap"):
        AutoModelForCausalLM.from_pretrained(folder, devicemap="auto")
    with pytest.raises(RequestError, match="octuor convert"):
        ours.save_pretrained("somewhere")
