"""Stages: a chain over the same bytes, and members that share a stage's messages."""

from collections.abc import Sequence
from contextlib import ExitStack
from itertools import chain
from typing import Any

import pytest

import psyne
from psyne import Stage

from .helpers.layouts import Number, Record
from .helpers.process import Child


def open_chain(stack: ExitStack, stages: Sequence[Stage | str], capacity: int = 8, **kwargs: Any) -> list[Any]:
    """A sender and one receiver for each stage."""
    tx = stack.enter_context(psyne.sender("ipc://chain", Record, capacity=capacity, stages=stages, **kwargs))
    names = [s if isinstance(s, str) else s.name for s in stages]
    return [tx, *(stack.enter_context(psyne.receiver("ipc://chain", Record, stage=name)) for name in names)]


def test_every_stage_sees_every_message_in_order_after_the_stage_before_it():
    with ExitStack() as stack:
        tx, first, second, third = open_chain(stack, ["first", "second", "third"])
        for lap in range(5):
            for n in range(8):
                tx.send(Record(n=8 * lap + n), timeout=0)
            for n in range(8):
                assert second.try_receive() is None
                with first.receive(timeout=0) as m:
                    assert m.n == 8 * lap + n
                    assert second.try_receive() is None  # not before it is passed on
                assert third.try_receive() is None
                with second.receive(timeout=0) as m:
                    assert m.n == 8 * lap + n
                with third.receive(timeout=0) as m:
                    assert m.n == 8 * lap + n


def test_the_slot_is_free_only_when_the_last_stage_is_done():
    with ExitStack() as stack:
        tx, *receivers = open_chain(stack, ["a", "b", "c"], capacity=1)
        tx.send(Record(n=1))
        for rx in receivers:
            assert tx.try_loan() is None
            rx.receive().release()
        tx.loan(timeout=0).discard()


def test_what_a_mutating_stage_wrote_arrives_in_the_same_memory():
    with Child() as change, Child() as look:
        stages = [Stage("change", mutate=True), "look"]
        with psyne.sender("ipc://chain", Record, capacity=8, stages=stages, pattern="spsc") as tx:
            change.run("rx = psyne.receiver('ipc://chain', stage='change')")
            look.run("rx = psyne.receiver('ipc://chain', stage='look')")
            change.begin("for m in rx: m.seen = m.n + 1; m.body[:] = m.body + 1")
            look.begin("[(m.n, m.seen, m.body.tolist(), m.body.flags.writeable) for m in rx]")
            for n in range(100):
                tx.send(Record(n=n, body=n), timeout=None)
        change.result()
        assert look.result() == [(n, n + 1, [n + 1] * 64, False) for n in range(100)]


def test_mutating_stages_one_after_the_other_build_on_each_other():
    stages = [Stage(f"s{i}", mutate=True) for i in range(5)]
    with ExitStack() as stack:
        tx, *receivers = open_chain(stack, [*stages, "end"])
        for n in range(30):
            tx.send(Record(n=n, seen=1))
            expected = 1
            for i, rx in enumerate(receivers[:-1]):
                with rx.receive(timeout=0) as m:
                    m.seen = m.seen * 3 + i
                expected = expected * 3 + i
            with receivers[-1].receive(timeout=0) as m:
                assert (m.n, m.seen) == (n, expected)


def test_a_mutating_stage_may_be_in_the_middle_and_at_the_end():
    with ExitStack() as stack:
        tx, first, change, last = open_chain(stack, ["first", Stage("change", mutate=True), Stage("last", mutate=True)])
        tx.send(Record(n=1, seen=5))
        with first.receive() as m:
            assert m.seen == 5
            with pytest.raises(psyne.ReadOnly):
                m.seen = 6
        with change.receive() as m:
            m.seen = 6
        with last.receive() as m:
            assert m.seen == 6
            m.seen = 7


def test_a_batch_of_a_mutating_stage_is_written_in_place():
    with ExitStack() as stack:
        tx, change, look = open_chain(stack, [Stage("change", mutate=True), "look"])
        for n in range(6):
            tx.send(Record(n=n))
        with change.receive_many(8) as batch:
            batch["seen"] = batch["n"] * 2
            batch["body"][:, 0] = 9
        with look.receive_many(8) as batch:
            assert batch["seen"].tolist() == [0, 2, 4, 6, 8, 10]
            assert batch["body"][:, 0].tolist() == [9] * 6


def test_a_batch_ends_where_the_stage_before_has_come_to():
    with ExitStack() as stack:
        tx, first, second = open_chain(stack, ["first", "second"])
        for n in range(6):
            tx.send(Record(n=n))
        first.receive_many(4).release()
        with second.receive_many(8) as batch:
            assert batch["n"].tolist() == [0, 1, 2, 3]


def test_a_stage_waits_for_the_oldest_message_although_later_ones_are_ready():
    """The order of a sender holds in every stage."""
    with ExitStack() as stack:
        tx, first, second = open_chain(stack, ["first", "second"])
        for n in range(3):
            tx.send(Record(n=n))
        messages = [first.receive() for _ in range(3)]
        messages[2].release()
        messages[1].release()
        assert second.try_receive() is None
        messages[0].release()
        assert [second.receive(timeout=0).n for _ in range(3)] == [0, 1, 2]


def test_a_chain_passes_on_what_senders_took_back_without_showing_it():
    with ExitStack() as stack:
        tx, first, second = open_chain(stack, ["first", "second"])
        for lap in range(6):
            loans = [tx.loan() for _ in range(5)]
            for n in (0, 2, 4):
                loans[n].n = n
                tx.send(loans[n])
            loans[1].discard()
            loans[3].discard()
            for rx in (first, second):
                assert [m.n for m in (rx.receive(timeout=0) for _ in range(3))] == [0, 2, 4], lap
                assert rx.try_receive() is None


def test_a_chain_ends_for_each_stage_when_it_has_seen_all():
    with ExitStack() as stack:
        tx, first, second = open_chain(stack, ["first", "second"])
        tx.send(Record(n=1))
        tx.close()
        assert second.try_receive() is None
        assert [m.n for m in first] == [1]
        assert [m.n for m in second] == [1]


def test_a_receiver_must_say_its_stage_when_there_are_several():
    with ExitStack() as stack:
        open_chain(stack, ["first", "second"])
        with pytest.raises(psyne.InvalidArgument, match=r"several stages.*'first', 'second'"):
            psyne.receiver("ipc://chain")
        with pytest.raises(psyne.InvalidArgument, match=r"no stage 'third'.*'first', 'second'"):
            psyne.receiver("ipc://chain", stage="third")


def test_without_stages_nobody_holds_the_sender_back():
    with psyne.sender("ipc://loose", Number, capacity=2, stages=[]) as tx:
        for n in range(1000):
            tx.send(Number(n=n), timeout=0)
        tx.drain(timeout=0)
        with pytest.raises(psyne.InvalidArgument, match="has no stage to be a member of"):
            psyne.receiver("ipc://loose")


@pytest.mark.parametrize(
    ("stages", "text"),
    [
        ("main", r"stages=\['main'\]"),
        (["a", "a"], "name of its own"),
        ([f"s{i}" for i in range(33)], "at most 32"),
    ],
)
def test_impossible_stages_are_refused(stages: Any, text: str):
    with pytest.raises(psyne.InvalidArgument, match=text):
        psyne.sender("ipc://chain", Number, stages=stages)


@pytest.mark.parametrize("name", ["", "x" * 48, "a\0b"])
def test_impossible_names_of_stages_are_refused(name: str):
    with pytest.raises(psyne.InvalidArgument, match="1 to 47 bytes"):
        Stage(name)


def test_a_chain_of_the_most_stages_there_can_be():
    with ExitStack() as stack:
        tx, *receivers = open_chain(stack, [f"s{i}" for i in range(32)])
        for n in range(20):
            tx.send(Record(n=n))
            for rx in receivers:
                with rx.receive(timeout=0) as m:
                    assert m.n == n


# ---- members that share --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", ["spmc", "mpmc"])
def test_members_of_a_stage_share_its_messages_each_once(pattern: Any):
    with ExitStack() as stack:
        tx = stack.enter_context(psyne.sender("ipc://jobs", Number, capacity=64, pattern=pattern))
        got: dict[Any, list[int]] = {stack.enter_context(psyne.receiver("ipc://jobs")): [] for _ in range(3)}
        for n in range(60):
            tx.send(Number(n=n))
        for _ in range(20):
            for rx, numbers in got.items():
                with rx.receive(timeout=0) as m:
                    numbers.append(m.n)
        assert sorted(chain(*got.values())) == list(range(60))
        assert all(numbers == sorted(numbers) for numbers in got.values())
        assert all(rx.try_receive() is None for rx in got)


def test_processes_share_a_stage_while_another_stage_sees_all():
    stages = ["work", "watch"]
    with (
        psyne.sender("ipc://jobs", Number, capacity=64, pattern="mpmc", stages=stages) as tx,
        psyne.receiver("ipc://jobs", stage="watch") as watch,
        Child() as a,
        Child() as b,
    ):
        for worker in (a, b):
            worker.run("rx = psyne.receiver('ipc://jobs', stage='work')")
            worker.begin("[m.n for m in rx]")
        for n in range(2000):
            tx.send(Number(n=n))
            if n >= 50:
                with watch.receive() as m:
                    assert m.n == n - 50
        tx.close()
        assert [m.n for m in watch] == list(range(1950, 2000))
        shares = [worker.result() for worker in (a, b)]
        assert sorted(shares[0] + shares[1]) == list(range(2000))
        assert all(share == sorted(share) for share in shares)


def test_a_slow_member_does_not_keep_the_others_from_working():
    with (
        psyne.sender("ipc://jobs", Number, capacity=8, pattern="mpmc") as tx,
        psyne.receiver("ipc://jobs") as slow,
        psyne.receiver("ipc://jobs") as fast,
    ):
        tx.send(Number(n=0))
        held = slow.receive()
        for n in range(1, 8):
            tx.send(Number(n=n), timeout=0)
            with fast.receive(timeout=0) as m:
                assert m.n == n
        assert tx.try_loan() is None  # until the ring has come round to what the slow one holds
        held.release()
        tx.send(Number(n=8), timeout=0)


def test_a_batch_of_a_shared_stage_holds_only_ones_own_messages():
    with (
        psyne.sender("ipc://jobs", Number, capacity=16, pattern="mpmc") as tx,
        psyne.receiver("ipc://jobs") as a,
        psyne.receiver("ipc://jobs") as b,
    ):
        for n in range(8):
            tx.send(Number(n=n))
        first, second, third = a.receive_many(3), b.receive_many(2), a.receive_many(10)
        assert [batch["n"].tolist() for batch in (first, second, third)] == [[0, 1, 2], [3, 4], [5, 6, 7]]


def test_a_member_that_leaves_hands_nothing_back_that_it_has_ended_or_keeps():
    with (
        psyne.sender("ipc://jobs", Number, capacity=8, pattern="mpmc") as tx,
        psyne.receiver("ipc://jobs") as a,
        psyne.receiver("ipc://jobs") as b,
    ):
        for n in range(3):
            tx.send(Number(n=n))
        a.receive().release()
        kept = a.receive()
        a.close()
        with b.receive(timeout=0) as m:
            assert (m.n, m.info.redelivered) == (2, False)
        assert b.try_receive() is None
        assert kept.n == 1
