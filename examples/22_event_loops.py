"""The same coroutine on asyncio, uvloop, trio and anyio; and a loop of one's own, with a descriptor.

Loops that are not installed are skipped.
"""

import asyncio
import importlib
import selectors
from typing import Any

import psyne
from psyne import Struct, u64

COUNT = 1000


class Step(Struct):
    n = u64()


async def count() -> int:
    """Sends, and receives what it sent; every wait lets others run, and nothing here names a loop."""
    total = 0
    async with (
        psyne.aio.sender("ipc://steps", Step, capacity=16) as out,
        psyne.aio.receiver("ipc://steps", Step) as steps,
    ):
        for n in range(COUNT):
            async with out.loan() as m:
                m.n = n
            if n % 10 == 9:
                for _ in range(10):
                    with await steps.receive() as m:
                        total += m.n
        assert await psyne.aio.select(out, steps) == [out]  # there is room, and no message
    return total


def selector() -> int:
    """Without coroutines: a descriptor that is readable while there is something to receive."""
    got = 0
    with (
        psyne.sender("ipc://steps", Step) as out,
        psyne.receiver("ipc://steps", Step) as steps,
        selectors.DefaultSelector() as waiting,
    ):
        waiting.register(steps.fileno(), selectors.EVENT_READ)
        assert waiting.select(0) == []
        out.send(Step(n=1))
        out.send(Step(n=2))
        while got < 2:
            waiting.select(0.1)  # a time-out, so that the dead are noticed
            while (m := steps.try_receive()) is not None:
                got += 1
                m.release()
        assert waiting.select(0) == []
    return got


def main() -> None:
    expected = COUNT * (COUNT - 1) // 2
    ran = ["asyncio"]
    assert asyncio.run(count()) == expected
    for name in ("uvloop", "trio", "anyio"):
        try:
            loop: Any = importlib.import_module(name)
        except ImportError:
            continue
        assert (loop.run(count()) if name == "uvloop" else loop.run(count)) == expected
        ran.append(name)
    assert selector() == 2
    print(f"{COUNT} messages on each of {', '.join(ran)}, and two by a selector")


if __name__ == "__main__":
    main()
