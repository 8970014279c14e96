"""TensorBoard's event files as TensorBoard reads them: records of a length, its sum, an event, and the event's sum."""

from __future__ import annotations

import struct
from pathlib import Path


def read_scalars(folder: Path) -> dict[str, dict[int, float]]:
    """Name -> step -> value over all files in the order that they were made.

    A later file's start makes steps from its own on forget what earlier files said of them.
    """
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    found: dict[str, dict[int, float]] = {}
    for path in sorted(folder.glob("events.out.tfevents.*")):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            event = Event.FromString(data[at + 12 : at + 12 + length])
            at += 12 + length + 4
            if event.HasField("session_log") and event.session_log.status == SessionLog.START:
                for values in found.values():
                    for step in [step for step in values if step >= event.step]:
                        del values[step]
            for value in event.summary.value:
                found.setdefault(value.tag, {})[event.step] = value.simple_value
    return found
