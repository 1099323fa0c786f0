"""Messages per second between pinned processes: one by one, and in batches.

    python benchmarks/throughput.py [--json FILE] [--rounds N] [--cores A B] [--batch N]

One by one, 64 bytes: psyne's send(view)/receive(), a bare object() loop, iceoryx2's binding, pyzmq.
In batches, 16 bytes: loan_many/receive_many for each pattern, every message compared, next to
np.copyto over a ring of the same size.
"""

from __future__ import annotations

import argparse
import mmap
import os
import tempfile
import time
from itertools import repeat
from typing import Any

import numpy as np
import peers
from harness import (
    Figures,
    WrongData,
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
from workload import PERIOD, Words, payloads, receive_all, receive_and_compare, send_all

import psyne
from psyne import Array

Pair = Array("u8", 2)  # both words: the sender in the upper 16 bits, the message's number in the lower 48
SENDER_BITS = 48
MASK = (1 << SENDER_BITS) - 1
ENDS = {"spsc": (1, 1), "mpsc": (2, 1), "spmc": (1, 2), "mpmc": (2, 2)}
COMPARED = 64 * PERIOD  # messages one by one that are all compared before the clock starts


# ------------------------------------------------------------------------ one by one


def send_singles(name: str, messages: int) -> None:
    with psyne.sender(f"ipc://{name}", Words, pattern="spsc", wait="spin") as out:
        send_all(out, payloads(), COMPARED + messages)


def receive_singles(name: str, messages: int) -> Figures:
    with psyne.receiver(f"ipc://{name}", Words, wait="spin") as source:
        receive_and_compare(source, COMPARED)
        start = time.perf_counter()
        receive_all(source, messages)
        seconds = time.perf_counter() - start
        try:
            source.receive()
        except psyne.EndOfChannel:
            return {"per_second": messages / seconds}
        raise WrongData("more messages than were sent")


def objects(messages: int) -> Figures:
    start = time.perf_counter()
    for _ in repeat(None, messages):
        object()
    return {"per_second": messages / (time.perf_counter() - start)}


# ------------------------------------------------------------------------ batches


def numbered(batch: int) -> np.ndarray:
    return np.repeat(np.arange(batch, dtype="u8"), 2).reshape(batch, 2)


def send_batches(name: str, pattern: str, number: int, messages: int, batch: int, capacity: int, wait: str) -> None:
    numbers = numbered(batch)
    first = number << SENDER_BITS
    with psyne.sender(f"ipc://{name}", Pair, pattern=pattern, capacity=capacity, wait=wait) as out:
        for position in range(0, messages, batch):
            with out.loan_many(batch) as loan:
                np.add(numbers, np.uint64(first + position), out=loan.array)


def receive_batches(name: str, warm_up: int, batch: int, wait: str) -> Figures:
    """Takes until the channel ends and compares both words of every message."""
    numbers, wanted, same = numbered(batch), np.empty((batch, 2), "u8"), np.empty((batch, 2), "?")
    runs: list[tuple[np.uint64, int]] = []  # the first message of each batch, and how many
    received, counted_from, start = 0, 0, 0.0
    with psyne.receiver(f"ipc://{name}", Pair, wait=wait) as source:
        while True:
            try:
                taken = source.receive_many(batch)
            except psyne.EndOfChannel:
                break
            array = taken.array
            count, first = len(array), array[0, 0]
            np.add(numbers[:count], first, out=wanted[:count])
            np.equal(array, wanted[:count], out=same[:count])
            if np.count_nonzero(same[:count]) != 2 * count:
                raise WrongData(f"in a batch that begins with {first}: {array.tolist()}")
            del array
            taken.release()
            runs.append((first, count))
            received += count
            if not start and received >= warm_up:
                start, counted_from = time.monotonic(), received
        end = time.monotonic()
    seen = [(int(first) >> SENDER_BITS, int(first) & MASK, count) for first, count in runs]
    return {"start": start, "end": end, "timed": received - counted_from, "runs": seen}


def check_runs(reports: list[Figures], senders: int, each: int) -> None:
    """None lost, none twice: the runs of all receivers tile each sender's messages, each one in order."""
    for sender in range(senders):
        runs = [[(at, count) for who, at, count in one["runs"] if who == sender] for one in reports]
        for one in runs:
            expect(one, sorted(one), f"the order of sender {sender}")
        due = 0
        for at, count in sorted(run for one in runs for run in one):
            expect(at, due, f"sender {sender}: the next message")
            due = at + count
        expect(due, each, f"sender {sender}: messages")


def copies(messages: int, batch: int, capacity: int) -> Figures:
    """The limit: one core copies ready batches over a shared ring, and nothing else."""
    with tempfile.TemporaryFile(dir=os.environ["PSYNE_DIR"]) as file:
        file.truncate(capacity * 16)
        memory = mmap.mmap(file.fileno(), capacity * 16, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
        ring = np.frombuffer(memory, "u8").reshape(-1, batch, 2)
        source = numbered(batch)
        slots = [*ring]
        for slot in slots:
            np.copyto(slot, source)
        start = time.perf_counter()
        for _ in repeat(None, messages // capacity):
            for slot in slots:
                np.copyto(slot, source)
        seconds = time.perf_counter() - start
        expect(bool((ring == source).all()), True, "copies")
    return {"per_second": messages // capacity * capacity / seconds}


def batches(pattern: str, messages: int, batch: int, capacity: int, cores: list[int]) -> Figures:
    senders, receivers = ENDS[pattern]
    # Who shares a core must sleep when it has nothing to do.
    wait = "spin" if senders == receivers == 1 else "adaptive"
    each = messages // senders // batch * batch
    common = {"name": f"batches-{pattern}", "batch": batch, "wait": wait}
    sending = {**common, "pattern": pattern, "messages": each, "capacity": capacity}
    receiving = {**common, "warm_up": each * senders // receivers // 10}
    reports = run_roles(
        __file__,
        *[("send_batches", cores[0], {**sending, "number": number}) for number in range(senders)],
        *[("receive_batches", cores[1], receiving) for _ in range(receivers)],
    )[senders:]
    check_runs(reports, senders, each)
    seconds = max(one["end"] for one in reports) - min(one["start"] for one in reports)
    average = each * senders / sum(len(one["runs"]) for one in reports)
    timed = sum(one["timed"] for one in reports)
    return {"per_second": timed / seconds, "messages_per_batch": average}


# ------------------------------------------------------------------------ the run


def main() -> None:
    def more(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--singles", type=int, default=4096 * PERIOD, help="messages one by one, per round")
        parser.add_argument("--messages", type=int, default=200_000_000, help="messages in batches, per round")
        parser.add_argument("--batch", type=int, default=8192)
        parser.add_argument("--capacity", type=int, default=32768, help="slots of the ring for batches")
        parser.add_argument("--patterns", nargs="*", choices=list(ENDS), default=list(ENDS))
        parser.add_argument("--no-peers", action="store_true", help="leave iceoryx2 and pyzmq out")

    chosen = options(__doc__, more)
    singles = chosen.singles // PERIOD * PERIOD
    size: Figures = {
        "messages": chosen.messages,
        "batch": chosen.batch,
        "capacity": chosen.capacity,
    }

    def pair(script: str, prefix: str, suffix: str, arguments: Figures) -> Figures:
        first, second = chosen.cores
        roles = (
            (f"{prefix}send{suffix}", first, arguments),
            (f"{prefix}receive{suffix}", second, arguments),
        )
        return run_roles(script, *roles)[1]

    def single(name: str, role: str, arguments: Figures) -> Figures:
        return run_roles(name, (role, chosen.cores[0], arguments))[0]

    cases: dict[str, Any] = {
        "object() loop": lambda: single(__file__, "objects", {"messages": singles}),
        "psyne": lambda: pair(__file__, "", "_singles", {"name": "singles", "messages": singles}),
    }
    few = max(singles // 20 // PERIOD, 2) * PERIOD
    if installed("iceoryx2") and not chosen.no_peers:
        cases["iceoryx2"] = lambda: pair(peers.__file__, "iceoryx_", "", {"messages": few})
    if installed("zmq") and not chosen.no_peers:
        address = f"ipc:///tmp/psyne-benchmark-{os.getpid()}.zmq"
        cases["pyzmq"] = lambda: pair(peers.__file__, "zmq_", "", {"messages": few, "address": address})
    cases["np.copyto"] = lambda: single(__file__, "copies", size)
    for pattern in chosen.patterns:
        cases[f"batches {pattern}"] = lambda pattern=pattern: batches(pattern, **size, cores=chosen.cores)

    with private_channels():
        rounds = interleaved(chosen.rounds, cases)

    medians = {name: median_of(one) for name, one in rounds.items()}
    compared = {f"psyne / {peer}": ("psyne", peer) for peer in ("iceoryx2", "pyzmq") if peer in cases}
    for pattern in chosen.patterns:
        compared[f"batches {pattern} / np.copyto"] = f"batches {pattern}", "np.copyto"
    ratios = {name: ratio(rounds, *pair, "per_second") for name, pair in compared.items()}

    print(f"million messages per second: medians of {chosen.rounds} interleaved rounds, ratios too")
    print(f"one by one: 64 bytes; batches: {chosen.batch} of 16 bytes, ring of {chosen.capacity}")
    for name, figures in medians.items():
        average = f"  ({figures['messages_per_batch']:.0f} per batch)" if "messages_per_batch" in figures else ""
        print(f"{name:18} {figures['per_second'] / 1e6:10.2f}{average}")
    for name, value in ratios.items():
        print(f"{name:28} {value:8.2f}x")
    figures = {
        "machine": machine(chosen.cores),
        "size": size,
        "figures": medians,
        "ratios": ratios,
        "rounds": rounds,
    }
    write(chosen.json, figures)


if __name__ == "__main__":
    roles = (send_singles, receive_singles, objects, send_batches, receive_batches, copies)
    play_role({role.__name__: role for role in roles})
    main()
