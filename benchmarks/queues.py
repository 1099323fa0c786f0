"""psyne.Queue next to multiprocessing.Queue and faster-fifo: the same program, one producer and one consumer.

The producer puts numpy arrays, of 1 MiB and of 64 bytes, as fast as the queue takes them; the consumer gets them as
arrays of its own, and compares the first and the last word of each with its number. All pickle but psyne.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from typing import Any

import numpy as np
from harness import (
    Figures,
    expect,
    installed,
    interleaved,
    machine,
    median_of,
    options,
    play_role,
    private_channels,
    ratio,
    run_roles,
    write,
)

SIZES = {"1 MiB": 1 << 20, "64 B": 64}
ROOM = 32 << 20  # bytes that a queue may hold, where it asks


def make(kind: str, size: int) -> Any:
    if kind == "psyne":
        import psyne

        return psyne.Queue(max_bytes=size)
    if kind == "psyne, views":
        import psyne

        return psyne.Queue(max_bytes=size, copy=False)
    if kind == "faster-fifo":
        import faster_fifo
        import faster_fifo_reduction  # noqa: F401  # so that it can be an argument

        return faster_fifo.Queue(ROOM)
    return multiprocessing.get_context("spawn").Queue(maxsize=max(ROOM // size, 8) if size > 4096 else 0)


def consume(queue: Any, results: Any, items: int, warm_up: int, core: int) -> None:
    os.sched_setaffinity(0, {core})
    results.send("here")
    for number in range(items + warm_up):
        if number == warm_up:
            start = time.perf_counter()
        item = queue.get()
        if item[0] != number or item[-1] != number:
            raise AssertionError(f"item {number} says {item[0]} and {item[-1]}")
    results.send(time.perf_counter() - start)


def program(kind: str, size: int, items: int, core: int) -> Figures:
    """Items per second from one process to another."""
    context = multiprocessing.get_context("spawn")
    queue = make(kind, size)
    ours, theirs = context.Pipe()
    warm_up = items // 10
    process = context.Process(target=consume, args=(queue, theirs, items, warm_up, core))
    process.start()
    expect(ours.recv(), "here", "the consumer")
    item = np.zeros(size // 8, "u8")
    put = queue.put
    for number in range(items + warm_up):
        if kind == "multiprocessing":  # its thread pickles later
            item = item.copy()
        item[0] = item[-1] = number
        put(item)
    seconds = ours.recv()
    process.join()
    expect(process.exitcode, 0, "exit of the consumer")
    return {"per_second": items / seconds, "microseconds": seconds / items * 1e6}


def main() -> None:
    def more(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--large", type=int, default=1000, help="arrays of 1 MiB per round")
        parser.add_argument("--small", type=int, default=50_000, help="records of 64 bytes per round")

    chosen = options(__doc__, more)
    counts = {"1 MiB": chosen.large, "64 B": chosen.small}
    kinds = ["psyne", "psyne, views", "multiprocessing"]
    if installed("faster_fifo"):
        kinds.append("faster-fifo")
    first, second = chosen.cores

    def case(kind: str, name: str) -> Figures:
        arguments = {"kind": kind, "size": SIZES[name], "items": counts[name], "core": second}
        return run_roles(__file__, ("program", first, arguments))[0]

    cases = {f"{name} {kind}": (lambda kind=kind, name=name: case(kind, name)) for name in SIZES for kind in kinds}
    with private_channels():
        rounds = interleaved(chosen.rounds, cases)

    medians = {name: median_of(one) for name, one in rounds.items()}
    print(f"medians of {chosen.rounds} interleaved rounds")
    for name, figures in medians.items():
        print(f"{name:24} {figures['per_second']:12.0f} items/s {figures['microseconds']:10.2f} µs")
    ratios = {
        f"{name}: psyne / {kind}": ratio(rounds, f"{name} psyne", f"{name} {kind}", "per_second")
        for name in SIZES
        for kind in kinds
        if not kind.startswith("psyne")
    }
    for name, value in ratios.items():
        print(f"{name:36} {value:8.2f}x")
    write(
        chosen.json,
        {"machine": machine(chosen.cores), "counts": counts, "figures": medians, "ratios": ratios, "rounds": rounds},
    )


if __name__ == "__main__":
    play_role({"program": program})
    main()
