"""octuor.toml."""

from __future__ import annotations

from pathlib import Path

import pytest

from octuor.errors import ConfigError
from octuor.server.settings import Config, ModelSettings, ServerSettings, read_config

WHOLE = """
[server]
host = "0.0.0.0"
port = 9000
allow_no_keys = true
max_batch = 8
ping_s = 5

[limits]
max_requests = 7

[[models]]
path = "mixtral.octuor"
name = "mixtral"
aliases = ["gpt-4"]
context = 4096
temperature = 0.5

[[models]]
name = "small"

[aliases]
mistral-embed = "small"
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "octuor.toml"
    path.write_text(text)
    return path


def test_everything_can_be_set(tmp_path: Path) -> None:
    config = read_config(write(tmp_path, WHOLE))
    server = config.server
    assert (server.host, server.port, server.allow_no_keys, server.max_batch) == ("0.0.0.0", 9000, True, 8)
    assert (server.ping_s, server.max_queue, server.limits.max_requests) == (5.0, 256, 7)
    assert config.models == (
        ModelSettings("mixtral.octuor", "mixtral", ("gpt-4",), 4096, temperature=0.5),
        ModelSettings(name="small"),
    )
    assert config.aliases == {"mistral-embed": "small"}


def test_nothing_must_be_set(tmp_path: Path) -> None:
    assert read_config(write(tmp_path, "")) == Config(ServerSettings(), (ModelSettings(),), {})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[server", "expected TOML"),
        ("[server]\nprot = 1", "server.prot: no such setting"),
        ("[sever]", "sever: no such setting"),
        ("[[models]]\npfad = 'x'", "models.0.pfad: no such setting"),
        ("[limits]\nmax_request = 7", "server.limits.max_request: no such setting"),
        ("[server]\nport = '8000'", 'server.port: expected a valid integer, found "8000"'),
        ("[server]\nport = true", "server.port: expected a valid integer, found true"),
        ("[server]\nport = 70000", "port: expected 0 to 65535, found 70000"),
        ("[server]\nmax_batch = 0", "max_batch: expected more than 0, found 0"),
        ("[server]\nping_s = inf", "ping_s: expected more than 0, found inf"),
        ("[server]\nhost = 1979-05-27", "expected TOML with text, numbers"),
        ("[[models]]\ntemperature = 3", "temperature: expected 0 to 2, found 3"),
        ("[[models]]\ncontext = 0", "context: expected at least 1, found 0"),
        ("[[models]]\ncache_dtype = 'f8'", "models.0.cache_dtype: expected 'f16' or 'f32', found \"f8\""),
        ("models = []", "expected at least one [[models]], found none"),
        ("models = 5", "models: "),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, text: str, says: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        read_config(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert says in message
    assert "\n" not in message


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_config(tmp_path / "none.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="expected TOML"):
        read_config(tmp_path / "bytes.toml")
