"""Checkpoints for other programs: one module a target, each fed with a stream of weights."""

from octuor.tools.export.registry import TARGETS, export

__all__ = ["TARGETS", "export"]
