"""Random blocks, read by plain decoders written from ggml-common.h's layouts."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from ggml_blocks import BLOCKS, random_blocks

N_BLOCKS, RMS = 200, 1 / 64
# Of 200 blocks of 256 weights the root mean square has a spread of a few percent, as d varies by a fifth and
# sub-scales by more; the mean of a block's codes is up to 0.15 of their size, averaged over 200 signs.
RMS_TOLERANCE, MEAN_TOLERANCE = 0.08, 0.04
IQ4 = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


def half(block: bytes, at: int) -> float:
    return float(np.frombuffer(block, "<f2", 1, at)[0])


def nibbles(codes: bytes) -> Iterator[int]:
    """Low nibbles, then high ones."""
    yield from (code & 15 for code in codes)
    yield from (code >> 4 for code in codes)


def q4_0(block: bytes) -> Iterator[float]:
    yield from (half(block, 0) * (q - 8) for q in nibbles(block[2:]))


def iq4_nl(block: bytes) -> Iterator[float]:
    yield from (half(block, 0) * IQ4[q] for q in nibbles(block[2:]))


def q8_0(block: bytes) -> Iterator[float]:
    yield from (half(block, 0) * q for q in np.frombuffer(block, np.int8, 32, 2).tolist())


def q2_k(block: bytes) -> Iterator[float]:
    d, minimum = half(block, 80), half(block, 82)
    for i in range(256):
        part, shift, at = i // 128, i % 128 // 32 * 2, i % 32
        scale, q = block[i // 16], block[16 + 32 * part + at] >> shift & 3
        yield d * (scale & 15) * q - minimum * (scale >> 4)


def q3_k(block: bytes) -> Iterator[float]:
    for i in range(256):
        part, shift, at = i // 128, i % 128 // 32 * 2, i % 32
        high = block[at] >> (i // 32) & 1
        q = (block[32 + 32 * part + at] >> shift & 3) + 4 * high - 4
        n = i // 16
        low = block[96 + n % 8] >> (4 * (n // 8)) & 15
        scale = low + 16 * (block[104 + n % 4] >> (2 * (n // 4)) & 3) - 32
        yield half(block, 108) * scale * q


def six_bits(packed: bytes, j: int) -> tuple[int, int]:
    if j < 4:
        return packed[j] & 63, packed[j + 4] & 63
    return packed[j + 4] & 15 | packed[j - 4] >> 6 << 4, packed[j + 4] >> 4 | packed[j] >> 6 << 4


def q4_k(block: bytes) -> Iterator[float]:
    d, minimum = half(block, 0), half(block, 2)
    for i in range(256):
        scale, low = six_bits(block[4:16], i // 32)
        q = block[16 + 32 * (i // 64) + i % 32] >> (4 * (i // 32 % 2)) & 15
        yield d * scale * q - minimum * low


def q5_k(block: bytes) -> Iterator[float]:
    d, minimum = half(block, 0), half(block, 2)
    for i in range(256):
        scale, low = six_bits(block[4:16], i // 32)
        q = block[48 + 32 * (i // 64) + i % 32] >> (4 * (i // 32 % 2)) & 15
        yield d * scale * (q + 16 * (block[16 + i % 32] >> (i // 32) & 1)) - minimum * low


def q6_k(block: bytes) -> Iterator[float]:
    scales = np.frombuffer(block, np.int8, 16, 192).tolist()
    for i in range(256):
        part, quarter, at = i // 128, i % 128 // 32, i % 32
        low = block[64 * part + 32 * (quarter % 2) + at] >> (4 * (quarter // 2)) & 15
        high = block[128 + 32 * part + at] >> (2 * quarter) & 3
        yield half(block, 208) * scales[i // 16] * (low + 16 * high - 32)


def iq4_xs(block: bytes) -> Iterator[float]:
    high = int.from_bytes(block[2:4], "little")
    for n in range(8):
        scale = (block[4 + n // 2] >> (4 * (n % 2)) & 15) + 16 * (high >> (2 * n) & 3) - 32
        yield from (half(block, 0) * scale * IQ4[q] for q in nibbles(block[8 + 16 * n : 24 + 16 * n]))


DECODERS: dict[str, Callable[[bytes], Iterator[float]]] = {
    "Q4_0": q4_0, "IQ4_NL": iq4_nl, "Q8_0": q8_0, "Q2_K": q2_k, "Q3_K": q3_k,
    "Q4_K": q4_k, "Q5_K": q5_k, "Q6_K": q6_k, "IQ4_XS": iq4_xs,
}  # fmt: skip


def test_every_type_has_a_decoder() -> None:
    assert DECODERS.keys() == BLOCKS.keys()


@pytest.mark.parametrize("name", BLOCKS)
def test_weights_have_zero_mean_and_the_size_asked_for(name: str) -> None:
    row = BLOCKS[name]
    n_blocks = N_BLOCKS * 256 // row.weights
    blocks = random_blocks(name, n_blocks, RMS, np.random.default_rng(0))
    assert blocks.shape == (n_blocks, row.n_bytes)
    weights = np.array([list(DECODERS[name](block.tobytes())) for block in blocks])
    assert weights.shape == (n_blocks, row.weights)
    assert np.sqrt(np.mean(weights**2)) == pytest.approx(RMS, rel=RMS_TOLERANCE)
    assert abs(np.mean(weights)) < MEAN_TOLERANCE * RMS


@pytest.mark.parametrize("name", ["Q2_K", "Q4_K", "Q5_K"])
def test_blocks_with_minima_have_no_mean_of_their_own(name: str) -> None:
    """Unlike a sign of d, which only evens out over blocks: here scales are positive."""
    blocks = random_blocks(name, 64, RMS, np.random.default_rng(1))
    weights = np.array([list(DECODERS[name](block.tobytes())) for block in blocks])
    # 256 codes of a uniform spread: the mean of a block strays by 1/16 of its size, here four times that
    assert np.all(np.abs(weights.mean(axis=1)) < 4 / 16 * np.sqrt(np.mean(weights**2, axis=1)))


def test_sizes_count_blocks() -> None:
    assert BLOCKS["Q4_K"].size(4096) == 16 * 144
    assert BLOCKS["Q4_0"].size(4096) == 128 * 18
