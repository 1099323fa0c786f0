"""One-way latency of a 64-byte message between two pinned processes, next to the bare hardware's.

    python benchmarks/latency.py [--json FILE] [--rounds N] [--cores A B] [--trips N]

psyne: send(view) to receive(), Python to Python, there and back, halved; and from send() to the
wake-up of a receiver that sleeps. The floors, in the same rounds: pingpong.cpp. Then the cost of one
message of 64 MiB against one of 64 bytes, payload not touched.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import peers
from harness import (
    Figures,
    compile_bare,
    expect,
    installed,
    interleaved,
    machine,
    median_of,
    options,
    percentiles,
    play_role,
    private_channels,
    ratio,
    run_bare,
    run_roles,
    write,
)

import psyne
from psyne import Array

WORDS = 8
Words = Array("u8", WORDS)
SMALL, BIG = 64, 64 << 20
PAUSE = 200  # microseconds after which whoever waits is asleep
WAITS = ("spin", "adaptive", "block")
KEYS = ("p50", "p90", "p99", "p99.9")


# ------------------------------------------------------------------------ there and back


def check(message: Any, number: int) -> None:
    array = message.array
    if array[0] != number or array[-1] != number:
        expect(array.tolist(), [number] * WORDS, f"message {number}")


def ping(name: str, trips: int, wait: str) -> Figures:
    warm_up = trips // 10
    times = np.zeros(trips + warm_up, "i8")
    numbers = np.zeros(WORDS, "u8")
    view = memoryview(numbers)
    now = time.perf_counter_ns
    with (
        psyne.sender(f"ipc://{name}-there", Words, pattern="spsc", wait=wait) as out,
        psyne.receiver(f"ipc://{name}-back", Words, wait=wait) as back,
    ):
        for number in range(trips + warm_up):
            numbers[:] = number
            start = now()
            out.send(view)
            message = back.receive()
            times[number] = now() - start
            check(message, number)
            message.release()
    return percentiles(times[warm_up:] / 2)


def pong(name: str, trips: int, wait: str) -> None:
    numbers = np.zeros(WORDS, "u8")
    view = memoryview(numbers)
    with (
        psyne.receiver(f"ipc://{name}-there", Words, wait=wait) as source,
        psyne.sender(f"ipc://{name}-back", Words, pattern="spsc", wait=wait) as back,
    ):
        for number in range(trips + trips // 10):
            message = source.receive()
            back.send(view)
            check(message, number)
            message.release()
            numbers[:] = number + 1
        back.drain()


# ------------------------------------------------------------------------ waking up


def wake_ping(name: str, trips: int, wait: str) -> Figures:
    warm_up = trips // 10
    times = np.zeros(trips + warm_up, "i8")
    words = np.zeros(WORDS, "u8")
    view = memoryview(words)
    now = time.perf_counter_ns
    with (
        psyne.sender(f"ipc://{name}-there", Words, pattern="spsc", wait=wait) as out,
        psyne.receiver(f"ipc://{name}-back", Words, wait=wait) as back,
    ):
        for number in range(trips + warm_up):
            words[0] = number
            let_sleep()
            out.send(view)
            message = back.receive()
            end = now()
            expect(int(message.array[0]), number, "the answer")
            times[number] = end - int(message.array[1])
            message.release()
    return percentiles(times[warm_up:])


def wake_pong(name: str, trips: int, wait: str) -> None:
    words = np.zeros(WORDS, "u8")
    view = memoryview(words)
    now = time.perf_counter_ns
    with (
        psyne.receiver(f"ipc://{name}-there", Words, wait=wait) as source,
        psyne.sender(f"ipc://{name}-back", Words, pattern="spsc", wait=wait) as back,
    ):
        for number in range(trips + trips // 10):
            with source.receive() as message:
                expect(int(message.array[0]), number, "the question")
            words[0] = number
            let_sleep()
            words[1] = now()
            back.send(view)
        back.drain()


def let_sleep() -> None:
    """Keeps this core busy: a sleep would add the wake-up of this side to the figure."""
    end = time.perf_counter_ns() + PAUSE * 1000
    while time.perf_counter_ns() < end:
        pass


# ------------------------------------------------------------------------ size


def sizes(name: str, messages: int, passes: int) -> Figures:
    """Loan to release on one core, both sizes in turn: nothing in it may depend on the size."""
    ends = {}
    for size in (SMALL, BIG):
        address = f"ipc://{name}-{size}"
        out = psyne.sender(address, Array("u1", size), pattern="spsc", capacity=2, wait="spin")
        ends[size] = out, psyne.receiver(address, wait="spin")
    samples: dict[int, list[Figures]] = {size: [] for size in ends}
    for out, source in ends.values():
        for mark in (1, 2):
            with out.loan() as loan:
                loan.array[:] = mark
            source.receive().release()
        cost_of_messages(out, source, messages)
    for _ in range(passes):
        for size, (out, source) in ends.items():
            samples[size].append(percentiles(cost_of_messages(out, source, messages)))
    for size, (out, source) in ends.items():
        for mark in (1, 2):
            with out.loan():
                pass
            with source.receive() as message:
                expect(
                    (int(message.array[0]), int(message.array[-1])),
                    (mark, mark),
                    f"untouched slot of {size} bytes",
                )
        out.close()
        source.close()
    names = {SMALL: "64 B", BIG: "64 MiB"}
    return {names[size]: median_of(one) for size, one in samples.items()}


def cost_of_messages(out: psyne.Sender[Any], source: psyne.Receiver[Any], messages: int) -> np.ndarray:
    times = np.zeros(messages, "i8")
    now = time.perf_counter_ns
    for number in range(messages):
        start = now()
        with out.loan():
            pass
        source.receive().release()
        times[number] = now() - start
    return times


# ------------------------------------------------------------------------ the run


def main() -> None:
    def more(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--trips", type=int, default=200_000, help="round trips per round (spinning)")
        parser.add_argument("--no-peers", action="store_true", help="leave iceoryx2 out")

    chosen = options(__doc__, more)
    first, second = chosen.cores

    def floor(mode: str, trips: int, *pause: int) -> Figures:
        return run_bare(program, mode, trips, first, second, *pause)

    def pair(script: str, prefix: str, arguments: Figures) -> Figures:
        roles = (f"{prefix}ping", first, arguments), (f"{prefix}pong", second, arguments)
        return run_roles(script, *roles)[0]

    def spinning(wait: str) -> Figures:
        return pair(__file__, "", {"name": wait, "trips": chosen.trips, "wait": wait})

    def sleeping(wait: str) -> Figures:
        return pair(__file__, "wake_", {"name": f"wake-{wait}", "trips": few, "wait": wait})

    few = max(chosen.trips // 100, 500)
    size_arguments = {"name": "sizes", "messages": 2000, "passes": 5}
    cases = {
        "floor": lambda: floor("spin", chosen.trips),
        "psyne spin": lambda: spinning("spin"),
        "psyne adaptive": lambda: spinning("adaptive"),
        "psyne block": lambda: spinning("block"),
        "wake-up floor": lambda: floor("futex", few, PAUSE),
        "wake-up adaptive": lambda: sleeping("adaptive"),
        "wake-up block": lambda: sleeping("block"),
        "sizes": lambda: run_roles(__file__, ("sizes", first, size_arguments))[0],
    }
    if installed("iceoryx2") and not chosen.no_peers:
        peer = {"trips": chosen.trips // 10}
        cases["iceoryx2"] = lambda: pair(peers.__file__, "iceoryx_", peer)

    with private_channels(), tempfile.TemporaryDirectory() as directory:
        program = compile_bare("pingpong", Path(directory))
        rounds = interleaved(chosen.rounds, cases)

    compared = {f"psyne {wait} / floor": (f"psyne {wait}", "floor") for wait in WAITS}
    for wait in WAITS[1:]:
        compared[f"wake-up {wait} / floor"] = f"wake-up {wait}", "wake-up floor"
    if "iceoryx2" in rounds:
        compared["iceoryx2 / psyne spin"] = "iceoryx2", "psyne spin"
    for size in ("64 B", "64 MiB"):
        rounds[size] = [one[size] for one in rounds["sizes"]]
    del rounds["sizes"]
    compared["64 MiB / 64 B"] = "64 MiB", "64 B"
    medians = {name: median_of(one) for name, one in rounds.items()}
    ratios = {name: ratio(rounds, *pair, "p50") for name, pair in compared.items()}

    print("64 bytes one way and, below, one message from loan to release on one core; ns")
    print(f"medians of {chosen.rounds} interleaved rounds; ratios: of p50, medians over the rounds")
    print(f"{'':18}" + "".join(f"{name:>12}" for name in KEYS))
    for name, figures in medians.items():
        print(f"{name:18}" + "".join(f"{figures[key]:12,.1f}" for key in KEYS))
    for name, value in ratios.items():
        print(f"{name:36} {value:8.2f}x")
    write(
        chosen.json,
        {
            "machine": machine(chosen.cores),
            "ns": medians,
            "ratios_p50": ratios,
            "rounds": rounds,
        },
    )


if __name__ == "__main__":
    play_role({role.__name__: role for role in (ping, pong, wake_ping, wake_pong, sizes)})
    main()
