"""What psyne costs besides time: CPU of a receiver that waits, page faults, system calls, memory.

    python benchmarks/footprint.py [--json FILE] [--seconds N] [--messages N] [--cores A B]

After a warm-up of some laps, a million messages of 64 bytes go from one pinned process to another.
System calls are counted in a run of their own by strace, attached after the warm-up; without strace
that part is left out.
"""

from __future__ import annotations

import argparse
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from harness import (
    Figures,
    Process,
    expect,
    finish,
    interleaved,
    machine,
    median_of,
    options,
    play_role,
    private_channels,
    start,
    write,
)
from workload import PERIOD, Words, payloads, receive_all, receive_and_compare, send_all

import psyne

WARM_UP = 32 * PERIOD  # messages: eight laps of the default ring
PATTERN = {"pattern": "spsc"}


def say(word: str) -> None:
    print(word, flush=True)
    sys.stdin.readline()  # the parent answers when both have said it


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


class Meter:
    """Page faults and resident bytes since it was made."""

    def __init__(self) -> None:
        self.resident = resident()
        self.faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt

    def read(self) -> Figures:
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - self.faults
        return {"minor_faults": faults, "resident_growth": resident() - self.resident}


# ------------------------------------------------------------------------ roles


def steady_send(name: str, wait: str, messages: int) -> Figures:
    views = payloads()
    with psyne.sender(f"ipc://{name}", Words, wait=wait, **PATTERN) as out:
        send_all(out, views, WARM_UP)
        out.drain()
        say("warm")
        meter = Meter()
        send_all(out, views, messages)
        figures = meter.read()
        say("done")
    return figures


def steady_receive(name: str, wait: str, messages: int) -> Figures:
    with psyne.receiver(f"ipc://{name}", Words, wait=wait) as source:
        receive_and_compare(source, WARM_UP // 2)
        receive_all(source, WARM_UP // 2)
        say("warm")
        meter = Meter()
        receive_all(source, messages)
        figures = meter.read()
        say("done")
    return figures


def idle_send(name: str) -> None:
    with psyne.sender(f"ipc://{name}", Words, **PATTERN) as out:
        say("warm")
        out.send(next(payloads()))
        out.drain()


def idle_receive(name: str, wait: str) -> Figures:
    """One receive() that waits for a message which comes when the parent says so."""
    with psyne.receiver(f"ipc://{name}", Words, wait=wait) as source:
        say("warm")
        before, start = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        message = source.receive()
        seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF)
        expect(message.array.tolist(), [0] * len(message.array), "the message waited for")
        message.release()
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "cpu_percent": 100 * cpu / seconds,
        "seconds": seconds,
        "switches": after.ru_nvcsw - before.ru_nvcsw,
    }


# ------------------------------------------------------------------------ the run


def hear(process: Process, word: str) -> None:
    assert process.stdout
    line = process.stdout.readline().decode().strip()
    if line != word:
        raise SystemExit(f"a process ended early (said {line!r} instead of {word!r})")


def answer(process: Process) -> None:
    assert process.stdin
    process.stdin.write(b"\n")
    process.stdin.flush()


def start_pair(cores: list[int], roles: tuple[str, str], sender: Figures, receiver: Figures) -> list[Any]:
    arguments = zip(roles, cores, (sender, receiver), strict=True)
    return [start(__file__, role, core, one) for role, core, one in arguments]


def steady(cores: list[int], wait: str, messages: int, traced: bool) -> Figures:
    arguments = {"name": f"steady-{wait}", "wait": wait, "messages": messages}
    pair = start_pair(cores, ("steady_send", "steady_receive"), arguments, arguments)
    try:
        for process in pair:
            hear(process, "warm")
        with tempfile.TemporaryDirectory() as directory:
            tracers = [Tracer(process.pid, Path(directory) / str(process.pid)) for process in pair] if traced else []
            for process in pair:
                answer(process)
            for process in pair:
                hear(process, "done")
            calls = [tracer.stop() for tracer in tracers]
        for process in pair:
            answer(process)
        sender, receiver = finish(pair)
    finally:
        for process in pair:
            process.kill()
    figures = {f"sender_{key}": value for key, value in sender.items()}
    figures |= {f"receiver_{key}": value for key, value in receiver.items()}
    if traced:
        return {"sender_calls": calls[0], "receiver_calls": calls[1]}
    return figures


class Tracer:
    """strace -c -f on a running process, until stop(): counts the calls of all its threads."""

    def __init__(self, pid: int, report: Path) -> None:
        self.report = report
        command = ["strace", "-c", "-f", "-o", str(report), "-p", str(pid)]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr
        line = self.process.stderr.readline()
        if "attached" not in line:
            raise SystemExit(f"strace: {line.strip()}")

    def stop(self) -> int:
        self.process.send_signal(signal.SIGINT)
        self.process.communicate()
        total = re.search(r"^\s*100\.00\s+\S+\s+\S*\s+(\d+).*total$", self.report.read_text(), re.MULTILINE)
        return int(total[1]) if total else 0


def idle(cores: list[int], wait: str, seconds: float) -> Figures:
    pair = start_pair(cores, ("idle_send", "idle_receive"), {"name": "idle"}, {"name": "idle", "wait": wait})
    sender, receiver = pair
    try:
        for process in pair:
            hear(process, "warm")
        answer(receiver)
        time.sleep(seconds)  # the time that is measured, not a way to wait for something
        answer(sender)
        return finish(pair)[1]
    finally:
        for process in pair:
            process.kill()


def main() -> None:
    def more(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--seconds", type=float, default=5.0, help="how long the idle receiver waits")
        parser.add_argument("--messages", type=int, default=1024 * PERIOD)
        parser.set_defaults(rounds=3)

    chosen = options(__doc__, more)
    messages = chosen.messages // PERIOD * PERIOD
    cases: dict[str, Any] = {
        f"idle {wait}": lambda wait=wait: idle(chosen.cores, wait, chosen.seconds) for wait in ("adaptive", "block")
    }
    for wait in ("spin", "adaptive"):
        cases[f"steady {wait}"] = lambda wait=wait: steady(chosen.cores, wait, messages, traced=False)
        if shutil.which("strace"):
            cases[f"system calls {wait}"] = lambda wait=wait: steady(chosen.cores, wait, messages, traced=True)
    with private_channels():
        rounds = interleaved(chosen.rounds, cases)

    medians = {name: median_of(one) for name, one in rounds.items()}
    print(f"medians of {chosen.rounds} interleaved rounds")
    print(f"steady: {messages:,} messages, after {WARM_UP:,} to warm up")
    for name, figures in medians.items():
        print(f"{name}")
        for key, value in figures.items():
            print(f"    {key.replace('_', ' '):28} {value:12,.3f}".rstrip("0").rstrip("."))
    if not shutil.which("strace"):
        print("system calls: not counted, strace is not installed")
    write(
        chosen.json,
        {
            "machine": machine(chosen.cores),
            "messages": messages,
            "figures": medians,
            "rounds": rounds,
        },
    )


if __name__ == "__main__":
    play_role({role.__name__: role for role in (steady_send, steady_receive, idle_send, idle_receive)})
    main()
