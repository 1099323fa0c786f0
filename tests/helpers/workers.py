"""What started processes run; importable by name, as every way of starting them wants."""

import asyncio
import os
import time
from typing import Any

from layouts import Number

__all__ = [
    "answer", "die_holding", "double", "echo_type", "forward", "get_and_die", "keep", "put_numbers", "send_numbers",
    "square",
]  # fmt: skip


def double(rx: Any, tx: Any) -> None:
    """Answers each number with twice that number."""
    with tx:
        for m in rx:
            tx.send(Number(n=2 * m.n))


def forward(rx: Any, tx: Any) -> int:
    """The same, once, for workers that run already."""
    with rx.receive() as m:
        tx.send(Number(n=m.n + 100))
        return os.getpid()


def answer(jobs: Any, answers: Any) -> int:
    """Adds 100 to each number, in an event loop of its own."""

    async def main() -> int:
        done = 0
        async with answers:
            async for m in jobs:
                await answers.send(Number(n=m.n + 100))
                done += 1
        return done

    return asyncio.run(main())


def send_numbers(tx: Any, start: int, n: int) -> None:
    with tx:
        for i in range(start, start + n):
            tx.send(Number(n=i))


def keep(rx: Any, *_: Any) -> None:
    """Has an end and never uses it."""
    time.sleep(600)


def die_holding(rx: Any) -> None:
    m = rx.receive()
    assert m.n >= 0
    os._exit(9)


def echo_type(rx: Any) -> str:
    with rx.receive() as m:
        return f"{type(m).__module__}.{type(m).__qualname__} {type(m) is Number}"


def square(jobs: Any, answers: Any) -> None:
    """Sums the squares of arrays until somebody says stop."""
    while not isinstance(job := jobs.get(), str):
        answers.put((int((job * job).sum()), os.getpid()))


def put_numbers(queue: Any, n: int) -> None:
    for i in range(n):
        queue.put(i)


def get_and_die(queue: Any) -> None:
    view = queue.get()
    assert view is not None
    os._exit(9)
