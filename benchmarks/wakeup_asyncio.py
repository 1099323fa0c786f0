"""Wake-up latency of a task that waits for a message, next to one that waits for a bare eventfd.

    python benchmarks/wakeup_asyncio.py [--json FILE] [--rounds N] [--cores A B] [--trips N]

Two pinned processes; from just before the send to the next line of the waiting task. The floor, in the same rounds and
processes alike: a 64-byte stamp in shared memory and an eventfd whose add_reader callback sets the future that the task
awaits. asyncio, and uvloop if it is installed. Target: at most 1.2 times the floor.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import mmap
import os
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any

import numpy as np
from harness import (
    WATCHDOG,
    Figures,
    expect,
    installed,
    interleaved,
    machine,
    median_of,
    options,
    percentiles,
    private_channels,
    ratio,
    write,
)

import psyne
from psyne import Array

WORDS = 8
Words = Array("u8", WORDS)
PAUSE = 200  # microseconds after which whoever waits is asleep
LOOPS = ("asyncio", "uvloop")
KEYS = ("p50", "p90", "p99")
now = time.perf_counter_ns


def let_sleep() -> None:
    """Keeps this core busy: a sleep would add the wake-up of this side to the figure."""
    end = now() + PAUSE * 1000
    while now() < end:
        pass


def wait_for(words: np.ndarray, number: int) -> None:
    """Until the other process says that it is about to wait for this one."""
    while words[2] != number + 1:
        pass


def run(loop: str, main: Coroutine[Any, Any, Figures]) -> Figures:
    if loop == "uvloop":
        import uvloop

        return uvloop.run(main)  # type: ignore[no-any-return]
    return asyncio.run(main)


# ------------------------------------------------------------------------ the two sides


async def psyne_waits(trips: int, memory: int) -> Figures:
    times = np.zeros(trips, "i8")
    ready = np.frombuffer(mmap.mmap(memory, 4096), "u8")
    async with psyne.aio.receiver("ipc://wake", Words) as source:
        for number in range(trips):
            ready[2] = number + 1
            message = await source.receive()
            end = now()
            words = message.array
            times[number] = end - int(words[1])
            expect(int(words[0]), number, "the message")
            del words
            message.release()
    return percentiles(times[trips // 10 :])


def psyne_wakes(trips: int, memory: int) -> None:
    ready = np.frombuffer(mmap.mmap(memory, 4096), "u8")
    words = np.zeros(WORDS, "u8")
    view = memoryview(words)
    with psyne.sender("ipc://wake", Words, pattern="spsc", capacity=8) as out:
        for number in range(trips):
            wait_for(ready, number)
            words[0] = number
            let_sleep()
            words[1] = now()
            out.send(view)
        out.drain()


async def bare_waits(trips: int, memory: int, bell: int) -> Figures:
    times = np.zeros(trips, "i8")
    words = np.frombuffer(mmap.mmap(memory, 4096), "u8")
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] | None = None

    def rung() -> None:
        os.eventfd_read(bell)
        if future is not None and not future.done():
            future.set_result(None)

    loop.add_reader(bell, rung)
    for number in range(trips):
        future = loop.create_future()
        words[2] = number + 1
        await future
        end = now()
        times[number] = end - int(words[1])
        expect(int(words[0]), number, "the stamp")
    return percentiles(times[trips // 10 :])


def bare_wakes(trips: int, memory: int, bell: int) -> None:
    words = np.frombuffer(mmap.mmap(memory, 4096), "u8")
    for number in range(trips):
        wait_for(words, number)
        words[0] = number
        let_sleep()
        words[1] = now()
        os.eventfd_write(bell, 1)


# ------------------------------------------------------------------------ the run


def pair(trips: int, loop: str, side: str, cores: list[int]) -> Figures:
    """Both processes; what the waiting one has measured."""
    memory, bell = os.memfd_create("stamp"), os.eventfd(0, os.EFD_NONBLOCK)
    os.ftruncate(memory, 4096)
    fds = [memory, bell]
    command = [sys.executable, __file__, "--side", side, "--trips", str(trips), "--fds", *map(str, fds), "--loop", loop]
    waits, wakes = (
        subprocess.Popen([*command, "--role", role, "--core", str(core)], pass_fds=fds, stdout=subprocess.PIPE)
        for role, core in zip(("waits", "wakes"), cores, strict=True)
    )
    try:
        said, _ = waits.communicate(timeout=WATCHDOG)
        wakes.communicate(timeout=WATCHDOG)
    finally:
        waits.kill()
        wakes.kill()
        for fd in fds:
            os.close(fd)
    if waits.returncode or wakes.returncode:
        raise SystemExit(f"{side} on {loop}: exit {waits.returncode}, {wakes.returncode}")
    return json.loads(said)  # type: ignore[no-any-return]


def play() -> None:
    parser = argparse.ArgumentParser()
    for name, kind in (("side", str), ("loop", str), ("role", str), ("trips", int), ("core", int)):
        parser.add_argument(f"--{name}", type=kind, required=True)
    parser.add_argument("--fds", type=int, nargs=2)
    o = parser.parse_args()
    os.sched_setaffinity(0, {o.core})
    if o.role == "waits":
        main = psyne_waits(o.trips, o.fds[0]) if o.side == "psyne" else bare_waits(o.trips, *o.fds)
        print(json.dumps(run(o.loop, main)))
    elif o.side == "psyne":
        psyne_wakes(o.trips, o.fds[0])
    else:
        bare_wakes(o.trips, *o.fds)


def main() -> None:
    def more(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--trips", type=int, default=3000, help="wake-ups per round")

    chosen = options(__doc__, more)
    loops = [loop for loop in LOOPS if loop == "asyncio" or installed(loop)]
    cases: dict[str, Callable[[], Figures]] = {
        f"{side}, {loop}": lambda side=side, loop=loop: pair(chosen.trips, loop, side, chosen.cores)  # type: ignore[misc]
        for loop in loops
        for side in ("eventfd", "psyne")
    }
    with private_channels():
        rounds = interleaved(chosen.rounds, cases)
    figures: Figures = {"machine": machine(chosen.cores), "latency_ns": {n: median_of(r) for n, r in rounds.items()}}
    print(f"{'wake-up of a task, ns':24}" + "".join(f"{key:>10}" for key in KEYS))
    for name, one in figures["latency_ns"].items():
        print(f"{name:24}" + "".join(f"{one[key]:10.0f}" for key in KEYS))
    figures["ratio"] = {loop: ratio(rounds, f"psyne, {loop}", f"eventfd, {loop}", "p50") for loop in loops}
    for loop, value in figures["ratio"].items():
        print(f"{loop}: {value:.2f} times the bare eventfd (target 1.2)")
    write(chosen.json, figures)


if __name__ == "__main__":
    play() if "--role" in sys.argv else main()
