"""The chunk of a prompt that may join those who answer."""

from __future__ import annotations

from octuor.engine.pace import FIRST_CHUNK, LEAST_CHUNK, WHOLE_CHUNK, Pace


def learned(decode_s: float, prompt_token_s: float, n_decoding: int = 8) -> Pace:
    """After 50 steps of which every second one brought a chunk as large as the pace allowed."""
    pace = Pace()
    for _ in range(50):
        pace.measured(n_decoding, 0, decode_s)
        n_tokens = pace.chunk(n_decoding, 1)
        pace.measured(n_decoding, n_tokens, decode_s + n_tokens * prompt_token_s)
    return pace


def test_nobody_is_kept_waiting_by_a_whole_chunk_alone() -> None:
    assert Pace().chunk(0, 1) == WHOLE_CHUNK


def test_before_any_measurement() -> None:
    assert Pace().chunk(8, 1) == FIRST_CHUNK


def test_a_step_with_prompt_tokens_takes_about_twice_as_long_as_one_without() -> None:
    chunk = learned(0.1, 0.002).chunk(8, 1)
    assert abs(chunk * 0.002 - 0.1) < 0.01


def test_the_more_prompts_wait_the_longer_the_step() -> None:
    pace = learned(0.1, 0.002, n_decoding=2)
    assert abs(pace.chunk(2, 6) - 3 * pace.chunk(2, 1)) <= 3


def test_limits() -> None:
    assert learned(0.001, 0.01).chunk(8, 1) == LEAST_CHUNK
    assert learned(10.0, 0.001).chunk(8, 1) == WHOLE_CHUNK


def test_it_follows_a_machine_that_slows_down() -> None:
    pace = learned(0.1, 0.002)
    for _ in range(30):
        pace.measured(8, 0, 0.1)
        pace.measured(8, 20, 0.1 + 20 * 0.004)
    assert abs(pace.chunk(8, 1) * 0.004 - 0.1) < 0.02


def test_costs_are_kept_by_how_many_answer() -> None:
    pace = learned(0.1, 0.002)
    pace.measured(1, 0, 0.01)
    assert abs(pace.chunk(8, 1) - 50) <= 3
    assert pace.chunk(1, 1) == LEAST_CHUNK
