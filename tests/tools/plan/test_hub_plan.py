"""A model on the Hub is planned by its headers: huggingface_hub unmodified, against a server on this machine."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from command_line import environment, program
from octuor.quant import F16
from octuor.tools.export.huggingface import write_huggingface
from tiny_models import TINY
from toys import random_values

REPO = "someone/tiny-mixtral"


class Hub(BaseHTTPRequestHandler):
    """The Hub's answers for files of one repository: HEAD, and GET of a range or a whole file."""

    folder: Path
    sent: list[tuple[str, int]]

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        name = self.path.rpartition("/")[2]
        file = self.folder / name
        if not self.path.startswith(f"/{REPO}/resolve/") or not file.is_file():
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        data = file.read_bytes()
        asked = self.headers.get("Range")
        if asked is not None:
            first, _, last = asked.removeprefix("bytes=").partition("-")
            data = data[int(first) : int(last) + 1]
        self.send_response(200 if asked is None else 206)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", '"0123456789"')
        self.send_header("X-Repo-Commit", "f" * 40)
        self.end_headers()
        if with_body:
            self.wfile.write(data)
            self.sent.append((name, len(data)))

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[ThreadingHTTPServer]:
    values = random_values(TINY, [0])
    write_huggingface(tmp_path / "repo", TINY, lambda name: values[name].astype(np.float32), F16)
    Hub.folder, Hub.sent = tmp_path / "repo", []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


SUBJECT = """
import sys
from octuor.tools.plan.subject import find_subject
subject = find_subject(sys.argv[1])
import json
print(json.dumps([subject.name, subject.config.to_json(), subject.stored.kind, dict(subject.stored.formats)]))
"""


def find(hub: ThreadingHTTPServer, home: Path, repo: str = REPO) -> subprocess.CompletedProcess[str]:
    endpoint = f"http://127.0.0.1:{hub.server_address[1]}"
    command = [program()[0], "-c", SUBJECT, repo]
    settings = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    return subprocess.run(command, env=environment() | settings, capture_output=True, text=True, check=False)


def test_only_headers_are_read(hub: ThreadingHTTPServer, tmp_path: Path) -> None:
    done = find(hub, tmp_path / "home")
    assert done.returncode == 0, done.stderr
    name, config, kind, formats = json.loads(done.stdout)
    assert (name, config, kind) == (REPO, TINY.to_json(), "Hugging Face")
    assert formats == {"f16": 2 * TINY.n_params}
    weights = sum(n_bytes for file, n_bytes in Hub.sent if file.endswith(".safetensors"))
    assert 0 < weights < 0.1 * (Hub.folder / "model.safetensors").stat().st_size


def test_a_repository_of_other_files_is_said(hub: ThreadingHTTPServer, tmp_path: Path) -> None:
    (Hub.folder / "model.safetensors").rename(Hub.folder / "model.gguf")
    done = find(hub, tmp_path / "home")
    assert "expected config.json and safetensors files on the Hub, found others" in done.stderr
