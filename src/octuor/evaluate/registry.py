"""Every task that is ours. Adding one is a module in tasks/ and a line here; all other names are the harness's."""

from __future__ import annotations

from octuor.evaluate.setting import Task
from octuor.evaluate.tasks.bbq import Bbq
from octuor.evaluate.tasks.bold import Bold
from octuor.evaluate.tasks.code import HumanEval, Mbpp
from octuor.evaluate.tasks.divergence import Divergence
from octuor.evaluate.tasks.mt_bench import MtBench
from octuor.evaluate.tasks.multilingual import Multilingual
from octuor.evaluate.tasks.passkey import Passkey
from octuor.evaluate.tasks.perplexity import Perplexity

TASKS: tuple[Task, ...] = (
    Perplexity(), Divergence(), Passkey(), MtBench(), HumanEval(), Mbpp(), Bbq(), Bold(), Multilingual(),
)  # fmt: skip


def own_tasks() -> dict[str, Task]:
    """By name."""
    return {task.name: task for task in TASKS}
