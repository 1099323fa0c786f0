"""How things end: no room, no message, a clean end, a killed receiver, a killed sender."""

import multiprocessing
import os
import signal
from collections.abc import Callable

import psyne
from psyne import Struct, u64


class Count(Struct):
    n = u64()


def die_with_a_message() -> None:
    with psyne.receiver("ipc://counts").receive():  # without a type the channel describes itself
        os.kill(os.getpid(), signal.SIGKILL)


def die_with_a_loan() -> None:
    out = psyne.sender("ipc://counts", Count)
    out.send(Count(n=7))
    with out.loan() as m:
        m.n = 8  # never sent
        os.kill(os.getpid(), signal.SIGKILL)


def run(target: Callable[[], None]) -> None:
    process = multiprocessing.get_context("spawn").Process(target=target)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def main() -> None:
    out = psyne.sender("ipc://counts", Count, capacity=4)
    for n in range(4):
        out.send(Count(n=n))
    try:
        out.send(Count(n=4), timeout=0)
    except psyne.Full as error:  # also a TimeoutError
        print("Full:", error)
    run(die_with_a_message)
    counts = psyne.receiver("ipc://counts", Count)  # its place is free again, and so is what it held
    with counts.receive() as m:
        print(f"a receiver was killed while it held message {m.n}, which comes again: {m.info}")
        assert (m.n, m.info.redelivered) == (0, True)
    assert [counts.receive().n for _ in range(3)] == [1, 2, 3]
    out.close()
    run(die_with_a_loan)
    assert counts.receive().n == 7  # what was sent counts
    try:
        counts.receive()
    except psyne.SenderLost as error:  # a clean end would be psyne.EndOfChannel
        print("SenderLost:", error)


if __name__ == "__main__":
    main()
