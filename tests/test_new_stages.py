"""Stages that are added while a channel runs, and members that come and go."""

import asyncio
from contextlib import ExitStack
from itertools import pairwise
from typing import Any

import pytest

import psyne
from psyne import Stage

from .helpers.layouts import Number, Record
from .helpers.process import Child


def numbers(rx: Any) -> list[int]:
    """What is there now."""
    got = []
    while (m := rx.try_receive()) is not None:
        got.append(m.n)
        m.release()
    return got


def test_a_new_stage_sees_all_that_is_sent_from_then_on():
    with (
        psyne.sender("ipc://run", Number, capacity=8) as tx,
        psyne.receiver("ipc://run") as rx,
    ):
        tx.send(Number(n=0))
        with psyne.receiver("ipc://run", Number, stage="log", new_stage=True) as log:
            for n in range(1, 5):
                tx.send(Number(n=n))
            assert log.try_receive() is None  # it runs after all others
            assert numbers(rx) == [0, 1, 2, 3, 4]
            assert numbers(log) == [1, 2, 3, 4]


def test_a_new_stage_says_where_it_stands_in_the_graph():
    stages = [Stage("rectify", mutate=True), "draw"]
    with ExitStack() as stack:
        tx = stack.enter_context(psyne.sender("ipc://run", Record, capacity=8, stages=stages))
        rectify, draw = (stack.enter_context(psyne.receiver("ipc://run", stage=s)) for s in ("rectify", "draw"))
        side = Stage("side", after=["rectify"])
        log = stack.enter_context(psyne.receiver("ipc://run", stage=side, new_stage=True))
        tx.send(Record(n=1))
        assert log.try_receive() is None
        with rectify.receive() as m:
            m.seen = 7
        with log.receive(timeout=0) as m:
            assert (m.n, m.seen) == (1, 7)
            with draw.receive(timeout=0) as other:
                assert other.n == 1


def test_a_new_stage_may_mutate_when_it_runs_after_all_others():
    with (
        psyne.sender("ipc://run", Record, capacity=4) as tx,
        psyne.receiver("ipc://run") as rx,
        psyne.receiver("ipc://run", stage=Stage("stamp", mutate=True), new_stage=True) as stamp,
        psyne.receiver("ipc://run", stage="read", new_stage=True) as read,
    ):
        tx.send(Record(n=1))
        rx.receive().release()
        assert read.try_receive() is None  # the default is after those that mutate, too
        with stamp.receive(timeout=0) as m:
            m.seen = 3
        assert read.receive(timeout=0).seen == 3


def test_the_sender_waits_for_a_new_stage_while_it_has_members_and_not_longer():
    with psyne.sender("ipc://run", Number, capacity=2, stages=[]) as tx:
        for n in range(10):
            tx.send(Number(n=n), timeout=0)
        log = psyne.receiver("ipc://run", stage="log", new_stage=True)
        other = psyne.receiver("ipc://run", stage=Stage("other", after=[]), new_stage=True)
        tx.send(Number(n=10), timeout=0)
        tx.send(Number(n=11), timeout=0)
        with pytest.raises(psyne.Full, match=r"stage 'log' has not taken the oldest message \(1 member\)"):
            tx.send(Number(n=12), timeout=0)
        log.close()
        with pytest.raises(psyne.Full, match="stage 'other'"):
            tx.send(Number(n=12), timeout=0)
        assert numbers(other) == [10, 11]
        tx.send(Number(n=12), timeout=0)
        other.close()
        for n in range(10):
            tx.send(Number(n=n), timeout=0)


def test_a_sender_that_waits_goes_on_when_the_last_member_of_a_new_stage_leaves_or_is_killed():
    with psyne.sender("ipc://run", Number, capacity=2, stages=[]) as tx:
        for end in ("rx.close()", "kill"):
            with Child() as child:
                child.run("rx = psyne.receiver('ipc://run', stage='log', new_stage=True)")
                tx.send(Number(n=0), timeout=0)
                tx.send(Number(n=1), timeout=0)
                child.run("held = rx.receive()")
                assert tx.try_loan() is None
                if end == "kill":
                    child.kill()
                else:
                    child.run("held.release(); rx.close()")
                tx.send(Number(n=2))
                tx.send(Number(n=3))


def test_arrays_that_the_last_member_kept_stay_as_they_are():
    with psyne.sender("ipc://run", Record, capacity=4, stages=[]) as tx:
        log = psyne.receiver("ipc://run", stage="log", new_stage=True)
        for n in range(4):
            tx.send(Record(n=n, body=n))
        log.receive().release()
        kept = log.receive().body
        log.close()
        tx.send(Record(n=4, body=4), timeout=0)
        with pytest.raises(psyne.Full, match=r"stage 'log' holds the oldest message \(pid"):
            tx.send(Record(n=5), timeout=0)
        assert kept.tolist() == [1] * 64
        del kept
        for n in range(20):
            tx.send(Record(n=n), timeout=0)


def test_members_join_a_new_stage_by_its_name_and_share_it():
    with ExitStack() as stack:
        tx = stack.enter_context(psyne.sender("ipc://run", Number, capacity=8, pattern="spmc", stages=[]))
        first = stack.enter_context(psyne.receiver("ipc://run", stage="log", new_stage=True))
        second = stack.enter_context(psyne.receiver("ipc://run", stage="log", new_stage=True))
        third = stack.enter_context(psyne.receiver("ipc://run", stage="log"))
        for n in range(6):
            tx.send(Number(n=n))
        got = []
        for _ in range(2):
            for rx in (first, second, third):
                with rx.receive(timeout=0) as m:
                    got.append(m.n)
        assert got == list(range(6))
        first.close()
        second.close()
        tx.send(Number(n=6))
        assert numbers(third) == [6]


@pytest.mark.parametrize(
    ("stage", "error", "text"),
    [
        ("main", psyne.InvalidArgument, "was opened with the stage 'main'; leave new_stage= out"),
        (Stage("log", after=["mian"]), psyne.InvalidArgument, "runs after 'mian', which is none of.*'main'"),
        (Stage("log", after=[], mutate=True), psyne.InvalidArgument, "'log' mutates while 'main' may read"),
        (Stage("there", after=["main"]), psyne.LayoutMismatch, "was added with another after="),
        (Stage("there", mutate=True), psyne.LayoutMismatch, "another after=, mutate= or on_crash="),
        (None, psyne.InvalidArgument, "a new stage needs a name"),
        (7, psyne.InvalidArgument, "the name of one of the channel's stages"),
    ],
)
def test_a_new_stage_that_cannot_be_is_refused(stage: Any, error: type[Exception], text: str):
    with (
        psyne.sender("ipc://run", Number, pattern="mpmc") as tx,
        psyne.receiver("ipc://run", stage=Stage("there", after=[]), new_stage=True),
    ):
        with pytest.raises(error, match=text):
            psyne.receiver("ipc://run", stage=stage, new_stage=True)
        tx.send(Number(n=1), timeout=0)


def test_a_stage_with_a_place_in_the_graph_is_for_new_ones():
    with (
        psyne.sender("ipc://run", Number),
        pytest.raises(psyne.InvalidArgument, match="say stage='main', or add a stage with new_stage=True"),
    ):
        psyne.receiver("ipc://run", stage=Stage("main"))


def test_a_new_stage_waits_for_its_channel_and_is_added_when_it_comes():
    log = psyne.receiver("ipc://run", Number, stage="log", new_stage=True)
    assert log.try_receive() is None
    with psyne.sender("ipc://run", Number, stages=[]) as tx:
        assert log.try_receive() is None  # joins
        tx.send(Number(n=3))
        assert log.receive(timeout=0).n == 3
    log.close()


def test_a_new_stage_follows_to_the_next_sender():
    with psyne.receiver("ipc://run", Number, stage="log", new_stage=True, follow=True) as log:
        for turn in range(3):
            with psyne.sender("ipc://run", Number, stages=[]) as tx:
                log.try_receive()
                tx.send(Number(n=turn))
                assert log.receive().n == turn


def test_a_new_stage_ends_with_the_channel():
    with psyne.sender("ipc://run", Number, stages=[]) as tx:
        log = psyne.receiver("ipc://run", stage="log", new_stage=True)
        late = psyne.receiver("ipc://run", stage="late", new_stage=True)
        tx.send(Number(n=1))
    assert [m.n for m in log] == [1]
    log.close()
    assert [m.n for m in late] == [1]
    late.close()


def test_clones_of_an_anonymous_channel_may_be_of_a_new_stage():
    tx, rx = psyne.channel(Number)
    with tx, rx:
        log = rx.clone(stage="log", new_stage=True)
        tx.send(Number(n=1))
        assert log.try_receive() is None
        tx.send(Number(n=2))
        assert numbers(rx) == [1, 2]
        assert numbers(log) == [2]
        log.close()


def test_a_new_stage_in_an_event_loop():
    async def main() -> list[int]:
        async with (
            psyne.aio.sender("ipc://run", Number, stages=[]) as tx,
            psyne.aio.receiver("ipc://run", Number, stage="log", new_stage=True) as log,
        ):
            receiving = asyncio.create_task(log.receive())
            await asyncio.sleep(0)
            await tx.send(Number(n=5))
            first = await receiving
            return [first.n, log.leave()]

    assert asyncio.run(main()) == [5, 1]


def test_processes_add_a_stage_and_leave_it_while_the_sender_sends(psyne_directory: Any):
    """Each sees an unbroken row of messages from its first one on, and the sender never stops."""
    see = "\n".join(
        [
            "def see(n):",
            "    with psyne.receiver('ipc://run', Number, stage=f'log {os.getpid()}', new_stage=True) as rx:",
            "        got = [m.n for m, _ in zip(rx, range(n))]",
            "        kept = rx.receive()",
            "        number, array = kept.n, kept.array",
            "    os.sched_yield()  # the others go on",
            "    assert array['n'] == number == got[-1] + 2",  # zip has taken one more
            "    return got",
        ]
    )
    with ExitStack() as stack:
        tx = stack.enter_context(psyne.sender("ipc://run", Number, capacity=64, pattern="mpmc", stages=[]))
        children = [stack.enter_context(Child()) for _ in range(3)]
        for i, child in enumerate(children):
            child.run(see)
            child.begin(f"[see(20 + {i}) for _ in range(40)]")
            child.begun()
        n = 0
        while not all(child.answered() for child in children):
            tx.send(Number(n=n))
            n += 1
        for child in children:
            rows = child.result()
            assert all(b == a + 1 for row in rows for a, b in pairwise(row))
            assert all(first[-1] < second[0] for first, second in pairwise(rows))


# ---- leaving -------------------------------------------------------------------------------------------------------


def test_a_member_that_leaves_hands_on_what_it_holds():
    with (
        psyne.sender("ipc://jobs", Record, capacity=8, pattern="spmc") as tx,
        psyne.receiver("ipc://jobs") as other,
    ):
        rx = psyne.receiver("ipc://jobs")
        for n in range(6):
            tx.send(Record(n=n, body=n))
        rx.receive().release()
        seen, kept, batch = rx.receive(), rx.receive(), rx.receive_many(2)
        assert seen.n == 1
        array = kept.body
        assert rx.leave() == 3
        with pytest.raises(psyne.MessageReleased):
            _ = seen.n
        with pytest.raises(psyne.MessageReleased):
            batch["n"]
        assert kept.n == 2
        assert array.tolist() == [2] * 64
        got = [other.receive(timeout=0) for _ in range(4)]
        assert sorted(m.n for m in got) == [1, 3, 4, 5]
        assert not any(m.info.redelivered for m in got)
        assert other.try_receive() is None
        with pytest.raises(psyne.ChannelClosed):
            rx.receive()


def test_a_mutating_member_that_leaves_keeps_what_it_has_begun_to_change():
    with (
        psyne.sender("ipc://jobs", Record, capacity=8, pattern="spmc", stages=[Stage("work", mutate=True)]) as tx,
        psyne.receiver("ipc://jobs") as other,
    ):
        rx = psyne.receiver("ipc://jobs")
        tx.send(Record(n=0))
        tx.send(Record(n=1))
        begun, untouched = rx.receive(), rx.receive()
        begun.seen = 1
        assert rx.leave() == 1
        with other.receive(timeout=0) as m:
            assert (m.n, m.info.redelivered) == (1, False)
        begun.release()
        assert other.try_receive() is None
        tx.drain(timeout=0)
        del untouched


def test_the_last_member_of_a_declared_stage_leaves_its_messages_to_the_next():
    with psyne.sender("ipc://jobs", Number, capacity=4) as tx:
        first = psyne.receiver("ipc://jobs")
        for n in range(3):
            tx.send(Number(n=n))
        held = first.receive()
        assert first.leave() == 1
        with psyne.receiver("ipc://jobs") as second:
            assert numbers(second) == [0, 1, 2]
        del held


def test_leaving_with_nothing_is_closing():
    with psyne.sender("ipc://jobs", Number) as tx:
        rx = psyne.receiver("ipc://jobs")
        assert rx.leave() == 0
        assert rx.closed
        assert rx.leave() == 0
        tx.send(Number(n=1))


def test_members_that_leave_with_messages_lose_and_double_none():
    # What a member holds it keeps without waiting: the sender waits for the oldest message that is held.
    work = "\n".join(
        [
            "def work(turns):",
            "    done = []",
            "    for turn in range(turns):",
            "        rx = psyne.receiver('ipc://jobs', Number)",
            "        for m in rx:",
            "            if m.n % 7 == turn % 7: break",
            "            done.append(m.n)",
            "        more = rx.try_receive_many(3)",
            "        assert rx.leave() == 1 + len(more or ())",
            "    return done",
        ]
    )
    with ExitStack() as stack:
        tx = stack.enter_context(psyne.sender("ipc://jobs", Number, capacity=16, pattern="spmc"))
        children = [stack.enter_context(Child()) for _ in range(2)]
        for child in children:
            child.run(work)
            child.begin("work(50)")
            child.begun()
        n = 0
        while not all(child.answered() for child in children):
            if (loan := tx.try_loan()) is not None:
                loan.n = n
                tx.send(loan)
                n += 1
        rx = stack.enter_context(psyne.receiver("ipc://jobs"))
        tx.close()
        rest = [(m.n, m.info.redelivered) for m in rx]
        assert not any(redelivered for _, redelivered in rest)
        assert sorted([n for child in children for n in child.result()] + [n for n, _ in rest]) == list(range(n))
