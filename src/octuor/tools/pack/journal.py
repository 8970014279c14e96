"""What an interrupted pack goes on from: a folder beside the output, of files that are each whole or not there.

job.json     what was asked of which source: another job starts anew
NAME.npz     arrays, such as a layer's measurements
NAME.json    values
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from octuor.errors import CheckpointError
from octuor.quant.base import Array


class Journal:
    """A folder of named values and arrays. One process at a time has it, from `Journal` to `close`.

    folder  made if it is not there; CheckpointError if it cannot be, or if another process has it
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(exist_ok=True)
            self._lock = (folder / "lock").open("w")
        except OSError as error:
            raise CheckpointError(f"{folder}: cannot be written ({error.strerror})") from error
        import fcntl

        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise CheckpointError(
                f"{folder}: another process is writing this pack; let it finish, or end it and try again"
            ) from error

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __contains__(self, name: str) -> bool:
        return (self.folder / f"{name}.json").is_file() or (self.folder / f"{name}.npz").is_file()

    def keep(self, name: str, arrays: Mapping[str, Array]) -> None:
        """Put arrays in place of any of that name."""
        partial = self.folder / f"{name}.npz.partial"
        with partial.open("wb") as file:
            np.savez(file, allow_pickle=False, **dict(arrays))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self.folder / f"{name}.npz")

    def arrays(self, name: str) -> dict[str, Array]:
        """What `keep` was given."""
        with np.load(self.folder / f"{name}.npz", allow_pickle=False) as file:
            return {key: file[key] for key in file.files}

    def note(self, name: str, value: Any) -> None:
        """Put a JSON value in place of any of that name."""
        partial = self.folder / f"{name}.json.partial"
        with partial.open("w") as file:
            json.dump(value, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self.folder / f"{name}.json")

    def value(self, name: str) -> Any:
        """What `note` was given, None where there is none."""
        path = self.folder / f"{name}.json"
        return json.loads(path.read_text()) if path.is_file() else None

    def forget(self, names: Sequence[str] | None = None) -> None:
        """Take these names away; None: all."""
        for path in self.folder.iterdir():
            if path.name != "lock" and (names is None or path.name.split(".")[0] in names):
                path.unlink()

    def close(self) -> None:
        """Let another process have it."""
        self._lock.close()

    def remove(self) -> None:
        """Take the folder away: the work is done."""
        self.close()
        shutil.rmtree(self.folder)
