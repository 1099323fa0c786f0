"""Sources and stages for tests of pipelines; importable by name, as processes want. They write notes, a line each.

Run as ``pipelines.py NAME`` it is a program that runs one of the pipelines below to its end.
"""

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import psyne
from psyne import Struct, u8, u64
from psyne.demo.place import place_of
from psyne.pipeline import supervisor

COUNT = 120
BAD = 7  # the message that some stages do not survive


class Frame(Struct):
    n = u64()
    twice = u64()
    image = u8(64, 64)


def note(*words: object) -> None:
    """One line into the file of notes: writes below 4 KiB are not mixed."""
    with open(os.environ["PSYNE_TEST_NOTES"], "ab", buffering=0) as notes:
        notes.write((" ".join(map(str, words)) + "\n").encode())


def capture(out: Any) -> None:
    for n in range(COUNT):
        with out.loan() as m:
            m.n = n


def endless(out: Any) -> None:
    n = 0
    try:
        while True:
            with out.loan() as m:
                m.n = n
            n += 1
    finally:
        note("sent", os.getpid(), out.statistics().sent)


def deaf(out: Any) -> None:
    """A source that goes on, whatever it is told."""
    while True:
        try:
            note("deaf", os.getpid())
            time.sleep(3600)
        except BaseException:
            note("told", os.getpid())


def failing_capture(out: Any) -> None:
    capture(out)
    raise ValueError("the camera is unplugged")


def flaky_capture(out: Any) -> None:
    """Fails the first time, when it has sent five messages."""
    began = "began" in Path(os.environ["PSYNE_TEST_NOTES"]).read_text()
    note("began", os.getpid())
    for n in range(COUNT if began else 5):
        with out.loan() as m:
            m.n = n
    if not began:
        raise ValueError("the camera is unplugged")


def place(m: Any) -> str:
    at = place_of(m.image)
    return f"{at.device}:{at.inode}:{at.offset}"


def double(m: Any) -> None:
    m.twice = 2 * m.n
    note("double", os.getpid(), m.n, place(m))


class Left:
    """Works on batches; made in its own process."""

    def __init__(self) -> None:
        note("made", os.getpid())

    def __call__(self, batch: Any) -> None:
        assert (batch["twice"] == 2 * batch["n"]).all()
        for m in batch:
            note("left", os.getpid(), m.n, place(m))

    def close(self) -> None:
        note("closed", os.getpid())


def right(m: Any) -> None:
    assert m.twice == 2 * m.n
    note("right", os.getpid(), m.n, place(m))


def draw(m: Any) -> None:
    note("draw", os.getpid(), m.n, place(m))


def look(m: Any) -> None:
    note("look", os.getpid(), m.n)


def die_of_bad(m: Any) -> None:
    if m.n == BAD:
        note("dies", os.getpid(), m.n)
        os.kill(os.getpid(), signal.SIGKILL)


def fail_of_bad(m: Any) -> None:
    if m.n == BAD:
        raise ValueError(f"frame {m.n} is bad")


def spoil(m: Any) -> None:
    m.twice = 1  # half changed, when it fails
    fail_of_bad(m)
    m.twice = 2 * m.n


def die_once(m: Any) -> None:
    """Kills its process, but only the first time that anybody gets this message."""
    if m.n == BAD and not m.info.redelivered:
        os.kill(os.getpid(), signal.SIGKILL)


def stand_still(m: Any) -> None:
    note("stands", os.getpid(), m.n)
    time.sleep(3600)


def slow(m: Any) -> None:
    time.sleep(0.02)


def sluggish(m: Any) -> None:
    """For the first messages longer than a worker waits before it looks around."""
    if m.n < 4:
        time.sleep(0.25)


class Broken:
    def __init__(self) -> None:
        raise OSError("no weights")

    def __call__(self, m: Any) -> None:
        pass


def program(name: str) -> psyne.Pipeline:
    pipe = psyne.Pipeline(restart="on_crash")
    if name == "endless":
        pipe.source(endless, Frame, capacity=16).stage(double, mutate=True).stage(draw)
    if name == "standing":
        pipe.source(endless, Frame, capacity=16).stage(stand_still)
    return pipe


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    supervisor.PATIENCE = 60.0  # beside many other programs one may need 5 s to start, which would be told of
    report = program(sys.argv[1]).run()
    print("stopped by", report.stopped_by)
