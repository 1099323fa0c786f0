"""What a looker-on costs a pipeline that it does not keep up with: one that sleeps, one that is stopped, one killed.

    python benchmarks/tap.py [--json FILE] [--rounds N] [--cores A B] [--messages N]

A sender and a stage, two pinned processes, 64 bytes a message, spinning: here a few nanoseconds would show. Both live
through all rounds; in each, the messages go through without a tap and beside one of each kind, which reads one message
and then no more. Target: in the median of 20 rounds each kind changes the messages per second by less than 3 %.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from contextlib import suppress

from harness import (
    Figures,
    Process,
    expect,
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
from workload import PERIOD, Words, payloads, receive_all, send_all

import psyne

ADDRESS = "ipc://watched"
KINDS = ("sleeps", "stopped", "killed")
TARGET = 0.03


def send(messages: int) -> None:
    """Sends so many messages for each line that it reads, and says how long that took."""
    views = payloads()
    with psyne.sender(ADDRESS, Words, pattern="spsc", wait="spin") as out:
        send_all(out, views, PERIOD)
        out.drain()
        print("here", flush=True)
        for _ in sys.stdin:
            began = time.perf_counter()
            send_all(out, views, messages)
            out.drain()
            print(time.perf_counter() - began, flush=True)


def work() -> None:
    """The stage."""
    with psyne.receiver(ADDRESS, Words, wait="spin") as source, suppress(psyne.EndOfChannel):
        while True:
            receive_all(source, PERIOD)


def look(kind: str | None) -> None:
    """The tap's process. It reads a message, says so, and then does what its kind does; without one it ends."""
    if kind is None:  # as much goes before a run without a tap
        print("here", flush=True)
        return
    with psyne.tap(ADDRESS, history=1) as tap:
        tap.receive()
        print("here", flush=True)
        if kind != "sleeps":
            os.kill(os.getpid(), signal.SIGSTOP if kind == "stopped" else signal.SIGKILL)
        time.sleep(3600)


def says_here(process: Process) -> Process:
    assert process.stdout is not None
    expect(process.stdout.readline(), b"here\n", "what a process says")
    return process


def measure(sender: Process, kind: str | None, core: int, messages: int) -> Figures:
    """Messages per second beside such a tap."""
    assert sender.stdin is not None
    assert sender.stdout is not None
    tap = says_here(start(__file__, "look", core, {"kind": kind}))
    try:
        if kind != "sleeps":
            os.waitid(os.P_PID, tap.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        sender.stdin.write(b"go\n")
        sender.stdin.flush()
        return {"per_second": messages / float(sender.stdout.readline())}
    finally:
        tap.kill()
        tap.wait()


def main() -> None:
    def more(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--messages", type=int, default=3_000_000, help="per round and kind")
        parser.set_defaults(rounds=20)

    chosen = options(__doc__, more)
    messages = max(chosen.messages // PERIOD, 1) * PERIOD
    with private_channels():
        stage = start(__file__, "work", chosen.cores[1], {})
        sender = says_here(start(__file__, "send", chosen.cores[0], {"messages": messages}))
        try:
            cases = {
                kind or "no tap": lambda kind=kind: measure(sender, kind, chosen.cores[0], messages)  # type: ignore[misc]
                for kind in (None, *KINDS)
            }
            rounds = interleaved(chosen.rounds, cases)
        finally:
            assert sender.stdin is not None
            sender.stdin.close()
            expect((sender.wait(), stage.wait()), (0, 0), "exits of sender and stage")
    medians = {name: median_of(one) for name, one in rounds.items()}
    ratios = {kind: ratio(rounds, kind, "no tap", "per_second") for kind in KINDS}
    print(f"64-byte messages a second, medians of {chosen.rounds} interleaved rounds")
    for name, figures in medians.items():
        change = f"{ratios[name] - 1:+8.1%}   target ±{TARGET:.0%}" if name in ratios else ""
        print(f"{name:18}{figures['per_second']:12,.0f}{change}")
    write(chosen.json, {"machine": machine(chosen.cores), "figures": medians, "ratios": ratios, "rounds": rounds})


if __name__ == "__main__":
    play_role({role.__name__: role for role in (send, work, look)})
    main()
