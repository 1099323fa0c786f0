"""Several threads of one process: ends of their own at the same time, and messages that other threads end."""

import queue
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import psyne

from .helpers.layouts import Line, Number, broken_lines, lines_of
from .helpers.process import sleeping, until


def start(call: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    """A thread that runs `call` and puts what came of it into the list."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append(call())
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, outcome


def until_it_sleeps(thread: threading.Thread) -> None:
    pid = threading.main_thread().native_id
    assert pid is not None
    until(lambda: thread.native_id and sleeping(pid, thread.native_id), "sleeping")


@pytest.mark.parametrize("how", ["release", "last view"])
def test_a_thread_ends_a_message_while_another_waits_in_its_receiver(how: str):
    with (
        psyne.sender("ipc://threads", Number, capacity=1) as tx,
        psyne.sender("ipc://threads", Number, capacity=1) as other,
        psyne.receiver("ipc://threads", wait="block") as rx,
    ):
        for n in range(20):
            tx.send(Number(n=n))
            m = rx.receive()
            view = m.array if how == "last view" else None
            thread, outcome = start(lambda: rx.receive().n)
            until_it_sleeps(thread)
            assert tx.try_loan() is None
            if how == "release":
                m.release()
            else:
                with m:
                    pass
                del view
            tx.loan(timeout=0).discard()
            other.send(Number(n=100 + n))
            thread.join()
            assert outcome == [100 + n]


def test_a_thread_sends_a_loan_while_another_waits_in_its_sender():
    with psyne.sender("ipc://threads", Number, capacity=2, wait="block") as tx, psyne.receiver("ipc://threads") as rx:
        for n in range(20):
            loans = [tx.loan(), tx.loan()]
            thread, outcome = start(tx.loan)
            until_it_sleeps(thread)
            loans[1].n = 10 * n + 1
            tx.send(loans[1])
            assert rx.try_receive() is None
            loans[0].n = 10 * n
            tx.send(loans[0])
            assert [rx.receive().n, rx.receive().n] == [10 * n, 10 * n + 1]
            thread.join()
            outcome[0].n = 10 * n + 2
            tx.send(outcome[0])
            with rx.receive() as m:
                assert m.n == 10 * n + 2


def test_a_thread_takes_a_loan_back_while_another_waits_in_its_sender():
    with psyne.sender("ipc://threads", Number, capacity=1, wait="block") as tx, psyne.receiver("ipc://threads") as rx:
        for n in range(20):
            loan = tx.loan()
            thread, outcome = start(tx.loan)
            until_it_sleeps(thread)
            loan.discard()
            assert rx.try_receive() is None  # passes on what was taken back
            thread.join()
            outcome[0].n = n
            tx.send(outcome[0])
            with rx.receive() as m:
                assert m.n == n


def test_a_thread_sends_a_part_of_a_batch_while_another_waits_in_its_sender():
    with psyne.sender("ipc://threads", Number, capacity=4, wait="block") as tx, psyne.receiver("ipc://threads") as rx:
        for n in range(20):
            batch = tx.loan_many(4)
            thread, outcome = start(tx.loan)
            until_it_sleeps(thread)
            batch["n"] = n
            batch.truncate(2)
            tx.send(batch)
            assert [rx.receive().n, rx.receive().n] == [n, n]
            assert rx.try_receive() is None
            thread.join()
            outcome[0].discard()
            assert rx.try_receive() is None


@pytest.mark.parametrize("wait", ["adaptive", "block"])
def test_threads_with_ends_of_their_own_lose_and_double_nothing(wait: Any):
    senders, count = 3, 4000

    def send(number: int) -> None:
        with psyne.sender("ipc://threads", Line, capacity=64, pattern="mpmc", wait=wait) as tx:
            for first in range(0, count, 40):
                tx.send_many(lines_of(number, first, 20))
                for line in lines_of(number, first + 20, 20):
                    tx.send(line)

    def receive() -> np.ndarray:
        seen = [np.empty((0, 8), "u8")]
        with psyne.receiver("ipc://threads", Line, wait=wait) as rx:
            for batch in rx.batches(7):
                seen.append(batch.copy())
        return np.concatenate(seen)

    with psyne.sender("ipc://threads", Line, pattern="mpmc") as first:  # holds the channel open until all have joined
        receiving = [start(receive) for _ in range(3)]
        sending = [start(lambda number=number: send(number)) for number in range(senders)]
        for thread, _ in sending:
            thread.join()
        first.close()
    for thread, _ in receiving:
        thread.join()
    assert [outcome for _, outcome in sending] == [[None]] * senders
    seen = np.concatenate([outcome[0] for _, outcome in receiving])
    assert broken_lines(seen) == 0
    for number in range(senders):
        assert sorted(seen[seen[:, 0] == number][:, 1].tolist()) == list(range(count))


def test_a_thread_closes_ends_while_others_use_them():
    """Whatever the others get, it is a message or ChannelClosed, and the process lives."""
    for n in range(30):
        with psyne.sender(f"ipc://closing{n}", Number, capacity=2) as tx, psyne.receiver(f"ipc://closing{n}") as rx:

            def send(tx: psyne.Sender[Number] = tx) -> None:
                while True:
                    with tx.loan() as m:
                        m.n = 1

            def receive(rx: psyne.Receiver[Number] = rx) -> int:
                return sum(m.n for m in rx)

            sending, receiving = start(send), start(receive)
            until(lambda rx=rx, receiving=receiving: receiving[0].is_alive(), "the start")
            rx.close()
            tx.close()
            for thread, _ in (sending, receiving):
                thread.join()
            assert isinstance(sending[1][0], psyne.ChannelClosed)
            assert isinstance(receiving[1][0], int)


def test_no_end_is_told_where_another_thread_drops_the_last_view_while_one_waits():
    count = 1000
    views: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def drop() -> int:
        dropped = 0
        while views.get() is not None:
            dropped += 1
        return dropped

    dropping = start(drop)
    try:
        with psyne.sender("ipc://threads", Line, capacity=1) as tx, psyne.receiver("ipc://threads", Line) as rx:
            sending = start(lambda: [tx.send(np.full(8, n, "u8")) for n in range(count)])
            for n in range(count):
                while True:  # as long as the view lives, this end holds every slot
                    try:
                        m = rx.receive()
                        break
                    except psyne.LeaseLimit:
                        continue
                with m:
                    assert m.array[0] == n
                    views.put(m.array)
            sending[0].join()
    finally:
        views.put(None)
        dropping[0].join()
    assert dropping[1] == [count]
