"""A channel whose stage answers calls, in processes of its own."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import psyne
from psyne import Stage

from .layouts import Record
from .process import Child

__all__ = ["address_of", "is_answer", "jobs", "worker"]

WORK = Stage("work", mutate=True, on_crash="redeliver")
ANSWER = "for m in rx: m.seen = 3 * m.n + 1; m.body[:] = m.n % 251"  # a function of the question


def worker(stack: ExitStack, code: str = ANSWER, stage: str = "work", address: str = "ipc://jobs") -> Child:
    """A process that answers."""
    child = stack.enter_context(Child())
    child.run(f"rx = psyne.receiver({address!r}, stage={stage!r})")
    child.begin(code)
    return child


def jobs(stack: ExitStack, *types: Any, stages: Sequence[Stage | str] = (WORK,), **options: Any) -> psyne.Sender[Any]:
    options = {"pattern": "mpmc", "capacity": 8} | options
    return stack.enter_context(psyne.sender("ipc://jobs", *(types or (Record,)), stages=stages, **options))


def is_answer(done: Any, n: int) -> bool:
    return bool(done.n == n and done.seen == 3 * n + 1 and (done.body == n % 251).all())


def address_of(m: Any) -> int:
    """Of the first byte of a message."""
    return int(m.array.__array_interface__["data"][0])
