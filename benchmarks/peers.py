"""The same work by others: iceoryx2's Python binding (publish-subscribe) and pyzmq (ipc).

Each loop is the fastest of those tried that its binding's public interface allows; the senders wait
rather than drop, and what arrives is checked as in the loops of psyne.
"""

from __future__ import annotations

import ctypes
import os
import time
from itertools import repeat
from typing import Any

import numpy as np
from harness import Figures, expect, percentiles, play_role

WORDS = 8
PERIOD = 1024
DEPTH = 8192  # messages that the receiver's queue holds
PAUSE = 50e-6  # polling an empty queue slows the publisher down: a nap makes the pair faster


class Words(ctypes.Structure):
    _fields_ = [("words", ctypes.c_uint64 * WORDS)]

    @staticmethod
    def type_name() -> str:
        return "Words"


# ------------------------------------------------------------------------ iceoryx2


class Topic:
    """One service with one publisher and one subscriber, in this process one of the two."""

    def __init__(self, name: str, payload: type[ctypes.Structure] = Words, depth: int = DEPTH) -> None:
        import iceoryx2

        self.depth = depth
        iceoryx2.set_log_level(iceoryx2.LogLevel.Error)
        self.node = iceoryx2.NodeBuilder.new().create(iceoryx2.ServiceType.Ipc)
        self.service = (
            self.node.service_builder(iceoryx2.ServiceName.new(f"psyne-benchmark/{os.getppid()}/{name}"))
            .publish_subscribe(payload)
            .enable_safe_overflow(False)
            .subscriber_max_buffer_size(depth)
            .open_or_create()
        )

    def publisher(self) -> Any:
        return self.service.publisher_builder().create()

    def subscriber(self) -> Any:
        return self.service.subscriber_builder().buffer_size(self.depth).create()

    def wait_for_subscriber(self, gone: bool = False) -> None:
        while (self.service.dynamic_config.number_of_subscribers == 0) is not gone:
            time.sleep(0.001)


def iceoryx_ping(trips: int) -> Figures:
    there, back = Topic("there"), Topic("back")
    publisher, receive = there.publisher(), back.subscriber().receive
    there.wait_for_subscriber()
    payload, times, now = Words(), np.zeros(trips + trips // 10, "i8"), time.perf_counter_ns
    reference, copy = ctypes.byref(payload), ctypes.memmove
    for number in range(len(times)):
        payload.words[0] = number
        start = now()
        loan = publisher.loan_uninit()
        copy(loan.payload_ptr, reference, 64)
        loan.assume_init().send()
        while (sample := receive()) is None:
            pass
        times[number] = now() - start
        expect(Words.from_address(sample.payload_ptr).words[0], number, "iceoryx2's answer")
    return percentiles(times[trips // 10 :] / 2)


def iceoryx_pong(trips: int) -> None:
    there, back = Topic("there"), Topic("back")
    publisher, receive = back.publisher(), there.subscriber().receive
    back.wait_for_subscriber()
    payload = Words()
    reference, copy = ctypes.byref(payload), ctypes.memmove
    for number in range(trips + trips // 10):
        while (sample := receive()) is None:
            pass
        loan = publisher.loan_uninit()
        copy(loan.payload_ptr, reference, 64)
        loan.assume_init().send()
        expect(Words.from_address(sample.payload_ptr).words[0], number, "iceoryx2's question")
        payload.words[0] = number + 1
    time.sleep(0.2)  # the publisher's memory goes with it, and the other end may still be reading


def iceoryx_send(messages: int) -> None:
    topic = Topic("rate")
    publisher = topic.publisher()
    topic.wait_for_subscriber()
    payloads = [Words((ctypes.c_uint64 * WORDS)(*[number] * WORDS)) for number in range(PERIOD)]
    references = [ctypes.byref(payload) for payload in payloads]
    copy = ctypes.memmove
    for _ in repeat(None, messages // PERIOD):
        for reference in references:
            loan = publisher.loan_uninit()
            copy(loan.payload_ptr, reference, 64)
            loan.assume_init().send()
    topic.wait_for_subscriber(gone=True)


def iceoryx_receive(messages: int) -> Figures:
    topic = Topic("rate")
    receive = topic.subscriber().receive
    warm_up = PERIOD
    for number in range(messages):
        while (sample := receive()) is None:
            time.sleep(PAUSE)
        if number == warm_up:
            start = time.perf_counter()
        if number % PERIOD == PERIOD - 1:
            expect(
                list(Words.from_address(sample.payload_ptr).words),
                [PERIOD - 1] * WORDS,
                "iceoryx2's message",
            )
    return {"per_second": (messages - warm_up) / (time.perf_counter() - start)}


# ------------------------------------------------------------------------ pyzmq


def zmq_send(messages: int, address: str) -> None:
    import zmq

    with zmq.Context() as context, context.socket(zmq.PAIR) as socket:
        socket.bind(address)
        payloads = [np.full(WORDS, number, "u8").tobytes() for number in range(PERIOD)]
        for _ in repeat(None, messages // PERIOD):
            for payload in payloads:
                socket.send(payload)
        expect(socket.recv(), b"all", "pyzmq's answer")  # closing before it may lose the last ones


def zmq_receive(messages: int, address: str) -> Figures:
    import zmq

    with zmq.Context() as context, context.socket(zmq.PAIR) as socket:
        socket.connect(address)
        for _ in range(PERIOD):
            socket.recv()
        start = time.perf_counter()
        for number in range(PERIOD, messages):
            message = socket.recv()
            if number % PERIOD == PERIOD - 1:
                expect(message, np.full(WORDS, PERIOD - 1, "u8").tobytes(), "pyzmq's message")
        seconds = time.perf_counter() - start
        socket.send(b"all")
        return {"per_second": (messages - PERIOD) / seconds}


if __name__ == "__main__":
    roles = (iceoryx_ping, iceoryx_pong, iceoryx_send, iceoryx_receive, zmq_send, zmq_receive)
    play_role({role.__name__: role for role in roles})
