"""Each field of psyne.Statistics counts what it says it does, on both ends."""

import dataclasses
from typing import Any

import numpy as np
import pytest

import psyne
from psyne import Bytes, Stage, Statistics

from .helpers.layouts import Line, Number, Record, line_of, lines_of
from .helpers.process import Child

NO_COUNTERS = {"capacity", "slabs", "reserved", "resident", "why", "wait_ns", "latency_ns"}
COUNTERS = [f.name for f in dataclasses.fields(Statistics) if f.name not in NO_COUNTERS]


def of(end: Any, *names: str) -> Any:
    """These numbers; all others are 0 but for the histograms, the capacity and the memory."""
    s = end.statistics()
    others = {name: getattr(s, name) for name in COUNTERS if name not in names}
    assert not any(others.values()), others
    values = tuple(getattr(s, name) for name in names)
    return values[0] if len(values) == 1 else values


def test_all_begins_at_0_and_stays_readable_after_close():
    tx, rx = psyne.sender("ipc://x", Number, capacity=8), psyne.receiver("ipc://x")
    for end in (tx, rx):
        s = of(end) or end.statistics()
        assert (s.capacity, sum(s.wait_ns), sum(s.latency_ns), s.wait(), s.latency()) == (8, 0, 0, 0, 0)
    tx.send(Number())
    rx.receive().release()
    tx.close()
    rx.close()
    assert (tx.statistics().sent, rx.statistics().received) == (1, 1)
    assert (tx.statistics().occupancy, rx.statistics().occupancy) == (0, 0)


def test_ends_that_have_not_joined_count_nothing():
    tx, rx = psyne.channel(Number)
    waiting = psyne.receiver("ipc://nobody", Number)
    for end in (tx, rx, waiting):
        assert end.statistics().capacity == 0
        of(end)
        end.close()


def test_sent_and_received_count_messages_whichever_way_they_go():
    with psyne.sender("ipc://x", Line, capacity=32) as tx, psyne.receiver("ipc://x") as rx:
        tx.send(line_of(1, 0))
        with tx.loan():
            pass
        tx.send(tx.loan())
        tx.send_many(lines_of(1, 0, 5))
        with tx.loan_many(4) as batch:
            batch.truncate(3)
        tx.loan().discard()
        tx.loan_many(2).discard()
        assert tx.statistics().sent == 11
        rx.receive().release()
        next(iter(rx)).release()
        assert rx.try_receive() is not None
        rx.receive_many(4).release()
        rx.receive_into(np.zeros((2, 8), "u8"))
        assert rx.statistics().received == 9
        assert rx.statistics().occupancy == 2
        assert (tx.statistics().received, rx.statistics().sent) == (0, 0)


def test_missed_counts_what_a_full_ring_drops_and_what_the_receiver_is_told():
    with psyne.sender("ipc://x", Number, capacity=4, full="drop") as tx, psyne.receiver("ipc://x") as rx:
        tx.send_many(np.zeros(4, Number.__layout__.dtype))
        assert not tx.send(Number())
        with tx.loan():
            pass
        tx.send_many(np.zeros(3, Number.__layout__.dtype))
        with tx.loan_many(2):
            pass
        assert (tx.statistics().sent, tx.statistics().missed) == (4, 7)
        for _ in range(4):
            rx.receive().release()
        assert rx.statistics().missed == 0
        tx.send(Number())
        with rx.receive() as m:
            assert m.info.missed == 7
        assert rx.statistics().missed == 7
        assert rx.statistics().received == 5


def test_blocked_and_the_histogram_count_waits_of_both_ends():
    with psyne.sender("ipc://x", Number, capacity=2) as tx, psyne.receiver("ipc://x") as rx:
        assert rx.try_receive() is None
        assert rx.try_receive_many(2) is None
        assert rx.statistics().blocked == 0
        for _ in range(3):
            with pytest.raises(psyne.Empty):
                rx.receive(timeout=0.003)
        s = rx.statistics()
        assert (s.blocked, sum(s.wait_ns)) == (3, 3)
        assert sum(s.wait_ns[:21]) == 0  # none shorter than 2**20 ns, about 1 ms
        assert s.wait(0.0) >= 1 << 21
        tx.send(Number())
        tx.send(Number())
        assert tx.try_loan() is None
        assert tx.statistics().blocked == 0
        with pytest.raises(psyne.Full):
            tx.send(Number(), timeout=0.003)
        with pytest.raises(psyne.Full):
            tx.loan(timeout=0.003)
        s = tx.statistics()
        assert (s.blocked, sum(s.wait_ns), sum(s.wait_ns[:21])) == (2, 2, 0)


def test_a_wait_that_ends_with_a_message_is_counted_too():
    with psyne.sender("ipc://x", Number, capacity=2, timestamps=True) as tx, Child() as other:
        other.run("rx = psyne.receiver('ipc://x', wait='block')")
        other.begin_waiting("m = rx.receive(); m.release(); rx.statistics()")
        tx.send(Number())
        s = other.result()
        assert (s.received, s.blocked, sum(s.wait_ns), sum(s.latency_ns), s.late_wakes) == (1, 1, 1, 1, 0)


def test_held_counts_messages_in_hand_and_slots_that_arrays_use():
    with psyne.sender("ipc://x", Line, capacity=8) as tx, psyne.receiver("ipc://x") as rx:
        with tx.loan() as m:
            mine = m.array
        del m
        tx.send_many(lines_of(1, 0, 4))
        assert tx.statistics().held == 1
        one, batch = rx.receive(), rx.receive_many(3)
        assert rx.statistics().held == 4
        view = batch.array
        batch.__exit__(None, None, None)
        one.release()
        assert rx.statistics().held == 3  # the array holds all of its batch
        assert tx.statistics().occupancy == 5  # 4 with the receiver or unread, 1 with the sender itself
        del view, mine
        assert (rx.statistics().held, tx.statistics().held, tx.statistics().occupancy) == (0, 0, 1)


def test_held_while_waiting_counts_waits_with_messages_in_hand():
    with psyne.sender("ipc://x", Number, capacity=4) as tx, psyne.receiver("ipc://x") as rx:
        for _ in range(2):
            with pytest.raises(psyne.Empty):
                rx.receive(timeout=0.001)
        tx.send(Number())
        m = rx.receive()
        for _ in range(3):
            with pytest.raises(psyne.Empty):
                rx.receive(timeout=0.001)
        assert rx.try_receive() is None
        m.release()
        s = rx.statistics()
        assert (s.blocked, s.held_while_waiting) == (5, 3)


def test_copied_bytes_counts_copies_and_no_loans():
    with psyne.sender("ipc://x", Line, capacity=32) as tx, psyne.receiver("ipc://x") as rx:
        with tx.loan() as m:
            m.array[...] = 1
        tx.send(tx.loan())
        with tx.loan_many(3):
            pass
        assert tx.statistics().copied_bytes == 0
        tx.send(line_of(1, 0))
        tx.send_many(lines_of(1, 0, 4))
        assert tx.statistics().copied_bytes == 5 * 64
        rx.receive_many(3).copy()
        assert rx.statistics().copied_bytes == 0
        rx.receive_into(np.zeros((4, 8), "u8"))
        assert rx.statistics().copied_bytes == 4 * 64


def test_copied_bytes_are_those_of_the_message_not_of_its_slot():
    with psyne.sender("ipc://x", Bytes(max_bytes=1 << 16), capacity=4) as tx:
        tx.send(b"abc")
        assert tx.statistics().copied_bytes == 3
        tx.send(Bytes(max_bytes=1 << 16)(b"abcd"))
        assert tx.statistics().copied_bytes == 7


def test_occupancy_is_what_is_there_now():
    with (
        psyne.sender("ipc://x", Number, capacity=8, stages=["first", "second"]) as tx,
        psyne.receiver("ipc://x", stage="first") as first,
        psyne.receiver("ipc://x", stage="second") as second,
    ):
        for n in range(5):
            tx.send(Number(n=n))
        assert (tx.statistics().occupancy, first.statistics().occupancy) == (5, 5)
        for _ in range(3):
            first.receive().release()
        assert (tx.statistics().occupancy, first.statistics().occupancy) == (5, 2)
        for _ in range(2):
            second.receive().release()
        assert tx.statistics().occupancy == 3


def test_capacity_is_of_ones_own_ring_or_of_all_that_are_read():
    with (
        psyne.receiver("ipc://x", Number) as rx,
        psyne.sender("ipc://x", Number, capacity=8) as one,
        psyne.sender("ipc://x", Number, capacity=16) as two,
    ):
        one.send(Number())
        two.send(Number())
        rx.receive().release()
        rx.receive().release()
        assert [end.statistics().capacity for end in (one, two, rx)] == [8, 16, 24]


def test_latency_is_counted_where_times_are_kept_and_of_a_batch_once():
    for keeps in (True, False):
        with psyne.sender("ipc://x", Number, capacity=16, timestamps=keeps) as tx, psyne.receiver("ipc://x") as rx:
            for n in range(10):
                tx.send(Number(n=n))
            with pytest.raises(psyne.Empty):
                psyne.receiver("ipc://other", Number).receive(timeout=0.003)
            rx.receive().release()
            rx.receive_many(8).release()
            rx.try_receive().release()
            s = rx.statistics()
            assert sum(s.latency_ns) == (3 if keeps else 0)
            assert (s.latency(0.0) > 1 << 20) == keeps
            assert sum(tx.statistics().latency_ns) == 0


def test_quantiles_are_upper_bounds():
    histogram = (1, 0, 0, 3, *[0] * 43, 1)
    s = dataclasses.replace(psyne.channel(Number)[0].statistics(), wait_ns=histogram, latency_ns=histogram)
    assert [s.wait(q) for q in (0.0, 0.2, 0.5, 0.8, 1.0)] == [0, 0, 8, 8, 1 << 47]
    assert s.latency() == 8
    for wrong in (-0.1, 1.1):
        with pytest.raises(ValueError, match="between 0 and 1"):
            s.wait(wrong)


def test_it_is_a_snapshot_that_cannot_be_changed_and_every_field_says_what_it_is():
    with psyne.sender("ipc://x", Number, capacity=8) as tx:
        s = tx.statistics()
        with pytest.raises(dataclasses.FrozenInstanceError):
            s.sent = 5  # type: ignore[misc]
        tx.send(Number())
        assert s.sent == 0


def test_redelivered_and_poisoned_are_of_the_whole_channel():
    with psyne.sender("ipc://x", Number, capacity=8, pattern="mpmc") as tx, psyne.receiver("ipc://x") as survivor:
        for n in range(2):
            tx.send(Number(n=n))
        for _ in range(3):
            with Child() as victim:
                victim.run("rx = psyne.receiver('ipc://x'); m = rx.receive()")
                victim.kill()
        with survivor.receive(timeout=10) as m:
            assert m.n == 1
        with pytest.raises(psyne.Empty):
            survivor.receive(timeout=0.3)
        for end in (tx, survivor):
            s = end.statistics()
            assert (s.redelivered, s.poisoned, s.dropped) == (2, 1, 0)


def test_dropped_counts_half_changed_messages():
    stages = [Stage("change", mutate=True)]
    with (
        psyne.sender("ipc://x", Record, capacity=8, pattern="mpmc", stages=stages) as tx,
        psyne.receiver("ipc://x") as survivor,
    ):
        for n in range(2):
            tx.send(Record(n=n))
        with Child() as victim:
            victim.run("rx = psyne.receiver('ipc://x'); m = rx.receive(); m.seen = 1")
            victim.kill()
        with survivor.receive(timeout=10) as m:
            assert m.n == 1
        with pytest.raises(psyne.Empty):
            survivor.receive(timeout=0.3)
        for end in (tx, survivor):
            s = end.statistics()
            assert (s.redelivered, s.poisoned, s.dropped) == (0, 0, 1)
