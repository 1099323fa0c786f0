"""Receiving: order, ways to end a message, time-outs, iteration, the end of a channel, who waits for whom."""

import gc
import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import psyne

from .helpers.layouts import Number, Sample
from .helpers.process import Child, sleeping, until

Ends = tuple[psyne.Sender[Number], psyne.Receiver[Number]]


@pytest.fixture
def ends() -> Iterator[Ends]:
    with psyne.sender("ipc://numbers", Number, capacity=8) as tx, psyne.receiver("ipc://numbers", Number) as rx:
        yield tx, rx


def fill(tx: psyne.Sender[Number]) -> None:
    for n in range(tx.capacity):
        tx.send(Number(n=n), timeout=0)


# ---- a message and its end -----------------------------------------------------------------------------------------


def test_messages_come_in_the_order_of_their_sender(ends: Ends):
    tx, rx = ends
    for lap in range(20):
        fill(tx)
        for n in range(8):
            with rx.receive() as m:
                assert (m.n, m.info.sequence) == (n, 8 * lap + n)


@pytest.mark.parametrize("end", ["with m: pass", "m.release()", "del m", "m = None"])
def test_each_way_to_end_a_message_gives_its_slot_back(ends: Ends, end: str):
    tx, rx = ends
    fill(tx)
    assert tx.try_loan() is None
    space = {"m": rx.receive()}
    assert tx.try_loan() is None
    exec(end, space)
    tx.loan(timeout=0).discard()


def test_an_exception_in_the_block_of_a_message_ends_it_too(ends: Ends):
    tx, rx = ends
    fill(tx)
    with pytest.raises(ZeroDivisionError), rx.receive() as m:
        _ = m.n // 0
    tx.loan(timeout=0).discard()


def test_a_loop_step_ends_the_message_before_it(ends: Ends):
    tx, rx = ends
    fill(tx)
    steps = iter(rx)
    first = next(steps)
    assert tx.try_loan() is None
    second = next(steps)
    tx.loan(timeout=0).discard()
    with pytest.raises(psyne.MessageReleased):
        _ = first.n
    assert second.n == 1


def test_a_break_leaves_the_last_message_of_a_loop_open(ends: Ends):
    tx, rx = ends
    fill(tx)
    for m in rx:
        if m.n == 3:
            break
    assert m.n == 3
    m.release()
    with rx.receive() as m:
        assert m.n == 4


def test_messages_end_in_any_order(ends: Ends):
    tx, rx = ends
    fill(tx)
    held = [rx.receive() for _ in range(7)]
    for n in (6, 1, 3):
        held[n].release()
    assert tx.try_loan() is None  # the oldest is still taken
    held[0].release()
    assert [len([tx.loan(timeout=0).discard()]) for _ in range(2)] == [1, 1]
    assert [m.n for m in (held[2], held[4], held[5])] == [2, 4, 5]


# ---- time-outs -----------------------------------------------------------------------------------------------------


def test_nothing_there_is_none_for_try_receive_and_empty_for_receive(ends: Ends):
    tx, rx = ends
    assert rx.try_receive() is None
    assert rx.try_receive_many(5) is None
    with pytest.raises(psyne.Empty, match="ipc://numbers"):
        rx.receive(timeout=0)
    with pytest.raises(TimeoutError):
        rx.receive(timeout=0.02)
    with pytest.raises(psyne.Empty):
        rx.receive_many(5, timeout=0.02)
    tx.send(Number(n=1))
    m = rx.try_receive()
    assert m is not None
    assert m.n == 1


@pytest.mark.parametrize("timeout", [-0.1, float("nan")])
def test_a_strange_timeout_is_refused(ends: Ends, timeout: float):
    with pytest.raises(ValueError, match="timeout"):
        ends[1].receive(timeout=timeout)


def test_an_endless_timeout_is_like_none(ends: Ends):
    tx, rx = ends
    tx.send(Number(n=1))
    with rx.receive(timeout=float("inf")) as m:
        assert m.n == 1


# ---- several senders -----------------------------------------------------------------------------------------------


def test_a_receiver_takes_from_all_senders_by_turns(ends: Ends):
    tx, rx = ends
    with psyne.sender("ipc://numbers", Number, capacity=8) as other:
        for n in range(8):
            tx.send(Number(n=n))
            other.send(Number(n=100 + n))
        got = []
        for _ in range(16):
            with rx.receive() as m:
                got.append(m.n)
    assert [n for n in got if n < 100] == list(range(8))
    assert [n for n in got if n >= 100] == list(range(100, 108))
    assert {n // 100 for n in got[:4]} == {0, 1}  # a busy sender does not starve the other


def test_what_a_sender_left_comes_before_what_the_next_one_sends():
    first = psyne.sender("ipc://numbers", Number, capacity=8, pattern="spsc")
    with psyne.receiver("ipc://numbers") as rx:
        for n in range(3):
            first.send(Number(n=n))
        first.close()
        with psyne.sender("ipc://numbers", capacity=8) as second:
            for n in range(3, 6):
                second.send(Number(n=n))
            assert [rx.receive(timeout=0).n for _ in range(6)] == list(range(6))


def test_a_sender_that_is_open_and_silent_delays_nobody(ends: Ends):
    tx, rx = ends
    with psyne.sender("ipc://numbers", Number, capacity=8) as silent, silent.loan() as never_sent:
        fill(tx)
        for n in range(8):
            with rx.receive(timeout=0) as m:
                assert m.n == n
        never_sent.discard()


# ---- who comes first -----------------------------------------------------------------------------------------------


def test_a_receiver_may_come_long_before_its_sender():
    with Child() as reader:
        reader.run("rx = psyne.receiver('ipc://numbers', Number)")
        assert reader.run("rx.try_receive()") is None
        reader.begin_waiting("rx.receive().n")
        with psyne.sender("ipc://numbers", Number) as tx:
            tx.send(Number(n=5))
            assert reader.result() == 5


def test_a_receiver_without_a_channel_times_out():
    with psyne.receiver("ipc://numbers", Number) as rx:
        with pytest.raises(psyne.Empty, match=r"no sender.*ipc://numbers"):
            rx.receive(timeout=0.02)
        assert rx.try_receive() is None


def test_a_receiver_gets_what_was_sent_before_it_came(ends: Ends):
    tx, rx = ends
    rx.close()
    fill(tx)
    with psyne.receiver("ipc://numbers") as late:
        assert [m.n for m in (late.receive() for _ in range(7))] == list(range(7))


def test_a_receiver_that_finds_another_type_says_what_differs(ends: Ends):
    ends[1].close()
    with pytest.raises(psyne.LayoutMismatch, match=r"n: theirs <u8.*stamp: theirs \(none\), yours <u8"):
        psyne.receiver("ipc://numbers", Sample)
    later = psyne.receiver("ipc://later", Sample)
    with psyne.sender("ipc://later", Number), pytest.raises(psyne.LayoutMismatch, match="ipc://later"):
        later.receive()
    later.close()


# ---- the end -------------------------------------------------------------------------------------------------------


def test_the_last_senders_close_ends_iteration_after_all_was_received(ends: Ends):
    tx, rx = ends
    other = psyne.sender("ipc://numbers", Number, capacity=8)
    tx.send(Number(n=1))
    other.send(Number(n=2))
    tx.close()
    first = rx.receive()
    rx.receive().release()
    assert rx.try_receive() is None  # the other one lives
    other.send(Number(n=3))
    other.close()
    assert [m.n for m in rx] == [3]
    assert list(rx) == []
    assert first.n == 1
    for receive in (rx.receive, rx.try_receive, lambda: rx.receive_many(4), lambda: rx.try_receive_many(4)):
        with pytest.raises(psyne.EndOfChannel, match="ipc://numbers has ended"):
            receive()


def test_a_waiting_receiver_hears_of_the_end():
    with psyne.sender("ipc://numbers", Number) as tx, Child() as reader:
        reader.run("rx = psyne.receiver('ipc://numbers')")
        reader.begin_waiting("rx.receive()")
        tx.close()
        with pytest.raises(EOFError):
            reader.result()


def test_an_exception_that_leaves_the_senders_block_is_a_lost_sender(ends: Ends):
    tx, rx = ends

    def send_and_fail() -> None:
        with tx:
            tx.send(Number(n=1))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        send_and_fail()
    with rx.receive() as m:
        assert m.n == 1
    with pytest.raises(psyne.SenderLost, match="follow=True"):
        rx.receive()
    with pytest.raises(ConnectionError):
        rx.try_receive()


def test_a_sender_that_comes_after_a_lost_one_is_received(ends: Ends):
    tx, rx = ends
    with pytest.raises(ZeroDivisionError), tx:
        _ = 1 / 0
    with pytest.raises(psyne.SenderLost):
        rx.receive()
    with psyne.sender("ipc://numbers", Number) as second:
        second.send(Number(n=2))
    assert [m.n for m in rx] == [2]


@pytest.mark.parametrize("lost", [False, True])
def test_follow_waits_for_the_next_sender(lost: bool):
    with Child() as reader:
        reader.run("rx = psyne.receiver('ipc://numbers', Number, follow=True); seen = []")
        for n in range(3):
            with Child() as writer:
                writer.run("tx = psyne.sender('ipc://numbers', Number); tx.send(Number(n=n))", n=n)
                assert reader.run("rx.receive().n") == n
                reader.begin_waiting("rx.receive(timeout=0.3)")
                if lost:
                    writer.kill()
                else:
                    writer.run("tx.close()")
                with pytest.raises(psyne.Empty):
                    reader.result()


def test_follow_goes_on_in_a_channel_of_another_type():
    with psyne.receiver("ipc://changing", follow=True) as rx:
        with psyne.sender("ipc://changing", Number) as tx:
            tx.send(Number(n=1))
            kept = rx.receive()
        with psyne.sender("ipc://changing", Sample) as tx:
            tx.send(Sample(stamp=7, kind=2, values=[1, 2, 3]))
            with rx.receive() as m:
                assert (type(m).__name__, m.stamp) == ("Sample", 7)
            assert kept.n == 1


# ---- close and garbage ---------------------------------------------------------------------------------------------


def test_a_closed_end_says_so(ends: Ends):
    tx, rx = ends
    tx.close()
    rx.close()
    for use in (tx.loan, tx.try_loan, tx.drain, lambda: tx.send(Number(n=1)), lambda: tx.loan_many(2)):
        with pytest.raises(psyne.ChannelClosed, match=r"ipc://numbers was closed"):
            use()
    for use in (rx.receive, rx.try_receive, lambda: rx.receive_many(2), lambda: rx.try_receive_many(2)):
        with pytest.raises(ValueError, match="closed"):
            use()
    assert list(rx) == []
    assert "closed" in repr(tx)
    assert "closed" in repr(rx)
    tx.close()
    rx.close()


def test_the_last_one_out_says_how_many_messages_nobody_read(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING, logger="psyne"):
        tx = psyne.sender("ipc://numbers", Number, capacity=8)
        for n in range(5):
            tx.send(Number(n=n))
        with psyne.receiver("ipc://numbers") as rx:
            rx.receive().release()
        tx.close()
    assert [r.getMessage() for r in caplog.records if r.name == "psyne"] == [
        "4 messages of ipc://numbers were never read: its last end closed. drain() waits until all is read"
    ]


@pytest.mark.leaves_nothing
def test_ends_that_are_garbage_leave(ends: Ends):
    for end in ends:
        end.close()
    tx = psyne.sender("ipc://garbage", Number)
    rx = psyne.receiver("ipc://garbage")
    tx.send(Number(n=1))
    del tx
    gc.collect()
    assert [m.n for m in rx] == [1]


def test_a_receiver_that_holds_every_slot_is_told_so_instead_of_waiting(ends: Ends):
    tx, rx = ends
    fill(tx)
    held = [rx.receive() for _ in range(8)]
    with pytest.raises(psyne.LeaseLimit, match=r"holds every slot of ipc://numbers \(8 messages not released\)"):
        rx.receive()
    held.pop().release()
    with pytest.raises(psyne.Empty):
        rx.receive(timeout=0)


def test_two_threads_cannot_use_one_end_at_the_same_time(ends: Ends):
    tx, rx = ends
    outcome: list[Any] = []
    waiter = threading.Thread(target=lambda: outcome.append(rx.receive().n))
    waiter.start()
    until(lambda: waiter.native_id and sleeping(threading.main_thread().native_id or 0, waiter.native_id), "the wait")
    with pytest.raises(psyne.ConcurrentUse, match="one user at a time"):
        rx.receive()
    tx.send(Number(n=3))
    waiter.join()
    assert outcome == [3]


def test_one_end_may_be_used_by_several_threads_one_after_the_other(ends: Ends):
    tx, rx = ends
    seen: list[int] = []
    for n in range(20):
        sending = threading.Thread(target=tx.send, args=(Number(n=n),))
        sending.start()
        sending.join()
        receiving = threading.Thread(target=lambda: seen.append(rx.receive().n))
        receiving.start()
        receiving.join()
    assert seen == list(range(20))
