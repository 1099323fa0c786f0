"""A camera and three stages, four processes on two cores: how long from capture to draw, and how many frames a second.

    python benchmarks/pipeline.py [--json FILE] [--rounds N] [--cores A B] [--frames N] [--rows N]

Frames of u8 (1080, 1920, 3), 6.2 MB; capture and infer on one core, rectify and draw on the other; all sleep while they
wait. Joined by psyne (one channel, three stages), iceoryx2, pyzmq and multiprocessing.Queue, in interleaved rounds. The
floor, in the same rounds: the work (what it took in psyne's run, or alone in one process if that is less) and the three
hops of ring.cpp. Target: psyne's p50 is at most 1.3 times the floor's; no byte is copied, and the frame has the same
device, inode and offset in all four processes.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from harness import (
    Figures,
    compile_bare,
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
    run_bare,
    run_roles,
    write,
)
from links import BYTES, CAPACITY, SHAPE, STAGES, Iceoryx, Image, Link, Psyne, Queue, Zmq

from psyne.demo.place import place_of

PAUSE = 2000  # microseconds between a frame that was drawn and the next: all sleep
KEYS = ("p50", "p90", "p99")
PACED = ("iceoryx2",)  # as fast as they can: frames were lost, or with its back-pressure strategy waited for ever
TARGET = 1.3
now = time.perf_counter_ns


# ------------------------------------------------------------------------ the work, the same for all


def words(frame: Image) -> Any:
    """The first pixels: when it was captured, its number, what infer found."""
    return frame.reshape(-1)[:24].view("u8")


class Work:
    """What each stage does with `rows` of the frame."""

    def __init__(self, rows: int) -> None:
        self.rows = slice(1, 1 + rows)
        self.picture = np.zeros((rows, SHAPE[1] // 8, 3), "u1")

    def capture(self, frame: Image, number: int) -> None:
        words(frame)[:2] = now(), number
        frame[self.rows] = number & 255

    def rectify(self, frame: Image, _: int) -> None:
        np.invert(frame[self.rows], out=frame[self.rows])

    def infer(self, frame: Image, _: int) -> None:
        words(frame)[2] = frame[self.rows].max()

    def draw(self, frame: Image, _: int) -> None:
        np.copyto(self.picture, frame[self.rows, ::8])

    def check(self, frame: Image, number: int) -> None:
        """Of a frame that was drawn, after the clock has stopped."""
        light = 255 - (number & 255)
        expect(words(frame)[1:].tolist(), [number, light], "number and finding of a frame")
        expect((int(self.picture.min()), int(self.picture.max())), (light, light), f"the picture of frame {number}")


def alone(frames: int, rows: int) -> Figures:
    """All of the work in one process, on private memory: each part just after a sleep, as in each of the four."""
    work, frame, times = Work(rows), np.zeros(SHAPE, "u1"), np.zeros(frames, "i8")
    for number in range(frames):
        for stage in STAGES:
            time.sleep(PAUSE / 1e6)
            start = now()
            getattr(work, stage)(frame, number)
            times[number] += now() - start
        work.check(frame, number)
    return percentiles(times[frames // 10 :])


# ------------------------------------------------------------------------ the four processes


def play(link: Link, stage: str, frames: int, rows: int, one_by_one: bool, drawn: str) -> Figures:
    """One process's part. Capture begins when draw is there and, one by one, goes on when it has drawn."""
    work = Work(rows)
    do, capture, draw = getattr(work, stage), stage == "capture", stage == "draw"
    bell = os.open(drawn, os.O_RDONLY if capture else os.O_WRONLY) if capture or draw else -1
    busy, latency = np.zeros(frames, "i8"), np.zeros(frames, "i8")
    places: list[Any] = []
    begin, counted_from = 0.0, frames // 10
    for number in range(frames):
        if capture and one_by_one:
            time.sleep(PAUSE / 1e6)
        frame = link.loan() if capture else link.receive()
        start = now()
        do(frame, number)
        end = now()
        busy[number] = end - start
        if draw:
            latency[number] = end - int(words(frame)[0])
            work.check(frame, number)
            if number == counted_from:
                begin = time.perf_counter()
        if isinstance(link, Psyne) and number >= frames - CAPACITY:
            places.append(place_of(frame))
        del frame
        link.hand_on()
        if one_by_one and draw:
            os.write(bell, b".")
        elif one_by_one and capture:
            expect(os.read(bell, 1), b".", "what draw says")
    seconds = time.perf_counter() - begin
    figures = {"busy": busy.tolist(), "latency": latency.tolist(), "places": places}
    return {**figures, "per_second": (frames - counted_from - 1) / seconds, **link.close()}


LINKS: dict[str, Callable[..., Link]] = {"psyne": Psyne, "iceoryx2": Iceoryx, "pyzmq": Zmq}


def join(contender: str, stage: str, directory: str, **arguments: Any) -> Figures:
    where = (directory,) if contender == "pyzmq" else ()
    return play(LINKS[contender](stage, *where), stage, drawn=f"{directory}/drawn", **arguments)


def queue_stage(pipe: Any, queues: list[Any], stage: str, core: int, arguments: Figures) -> None:
    os.sched_setaffinity(0, {core})
    pipe.send(play(Queue(stage, queues), stage, **arguments))


def queue_program(cores: list[int], directory: str, **arguments: Any) -> list[Figures]:
    """Queues are handed to children, so here capture starts the others."""
    arguments["drawn"] = f"{directory}/drawn"
    context = multiprocessing.get_context("spawn")
    queues = [context.Queue(CAPACITY) for _ in STAGES[1:]]
    pipes = [context.Pipe() for _ in STAGES[1:]]
    children = [
        context.Process(target=queue_stage, args=(theirs, queues, stage, core, arguments))
        for stage, core, (_, theirs) in zip(STAGES[1:], cores[1:], pipes, strict=True)
    ]
    for child in children:
        child.start()
    reports = [play(Queue(STAGES[0], queues), STAGES[0], **arguments), *(ours.recv() for ours, _ in pipes)]
    for child in children:
        child.join()
        expect(child.exitcode, 0, "exit of a stage")
    return reports


# ------------------------------------------------------------------------ the run


def chain(contender: str, cores: list[int], frames: int, rows: int, one_by_one: bool) -> Figures:
    """A run of the four processes, and what all of them say together."""
    with tempfile.TemporaryDirectory(dir=os.environ["PSYNE_DIR"]) as directory:
        os.mkfifo(f"{directory}/drawn")
        arguments = {"frames": frames, "rows": rows, "one_by_one": one_by_one, "directory": directory}
        if contender == "multiprocessing":
            reports: Any = run_roles(__file__, ("queue_program", cores[0], {**arguments, "cores": cores}))[0]
        else:
            roles = [
                ("join", core, {**arguments, "contender": contender, "stage": stage})
                for stage, core in zip(STAGES, cores, strict=True)
            ]
            reports = run_roles(__file__, *roles)
    counted_from = frames // 10
    work = np.sum([one["busy"] for one in reports], axis=0)[counted_from:]
    figures = {"per_second": reports[-1]["per_second"], "work": percentiles(work)["p50"]}
    figures |= percentiles(reports[-1]["latency"][counted_from:])
    if contender == "psyne":
        places = {json_place(one["places"]) for one in reports}
        expect(len(places), 1, f"different places of the same frames: {places}")
        expect(sum(one["copied_bytes"] for one in reports), 0, "copied bytes")
        figures |= {"slots": len(set(places.pop())), "late_wakes": reports[0]["late_wakes"]}
    return figures


def json_place(places: list[list[Any]]) -> tuple[tuple[Any, ...], ...]:
    return tuple(tuple(place) for place in places)


def main() -> None:
    def more(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--frames", type=int, default=500, help="frames one by one per round; peers: a fifth")
        parser.add_argument("--rows", type=int, default=16, help="rows of the frame that each stage works on")
        parser.add_argument("--no-peers", action="store_true", help="leave iceoryx2, pyzmq and multiprocessing out")

    chosen = options(__doc__, more)
    first, second = chosen.cores
    cores = [first, second, first, second]  # every hop is one from core to core
    few = max(chosen.frames // 5, 2 * CAPACITY)
    counts = {"psyne": chosen.frames}
    if not chosen.no_peers:
        there = {"iceoryx2": installed("iceoryx2"), "pyzmq": installed("zmq"), "multiprocessing": True}
        counts |= dict.fromkeys((name for name in there if there[name]), few)
        for name in there.keys() - counts.keys():
            print(f"{name} is not installed and left out")

    def ring(work: float) -> Figures:
        return run_bare(program, chosen.frames, BYTES, PAUSE, round(work), *cores)

    size = {"frames": chosen.frames, "rows": chosen.rows}
    cases: dict[str, Callable[[], Figures]] = {
        "work alone": lambda: run_roles(__file__, ("alone", first, size))[0],
        "three hops": lambda: ring(0),
    }
    for name, frames in counts.items():
        common = (name, cores, frames, chosen.rows)
        cases[name] = lambda common=common: chain(*common, one_by_one=True)  # type: ignore[misc]
        if name in PACED:
            continue
        many = (name, cores, 4 * frames, chosen.rows)
        cases[f"{name}, many"] = lambda common=many: chain(*common, one_by_one=False)  # type: ignore[misc]
    with private_channels(), tempfile.TemporaryDirectory() as directory:
        program = compile_bare("ring", Path(directory))
        rounds = interleaved(chosen.rounds, cases)

    floors = zip(rounds["psyne"], rounds["work alone"], rounds["three hops"], strict=True)
    rounds["floor"] = [{"p50": min(one["work"], work["p50"]) + hops["p50"]} for one, work, hops in floors]
    medians = {name: median_of(one) for name, one in rounds.items()}
    report(medians, rounds, counts, chosen)


def report(medians: Figures, rounds: dict[str, list[Figures]], counts: Figures, chosen: argparse.Namespace) -> None:
    print("capture to draw, frames of 6.2 MB one by one, µs; and as many frames a second as go through")
    print(f"medians of {chosen.rounds} interleaved rounds; each stage works on {chosen.rows} rows")
    print(f"{'':18}" + "".join(f"{key:>10}" for key in (*KEYS, "work p50", "frames/s")))
    for name in ("work alone", "three hops", "floor", *counts):
        figures = medians[name]
        print(f"{name:18}" + "".join(f"{figures[key] / 1000:10.1f}" for key in KEYS if key in figures), end="")
        if name in counts:
            many = medians.get(f"{name}, many")
            print(f"{figures['work'] / 1000:10.1f}" + (f"{many['per_second']:10.0f}" if many else f"{'–':>10}"), end="")
        print()
    ratios = {f"{name} / floor": ratio(rounds, name, "floor", "p50") for name in counts}
    ratios |= {f"{name} / psyne": ratio(rounds, name, "psyne", "p50") for name in counts if name != "psyne"}
    ratios |= {
        f"frames/s: psyne / {name}": ratio(rounds, "psyne, many", f"{name}, many", "per_second")
        for name in counts
        if name not in ("psyne", *PACED)
    }
    for name, value in ratios.items():
        print(f"{name:36} {value:8.2f}x{f'   target {TARGET}' if name == 'psyne / floor' else ''}")
    late = sum(one["late_wakes"] for name in ("psyne", "psyne, many") for one in rounds[name])
    slots = max(one["slots"] for one in rounds["psyne"])
    print(f"psyne: 0 bytes copied; device, inode and offset the same in all four, in {slots} slots; {late} late wakes")
    write(chosen.json, {"machine": machine(chosen.cores), "ns": medians, "ratios": ratios, "rounds": rounds})


if __name__ == "__main__":
    play_role({role.__name__: role for role in (alone, join, queue_program)})
    main()
