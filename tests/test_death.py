"""The death of a peer: what it held goes on, what it published arrives, and nobody waits for it."""

import logging
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

import psyne
from psyne import Stage, _native

from .helpers.layouts import Number, Record
from .helpers.process import PATIENCE, Child


@pytest.fixture
def jobs() -> Iterator[psyne.Sender[Number]]:
    """A sender of a channel whose stage `main` may have several members."""
    with psyne.sender("ipc://jobs", Number, capacity=8, pattern="mpmc") as tx:
        yield tx


def send(tx: psyne.Sender[Any], *numbers: int) -> None:
    for n in numbers:
        tx.send(Number(n=n), timeout=0)


def received(rx: psyne.Receiver[Any], count: int) -> list[tuple[int, bool]]:
    """(number, redelivered) of the next `count` messages."""
    got = []
    for _ in range(count):
        with rx.receive(timeout=PATIENCE) as m:
            got.append((m.n, m.info.redelivered))
    return got


def counters(end: Any) -> dict[str, int]:
    found = _native.counters(end)
    assert found is not None
    return found


# ---- a receiver dies -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reap", [True, False], ids=["reaped", "zombie"])
def test_what_a_killed_member_held_goes_flagged_to_a_survivor_before_anything_new(jobs: Any, reap: bool):
    with psyne.receiver("ipc://jobs") as survivor, Child() as victim:
        victim.run("rx = psyne.receiver('ipc://jobs')")
        send(jobs, *range(4))
        assert victim.run("held = [rx.receive() for _ in range(3)]; [m.n for m in held]") == [0, 1, 2]
        victim.run("held[1].release()")
        assert received(survivor, 1) == [(3, False)]
        victim.kill(reap=reap)
        assert received(survivor, 2) == [(0, True), (2, True)]
        send(jobs, 4)
        assert received(survivor, 1) == [(4, False)]
        assert counters(jobs)["redelivered"] == 2


@pytest.mark.parametrize("pattern", ["spsc", "spmc", "mpsc", "mpmc"])
def test_what_the_only_member_held_goes_to_the_next_that_joins(pattern: Any):
    with psyne.sender("ipc://jobs", Number, capacity=8, pattern=pattern) as tx, Child() as victim:
        victim.run("rx = psyne.receiver('ipc://jobs')")
        send(tx, *range(5))
        victim.run("rx.receive().release(); m = rx.receive(); batch = rx.receive_many(2); len(batch)")
        victim.kill()
        with psyne.receiver("ipc://jobs") as heir:
            assert received(heir, 4) == [(1, True), (2, True), (3, True), (4, False)]
            assert heir.try_receive() is None


def test_a_sleeping_survivor_hears_of_the_death(jobs: Any):
    with Child() as survivor, Child() as victim:
        victim.run("rx = psyne.receiver('ipc://jobs')")
        send(jobs, 5)
        victim.run("m = rx.receive()")
        survivor.run("rx = psyne.receiver('ipc://jobs', wait='block')")
        survivor.begin_waiting("m = rx.receive(); m.n, m.info.redelivered")
        victim.kill()
        assert survivor.result() == (5, True)


def test_a_sleeping_member_that_is_killed_takes_no_message_with_it(jobs: Any):
    with psyne.receiver("ipc://jobs") as survivor, Child() as victim:
        victim.run("rx = psyne.receiver('ipc://jobs')")
        victim.begin_waiting("rx.receive()")
        victim.kill()
        for n in range(10):
            send(jobs, n)
            assert received(survivor, 1) == [(n, False)]


def test_what_was_ended_or_passed_on_is_not_delivered_again(jobs: Any):
    with psyne.receiver("ipc://jobs") as survivor, Child() as victim:
        victim.run("rx = psyne.receiver('ipc://jobs')")
        send(jobs, *range(8))
        victim.run("rx.receive().release()\nwith rx.receive() as m: view = m.array\ndel m")
        assert received(survivor, 6) == [(n, False) for n in range(2, 8)]
        victim.kill()
        assert survivor.try_receive() is None
        jobs.send(Number(n=8))
        jobs.send(Number(n=9))  # waits for the slot that only the dead one's view used
        assert received(survivor, 2) == [(8, False), (9, False)]


def test_a_full_sender_goes_on_when_an_heir_takes_over():
    with Child() as victim, Child() as writer:
        writer.run("tx = psyne.sender('ipc://jobs', Number, capacity=1); tx.send(Number(n=0))")
        victim.run("rx = psyne.receiver('ipc://jobs'); m = rx.receive()")
        writer.begin_waiting("for n in range(1, 50): tx.send(Number(n=n))")
        victim.kill()
        with psyne.receiver("ipc://jobs") as heir:
            assert received(heir, 50) == [(n, n == 0) for n in range(50)]
        writer.result()


def test_the_next_stage_waits_for_the_redelivered_message_and_keeps_the_order():
    with (
        psyne.sender("ipc://chain", Number, capacity=8, stages=["first", "second"], pattern="mpmc") as tx,
        psyne.receiver("ipc://chain", stage="first") as first,
        psyne.receiver("ipc://chain", stage="second") as second,
        Child() as victim,
    ):
        victim.run("rx = psyne.receiver('ipc://chain', stage='first')")
        send(tx, *range(3))
        victim.run("m = rx.receive(); m.n")
        assert received(first, 2) == [(1, False), (2, False)]
        assert second.try_receive() is None
        victim.kill()
        assert received(first, 1) == [(0, True)]
        assert received(second, 3) == [(0, False), (1, False), (2, False)]


def test_a_message_on_which_three_owners_died_is_skipped_counted_and_logged(
    jobs: Any, caplog: pytest.LogCaptureFixture
):
    with psyne.receiver("ipc://jobs", wait="block") as survivor:
        send(jobs, 0, 1)
        for death in range(3):
            with Child() as victim:
                victim.run("rx = psyne.receiver('ipc://jobs')")
                assert victim.run("m = rx.receive(); m.n, m.info.redelivered") == (0, death > 0)
                victim.kill()
        with caplog.at_level(logging.WARNING, logger="psyne"):
            assert received(survivor, 1) == [(1, False)]
            with pytest.raises(psyne.Empty):
                survivor.receive(timeout=0.3)
        assert counters(jobs)["poisoned"] == 1
        assert "skipped because three owners died on them: 1" in caplog.text
        for n in range(2, 20):  # its slot goes round
            send(jobs, n)
            assert received(survivor, 1) == [(n, False)]


def test_a_message_that_ctrl_c_hands_back_counts_no_death(jobs: Any):
    with Child() as child:
        child.run("rx = psyne.receiver('ipc://jobs')")
        send(jobs, 1)
        for _ in range(5):
            child.begin_waiting("rx.receive_many(4, linger=3600)")
            child.interrupt()
            with pytest.raises(KeyboardInterrupt):
                child.result()
        assert child.run("m = rx.receive(); m.n, m.info.redelivered") == (1, False)
        assert counters(jobs)["redelivered"] == 0


# ---- a mutating receiver dies --------------------------------------------------------------------------------------


@pytest.mark.parametrize("touch", ["m.seen = 1", "m.body[0] = 1", "m.array", "memoryview(m)", "m.body"])
@pytest.mark.parametrize("on_crash", ["skip", "redeliver"])
def test_a_half_changed_message_is_skipped_or_redelivered_as_the_stage_says(on_crash: Any, touch: str):
    stages = [Stage("change", mutate=True, on_crash=on_crash), "look", "show"]
    with (
        psyne.sender("ipc://records", Record, capacity=8, stages=stages) as tx,
        psyne.receiver("ipc://records", stage="look") as look,
        psyne.receiver("ipc://records", stage="show") as show,
        Child() as victim,
    ):
        victim.run("rx = psyne.receiver('ipc://records', stage='change')")
        for n in range(3):
            tx.send(Record(n=n))
        victim.run(f"clean = rx.receive(); m = rx.receive(); clean.n, m.n; {touch}; None")
        victim.kill()
        expected = [(0, True), (2, False)] if on_crash == "skip" else [(0, True), (1, True), (2, False)]
        with psyne.receiver("ipc://records", stage="change") as heir:
            assert received(heir, len(expected)) == expected
            assert heir.try_receive() is None
            for later in (look, show):  # who sees no half-changed message either
                assert received(later, len(expected)) == [(n, False) for n, _ in expected]
                assert later.try_receive() is None
            assert counters(tx)["dropped"] == (on_crash == "skip")
            for n in range(3, 20):  # the slot of the one that was skipped goes round
                tx.send(Record(n=n), timeout=0)
                for rx in (heir, look, show):
                    assert received(rx, 1) == [(n, False)]


def test_a_message_that_was_only_read_by_a_mutating_stage_is_redelivered():
    with (
        psyne.sender("ipc://records", Record, capacity=8, stages=[Stage("change", mutate=True)]) as tx,
        Child() as victim,
    ):
        victim.run("rx = psyne.receiver('ipc://records')")
        tx.send(Record(n=5))
        assert victim.run("m = rx.receive(); m.n") == 5
        victim.kill()
        with psyne.receiver("ipc://records") as heir:
            assert received(heir, 1) == [(5, True)]


# ---- a sender dies -------------------------------------------------------------------------------------------------


def test_a_killed_sender_is_lost_after_everything_that_it_published():
    with Child() as victim, psyne.receiver("ipc://numbers", Number) as rx:
        victim.run("tx = psyne.sender('ipc://numbers', Number, capacity=8)")
        assert rx.try_receive() is None
        victim.run("for n in range(5): tx.send(Number(n=n))")
        victim.kill()
        assert received(rx, 5) == [(n, False) for n in range(5)]
        for _ in range(2):
            with pytest.raises(psyne.SenderLost, match=r"ipc://numbers.*follow=True"):
                rx.receive()


def test_a_sleeping_receiver_hears_of_the_senders_death():
    with Child() as victim, Child() as reader:
        victim.run("tx = psyne.sender('ipc://numbers', Number, capacity=8)")
        reader.run("rx = psyne.receiver('ipc://numbers', wait='block')")
        reader.begin_waiting("rx.receive()")
        victim.kill()
        with pytest.raises(psyne.SenderLost):
            reader.result()


@pytest.mark.parametrize("sent", [[1], [0, 2], [1, 3], [3], [], [0, 1, 2, 3]])
def test_what_was_sent_between_open_loans_arrives_although_they_are_holes_now(sent: list[int]):
    with Child() as victim:
        victim.run("tx = psyne.sender('ipc://numbers', Number, capacity=8, stages=['first', 'second'])")
        first, second = psyne.receiver("ipc://numbers", stage="first"), psyne.receiver("ipc://numbers", stage="second")
        with first, second:
            victim.run("for n in range(6): tx.send(Number(n=n))")
            assert received(first, 6) == received(second, 6)
            victim.run("loans = [tx.loan() for _ in range(4)]")  # over the end of the ring
            victim.run("for n in sent: loans[n].n = 100 + n; tx.send(loans[n])", sent=sent)
            victim.kill()
            for rx in (first, second):
                assert received(rx, len(sent)) == [(100 + n, False) for n in sent]
                with pytest.raises(psyne.SenderLost):
                    rx.receive()


def test_an_open_batch_of_a_killed_sender_was_never_there():
    with Child() as victim, psyne.receiver("ipc://numbers", Number) as rx:
        victim.run("tx = psyne.sender('ipc://numbers', Number, capacity=8); tx.send(Number(n=1))")
        assert received(rx, 1) == [(1, False)]
        victim.run("batch = tx.loan_many(5); batch['n'] = 9; tx.send(Number(n=2))")
        victim.kill()
        assert received(rx, 1) == [(2, False)]
        with pytest.raises(psyne.SenderLost):
            rx.receive()


def test_a_killed_sender_does_not_end_the_channel_while_another_lives(jobs: Any):
    with Child() as victim, psyne.receiver("ipc://jobs") as rx:
        victim.run("tx = psyne.sender('ipc://jobs'); tx.send(Number(n=1)); m = tx.loan()")
        victim.kill()
        assert received(rx, 1) == [(1, False)]
        with pytest.raises(psyne.Empty):
            rx.receive(timeout=0.3)
        send(jobs, 2)
        assert received(rx, 1) == [(2, False)]


@pytest.mark.leaves_nothing
def test_the_lane_of_a_killed_sender_is_removed_when_it_was_read():
    with psyne.sender("ipc://jobs", Number, capacity=8, pattern="mpmc") as stays, psyne.receiver("ipc://jobs") as rx:
        for n in range(80):  # more than there are lanes
            if n % 10:
                with psyne.sender("ipc://jobs", capacity=1) as short:
                    short.send(Number(n=n))
            else:
                with Child() as victim:
                    victim.run("tx = psyne.sender('ipc://jobs', capacity=1); tx.send(Number(n=n))", n=n)
                    victim.kill()
            assert received(rx, 1) == [(n, False)]
        send(stays, 5)
        assert received(rx, 1) == [(5, False)]


# ---- stopped is not dead -------------------------------------------------------------------------------------------


def test_a_stopped_sender_holds_up_nobody(jobs: Any):
    with Child() as stopped, psyne.receiver("ipc://jobs") as rx:
        stopped.run("tx = psyne.sender('ipc://jobs', capacity=4); tx.send(Number(n=1)); m = tx.loan(); m.n = 2")
        stopped.stop()
        assert received(rx, 1) == [(1, False)]
        for n in range(100, 200):
            send(jobs, n)
            assert received(rx, 1) == [(n, False)]
        jobs.drain(timeout=0)
        jobs.close()
        with pytest.raises(psyne.Empty):  # it is not dead: the channel has not ended
            rx.receive(timeout=0.3)
        stopped.go_on()
        stopped.run("tx.send(m)")
        assert received(rx, 1) == [(2, False)]


def test_a_stopped_receiver_keeps_what_it_took(jobs: Any):
    with Child() as stopped, psyne.receiver("ipc://jobs") as rx:
        stopped.run("rx = psyne.receiver('ipc://jobs')")
        send(jobs, *range(8))
        stopped.run("m = rx.receive()")
        stopped.stop()
        assert received(rx, 7) == [(n, False) for n in range(1, 8)]
        with pytest.raises(psyne.Empty):
            rx.receive(timeout=0.3)
        assert jobs.try_loan() is None
        with pytest.raises(psyne.Full, match=rf"holds the oldest message \(pid {stopped.pid}"):
            jobs.loan(timeout=0.2)
        stopped.go_on()
        assert stopped.run("m.n, m.info.redelivered") == (0, False)
        stopped.run("m.release()")
        send(jobs, 8)
        assert received(rx, 1) == [(8, False)]


def test_a_stopped_waiter_swallows_a_wake_for_a_slice_at_most(jobs: Any):
    with Child() as a, Child() as b:
        for member in (a, b):
            member.run("rx = psyne.receiver('ipc://jobs', wait='block')")
            member.begin_waiting("m = rx.receive(); m.n")
        a.stop()
        send(jobs, 1)
        assert b.result() == 1
        b.begin_waiting("m = rx.receive(); m.n")
        a.kill()
        send(jobs, 2)
        assert b.result() == 2


def test_a_process_that_became_another_program_is_dead(jobs: Any):
    """exec keeps the pid and its start: only the life lock tells."""
    with Child() as victim, psyne.receiver("ipc://jobs") as rx:
        victim.run("rx = psyne.receiver('ipc://jobs')")
        send(jobs, 1)
        victim.run("m = rx.receive()")
        victim.begin("os.execvp('sleep', ['sleep', 'infinity'])")
        assert received(rx, 1) == [(1, True)]
        os.kill(victim.pid, 0)


def test_an_end_outlives_the_thread_that_opened_it(jobs: Any):
    with Child() as child, psyne.receiver("ipc://jobs") as rx:
        child.run(
            """
def open_and_take():
    global rx, m
    rx = psyne.receiver('ipc://jobs')
    m = rx.receive()
thread = threading.Thread(target=open_and_take)
thread.start()"""
        )
        send(jobs, 1)
        child.run("thread.join()")
        with pytest.raises(psyne.Empty):
            rx.receive(timeout=0.3)
        child.process.send_signal(signal.SIGKILL)
        assert received(rx, 1) == [(1, True)]
