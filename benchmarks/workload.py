"""One message at a time: the loops that throughput.py and footprint.py measure, with checks."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle, islice, repeat
from typing import Any

import numpy as np
from harness import expect

import psyne
from psyne import Array

WORDS = 8  # of 8 bytes: a message of 64 bytes
PERIOD = 1024  # different messages, sent in turn

Words = Array("u8", WORDS)


def payloads() -> Iterator[Any]:
    """Views on PERIOD messages, over and over; message i holds i % PERIOD in each word."""
    table = np.repeat(np.arange(PERIOD, dtype="u8"), WORDS).reshape(PERIOD, WORDS)
    return cycle([memoryview(row) for row in table])


def send_all(out: psyne.Sender[Any], views: Iterator[Any], count: int) -> None:
    for view in islice(views, count):
        out.send(view)


def receive_all(source: psyne.Receiver[Any], count: int) -> None:
    """The loop that is timed: one message in PERIOD is compared, in content and place."""
    expect(count % PERIOD, 0, "messages beyond a whole number of periods")
    for _ in repeat(None, count // PERIOD):
        for _ in repeat(None, PERIOD - 1):
            source.receive()
        with source.receive() as message:
            expect(message.array.tolist(), [PERIOD - 1] * WORDS, "the last message of a period")


def receive_and_compare(source: psyne.Receiver[Any], count: int) -> None:
    """The loop that is not timed: every word is compared, and the sequence has no gap."""
    before = None
    for number in range(count):
        with source.receive() as message:
            expect(message.array.tolist(), [number % PERIOD] * WORDS, f"message {number}")
            sequence = message.info.sequence
            if before is not None:
                expect(sequence, before + 1, f"sequence of message {number}")
            before = sequence
