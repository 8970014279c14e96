"""How soon the page is there, and twenty readers at once."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import Callable

from serve_process import ServeProcess
from ui.chromium import Chat, until
from ui.visit import Answered, visiting

READERS = 20
PAINT = "return performance.getEntriesByName('first-contentful-paint')[0]?.startTime"


def test_the_first_paint_comes_within_two_seconds(another: Callable[..., Chat]) -> None:
    """In a browser that has nothing of the page yet."""
    chat = another()
    began = time.perf_counter()
    chat.driver.get(chat.url)
    painted = until(lambda: chat.script(PAINT), "a paint")
    until(lambda: chat.all("#message textarea"), "the box for messages")
    box_s = time.perf_counter() - began
    chat.loaded()
    print(f"\nfirst paint after {painted / 1000:.2f} s, box after {box_s:.2f} s, "
          f"models after {time.perf_counter() - began:.2f} s")  # fmt: skip
    assert painted < 2000


def test_twenty_readers_chat_at_once(server: ServeProcess) -> None:
    async def read(number: int) -> list[Answered]:
        async with visiting(server.url) as visit:
            await visit.begin()
            return [await visit.say(f"I am reader {number}. Tell me a story.") for _ in range(2)]

    async def run() -> list[Answered]:
        found = await asyncio.gather(*(read(number) for number in range(READERS)))
        return [answer for answers in found for answer in answers]

    before = server.gauge("_generation_tokens_total")
    began = time.perf_counter()
    answers = asyncio.run(run())
    seconds = time.perf_counter() - began
    tokens = server.gauge("_generation_tokens_total") - before
    firsts = sorted(answer.first_s for answer in answers)
    print(f"\n{READERS} readers, {len(answers)} answers: {tokens / seconds:.0f} tokens/s together; first text after "
          f"{statistics.median(firsts):.2f} s (median), {firsts[-1]:.2f} s (longest)")  # fmt: skip
    assert len(answers) == 2 * READERS
    assert all(answer.text.strip() and 0 < answer.first_s <= answer.seconds for answer in answers)
    lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    assert [line for line in lines if line["level"] not in ("info", "debug")] == []
    assert sum(line.get("path") == "/ui/chat" and line["status"] == 200 for line in lines) >= 2 * READERS


def test_a_browser_is_answered_beside_them(server: ServeProcess, chat: Chat) -> None:
    async def crowd(done: asyncio.Event) -> None:
        async with visiting(server.url) as visit:
            await visit.begin()
            while not done.is_set():
                await visit.say("Tell me a story.")

    async def run() -> str:
        done = asyncio.Event()
        others = [asyncio.create_task(crowd(done)) for _ in range(READERS - 1)]
        try:
            return await asyncio.to_thread(chat.say, "Hello!")
        finally:
            done.set()
            await asyncio.gather(*others)

    assert len(asyncio.run(run())) > 1
    assert chat.complaints() == []
