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
        (["a", Stage("b", after="x")], "'b' runs after 'x', which is none of"),
        ([Stage("a", after="a")], r"wait for each other: \['a'\]"),
        (["a", Stage("b", after=["a", "b"])], r"wait for each other: \['b'\]"),
        ([Stage("a", after="b"), Stage("b", after="a")], r"wait for each other: \['a', 'b'\]"),
        (["s", Stage("a", after=["s", "c"]), "b", "c"], r"wait for each other: \['a', 'b', 'c'\]"),
        ([Stage("a", mutate=True), Stage("b", after=[])], "'a' mutates while 'b' may read"),
        ([Stage("a", after=[]), Stage("b", mutate=True, after=[])], "'b' mutates while 'a' may read"),
        ([Stage("a", mutate=True, after=[]), Stage("b", mutate=True, after=[])], "mutates while"),
        (["a", "b", Stage("c", mutate=True, after="a")], "'c' mutates while 'b' may read"),
        (["a", "b", "c", Stage("d", mutate=True, after="b")], "'d' mutates while 'c' may read"),
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


# ---- graphs --------------------------------------------------------------------------------------------------------

DIAMOND = [
    Stage("a", mutate=True),
    Stage("b", after="a"),
    Stage("c", after=["a"]),
    Stage("d", mutate=True, after=["b", "c"]),
]


def numbers(rx: Any) -> list[int]:
    """What is there now, each message ended."""
    got = []
    while (m := rx.try_receive()) is not None:
        with m:
            got.append(m.n)
    return got


def test_branches_see_a_message_at_the_same_time_and_a_join_waits_for_both():
    for first in (1, 2):  # whichever branch ends it first
        with ExitStack() as stack:
            tx, a, *branches, d = open_chain(stack, DIAMOND)
            tx.send(Record(n=1))
            assert [rx.try_receive() for rx in (*branches, d)] == [None] * 3
            with a.receive(timeout=0) as m:
                m.seen = 7
            held = [rx.receive(timeout=0) for rx in branches]
            assert [(m.n, m.seen) for m in held] == [(1, 7), (1, 7)]
            held[first - 1].release()
            assert d.try_receive() is None
            held[2 - first].release()
            with d.receive(timeout=0) as m:
                assert m.seen == 7
                m.seen = 8


def test_a_branch_may_be_ahead_of_the_other_and_the_join_follows_the_slower_one():
    with ExitStack() as stack:
        tx, a, b, c, d = open_chain(stack, DIAMOND)
        for n in range(6):
            tx.send(Record(n=n))
        assert numbers(a) == numbers(b) == [0, 1, 2, 3, 4, 5]
        c.receive_many(2).release()
        assert numbers(d) == [0, 1]
        c.receive(timeout=0).release()
        assert numbers(d) == [2]
        assert numbers(c) == [3, 4, 5]
        with d.receive_many(8, timeout=0) as batch:
            assert batch["n"].tolist() == [3, 4, 5]


def test_the_sender_waits_for_the_slower_branch():
    with ExitStack() as stack:
        tx, left, right = open_chain(stack, [Stage("left", after=[]), Stage("right", after=[])], capacity=2)
        for n in range(2):
            tx.send(Record(n=n), timeout=0)
        assert numbers(left) == [0, 1]
        assert tx.try_loan() is None
        right.receive(timeout=0).release()
        tx.send(Record(n=2), timeout=0)
        assert tx.try_loan() is None


def test_a_stage_after_nothing_stands_right_behind_the_sender():
    with ExitStack() as stack:
        stages = ["first", Stage("other", after=[]), Stage("second", after="first")]
        tx, first, other, second = open_chain(stack, stages)
        tx.send(Record(n=1))
        assert numbers(other) == [1]
        assert numbers(second) == []
        assert numbers(first) == [1]
        assert numbers(second) == [1]


def test_stages_may_be_listed_before_those_that_they_run_after():
    with ExitStack() as stack:
        tx, last, middle, first = open_chain(
            stack, [Stage("last", after="middle"), Stage("middle", after="first"), Stage("first", after=[])]
        )
        for n in range(20):
            tx.send(Record(n=n), timeout=0)
            assert numbers(last) == numbers(middle) == []
            assert numbers(first) == [n]
            assert numbers(last) == []
            assert numbers(middle) == [n]
            assert numbers(last) == [n]


def test_the_most_stages_there_can_be_fan_out_and_join():
    branches = [f"s{i}" for i in range(30)]
    with ExitStack() as stack:
        stages = [Stage("first", mutate=True), *(Stage(name, after="first") for name in branches)]
        tx, first, *between, last = open_chain(stack, [*stages, Stage("last", mutate=True, after=branches)])
        for n in range(20):
            tx.send(Record(n=n), timeout=0)
            assert numbers(first) == [n]
            for rx in between:
                assert numbers(last) == []
                assert numbers(rx) == [n]
            assert numbers(last) == [n]


@pytest.mark.parametrize(
    "same",
    [
        [DIAMOND[3], DIAMOND[2], DIAMOND[1], Stage("a", mutate=True, after=[])],
        [DIAMOND[0], DIAMOND[2], DIAMOND[1], DIAMOND[3]],
        [DIAMOND[0], Stage("b"), DIAMOND[2], Stage("d", mutate=True, after=["c", "b", "c"])],
    ],
)
def test_a_later_sender_may_say_the_same_graph_in_other_words(same: list[Stage]):
    with ExitStack() as stack:
        open_chain(stack, DIAMOND, pattern="mpsc")
        stack.enter_context(psyne.sender("ipc://chain", Record, stages=same))


@pytest.mark.parametrize(
    "other",
    [
        [*DIAMOND[:3], Stage("d", mutate=True, after=["b", "c"], on_crash="redeliver")],
        [*DIAMOND[:2], Stage("c", after=["b"]), Stage("d", mutate=True, after=["c"])],
        [*DIAMOND[:3], Stage("d", after=["b", "c"])],
        DIAMOND[:3],
    ],
)
def test_a_later_sender_with_another_graph_is_refused(other: list[Stage]):
    with ExitStack() as stack:
        open_chain(stack, DIAMOND, pattern="mpsc")
        with pytest.raises(psyne.LayoutMismatch, match=r"stages are \['a', 'b', 'c', 'd'\]"):
            psyne.sender("ipc://chain", Record, stages=other)


def test_a_message_that_one_branch_takes_out_never_reaches_the_join():
    with ExitStack() as stack:
        stages = [Stage("b", after=[]), Stage("c", after=[]), Stage("d", after=["b", "c"]), Stage("e", after="d")]
        tx = stack.enter_context(psyne.sender("ipc://chain", Record, capacity=8, stages=stages))
        c, d, e = (stack.enter_context(psyne.receiver("ipc://chain", stage=name)) for name in "cde")
        for n in range(3):
            tx.send(Record(n=n))
        for death in range(3):  # on the second message
            with Child() as victim:
                victim.run("rx = psyne.receiver('ipc://chain', stage='b')")
                if death == 0:
                    victim.run("rx.receive().release()")
                assert victim.run("m = rx.receive(); m.n, m.info.redelivered") == (1, death > 0)
                victim.kill()
        b = stack.enter_context(psyne.receiver("ipc://chain", stage="b"))
        assert numbers(b) == [2]
        assert numbers(c) == [0, 1, 2]
        assert numbers(d) == numbers(e) == [0, 2]
        assert tx.statistics().poisoned == 1
        for n in range(3, 20):  # its slot goes round
            tx.send(Record(n=n), timeout=0)
            assert [numbers(rx) for rx in (b, c, d, e)] == [[n]] * 4


def test_a_half_changed_message_is_taken_out_for_all_branches_and_the_join():
    with ExitStack() as stack, Child() as victim:
        tx = stack.enter_context(psyne.sender("ipc://chain", Record, capacity=8, stages=DIAMOND))
        b, c, d = (stack.enter_context(psyne.receiver("ipc://chain", stage=name)) for name in "bcd")
        for n in range(3):
            tx.send(Record(n=n))
        victim.run("rx = psyne.receiver('ipc://chain', stage='a')")
        victim.run("rx.receive().release(); m = rx.receive(); m.seen = 1")
        victim.kill()
        a = stack.enter_context(psyne.receiver("ipc://chain", stage="a"))
        assert numbers(a) == [2]
        assert numbers(c) == numbers(b) == numbers(d) == [0, 2]
        assert tx.statistics().dropped == 1
        for n in range(3, 20):
            tx.send(Record(n=n), timeout=0)
            assert [numbers(rx) for rx in (a, b, c, d)] == [[n]] * 4


@pytest.mark.parametrize("keeper", ["root", "b", "c"])
def test_readers_go_on_past_kept_views_where_a_mutating_join_waits_for_those_of_all_before_it(keeper: str):
    stages = ["root", *(Stage(name, after="root") for name in "bc"), Stage("look", after=["b", "c"])]
    with ExitStack() as stack:
        tx, *receivers, change = open_chain(stack, [*stages, Stage("change", mutate=True, after="look")])
        tx.send(Record(n=1, body=3))
        for rx, stage in zip(receivers, ["root", "b", "c", "look"], strict=True):
            with rx.receive(timeout=0) as m:
                if stage == keeper:
                    view = m.body
            del m
        assert change.try_receive() is None
        assert view.tolist() == [3] * 64
        del view
        with change.receive(timeout=0) as m:
            m.body[:] = 4


def test_a_mutating_stage_asleep_is_woken_by_the_last_view_of_a_stage_far_before_it():
    with ExitStack() as stack, Child() as change:
        stages = ["root", *(Stage(name, after="root") for name in "bc"), Stage("d", mutate=True, after=["b", "c"])]
        tx = stack.enter_context(psyne.sender("ipc://chain", Record, capacity=8, stages=stages))
        root, b, c = (stack.enter_context(psyne.receiver("ipc://chain", stage=name)) for name in ("root", "b", "c"))
        change.run("rx = psyne.receiver('ipc://chain', stage='d', wait='block')")
        tx.send(Record(n=1))
        with root.receive(timeout=0) as m:
            view = m.body
        del m
        assert numbers(b) == numbers(c) == [1]
        change.begin_waiting("rx.receive().n")
        del view
        assert change.result() == 1
        assert tx.statistics().late_wakes == 0


def test_a_diamond_ends_for_each_stage_when_it_has_seen_all():
    with ExitStack() as stack:
        tx, a, b, c, d = open_chain(stack, DIAMOND)
        tx.send(Record(n=1))
        tx.close()
        assert [rx.try_receive() for rx in (b, c, d)] == [None] * 3  # what is to come is no end
        assert [m.n for m in a] == [1]
        assert [m.n for m in c] == [1]
        assert d.try_receive() is None
        assert [m.n for m in b] == [1]
        assert [m.n for m in d] == [1]


def test_a_join_has_no_end_before_a_member_of_each_branch_came():
    with ExitStack() as stack:
        tx = stack.enter_context(psyne.sender("ipc://chain", Record, capacity=8, stages=DIAMOND))
        a, b, d = (stack.enter_context(psyne.receiver("ipc://chain", stage=name)) for name in "abd")
        tx.send(Record(n=1))
        tx.close()
        assert [m.n for m in a] == [m.n for m in b] == [1]
        with pytest.raises(psyne.Empty):
            d.receive(timeout=0.05)
        c = stack.enter_context(psyne.receiver("ipc://chain", stage="c"))
        assert [m.n for m in c] == [1]
        assert [m.n for m in d] == [1]


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
