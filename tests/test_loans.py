"""Loans: how they end, in which order they arrive, and what a full ring says."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import psyne

from .helpers.layouts import Number
from .helpers.process import Child

Ends = tuple[psyne.Sender[Number], psyne.Receiver[Number]]


@pytest.fixture
def ends() -> Iterator[Ends]:
    with psyne.sender("ipc://numbers", Number, capacity=8) as tx, psyne.receiver("ipc://numbers", Number) as rx:
        yield tx, rx


def received(rx: psyne.Receiver[Number]) -> list[int]:
    """The numbers of all messages that are there now."""
    numbers = []
    while m := rx.try_receive():
        numbers.append(m.n)
        m.release()
    return numbers


# ---- the end of a loan ---------------------------------------------------------------------------------------------


def test_the_end_of_a_with_block_sends_the_loan(ends: Ends):
    tx, rx = ends
    with tx.loan() as m:
        m.n = 5
        assert received(rx) == []
    assert received(rx) == [5]


def test_break_continue_and_return_send_the_loan(ends: Ends):
    tx, rx = ends

    def returning() -> int:
        with tx.loan() as m:
            m.n = 3
            return 7

    for n in range(2):
        with tx.loan() as m:
            m.n = n
            if n == 1:
                break
            continue
    assert returning() == 7
    assert received(rx) == [0, 1, 3]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_exception_takes_the_loan_back_and_goes_on(ends: Ends, error: type[BaseException]):
    tx, rx = ends
    with pytest.raises(error), tx.loan():
        raise error
    tx.send(Number(n=6))
    assert received(rx) == [6]


def test_discard_takes_the_loan_back(ends: Ends):
    tx, rx = ends
    with tx.loan() as m:
        m.n = 5
        m.discard()
    m = tx.loan()
    m.discard()
    m.discard()
    assert received(rx) == []
    with pytest.raises(psyne.MessageReleased):
        m.n = 3


def test_release_of_a_loan_takes_it_back(ends: Ends):
    tx, rx = ends
    tx.loan().release()
    assert received(rx) == []


def test_a_loan_that_is_forgotten_is_taken_back_with_a_warning(ends: Ends):
    tx, rx = ends
    m = tx.loan()
    m.n = 5
    with pytest.warns(ResourceWarning, match="neither sent nor discarded"):
        del m
    tx.send(Number(n=6))
    assert received(rx) == [6]


def test_ones_own_loan_is_sent_in_place_and_only_once(ends: Ends):
    tx, rx = ends
    m = tx.loan()
    m.n = 5
    assert tx.send(m) is True
    with pytest.raises(psyne.MessageReleased):
        tx.send(m)
    assert received(rx) == [5]


def test_a_message_of_another_channel_is_copied(ends: Ends):
    tx, rx = ends
    with psyne.sender("ipc://other", Number, capacity=8) as other, other.loan() as m:
        m.n = 5
        tx.send(m)
        m.n = 6
        m.discard()
    tx.send(Number(n=7))
    got = rx.receive()
    tx.send(got)
    got.release()
    assert received(rx) == [7, 5]


def test_loans_arrive_in_the_order_of_their_loans_whatever_order_they_are_sent_in(ends: Ends):
    tx, rx = ends
    for lap in range(10):  # over the end of the ring and back
        loans = [tx.loan() for _ in range(5)]
        for n, m in enumerate(loans):
            m.n = 10 * lap + n
        for n in (3, 0, 4):
            tx.send(loans[n])
        loans[2].discard()
        assert received(rx) == [10 * lap]
        tx.send(loans[1])
        assert received(rx) == [10 * lap + n for n in (1, 3, 4)]


def test_a_discarded_last_loan_is_lent_again(ends: Ends):
    tx, _ = ends
    for _ in range(100):
        m = tx.loan()
        assert m.info.sequence == 0
        m.discard()


def test_try_loan_gives_none_when_the_ring_is_full(ends: Ends):
    tx, rx = ends
    for n in range(8):
        m = tx.try_loan()
        assert m is not None
        m.n = n
        tx.send(m)
    assert tx.try_loan() is None
    rx.receive().release()
    m = tx.try_loan()
    assert m is not None
    m.discard()


# ---- Full ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "send",
    [
        lambda tx: tx.loan(timeout=0),
        lambda tx: tx.loan_many(1, timeout=0),
        lambda tx: tx.send(Number(n=1), timeout=0),
        lambda tx: tx.send_many(np.zeros(1, Number.__layout__.dtype), timeout=0),
    ],
    ids=["loan", "loan_many", "send", "send_many"],
)
def test_a_full_ring_raises_full_at_once_with_timeout_zero(ends: Ends, send: Callable[[psyne.Sender[Number]], Any]):
    tx, _ = ends
    for n in range(8):
        tx.send(Number(n=n))
    with pytest.raises(psyne.Full, match=r"ipc://numbers is full \(8 messages\).*capacity="):
        send(tx)


def test_full_comes_after_the_timeout_and_not_before(ends: Ends):
    tx, _ = ends
    for n in range(8):
        tx.send(Number(n=n))
    with pytest.raises(TimeoutError):
        tx.loan(timeout=0.05)


def test_full_says_that_a_stage_has_no_member():
    with psyne.sender("ipc://numbers", Number, capacity=1, stages=["look", "show"]) as tx:
        tx.send(Number(n=1))
        with pytest.raises(psyne.Full, match="stage 'look' has no member"):
            tx.loan(timeout=0)
        with psyne.receiver("ipc://numbers", stage="look") as look:
            with pytest.raises(psyne.Full, match=r"stage 'look' has not taken the oldest message \(1 member\)"):
                tx.loan(timeout=0)
            look.receive().release()
            with pytest.raises(psyne.Full, match="stage 'show' has no member"):
                tx.loan(timeout=0)


def test_full_names_pid_and_program_of_who_holds_the_oldest_message():
    with psyne.sender("ipc://numbers", Number, capacity=1) as tx, Child() as reader:
        tx.send(Number(n=1))
        reader.run("rx = psyne.receiver('ipc://numbers'); m = rx.receive(); m.n")
        with pytest.raises(psyne.Full, match=rf"stage 'main' holds the oldest message \(pid {reader.pid}, child.py\)"):
            tx.loan(timeout=0)


def test_full_says_that_the_slots_are_ones_own_open_loans(ends: Ends):
    tx, _ = ends
    loans = [tx.loan() for _ in range(8)]
    with pytest.raises(psyne.Full, match="your own open loans"):
        tx.loan(timeout=0)
    for m in loans:
        m.discard()


def test_a_negative_or_strange_timeout_is_refused(ends: Ends):
    tx, _ = ends
    with pytest.raises(ValueError, match="timeout"):
        tx.loan(timeout=-1)
    with pytest.raises(ValueError, match="timeout"):
        tx.loan(timeout=float("nan"))
    with pytest.raises(TypeError):
        tx.loan(timeout="1")  # type: ignore[arg-type]


def test_a_sender_that_waits_goes_on_when_a_slot_comes_back():
    with psyne.sender("ipc://numbers", Number, capacity=2) as tx, Child() as reader:
        reader.run("rx = psyne.receiver('ipc://numbers'); seen = []")
        reader.begin("seen.extend(m.n for m in rx); len(seen)")
        for n in range(1000):
            tx.send(Number(n=n))
        tx.close()
        assert reader.result() == 1000
        assert reader.run("seen") == list(range(1000))
