"""What every test run says of itself: which instruction sets' kernels it could test on this processor."""

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line before the counts; tests walk all instruction sets of `here`."""
    from octuor._native import implementations

    here = [name for name, supported in implementations() if supported]
    absent = [name for name, supported in implementations() if not supported]
    line = f"kernels tested: {' '.join(here)}; not on this processor: {' '.join(absent) or 'none'}"
    terminalreporter.write_line(line)
