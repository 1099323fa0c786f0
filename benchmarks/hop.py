"""The hop from one stage to the next, beside the hop from a sender to its receiver: spinning, two pinned processes.

    python benchmarks/hop.py [--json FILE] [--rounds N] [--cores A B] [--trips N]

64 bytes there and back, halved, as in latency.py. What is handed over is ready before the clock starts: a loan that is
written, or a message that the stage before has received. From the commit of the loan, or the release of the message,
until the other process has it. Target: a stage's hop takes at most 1.2 times a sender's.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np
from harness import (
    Figures,
    expect,
    interleaved,
    machine,
    median_of,
    options,
    percentiles,
    play_role,
    private_channels,
    ratio,
    run_roles,
    write,
)

import psyne
from psyne import Array, Stage

WORDS = 8
Words = Array("u8", WORDS)
LET_SPIN = 2000  # ns from one trip to the next: whoever waits is spinning
KEYS = ("p50", "p90", "p99", "p99.9")
TARGET = 1.2
STAGES: dict[str, list[Stage | str]] = {
    "sender": ["main"],
    "stage": ["before", "main"],
    "mutating stage": [Stage("before", mutate=True), "main"],
}
Step = Callable[[], Any]


def side(open_ends: ExitStack, name: str, there: str, back: str, hop: str) -> tuple[Callable[[int], Step], Step]:
    """How this process prepares a message to hand over (and then hands it over), and how it receives one."""

    def address(way: str) -> str:
        return f"ipc://{name}-{way}"

    def opened(end: Any) -> Any:
        return open_ends.enter_context(end)

    out = opened(psyne.sender(address(there), Words, pattern="spsc", stages=STAGES[hop], wait="spin"))
    before = None if hop == "sender" else opened(psyne.receiver(address(there), Words, stage="before", wait="spin"))
    source = opened(psyne.receiver(address(back), Words, stage="main", wait="spin"))

    def prepare(number: int) -> Step:
        message = out.loan()
        if before is None:
            message.array[:] = number
            return partial(out.send, message)
        message.array[:] = number if hop == "stage" else 0
        out.send(message)
        message = before.receive()
        if hop != "stage":
            message.array[:] = number
        return message.release  # type: ignore[no-any-return]

    return prepare, source.receive


def check(message: Any, number: int) -> None:
    expect(message.array.tolist(), [number] * WORDS, f"message {number}")


def ping(name: str, trips: int, hop: str) -> Figures:
    warm_up = trips // 10
    times = np.zeros(trips + warm_up, "i8")
    now = time.perf_counter_ns
    with ExitStack() as open_ends:
        prepare, receive = side(open_ends, name, "there", "back", hop)
        for number in range(trips + warm_up):
            hand_over = prepare(number)
            until = now() + LET_SPIN
            while now() < until:
                pass
            start = now()
            hand_over()
            message = receive()
            times[number] = now() - start
            check(message, number)
            message.release()
    return percentiles(times[warm_up:] / 2)


def pong(name: str, trips: int, hop: str) -> None:
    with ExitStack() as open_ends:
        prepare, receive = side(open_ends, name, "back", "there", hop)
        hand_over = prepare(0)
        for number in range(trips + trips // 10):
            message = receive()
            hand_over()
            check(message, number)
            message.release()
            if number + 1 < trips + trips // 10:
                hand_over = prepare(number + 1)


def main() -> None:
    def more(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--trips", type=int, default=50_000, help="round trips per round")

    chosen = options(__doc__, more)
    first, second = chosen.cores

    def pair(hop: str) -> Figures:
        arguments = {"name": hop.replace(" ", "-"), "trips": chosen.trips, "hop": hop}
        return run_roles(__file__, ("ping", first, arguments), ("pong", second, arguments))[0]

    with private_channels():
        rounds = interleaved(chosen.rounds, {hop: lambda hop=hop: pair(hop) for hop in STAGES})  # type: ignore[misc]
    medians = {hop: median_of(one) for hop, one in rounds.items()}
    ratios = {f"{hop} / sender": ratio(rounds, hop, "sender", "p50") for hop in STAGES if hop != "sender"}
    print(f"64 bytes to the next process, spinning; ns, medians of {chosen.rounds} interleaved rounds")
    print(f"{'hop from a':18}" + "".join(f"{key:>12}" for key in KEYS))
    for hop, figures in medians.items():
        print(f"{hop:18}" + "".join(f"{figures[key]:12,.1f}" for key in KEYS))
    for name, value in ratios.items():
        print(f"{name:36} {value:8.2f}x   target {TARGET}")
    write(chosen.json, {"machine": machine(chosen.cores), "ns": medians, "ratios_p50": ratios, "rounds": rounds})


if __name__ == "__main__":
    play_role({role.__name__: role for role in (ping, pong)})
    main()
