"""RingBuffer and DynamicRingBuffer: a ring of messages inside one process, both ends in one object."""

import pickle
import threading
from typing import Any

import numpy as np
import pytest

import psyne
from psyne import Bytes, DynamicRingBuffer, RingBuffer

from .helpers.layouts import Line, Number, line_of, lines_of
from .helpers.process import until

KINDS = [RingBuffer, DynamicRingBuffer]


def send_for_ever(ring: Any) -> None:
    n = 0
    while True:
        ring.send(line_of(1, n), timeout=0.2)
        n += 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.leaves_nothing
def test_one_thread_may_write_and_read(kind: Any):
    ring = kind(Number, capacity=8)
    with ring.loan() as m:
        m.n = 1
    assert ring.send(Number(n=2))
    with ring.loan_many(3) as batch:
        batch["n"] = [3, 4, 5]
    with ring.try_loan() as m:
        m.n = 6
    assert ring.receive().n == 1
    assert ring.try_receive().n == 2
    assert ring.receive_many(3)["n"].tolist() == [3, 4, 5]
    ring.close()
    assert [m.n for m in ring] == [6]
    with pytest.raises(psyne.EndOfChannel):
        ring.receive()
    with pytest.raises(psyne.ChannelClosed):
        ring.send(Number())
    assert ring.closed


@pytest.mark.parametrize("kind", KINDS)
def test_a_writing_and_a_reading_thread_share_it(kind: Any):
    ring = kind(Line, capacity=16)

    def write() -> None:
        with ring:
            for n in range(5000):
                ring.send(line_of(1, n))
            ring.send(lines_of(1, 5000, 1)[0])

    writer = threading.Thread(target=write)
    writer.start()
    for n, m in enumerate(ring):
        assert (m.array == line_of(1, n)).all()
    writer.join()
    assert n == 5000
    s = ring.statistics()
    assert (s.sent, s.received, s.held, s.occupancy) == (5001, 5001, 0, 0)


def test_a_ring_has_room_for_its_capacity():
    ring = RingBuffer(Number, capacity=4)
    assert ring.capacity == 4
    for n in range(4):
        ring.send(Number(n=n))
    assert ring.try_loan() is None
    with pytest.raises(psyne.Full, match="4 messages"):
        ring.send(Number(), timeout=0)
    ring.receive().release()
    assert ring.send(Number(n=4), timeout=0)
    assert repr(ring) == "<psyne.RingBuffer of 4 messages>"


@pytest.mark.parametrize("shrink_after", [0.01, 0.0001])  # the second is over before a larger ring is prepared
def test_a_dynamic_ring_grows_and_shrinks(shrink_after: float):
    ring = DynamicRingBuffer(Bytes(max_bytes=1 << 24), capacity=8, shrink_after=shrink_after)
    first = ring.statistics().resident
    data = np.random.default_rng(1).integers(0, 256, 1 << 20, dtype=np.uint8)
    for _ in range(30):
        ring.send(data)
    assert ring.statistics().resident >= 30 << 20
    for _ in range(30):
        with ring.receive() as m:
            assert (m.array == data).all()
    until(lambda: ring.statistics().resident <= first, "the memory of the beginning")
    assert ring.statistics().grown > 0


def test_a_dynamic_ring_keeps_within_its_budget():
    ring = DynamicRingBuffer(Line, capacity=64, budget=1 << 17)
    with pytest.raises(psyne.Full, match="budget=131072"):
        send_for_ever(ring)
    assert ring.statistics().reserved <= 1 << 17
    with pytest.raises(psyne.NoSpace, match="budget=4096"):
        DynamicRingBuffer(Line, budget=4096)


def test_what_was_taken_keeps_its_slot_after_the_ring():
    ring = RingBuffer(Line, capacity=2)
    ring.send(line_of(1, 7))
    kept = ring.receive().array
    del ring
    assert (kept == line_of(1, 7)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_ring_stays_in_its_process(kind: Any):
    with pytest.raises(TypeError, match=r"stays in its process; psyne\.channel"):
        pickle.dumps(kind(Number))
    with pytest.raises(ValueError, match="capacity is a number of messages"):
        kind(Number, capacity=0)
