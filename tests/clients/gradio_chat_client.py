"""A demo as there were many for Mixtral: a Gradio ChatInterface that streams `text_generation`.

Only the address is new. It is used as its page uses it, by `gradio_client`, without a browser.
"""

import itertools
import os
from collections.abc import Iterator

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

import gradio
import pytest
from gradio_client import Client
from huggingface_hub import InferenceClient

inference = InferenceClient(os.environ["OCTUOR_URL"], token=os.environ["OCTUOR_KEY"])


def text_of(message: gradio.MessageDict) -> str:
    content = message["content"]
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def format_prompt(message: str, history: list[gradio.MessageDict]) -> str:
    prompt = "<s>"
    for turn in history:
        said = text_of(turn)
        prompt += f"[INST] {said} [/INST]" if turn["role"] == "user" else f" {said}</s> "
    return prompt + f"[INST] {message} [/INST]"


def generate(
    message: str,
    history: list[gradio.MessageDict],
    temperature: float,
    max_new_tokens: float,
    top_p: float,
    repetition_penalty: float,
) -> Iterator[str]:
    stream = inference.text_generation(
        format_prompt(message, history),
        temperature=max(temperature, 0.01),
        max_new_tokens=int(max_new_tokens),
        top_p=top_p,
        repetition_penalty=repetition_penalty,
        do_sample=True,
        seed=42,
        stream=True,
        details=True,
        return_full_text=False,
    )
    output = ""
    for response in stream:
        output += response.token.text
        yield output


demo = gradio.ChatInterface(
    generate,
    title="Mixtral 8x7B",
    api_name="chat",
    additional_inputs=[
        gradio.Slider(label="Temperature", value=0.9, minimum=0.0, maximum=1.0),
        gradio.Slider(label="Max new tokens", value=256, minimum=0, maximum=1048),
        gradio.Slider(label="Top-p", value=0.9, minimum=0.0, maximum=1.0),
        gradio.Slider(label="Repetition penalty", value=1.2, minimum=1.0, maximum=2.0),
    ],
)


@pytest.fixture(scope="module")
def page() -> Iterator[Client]:
    _, address, _ = demo.launch(server_name="127.0.0.1", quiet=True, prevent_thread_lock=True)
    yield Client(address, verbose=False)
    demo.close()


def test_an_answer_grows_before_the_eyes(page: Client) -> None:
    job = page.submit("Hello", 0.0, 64, 0.9, 1.0, api_name="/chat")
    answer = job.result(timeout=60)
    assert answer.removesuffix("</s>").strip() == "Hi! How are you today?"
    steps = [str(step) for step in job.outputs()]
    assert len(steps) > 3
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(steps))


def test_a_conversation(page: Client) -> None:
    first = page.predict("Tell me a story about a dog.", 0.9, 40, 0.9, 1.2, api_name="/chat")
    second = page.predict("Tell me another.", 0.9, 40, 0.9, 1.2, api_name="/chat")
    assert first
    assert second
    assert first != second


def test_the_same_seed_is_the_same_answer(page: Client) -> None:
    once, twice = (
        Client(page.src, verbose=False).predict("Hello", 0.9, 30, 0.9, 1.2, api_name="/chat") for _ in range(2)
    )
    assert once == twice
