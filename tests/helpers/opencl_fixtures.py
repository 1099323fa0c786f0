"""An OpenCL device, queues that wait and channels for its tests, which are skipped where there is none."""

from collections.abc import Iterator
from typing import Any

import pytest

import psyne

from .opencl import SCALE
from .planes import MUTATES, Plane, Words

__all__ = ["ALIGN", "Gate", "aside", "cl", "dev", "gate", "out", "scale", "words"]

try:
    psyne.device("opencl")
except psyne.DeviceUnavailable as error:
    pytest.skip(f"no OpenCL: {error}", allow_module_level=True)

import pyopencl as cl

ALIGN = psyne.device("opencl").info.alignment


@pytest.fixture
def dev() -> Any:
    return psyne.device("opencl")


@pytest.fixture
def scale(dev: Any) -> Any:
    return dev.kernel(SCALE)


@pytest.fixture
def out() -> Iterator[Any]:
    with psyne.sender("ipc://planes", Plane, capacity=8, align=ALIGN, stages=MUTATES) as out:
        yield out


@pytest.fixture
def words() -> Iterator[Any]:
    with (
        psyne.sender("ipc://words", Words, capacity=1, align=ALIGN) as out,
        psyne.receiver("ipc://words", Words) as rx,
    ):
        yield out, rx


class Gate:
    """Work in a queue that is done when the test says so: all that comes later there waits."""

    def __init__(self, queue: Any) -> None:
        self.queue = queue
        self._event = cl.UserEvent(queue.context)
        cl.enqueue_marker(queue, wait_for=[self._event])

    def open(self) -> None:
        if self._event.command_execution_status != cl.command_execution_status.COMPLETE:
            self._event.set_status(cl.command_execution_status.COMPLETE)


@pytest.fixture
def gate(dev: Any) -> Iterator[Gate]:
    """In the queue of the device."""
    made = Gate(dev.queue)
    yield made
    made.open()  # whatever has failed


@pytest.fixture
def aside(dev: Any) -> Iterator[Gate]:
    """In a queue of the test's own."""
    made = Gate(cl.CommandQueue(dev.context))
    yield made
    made.open()
