"""schemathesis asks for whatever /openapi.json allows and forbids; `make test-robust`.

All of its checks but one: what the document allows may still be refused, as a prompt that is too long is.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from serve_process import ServeProcess, octuor_at, serve_process

N_EXAMPLES = 50  # for each route, beside those that it makes of each field's limits
ENDS_WITHIN_S = 1800.0


def statuses_of(server: ServeProcess, key: str) -> Counter[str]:
    """How often the server has answered with each status."""
    counts: Counter[str] = Counter()
    for line in server.get("/metrics", key).splitlines():
        if line.startswith("octuor_http_requests_total{"):
            labels, value = line.rsplit(" ", 1)
            counts[labels.partition('status="')[2][:3]] += int(float(value))
    return counts


def test_the_document_is_true_and_no_request_breaks_the_server(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = octuor_at(tmp_path, "keys", "create", "schemathesis").strip()
    with serve_process(tmp_path, "--context", "256") as server:
        done = subprocess.run(
            [
                *(Path(sys.executable).with_name("schemathesis"), "run", f"{server.url}/openapi.json"),
                *("--header", f"Authorization: Bearer {key}"),
                *("--checks", "all", "--exclude-checks", "positive_data_acceptance"),
                *("--max-examples", str(N_EXAMPLES), "--generation-deterministic", "--request-timeout", "60"),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=ENDS_WITHIN_S,
            cwd=tmp_path,
        )
        statuses = statuses_of(server, key)
        with capsys.disabled():
            print(f"\n{statuses.total()} requests: " + ", ".join(f"{n} x {s}" for s, n in sorted(statuses.items())))
        assert done.returncode == 0, done.stdout
        assert not [status for status in statuses if status >= "500"]
        answer = server.post(
            "/v1/chat/completions",
            {"model": "mistral-tiny", "messages": [{"role": "user", "content": "Hello"}], "temperature": 0},
            key,
        )
        assert answer["choices"][0]["message"]["content"] == "Hi! How are you today?"
        assert server.gauge("num_requests_running", key) == server.gauge("num_requests_waiting", key) == 0
        assert server.stop() == 0
        assert "Traceback" not in server.log.read_text()
