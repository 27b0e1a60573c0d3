"""The transfers there are."""

from evalkit.errors import unknown

from . import det, seg
from .task import Task

TASKS: dict[str, Task] = {task.name: task for task in (seg.TASK, det.TASK)}


def find(name: str) -> Task:
    """The transfer called `name`; raises EvalkitError, naming the closest one, for any other."""
    if name not in TASKS:
        raise unknown("transfer", name, TASKS)
    return TASKS[name]
