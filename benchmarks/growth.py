"""Rings that grow and shrink: what they keep of the memory that they needed, and for how long.

    python benchmarks/growth.py [--json FILE] [--only bursts|sizes] [--cores A B] [--cycles N] [--messages N]
                                [--plot SVG]

A sender and a receiver, two pinned processes; a third one looks at the files of the channel: st_blocks counts the pages
that they have. `bursts`: a steady load of 1 KiB messages, and bursts of 100 times that load for 10 ms, for which the
receiver is too slow. `sizes`: messages from 100 bytes to 100 MB, as many small as large ones by the logarithm of their
size; who reads them touches each page. No message may be lost.
"""

from __future__ import annotations

import argparse
import os
import random
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from curves import Curve, Panel, draw
from harness import (
    WATCHDOG,
    Figures,
    expect,
    finish,
    machine,
    options,
    play_role,
    private_channels,
    start,
    write,
)

import psyne
from psyne import Array, Bytes

WORDS = 128  # of 8 bytes: a message of 1 KiB
Kilobyte = Array("u8", WORDS)
STEADY, BURST, FACTOR = 1000, 0.010, 100  # messages per second; seconds, and times as many
WORK = 20_000  # ns for which the receiver works on a message: half of a burst's rate
SHRINK_AFTER = 0.05
BACK, WITHIN = 0.10, 5 * SHRINK_AFTER  # what is kept at most, of what there was at first; seconds after a burst
CYCLE = 0.300  # seconds from burst to burst

LEAST, MOST, PAGE = 100, 100_000_000, 4096
Blob = Bytes(max_bytes=MOST)
STAMP = 8  # bytes at both ends of a message: its number
LOOK = 0.010  # seconds between two looks at the memory
MEMORY, LANE = 2.0, 1 << 20  # times the most that was alive in the last second, and bytes per lane


# ---------------------------------------------------------------------------------------------------- what all see


def board(name: str, rows: int) -> Any:
    """Words that the processes of a run share: each has its own columns."""
    path = Path(os.environ["PSYNE_DIR"]) / f"board-{name}"
    if not path.exists():
        path.write_bytes(bytes(rows * 4 * 8))
    return np.memmap(path, "i8", "r+", shape=(rows, 4))


def resident(name: str) -> int:
    """Bytes of the files of a channel that have pages: slabs, acks and extents."""
    parts = (".slab", ".acks", ".extents")
    total = 0
    with os.scandir(os.environ["PSYNE_DIR"]) as entries:
        for entry in entries:
            if entry.name.startswith(f"{name}.") and entry.name.endswith(parts):
                try:
                    total += entry.stat().st_blocks * 512
                except FileNotFoundError:  # retired meanwhile
                    continue
    return total


def mapped(pid: int) -> int:
    """Bytes of shared memory that a process has mapped and that have pages: also of files without a name."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssShmem"):
            return int(line.split()[1]) * 1024
    return 0


def watched(processes: list[Any], every: float, look: Callable[[], None]) -> list[Figures]:
    """Looks while they run, then says what they reported."""
    deadline = time.monotonic() + WATCHDOG * 3
    while all(process.poll() is None for process in processes) and time.monotonic() < deadline:
        look()
        time.sleep(every)
    return finish(processes)


# ---------------------------------------------------------------------------------------------------- bursts
# The board: a row for each cycle, of the sender: when its burst began and ended, and how much it had sent by then.
# Row 0 is what stands there now: sent, capacity, resident (as the sender says), and 1 + received of the receiver.


def burst_sender(cycles: int) -> Figures:
    shared = board("bursts", cycles + 1)
    with psyne.sender(
        "ipc://bursts", Kilobyte, pattern="spsc", capacity=64, full="grow", shrink_after=SHRINK_AFTER
    ) as out:
        payload = np.zeros(WORDS, "u8")
        sent = 0

        def send(until: float, pause: float) -> None:
            nonlocal sent
            due = time.perf_counter()
            while due < until:
                while (left := due - time.perf_counter()) > 0:
                    if left > 2e-4:
                        time.sleep(left - 1e-4)
                payload[:] = sent
                out.send(payload)
                sent += 1
                shared[0, 0] = sent
                due = due + pause if pause < 1e-4 else max(due + pause, time.perf_counter())  # no burst by itself
                if pause > 1e-4 or sent % 64 == 0:
                    seen = out.statistics()
                    shared[0, 1], shared[0, 2] = seen.capacity, seen.resident

        while shared[0, 3] == 0:  # the receiver is there
            time.sleep(0.001)
        for cycle in range(1, cycles + 1):
            began = time.perf_counter()
            send(began + CYCLE - BURST, 1 / STEADY)
            shared[cycle, 0] = time.monotonic_ns()
            send(time.perf_counter() + BURST, 1 / STEADY / FACTOR)
            shared[cycle, 2] = sent
            shared[cycle, 1] = time.monotonic_ns()
        send(time.perf_counter() + WITHIN + 0.05, 1 / STEADY)
        out.drain()
        seen = out.statistics()
        return {"sent": sent, "grown": seen.grown, "shrunk": seen.shrunk, "blocked": seen.blocked}


def burst_receiver(cycles: int) -> Figures:
    shared = board("bursts", cycles + 1)
    received = 0
    shared[0, 3] = 1
    with psyne.receiver("ipc://bursts", Kilobyte) as source:
        for message in source:
            expect((int(message.array[0]), int(message.array[-1])), (received, received), "a message")
            received += 1
            shared[0, 3] = received + 1
            until = time.perf_counter_ns() + WORK
            while time.perf_counter_ns() < until:
                pass
    return {"received": received}


def bursts(cores: list[int], cycles: int, plot: Path | None) -> Figures:
    shared = board("bursts", cycles + 1)
    samples: list[tuple[int, ...]] = []
    processes = [
        start(__file__, "burst_sender", cores[0], {"cycles": cycles}),
        start(__file__, "burst_receiver", cores[1], {"cycles": cycles}),
    ]

    def look() -> None:
        sent, capacity, said, received = shared[0].tolist()
        if sent:
            with suppress(FileNotFoundError):  # it has ended
                memory = (resident("bursts"), mapped(processes[1].pid))
                samples.append((time.monotonic_ns(), sent, received - 1, capacity, said, *memory))

    sender, receiver = watched(processes, 0.002, look)
    expect(receiver["received"], sender["sent"], "messages received")
    seen = np.array(samples, "i8")
    judged = {name: back(seen, shared, column) for name, column in (("files", 5), ("statistics", 4), ("receiver", 6))}
    if plot:
        picture(seen, shared[1, 0], plot)
    return {
        "cycles": cycles,
        "lost": sender["sent"] - receiver["received"],
        "messages": sender["sent"],
        **{key: sender[key] for key in ("grown", "shrunk", "blocked")},
        "load_of_bursts": round(float(np.median(burst_rates(shared, seen)))),
        "most_resident": int(seen[:, 5].max()),
        "back": judged,
    }


def burst_rates(shared: Any, seen: Any) -> Any:
    """Messages per second of each burst."""
    before = np.interp(shared[1:, 0], seen[:, 0], seen[:, 1])
    return (shared[1:, 2] - before) / ((shared[1:, 1] - shared[1:, 0]) / 1e9)


def back(seen: Any, shared: Any, column: int) -> Figures:
    """In how many cycles a memory was again what it was at first, in time and to stay; and after how long."""
    first = int(np.median(seen[seen[:, 0] < shared[1, 0], column]))
    took, kept_up = [], []
    for cycle in range(1, len(shared)):
        ended = int(shared[cycle, 1])
        until = int(shared[cycle + 1, 0]) if cycle + 1 < len(shared) else ended + int(WITHIN * 1e9)
        after = seen[(seen[:, 0] >= ended) & (seen[:, 0] < until)]
        above = np.flatnonzero(after[:, column] > (1 + BACK) * first)
        late = after[after[:, 0] > ended + SHRINK_AFTER * 1e9]
        kept_up.append((late[:, 1] - late[:, 2]).max(initial=0) <= 32)  # half of the first ring
        if len(above) == len(after) or (above.size and above[-1] + 1 >= len(after)):
            took.append(float("inf"))
        else:
            took.append((after[above[-1] + 1, 0] - ended) / 1e9 if above.size else 0.0)
    times = np.array(took)
    return {
        "first": first,
        "in_time": int((times <= WITHIN).sum()),
        "of": len(took),
        "in_time_and_kept_up": int(((times <= WITHIN) & kept_up).sum()),
        "kept_up": int(np.sum(kept_up)),
        "seconds_p50": round(float(np.median(times)), 4),
        "seconds_worst": round(float(times.max()), 4),
    }


def picture(seen: Any, began: int, path: Path, bin_ns: int = 4_000_000) -> None:
    """The first four cycles."""
    origin = int(began - CYCLE * 0.5e9)
    part = seen[(seen[:, 0] >= origin) & (seen[:, 0] < origin + int(4 * CYCLE * 1e9))]
    times = np.arange(part[0, 0], part[-1, 0], bin_ns)
    at = np.searchsorted(part[:, 0], times, "right") - 1
    sent = np.interp(np.append(times, times[-1] + bin_ns), part[:, 0], part[:, 1])
    load = np.diff(sent) / (bin_ns / 1e9) / 1000
    waiting = part[at, 1] - part[at, 2]
    panels = [
        Panel("load", "k/s", [Curve("messages sent per second", "#0f766e", load.tolist())]),
        Panel(
            "messages",
            "",
            [
                Curve("capacity of the newest ring", "#6d28d9", part[at, 3].tolist()),
                Curve("messages that wait", "#0f766e", waiting.tolist()),
            ],
        ),
        Panel("resident memory of the channel", "KiB", [Curve("files", "#dc2626", (part[at, 5] / 1024).tolist())]),
    ]
    seconds = ((times - times[0]) / 1e9).tolist()
    foot = (
        f"1 KiB messages, {STEADY} a second, in bursts of {BURST * 1000:.0f} ms {FACTOR} times as many; "
        f"shrink_after={SHRINK_AFTER}. Measured by benchmarks/growth.py"
    )
    path.write_text(draw("A ring that grows and shrinks with the load", seconds, panels, foot))


# ---------------------------------------------------------------------------------------------------- sizes
# The board: a row for each message: when it began to be lent, when its receiver had let it go, its bytes.


def sizes_of(messages: int) -> list[int]:
    chance = random.Random(5)
    return [round(LEAST * (MOST / LEAST) ** chance.random()) for _ in range(messages)]


def size_sender(messages: int) -> Figures:
    shared = board("sizes", messages)
    chance = random.Random(6)
    with psyne.sender("ipc://sizes", Blob, pattern="spsc", full="grow", budget=4 << 30, shrink_after=0.2) as out:
        for number, size in enumerate(sizes_of(messages)):
            shared[number, 2] = size
            shared[number, 0] = time.monotonic_ns()
            with out.loan(size=size) as message:
                stamp = np.frombuffer(number.to_bytes(STAMP, "little"), "u1")
                message.array[:STAMP] = stamp
                message.array[-STAMP:] = stamp
            if chance.random() < 0.1:  # the receiver catches up, and at times memory is due to go
                time.sleep(10 ** chance.uniform(-2, 0))
        out.drain()
        time.sleep(1.5)
        seen = out.statistics()
        return {"grown": seen.grown, "shrunk": seen.shrunk, "blocked": seen.blocked, "at_the_end": seen.resident}


def size_receiver(messages: int) -> Figures:
    shared = board("sizes", messages)
    with psyne.receiver("ipc://sizes", Blob) as source:
        for number, (message, size) in enumerate(zip(source, sizes_of(messages), strict=False)):
            array = message.array
            expect(array.size, size, f"bytes of message {number}")
            ends = [int.from_bytes(array[part].tobytes(), "little") for part in (slice(STAMP), slice(-STAMP, None))]
            expect(ends, [number, number], f"ends of message {number}")
            array[::PAGE].max()
            del array
            message.release()
            shared[number, 1] = time.monotonic_ns()
        expect(number + 1, messages, "messages received")
        try:
            source.receive()
        except psyne.EndOfChannel:
            return {"received": messages}
    raise AssertionError("one message too many")


def sizes(cores: list[int], messages: int) -> Figures:
    shared = board("sizes", messages)
    samples: list[tuple[int, int]] = []
    processes = [
        start(__file__, "size_sender", cores[0], {"messages": messages}),
        start(__file__, "size_receiver", cores[1], {"messages": messages}),
    ]

    def look() -> None:
        before = time.monotonic_ns()
        samples.append((before, resident("sizes")))

    sender, _ = watched(processes, LOOK, look)
    seen = np.array(samples, "i8")
    alive = most_alive(shared, seen[:, 0])
    allowed = MEMORY * alive + LANE
    over = seen[:, 1] / allowed
    worst = int(over.argmax())
    return {
        "messages": messages,
        "bytes": int(shared[:, 2].sum()),
        **sender,
        "samples": len(seen),
        "over": int((over > 1).sum()),
        "worst": round(float(over[worst]), 3),
        "worst_resident": int(seen[worst, 1]),
        "worst_alive": int(alive[worst]),
        "most_resident": int(seen[:, 1].max()),
        "most_alive": int(alive.max()),
    }


def most_alive(shared: Any, times: Any, window: int = 1_000_000_000) -> Any:
    """For each time the most bytes that were alive at one moment of the last second."""
    when = np.concatenate([shared[:, 0], shared[:, 1]])
    change = np.concatenate([shared[:, 2], -shared[:, 2]])
    order = np.argsort(when, kind="stable")
    when, alive = when[order], np.cumsum(change[order])
    most = np.zeros(len(times))
    for i, now in enumerate(times):
        begin, end = np.searchsorted(when, [now - window, now], "right")
        most[i] = alive[max(begin - 1, 0) : end].max(initial=0) if end else 0
    return most


# ---------------------------------------------------------------------------------------------------- all of it


def report(figures: Figures) -> None:
    if "bursts" in figures:
        f = figures["bursts"]
        print(f"{f['cycles']} bursts of {f['load_of_bursts']:,} messages/s; lost {f['lost']} of {f['messages']:,}")
        print(f"grown {f['grown']}, shrunk {f['shrunk']} times; resident at most {f['most_resident'] / 1024:,.0f} KiB")
        for name, one in f["back"].items():
            print(
                f"back within {BACK:.0%} of {one['first'] / 1024:5,.0f} KiB ({name}): {one['in_time']} of {one['of']} "
                f"in {WITHIN} s, {one['in_time_and_kept_up']} of {one['kept_up']} where the receiver kept up; "
                f"p50 {one['seconds_p50']:.3f} s, worst {one['seconds_worst']:.3f} s"
            )
    if "sizes" in figures:
        f = figures["sizes"]
        print(f"{f['messages']} sizes, {f['bytes'] / 1e9:.2f} GB; grown {f['grown']}, shrunk {f['shrunk']} times")
        print(
            f"resident over {MEMORY:g} x the most alive + 1 MiB in {f['over']} of {f['samples']} samples; at worst "
            f"{f['worst']:.2f} of it ({f['worst_resident'] / 1e6:.1f} MB, alive {f['worst_alive'] / 1e6:.1f} MB)"
        )


def main() -> None:
    def more(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--only", choices=("bursts", "sizes"), help="one part")
        parser.add_argument("--cycles", type=int, default=100, help="bursts")
        parser.add_argument("--messages", type=int, default=400, help="of many sizes")
        parser.add_argument("--plot", type=Path, help="write a picture of the first bursts here")

    chosen = options(__doc__, more)
    figures: Figures = {}
    with private_channels():
        if chosen.only in (None, "bursts"):
            figures["bursts"] = bursts(chosen.cores, chosen.cycles, chosen.plot)
        if chosen.only in (None, "sizes"):
            figures["sizes"] = sizes(chosen.cores, chosen.messages)
    report(figures)
    write(chosen.json, {"machine": machine(chosen.cores), "figures": figures})


if __name__ == "__main__":
    play_role({role.__name__: role for role in (burst_sender, burst_receiver, size_sender, size_receiver)})
    main()
