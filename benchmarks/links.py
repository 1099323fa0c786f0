"""Four ways to join the stages of pipeline.py: psyne, and the same by others.

A link is one process's place in the chain. `loan` says where capture writes the next frame, `receive` where a stage
finds it and may change it, `hand_on` gives it to the next stage. Each is the fastest way found within the public
interface; all of them sleep while they wait, and nobody drops a frame.
"""

from __future__ import annotations

import ctypes
import os
from collections import deque
from itertools import cycle
from typing import Any, Protocol

import numpy as np
import peers
from harness import Figures
from numpy.typing import NDArray

import psyne
from psyne import Array, Stage

SHAPE = (1080, 1920, 3)
BYTES = 1080 * 1920 * 3
CAPACITY = 8  # frames under way
ADDRESS = "ipc://pipeline"
STAGES = ("capture", "rectify", "infer", "draw")
Image = NDArray[np.uint8]


class Link(Protocol):
    def loan(self) -> Image: ...
    def receive(self) -> Image: ...
    def hand_on(self) -> None: ...
    def close(self) -> Figures:
        """Leaves when all is received; what it has counted of itself."""
        ...


class Psyne:
    """One channel, three stages: each works on the bytes that capture wrote."""

    def __init__(self, stage: str) -> None:
        self.end: Any
        if stage == "capture":
            graph = [Stage("rectify", mutate=True), Stage("infer", mutate=True), "draw"]
            self.end = psyne.sender(
                ADDRESS, Array("u1", SHAPE), pattern="spsc", stages=graph, capacity=CAPACITY, wait="block"
            )
        else:
            self.end = psyne.receiver(ADDRESS, stage=stage, wait="block")

        self.sends = stage == "capture"

    def loan(self) -> Image:
        self.message = self.end.loan()
        return self.message.array

    def receive(self) -> Image:
        self.message = self.end.receive()
        return self.message.array

    def hand_on(self) -> None:
        if self.sends:
            self.end.send(self.message)
        else:
            self.message.release()

    def close(self) -> Figures:
        if self.sends:
            self.end.drain()
        seen = self.end.statistics()
        self.end.close()
        return {"copied_bytes": seen.copied_bytes, "late_wakes": seen.late_wakes}


class Bytes(ctypes.Structure):
    _fields_ = [("bytes", ctypes.c_uint8 * BYTES)]

    @staticmethod
    def type_name() -> str:
        return "Frame"


class Iceoryx:
    """A publish-subscribe and an event service for each hop. What a stage changes goes into a loan of its own."""

    def __init__(self, stage: str) -> None:
        self.copied = 0
        place = STAGES.index(stage)
        if place > 0:
            topic, event = self._services(place)
            self.subscriber, self.listener = topic.subscriber(), event.listener_builder().create()
        self.publisher = None
        if place < len(STAGES) - 1:
            self.topic, event = self._services(place + 1)
            self.publisher, self.notifier = self.topic.publisher(), event.notifier_builder().create()
            self.topic.wait_for_subscriber()

    def _services(self, hop: int) -> tuple[peers.Topic, Any]:
        import iceoryx2

        topic = peers.Topic(f"hop-{hop}", Bytes, CAPACITY)
        name = iceoryx2.ServiceName.new(f"psyne-benchmark/{os.getppid()}/hop-{hop}")
        return topic, topic.node.service_builder(name).event().open_or_create()

    @staticmethod
    def _image(address: int) -> Image:
        return np.frombuffer((ctypes.c_uint8 * BYTES).from_address(address), "u1").reshape(SHAPE)

    def loan(self) -> Image:
        self.sample = self.publisher.loan_uninit()
        return self._image(self.sample.payload_ptr)

    def receive(self) -> Image:
        while (sample := self.subscriber.receive()) is None:
            self.listener.blocking_wait()
        image = self._image(sample.payload_ptr)
        if self.publisher is None:
            self.sample = sample
            return image
        copy = self.loan()
        np.copyto(copy, image)
        self.copied += BYTES
        return copy

    def hand_on(self) -> None:
        if self.publisher is not None:
            self.sample.assume_init().send()
            self.notifier.notify()
        self.sample = None

    def close(self) -> Figures:
        if self.publisher is not None:  # its memory goes with it, and the next stage may still be reading
            self.topic.wait_for_subscriber(gone=True)
        return {"copied_bytes": self.copied}


class Zmq:
    """PUSH to PULL over ipc, without copies but those into and out of the kernel: what came is changed and sent on."""

    def __init__(self, stage: str, directory: str) -> None:
        import zmq

        self.context = zmq.Context()
        place = STAGES.index(stage)
        self.pull = self.push = None
        if place > 0:
            self.pull = self.context.socket(zmq.PULL)
            self.pull.rcvhwm = CAPACITY // 2
            self.pull.connect(f"ipc://{directory}/hop-{place}")
        if place < len(STAGES) - 1:
            self.push = self.context.socket(zmq.PUSH)
            self.push.sndhwm = CAPACITY // 2
            self.push.bind(f"ipc://{directory}/hop-{place + 1}")
        if place == 0:
            self.free = deque((np.zeros(SHAPE, "u1"), None) for _ in range(CAPACITY + 1))

    def loan(self) -> Image:
        self.part, tracker = self.free.popleft()
        if tracker is not None:
            tracker.wait()
        return self.part

    def receive(self) -> Image:
        self.part = self.pull.recv(copy=False)
        return np.frombuffer(self.part.buffer, "u1").reshape(SHAPE)

    def hand_on(self) -> None:
        if self.pull is None:
            self.free.append((self.part, self.push.send(self.part, copy=False, track=True)))
        elif self.push is not None:
            self.push.send(self.part, copy=False)
        self.part = None

    def close(self) -> Figures:
        self.context.destroy(linger=-1)
        return {}


class Queue:
    """A multiprocessing.Queue for each hop, which pickles."""

    def __init__(self, stage: str, queues: list[Any]) -> None:
        place = STAGES.index(stage)
        self.get = queues[place - 1].get if place > 0 else None
        self.put = queues[place].put if place < len(STAGES) - 1 else None
        if place == 0:  # its thread pickles later: one more than the queue holds
            self.free = cycle([np.zeros(SHAPE, "u1") for _ in range(CAPACITY + 2)])

    def loan(self) -> Image:
        self.frame = next(self.free)
        return self.frame

    def receive(self) -> Image:
        self.frame = self.get()
        return self.frame

    def hand_on(self) -> None:
        if self.put is not None:
            self.put(self.frame)

    def close(self) -> Figures:
        return {}
