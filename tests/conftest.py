"""What every test run says of itself, and what tests of several rooms begin with."""

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """PyTorch on one thread: products of small models only wait for a second."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Which instruction sets' kernels it could test on this processor; tests walk all of `here`."""
    from octuor._native import implementations

    here = [name for name, supported in implementations() if supported]
    absent = [name for name, supported in implementations() if not supported]
    line = f"kernels tested: {' '.join(here)}; not on this processor: {' '.join(absent) or 'none'}"
    terminalreporter.write_line(line)
