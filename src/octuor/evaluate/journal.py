"""What a model has said already, a JSON line each: a run that was killed asks only for the rest.

A line is written when it is known, and synced now and then; a last line that was cut is dropped.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from octuor.errors import CheckpointError

SYNC_S = 1.0  # between syncs: what a power cut may take


def key_of(*parts: object) -> str:
    """The name of a question, the same for equal parts; parts are JSON values."""
    return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


class Journal:
    """Questions' names and what was said. One process at a time has it, from `Journal` to `close`.

    path    made if it is not there
    about   what the answers are of
    values  everything known

    Raises CheckpointError where the file cannot be written, another process has it, or it is about something else.
    """

    def __init__(self, path: Path, about: Mapping[str, Any]) -> None:
        self.path = path
        self.values: dict[str, dict[str, Any]] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+b")
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be written ({error.strerror})") from error
        self._lock()
        self._synced_at = time.monotonic()
        kept = self._read(json.loads(json.dumps(about)))
        self._file.truncate(kept)
        if kept == 0:
            self._write({"about": about})
            self.flush()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def keep(self, key: str, value: Mapping[str, Any]) -> None:
        """Add what was said; it is on disk after SYNC_S or a flush."""
        self.values[key] = dict(value)
        self._write({"key": key, "value": value})
        if time.monotonic() - self._synced_at > SYNC_S:
            self.flush()

    def flush(self) -> None:
        """To the disk with all of it."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._synced_at = time.monotonic()

    def close(self) -> None:
        """Let another process have it."""
        self.flush()
        self._file.close()

    def _write(self, value: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n")

    def _read(self, about: Mapping[str, Any]) -> int:
        """Take in the lines that are whole and about the same; how many bytes of the file they are."""
        self._file.seek(0)
        kept = 0
        for number, line in enumerate(self._file):
            if not line.endswith(b"\n"):
                break
            try:
                found = json.loads(line)
            except ValueError:
                break
            if number == 0:
                self._check(found.get("about", {}), about)
            else:
                self.values[found["key"]] = found["value"]
            kept += len(line)
        return kept

    def _check(self, before: Mapping[str, Any], about: Mapping[str, Any]) -> None:
        changed = [key for key in {**before, **about} if before.get(key) != about.get(key)]
        if changed:
            self._file.close()
            raise CheckpointError(
                f"{self.path}: expected answers of this model as it is run now, found some with another "
                f"{' and '.join(changed)}; name another folder with --out, or remove this file"
            )

    def _lock(self) -> None:
        import fcntl

        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise CheckpointError(
                f"{self.path}: another evaluation writes here; let it finish, or name another folder with --out"
            ) from error
