"""Stages of pipelines that let a device work on messages after their function has returned; importable by name."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from layouts import broken_lines, line_of

import psyne

COUNT = 60
BAD = 7  # the message whose work fails


def capture(out: Any) -> None:
    for n in range(COUNT):
        out.send(line_of(1, n))


def work_on(array: Any, fails: bool) -> None:
    """Half of the message, a while, and the rest: who looks meanwhile sees neither the old nor the new line."""
    count = int(array[1])
    array[0] = 2
    time.sleep(0.002)
    if fails and count == BAD:
        raise ValueError(f"the kernel, in {os.getpid()}")
    array[:] = line_of(2, count)


class Change:
    """A device whose work takes a while: the CPU, by threads."""

    fails = False

    def __init__(self) -> None:
        self.cpu = psyne.device("cpu")
        self.pool = ThreadPoolExecutor(4)

    def __call__(self, m: Any) -> None:
        m.release(after=self.pool.submit(work_on, np.asarray(self.cpu.view(m)), self.fails))

    def close(self) -> None:
        self.pool.shutdown()


class ChangeBatch(Change):
    def __call__(self, batch: Any) -> None:
        arrays = np.asarray(self.cpu.view(batch.array))
        batch.release(after=self.pool.submit(lambda: [work_on(array, False) for array in arrays]))


class Failing(Change):
    fails = True


def check(m: Any) -> None:
    assert m.array[0] == 2
    assert not broken_lines(m.array[None])
