"""More receivers than processors: what spinning costs when those who spin keep the sender from its processor.

    python benchmarks/crowd.py [--json FILE] [--rounds N] [--cores A B] [--messages N] [--receivers N]

A sender and the members of one stage, all on two cores. For wait="adaptive" and wait="block", in turns: messages per
second and processor time of all processes for one message. Adaptive waiting should cost no more than blocking.
"""

from __future__ import annotations

import argparse
import os
import resource
import time
from typing import Any

import numpy as np
from harness import (
    Figures,
    expect,
    finish,
    interleaved,
    machine,
    median_of,
    options,
    play_role,
    private_channels,
    ratio,
    start,
    write,
)

import psyne
from psyne import Array

Words = Array("u8", 8)
WAITS = ("block", "adaptive")
PAUSE = 0.0002  # seconds between messages: the members sleep, or spin, in between


def used() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def send(name: str, messages: int, receivers: int, wait: str, cores: list[int]) -> Figures:
    os.sched_setaffinity(0, cores)
    words = np.zeros(8, "u8")
    address = f"ipc://{name}"
    with (
        psyne.sender(address, Words, pattern="spmc", capacity=64, wait=wait) as out,  # type: ignore[arg-type]
        psyne.receiver(f"ipc://{name}-here", Words, wait="block", follow=True) as here,
    ):
        for _ in range(receivers):
            here.receive().release()
        begin, cpu = time.perf_counter(), used()
        for number in range(messages):
            words[0] = number
            out.send(words)
            if number % 16 == 0:
                time.sleep(PAUSE)
        out.drain()
        return {"seconds": time.perf_counter() - begin, "cpu": used() - cpu, "got": 0}


def receive(name: str, wait: str, cores: list[int]) -> Figures:
    os.sched_setaffinity(0, cores)
    got = 0
    with psyne.receiver(f"ipc://{name}", Words, wait=wait) as source:  # type: ignore[arg-type]
        while not source.joined:
            psyne.select(source, timeout=0.1)
        with psyne.sender(f"ipc://{name}-here", Words) as here:
            here.send(np.zeros(8, "u8"))
            here.drain()
        begin = used()
        for _ in source:
            got += 1
        return {"cpu": used() - begin, "got": got}


def main() -> None:
    def more(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--messages", type=int, default=20_000)
        parser.add_argument("--receivers", type=int, default=12)

    chosen = options(__doc__, more)
    cores = chosen.cores

    def crowd(wait: str) -> Figures:
        common: dict[str, Any] = {"name": wait, "wait": wait, "cores": cores}
        sender = start(
            __file__, "send", cores[0], {**common, "messages": chosen.messages, "receivers": chosen.receivers}
        )
        crowd = [start(__file__, "receive", cores[i % 2], common) for i in range(chosen.receivers)]
        results = finish([sender, *crowd])
        expect(sum(one["got"] for one in results), chosen.messages, "messages received")
        return {
            "messages_per_second": chosen.messages / results[0]["seconds"],
            "cpu_us_per_message": sum(one["cpu"] for one in results) / chosen.messages * 1e6,
        }

    with private_channels():
        rounds = interleaved(chosen.rounds, {wait: lambda wait=wait: crowd(wait) for wait in WAITS})  # type: ignore[misc]
    figures: Figures = {"machine": machine(cores), **{wait: median_of(one) for wait, one in rounds.items()}}
    print(f"{chosen.receivers} receivers on 2 cores{'messages/s':>16}{'CPU us/message':>16}")
    for wait in WAITS:
        print(f"{wait:22}{figures[wait]['messages_per_second']:16.0f}{figures[wait]['cpu_us_per_message']:16.2f}")
    figures["ratio"] = {key: ratio(rounds, "adaptive", "block", key) for key in rounds["block"][0]}
    print(f"adaptive over block: {figures['ratio']}")
    write(chosen.json, figures)


if __name__ == "__main__":
    play_role({"send": send, "receive": receive})
    main()
