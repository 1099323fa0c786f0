"""What a looker-on costs a pipeline that it does not keep up with: one that sleeps, one that is stopped, one killed.

    python benchmarks/tap.py [--json FILE] [--rounds N] [--cores A B] [--frames N]

The four processes of pipeline.py, frames as fast as they go through. Each round runs them without a tap and with one of
each kind, which reads a frame and then reads no more. Target: in the median of 20 rounds each kind changes the frames
per second by less than 3 %.
"""

from __future__ import annotations

import argparse
import os
import signal
import tempfile
import time
from contextlib import suppress
from typing import Any

import pipeline
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
from links import ADDRESS, STAGES

import psyne

KINDS = ("sleeps", "stopped", "killed")
TARGET = 0.03


def look(kind: str) -> None:
    """The tap's process. It says that it is there, reads a frame, and then does what its kind does."""
    with psyne.tap(ADDRESS) as frames:
        while not frames.joined:
            with suppress(psyne.Empty):
                frames.receive(timeout=0.01)
        print("here", flush=True)
        frames.receive()
        if kind != "sleeps":
            os.kill(os.getpid(), signal.SIGSTOP if kind == "stopped" else signal.SIGKILL)
        while True:
            time.sleep(0.01)


def chain(kind: str | None, cores: list[int], frames: int, rows: int) -> Figures:
    """Frames per second. Draw comes last: capture begins when it is there, and so is the tap."""
    with tempfile.TemporaryDirectory(dir=os.environ["PSYNE_DIR"]) as directory:
        os.mkfifo(f"{directory}/drawn")
        arguments = {"frames": frames, "rows": rows, "one_by_one": False, "directory": directory}
        roles: list[tuple[str, str, int, Any]] = [
            (pipeline.__file__, "join", core, {**arguments, "contender": "psyne", "stage": stage})
            for stage, core in zip(STAGES, cores, strict=True)
        ]
        group = [start(*role) for role in roles[:-1]]
        tap = start(__file__, "look", cores[0], {"kind": kind}) if kind else None
        try:
            if tap is not None:
                expect(tap.stdout.readline(), b"here\n", "what the tap says")  # type: ignore[union-attr]
            reports = finish([*group, start(*roles[-1])])
            if tap is not None:
                expect(tap.poll(), -signal.SIGKILL if kind == "killed" else None, "exit of the tap")
        finally:
            for process in filter(None, [*group, tap]):
                process.kill()
                process.wait()
    return {"per_second": reports[-1]["per_second"]}


def main() -> None:
    def more(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--frames", type=int, default=8000, help="frames per run")
        parser.add_argument("--rows", type=int, default=16, help="rows of the frame that each stage works on")
        parser.set_defaults(rounds=20)

    chosen = options(__doc__, more)
    cores = 2 * chosen.cores
    cases = {
        kind or "no tap": lambda kind=kind: chain(kind, cores, chosen.frames, chosen.rows)  # type: ignore[misc]
        for kind in (None, *KINDS)
    }
    with private_channels():
        rounds = interleaved(chosen.rounds, cases)
    medians = {name: median_of(one) for name, one in rounds.items()}
    ratios = {kind: ratio(rounds, kind, "no tap", "per_second") for kind in KINDS}
    print(f"frames a second through four processes, medians of {chosen.rounds} interleaved rounds")
    for name, figures in medians.items():
        change = f"{ratios[name] - 1:+8.1%}   target ±{TARGET:.0%}" if name in ratios else ""
        print(f"{name:18}{figures['per_second']:10.0f}{change}")
    write(chosen.json, {"machine": machine(chosen.cores), "figures": medians, "ratios": ratios, "rounds": rounds})


if __name__ == "__main__":
    play_role({"look": look})
    main()
