"""One-way latency of a 64-byte message between two pinned processes, next to the bare hardware's.

    python benchmarks/latency.py [--json FILE] [--rounds N] [--cores A B] [--trips N]

psyne: send(view) to receive(), Python to Python, there and back, halved. The floor, in the same
rounds: pingpong.cpp. Then the cost of one message of 64 MiB against one of 64 bytes, payload not
touched.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import peers
from harness import (
    Figures,
    compile_pingpong,
    expect,
    installed,
    interleaved,
    machine,
    median_of,
    options,
    percentiles,
    play_role,
    private_channels,
    run_roles,
    write,
)

import psyne
from psyne import Array

WORDS = 8
Words = Array("u8", WORDS)
SMALL, BIG = 64, 64 << 20
MODES = {
    "spin": "spin",
    "adaptive": "spin",
    "block": "futex",
}  # wait= of psyne: the floor that it is held against


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
    small, big = (median_of(samples[size]) for size in (SMALL, BIG))
    return {"small": small, "big": big, "ratio_p50": round(big["p50"] / small["p50"], 3)}


def cost_of_messages(
    out: psyne.Sender[Any], source: psyne.Receiver[Any], messages: int
) -> np.ndarray:
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
        parser.add_argument(
            "--trips", type=int, default=200_000, help="round trips per round (spinning)"
        )
        parser.add_argument("--no-peers", action="store_true", help="leave iceoryx2 out")

    chosen = options(__doc__, more)
    first, second = chosen.cores

    def floor(mode: str, trips: int) -> Figures:
        command = [str(program), mode, str(trips), str(first), str(second)]
        return json.loads(
            subprocess.run(command, check=True, capture_output=True, text=True).stdout
        )  # type: ignore[no-any-return]

    def between(script: str, prefix: str, arguments: Figures) -> Figures:
        return run_roles(
            script, (f"{prefix}ping", first, arguments), (f"{prefix}pong", second, {**arguments})
        )[0]

    sleeping = max(chosen.trips // 20, 1000)
    cases = {
        "floor spin": lambda: floor("spin", chosen.trips),
        "psyne spin": lambda: between(
            __file__, "", {"name": "spin", "trips": chosen.trips, "wait": "spin"}
        ),
        "psyne adaptive": lambda: between(
            __file__, "", {"name": "adaptive", "trips": chosen.trips, "wait": "adaptive"}
        ),
        "floor futex": lambda: floor("futex", sleeping),
        "psyne block": lambda: between(
            __file__, "", {"name": "block", "trips": sleeping, "wait": "block"}
        ),
        "sizes": lambda: run_roles(
            __file__, ("sizes", first, {"name": "sizes", "messages": 2000, "passes": 5})
        )[0],
    }
    if installed("iceoryx2") and not chosen.no_peers:
        cases["iceoryx2 spin"] = lambda: between(
            peers.__file__, "iceoryx_", {"trips": chosen.trips // 10}
        )

    with private_channels(), tempfile.TemporaryDirectory() as directory:
        program = compile_pingpong(Path(directory))
        rounds = interleaved(chosen.rounds, cases)

    size_rounds = rounds.pop("sizes")
    medians = {name: median_of(one) for name, one in rounds.items()}
    p50 = {name: one["p50"] for name, one in medians.items()}
    size = {
        "small": median_of([one["small"] for one in size_rounds]),
        "big": median_of([one["big"] for one in size_rounds]),
        "ratio_p50": median_of([{"ratio": one["ratio_p50"]} for one in size_rounds])["ratio"],
    }
    ratios = {
        f"psyne {wait} / floor {floor}": p50[f"psyne {wait}"] / p50[f"floor {floor}"]
        for wait, floor in MODES.items()
    }
    if "iceoryx2 spin" in p50:
        ratios["iceoryx2 spin / psyne spin"] = p50["iceoryx2 spin"] / p50["psyne spin"]
    ratios["64 MiB / 64 B"] = size["ratio_p50"]

    print(f"one way, 64 bytes, ns: medians of {chosen.rounds} interleaved rounds")
    print(f"{'':18}" + "".join(f"{name:>12}" for name in ("p50", "p90", "p99", "p99.9")))
    for name, figures in medians.items():
        print(
            f"{name:18}"
            + "".join(f"{figures[key]:12,.1f}" for key in ("p50", "p90", "p99", "p99.9"))
        )
    print("one message, loan to release, capacity 2, payload untouched, ns")
    for label, figures in (("64 B", size["small"]), ("64 MiB", size["big"])):
        print(
            f"{label:18}"
            + "".join(f"{figures[key]:12,.1f}" for key in ("p50", "p90", "p99", "p99.9"))
        )
    for name, ratio in ratios.items():
        print(f"{name:36} {ratio:8.2f}x")
    write(
        chosen.json,
        {
            "machine": machine(chosen.cores),
            "one_way_ns": medians,
            "size_ns": size,
            "ratios": ratios,
            "rounds": rounds,
        },
    )


if __name__ == "__main__":
    play_role({"ping": ping, "pong": pong, "sizes": sizes})
    main()
