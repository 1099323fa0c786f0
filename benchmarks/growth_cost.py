"""Rings that grow: what that costs the messages that go through them.

    python benchmarks/growth_cost.py [--json FILE] [--only latency|instructions|one_loan] [--rounds N] [--cores A B]

`latency`: a sender and a receiver, two pinned processes; the reader pauses while 1024 messages are sent. In one
channel the ring of 64 slots has to grow for them, the other one has room from the start. The time of a message is what
its send() took and what its receive() took. `instructions`: growth.cpp under callgrind, a ring that may grow beside a
fixed one, both never full. `one_loan`: a message larger than any before, until its receiver has it,
beside a copy.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import tempfile
import time
from functools import partial
from pathlib import Path
from shutil import which
from typing import Any

import numpy as np
from growth import board
from harness import (
    HERE,
    WATCHDOG,
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
    run_bare,
    run_roles,
    write,
)

import psyne
from psyne import Array, Bytes

WORDS = 8
Words = Array("u8", WORDS)
MESSAGES = 1024  # for which a ring of FIRST slots grows four times
FIRST, ENOUGH = 64, 2048
CHANNELS = {"grows": FIRST, "steady": ENOUGH}
TARGET_P99, TARGET_INSTRUCTIONS = 5.0, 1.03
SOURCE = HERE.parent / "core" / "include"
KINDS = ("fixed", "grows", "extents")  # of growth.cpp
SIZES = (1_000_000, 10_000_000, 100_000_000)


def wait_for(true: Any, what: str) -> None:
    deadline = time.monotonic() + WATCHDOG
    while not true():
        expect(time.monotonic() < deadline, True, what)
        time.sleep(0.0002)


# ---------------------------------------------------------------------------------------------------- latency
# The board: in row 0 how many phases were sent and received; then per message of a phase what its send() and its
# receive() took, in ns, of each channel.


def latency_sender(phases: int) -> Figures:
    shared = board("latency", 1 + 2 * phases * MESSAGES)
    payload = np.zeros(WORDS, "u8")
    now = time.perf_counter_ns
    times = np.zeros(MESSAGES, "i8")
    outs = {
        name: psyne.sender(f"ipc://{name}", Words, pattern="spsc", capacity=slots, full="grow", shrink_after=0.02)
        for name, slots in CHANNELS.items()
    }
    for phase in range(2 * phases):
        out = outs[list(CHANNELS)[phase % 2]]
        for number in range(MESSAGES):
            payload[:] = number
            began = now()
            out.send(payload)
            times[number] = now() - began
        shared[1 + phase * MESSAGES : 1 + (phase + 1) * MESSAGES, 0] = times
        shared[0, 0] = phase + 1
        wait_for(lambda: shared[0, 1] > phase, "the receiver has read all")  # noqa: B023
        wait_for(lambda: out.statistics().slabs == 1 and out.capacity in CHANNELS.values(), "the ring is small again")  # noqa: B023
    grown = {name: out.statistics().grown for name, out in outs.items()}
    expect((grown["grows"] >= phases, grown["steady"]), (True, 0), "growth of the two channels")
    for out in outs.values():
        out.close()
    return {"grown": grown["grows"]}


def latency_receiver(phases: int) -> Figures:
    shared = board("latency", 1 + 2 * phases * MESSAGES)
    now = time.perf_counter_ns
    times = np.zeros(MESSAGES, "i8")
    wait_for(lambda: shared[0, 0] > 0, "the sender has begun")
    sources = {name: psyne.receiver(f"ipc://{name}", Words) for name in CHANNELS}
    for phase in range(2 * phases):
        source = sources[list(CHANNELS)[phase % 2]]
        wait_for(lambda: shared[0, 0] > phase, "the sender has sent a phase")  # noqa: B023
        for number in range(MESSAGES):
            began = now()
            message = source.receive()
            times[number] = now() - began
            expect(int(message.array[-1]), number, "a message")
            message.release()
        shared[1 + phase * MESSAGES : 1 + (phase + 1) * MESSAGES, 1] = times
        shared[0, 1] = phase + 1
    for source in sources.values():
        source.close()
    return {}


def latency(cores: list[int], phases: int) -> Figures:
    arguments = {"phases": phases}
    sender, _ = run_roles(__file__, ("latency_sender", cores[0], arguments), ("latency_receiver", cores[1], arguments))
    rows = board("latency", 1 + 2 * phases * MESSAGES)[1:, :2]
    took = rows.reshape(phases, 2, MESSAGES, 2)[1:]  # not the first phase
    figures: Figures = {"grown_per_phase": round(sender["grown"] / phases, 2)}
    for index, name in enumerate(CHANNELS):
        sends, receives = took[:, index, :, 0], took[:, index, :, 1]
        both = np.sort(sends + receives, axis=1)
        figures[name] = {
            "message": percentiles(both),
            "send": percentiles(sends),
            "receive": percentiles(receives),
            "slowest_of_a_phase_p50": float(np.median(both[:, -1])),
        }
    figures["p99"] = round(figures["grows"]["message"]["p99"] / figures["steady"]["message"]["p99"], 3)
    return figures


# ---------------------------------------------------------------------------------------------------- instructions


def build(directory: Path) -> Path:
    program = directory / "growth"
    flags = ["-std=c++20", "-O3", "-DNDEBUG", "-pthread", "-I", str(SOURCE)]
    subprocess.run([os.environ.get("CXX", "c++"), *flags, str(HERE / "growth.cpp"), "-o", str(program)], check=True)
    return program


def counted(command: list[str], directory: Path) -> int:
    """Instructions of the main thread of a whole run."""
    out = directory / "callgrind"
    tool = ["valgrind", "-q", "--tool=callgrind", f"--callgrind-out-file={out}"]
    same = {**os.environ, "PYTHONHASHSEED": "0"}
    nothing = subprocess.DEVNULL
    subprocess.run([*tool, *command], check=True, env=same, stdout=nothing, stderr=nothing)
    totals = [line for line in out.read_text().splitlines() if line.startswith(("summary:", "totals:"))]
    return int(totals[0].split()[1])


def per_message(command: list[str], directory: Path, messages: int) -> float:
    """Of n and of 2n messages: what lies around them cancels out."""
    once, twice = (counted([*command, str(n)], directory) for n in (messages, 2 * messages))
    return (twice - once) / messages


def instructions(rounds: int) -> Figures:
    with tempfile.TemporaryDirectory() as there:
        directory = Path(there)
        program = build(directory)
        channels = os.environ["PSYNE_DIR"]
        cases: dict[str, Any] = {kind: partial(run_bare, program, channels, kind, 1_000_000) for kind in KINDS}
        times = interleaved(rounds, cases)
        figures: Figures = {
            "ns": {kind: median_of(one)["ns"] for kind, one in times.items()},
            "ns_ratio": {kind: ratio(times, kind, "fixed", "ns") for kind in KINDS[1:]},
        }
        if which("valgrind"):
            figures["instructions"] = {
                kind: per_message([str(program), channels, kind], directory, 20_000) for kind in KINDS
            }
            counts = figures["instructions"]
            figures["instructions_ratio"] = {
                kind: round(counts[kind] / counts["fixed"], 4) for kind in counts if kind != "fixed"
            }
        return figures


# ---------------------------------------------------------------------------------------------------- one loan


def loan_sender(size: int) -> Figures:
    now = time.perf_counter_ns
    shared = board("loan", 1)
    source = np.arange(size, dtype="u1")
    warm = np.ones(size, "u1")
    began = now()
    np.copyto(warm, source)
    copied = now() - began
    cold = np.empty(size, "u1")  # pages that the system has to clear first, as those of a loan
    began = now()
    np.copyto(cold, source)
    copied_cold = now() - began
    with psyne.sender("ipc://loan", Bytes(max_bytes=max(SIZES)), pattern="spsc", full="grow") as out:
        wait_for(lambda: shared[0, 0] != 0, "the receiver is there")
        for _ in range(100):
            out.send(b"short")
        out.drain()
        began = now()
        message = out.loan(size=size)
        lent = now() - began
        message.array[:] = source
        written = now() - began
        out.send(message)
        sent = now() - began
        out.drain()
        drained = now() - began
    names = ("copy", "copy_to_fresh_pages", "loan", "loan_and_write", "sent", "received")
    return dict(zip(names, (copied, copied_cold, lent, written, sent, drained), strict=True))


def loan_receiver(size: int) -> None:
    shared = board("loan", 1)
    with psyne.receiver("ipc://loan", Bytes(max_bytes=max(SIZES)), follow=True) as source:
        shared[0, 0] = 1
        for _ in range(100):
            source.receive().release()
        with source.receive() as message:
            expect((len(message.array), message.array[-1]), (size, (size - 1) % 256), "the long message")


def one_loan(cores: list[int], rounds: int) -> Figures:
    def case(size: int) -> Figures:
        arguments = {"size": size}
        board("loan", 1)[:] = 0
        return run_roles(__file__, ("loan_sender", cores[0], arguments), ("loan_receiver", cores[1], arguments))[0]

    times = interleaved(rounds, {str(size): partial(case, size) for size in SIZES})
    return {size: median_of(one) for size, one in times.items()}


# ---------------------------------------------------------------------------------------------------- all of it


def report(figures: Figures) -> None:
    if "latency" in figures:
        f = figures["latency"]
        print(f"1024 messages while the reader pauses, then received; ns a message, {f['grown_per_phase']} growths")
        for name in CHANNELS:
            for what in ("message", "send", "receive"):
                one = f[name][what]
                print(f"{name:8}{what:9}" + "".join(f"{key:>8}{value:12,.0f}" for key, value in one.items()))
        print(f"p99 of a ring that grows / of one that has room: {f['p99']:.2f}x   target {TARGET_P99}")
    if "instructions" in figures:
        f = figures["instructions"]
        for kind in KINDS:
            text = f"{kind:10}{f['ns'][kind]:8.1f} ns" + (f" ({f['ns_ratio'][kind]:.3f}x)" if kind != "fixed" else "")
            if kind in f.get("instructions", {}):
                share = f"{f['instructions_ratio'][kind]:.3f}x of {TARGET_INSTRUCTIONS}" if kind != "fixed" else ""
                text += f"   instructions {f['instructions'][kind]:9.1f} {share}"
            print(text)
    for size, one in figures.get("one_loan", {}).items():
        print(f"{int(size) / 1e6:5.0f} MB, ms: " + "  ".join(f"{name} {ns / 1e6:.2f}" for name, ns in one.items()))


def main() -> None:
    def more(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--only", choices=("latency", "instructions", "one_loan"), help="one part")
        parser.add_argument("--phases", type=int, default=100, help="of 1024 messages, in each channel (latency)")

    chosen = options(__doc__, more)
    figures: Figures = {}
    with private_channels():
        if chosen.only in (None, "latency"):
            figures["latency"] = latency(chosen.cores, chosen.phases)
        if chosen.only in (None, "instructions"):
            figures["instructions"] = instructions(chosen.rounds)
        if chosen.only in (None, "one_loan"):
            figures["one_loan"] = one_loan(chosen.cores, chosen.rounds)
    report(figures)
    write(chosen.json, {"machine": machine(chosen.cores), "figures": figures})


if __name__ == "__main__":
    play_role({role.__name__: role for role in (latency_sender, latency_receiver, loan_sender, loan_receiver)})
    main()
