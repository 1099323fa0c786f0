"""Round trip of a call: 64 bytes there, changed in place by one worker, and back; two pinned processes.

    python benchmarks/call.py [--json FILE] [--rounds N] [--cores A B] [--trips N]

psyne: call() to its answer, spinning, next to two hops through two channels, send(view) to receive(), both ways in the
same rounds. Beside them multiprocessing.Pipe, and pyzmq's REQ and REP if it is installed, with the same bytes. Then
calls per second of 100 tasks on one sender in asyncio, with a worker that sleeps.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from multiprocessing.connection import Client, Listener
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
KEYS = ("p50", "p90", "p99")
TASKS = 100
WORK = Stage("work", mutate=True)
now = time.perf_counter_ns


def check(answer: Any, number: int) -> None:
    expect((int(answer[0]), int(answer[-1])), (number + 1, number), f"answer {number}")


# ------------------------------------------------------------------------ one call after the other


def call_ask(trips: int) -> Figures:
    times, words = np.zeros(trips, "i8"), np.zeros(WORDS, "u8")
    view = memoryview(words)
    with psyne.sender("ipc://call", Words, stages=[WORK], pattern="spsc", wait="spin") as out:
        for number in range(trips):
            words[:] = number
            start = now()
            done = out.call(view)
            times[number] = now() - start
            check(done.array, number)
            done.release()
    return percentiles(times[trips // 10 :])


def call_answer(trips: int) -> None:
    with psyne.receiver("ipc://call", Words, stage="work", wait="spin", follow=True) as source:
        for _ in range(trips):
            with source.receive() as message:
                message.array[0] += 1


def hops_ask(trips: int) -> Figures:
    times, words = np.zeros(trips, "i8"), np.zeros(WORDS, "u8")
    view = memoryview(words)
    with (
        psyne.sender("ipc://there", Words, pattern="spsc", wait="spin") as out,
        psyne.receiver("ipc://back", Words, wait="spin") as back,
    ):
        for number in range(trips):
            words[:] = number
            start = now()
            out.send(view)
            done = back.receive()
            times[number] = now() - start
            check(done.array, number)
            done.release()
    return percentiles(times[trips // 10 :])


def hops_answer(trips: int) -> None:
    words = np.zeros(WORDS, "u8")
    view = memoryview(words)
    with (
        psyne.receiver("ipc://there", Words, wait="spin") as source,
        psyne.sender("ipc://back", Words, pattern="spsc", wait="spin") as back,
    ):
        for _ in range(trips):
            with source.receive() as message:
                words[:] = message.array
            words[0] += 1
            back.send(view)
        back.drain()


def where(name: str) -> str:
    return os.path.join(os.environ["PSYNE_DIR"], name)


def connected(path: str) -> Any:
    while True:
        try:
            return Client(path, "AF_UNIX")
        except (FileNotFoundError, ConnectionRefusedError):
            time.sleep(0.01)


def pipe_ask(trips: int) -> Figures:
    times, words = np.zeros(trips, "i8"), np.zeros(WORDS, "u8")
    with connected(where("pipe")) as link:
        for number in range(trips):
            words[:] = number
            start = now()
            link.send_bytes(words)
            done = link.recv_bytes()
            times[number] = now() - start
            check(np.frombuffer(done, "u8"), number)
    return percentiles(times[trips // 10 :])


def pipe_answer(trips: int) -> None:
    with Listener(where("pipe"), "AF_UNIX") as listener, listener.accept() as link:
        for _ in range(trips):
            words = np.frombuffer(bytearray(link.recv_bytes()), "u8")
            words[0] += 1
            link.send_bytes(words)


def zmq_ask(trips: int) -> Figures:
    import zmq

    times, words = np.zeros(trips, "i8"), np.zeros(WORDS, "u8")
    with zmq.Context() as context, context.socket(zmq.REQ) as link:
        link.connect("ipc://" + where("zmq"))
        for number in range(trips):
            words[:] = number
            start = now()
            link.send(words)
            done = link.recv()
            times[number] = now() - start
            check(np.frombuffer(done, "u8"), number)
    return percentiles(times[trips // 10 :])


def zmq_answer(trips: int) -> None:
    import zmq

    with zmq.Context() as context, context.socket(zmq.REP) as link:
        link.bind("ipc://" + where("zmq"))
        for _ in range(trips):
            words = np.frombuffer(bytearray(link.recv()), "u8")
            words[0] += 1
            link.send(words)


# ------------------------------------------------------------------------ many at once


def tasks_ask(trips: int) -> Figures:
    async def main() -> float:
        left = iter(range(trips))

        async def caller(out: Any) -> None:
            words = np.zeros(WORDS, "u8")
            for number in left:
                words[:] = number
                with await out.call(words) as done:
                    check(done.array, number)

        async with psyne.aio.sender("ipc://tasks", Words, stages=[WORK], pattern="spsc", capacity=256) as out:
            start = time.perf_counter()
            await asyncio.gather(*(caller(out) for _ in range(TASKS)))
            return time.perf_counter() - start

    return {"calls_per_second": round(trips / asyncio.run(main()))}


def tasks_answer(trips: int) -> None:
    with psyne.receiver("ipc://tasks", Words, stage="work", follow=True) as source:
        for _ in range(trips):
            with source.receive() as message:
                message.array[0] += 1


# ------------------------------------------------------------------------ the run


def main() -> None:
    chosen = options(__doc__, add_trips)
    first, second = chosen.cores
    ways = {"call": chosen.trips, "hops": chosen.trips, "pipe": chosen.trips // 10}
    if installed("zmq"):
        ways["zmq"] = chosen.trips // 10
    ways["tasks"] = chosen.trips // 10

    def pair(way: str, trips: int) -> Figures:
        roles = [(f"{way}_ask", first, {"trips": trips}), (f"{way}_answer", second, {"trips": trips})]
        return run_roles(__file__, *roles)[0]

    with private_channels():
        rounds = interleaved(chosen.rounds, {way: lambda w=way, n=n: pair(w, n) for way, n in ways.items()})  # type: ignore[misc]
    medians = {way: median_of(one) for way, one in rounds.items()}
    ratios = {f"{way} / call": ratio(rounds, way, "call", "p50") for way in ways if way not in ("call", "tasks")}
    ratios["call / hops"] = ratio(rounds, "call", "hops", "p50")

    print("64 bytes there, changed, and back; ns. hops: two channels; below: ratios of p50, medians over the rounds")
    print(f"{'':18}" + "".join(f"{name:>12}" for name in KEYS))
    for way, figures in medians.items():
        if way != "tasks":
            print(f"{way:18}" + "".join(f"{figures[key]:12,.0f}" for key in KEYS))
    print(f"{TASKS} tasks in asyncio: {medians['tasks']['calls_per_second']:,.0f} calls per second")
    for name, value in ratios.items():
        print(f"{name:18} {value:8.2f}x")
    write(chosen.json, {"machine": machine(chosen.cores), "medians": medians, "ratios_p50": ratios, "rounds": rounds})


def add_trips(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--trips", type=int, default=100_000, help="round trips per round")


if __name__ == "__main__":
    asking = (call_ask, hops_ask, pipe_ask, zmq_ask, tasks_ask)
    answering = (call_answer, hops_answer, pipe_answer, zmq_answer, tasks_answer)
    play_role({role.__name__: role for role in (*asking, *answering)})
    main()
