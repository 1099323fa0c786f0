"""psyne.select: what is ready of several ends and descriptors."""

import os
import socket
import threading
import time
from typing import Any

import pytest

import psyne
from psyne.waiting import Waiting, end_of

from .helpers.layouts import Number
from .helpers.process import Child, descriptors, sleeping, until


def opened(name: str, **options: Any) -> tuple[Any, Any]:
    return psyne.sender(f"ipc://{name}", Number, **options), psyne.receiver(f"ipc://{name}", Number)


def test_ends_and_descriptors_that_have_something_are_given() -> None:
    tx, rx = opened("a", capacity=1)
    idle_tx, idle = opened("b")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert psyne.select(rx, idle, ours, timeout=0) == []
        tx.send(Number(n=1))
        theirs.send(b"x")
        assert set(psyne.select(rx, idle, ours, ours.fileno(), timeout=0)) == {rx, ours, ours.fileno()}
        assert psyne.select(tx, idle_tx) == [idle_tx]  # the other one is full
        rx.receive().release()
        assert psyne.select(tx) == [tx]
    for end in (tx, rx, idle_tx, idle):
        end.close()


def test_a_file_is_always_readable() -> None:
    tx, rx = opened("a")
    with open(__file__) as file:
        assert psyne.select(rx, file) == [file]
    tx.close()
    rx.close()


def test_the_first_one_in_the_list_changes_from_call_to_call() -> None:
    tx = psyne.sender("ipc://a", Number, stages=["x"])
    others = [psyne.sender(f"ipc://{name}", Number) for name in "bc"]
    firsts = {psyne.select(tx, *others)[0] for _ in range(3)}
    assert firsts == {tx, *others}
    for end in (tx, *others):
        end.close()


def test_nothing_in_time_is_an_empty_list() -> None:
    tx, rx = opened("a")
    for timeout in (0, 0.001, 0.15):
        start = time.monotonic()
        assert psyne.select(rx, timeout=timeout) == []
        assert time.monotonic() - start >= timeout
    tx.close()
    rx.close()


@pytest.mark.parametrize("timeout", [-1, float("nan")])
def test_a_time_out_that_makes_no_sense_is_refused(timeout: float) -> None:
    tx, rx = opened("a")
    with pytest.raises(ValueError, match="seconds"):
        psyne.select(rx, timeout=timeout)
    with pytest.raises(psyne.InvalidArgument, match="nothing"):
        psyne.select()
    with pytest.raises(psyne.InvalidArgument, match="descriptor"):
        psyne.select(-1)
    tx.close()
    rx.close()


def test_a_message_of_another_process_ends_the_wait() -> None:
    with Child() as child:
        child.run("a, b = (psyne.receiver(f'ipc://{name}', Number) for name in 'ab')")
        senders = {name: psyne.sender(f"ipc://{name}", Number) for name in "ab"}
        child.run("psyne.select(a, b, timeout=0)")  # joins both
        for n in range(20):
            name = "ab"[n % 2]
            child.begin_waiting("[(end.address, end.receive().n) for end in psyne.select(a, b)]")
            senders[name].send(Number(n=n))
            assert child.result() == [(f"ipc://{name}", n)]
        assert child.run("psyne._native.counters(a)['late_wakes'] + psyne._native.counters(b)['late_wakes']") == 0
        for end in senders.values():
            end.close()


def test_a_receiver_without_a_channel_is_waited_for() -> None:
    with Child() as child:
        child.run("rx = psyne.receiver('ipc://late', Number)")
        child.begin_waiting("[psyne.select(rx) == [rx], rx.receive().n]")
        tx = psyne.sender("ipc://late", Number)
        tx.send(Number(n=3))
        assert child.result() == [True, 3]
        tx.close()


def test_the_end_of_a_channel_and_a_closed_end_are_something() -> None:
    tx, rx = opened("a")
    with Child() as child:
        child.run("rx = psyne.receiver('ipc://b', Number)")
        other = psyne.sender("ipc://b", Number)
        child.begin_waiting("psyne.select(rx) == [rx]")
        other.close()
        assert child.result() is True
    tx.close()
    assert psyne.select(rx) == [rx]
    with pytest.raises(psyne.EndOfChannel):
        rx.receive()
    rx.close()
    assert psyne.select(rx) == [rx]
    assert psyne.select(tx) == [tx]


def test_the_dead_are_buried_while_select_waits() -> None:
    rx = psyne.receiver("ipc://a", Number)
    with Child() as child:
        child.run("tx = psyne.sender('ipc://a', Number)")
        assert psyne.select(rx, timeout=0) == []
        child.kill()
    assert psyne.select(rx) == [rx]
    with pytest.raises(psyne.SenderLost):
        rx.receive()
    rx.close()


def test_close_in_another_thread_ends_the_wait() -> None:
    tx, rx = opened("a")
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(psyne.select(rx)))
    thread.start()
    until(lambda: thread.native_id is not None and sleeping(os.getpid(), thread.native_id))
    rx.close()
    thread.join()
    assert found == [[rx]]
    tx.close()


def test_ctrl_c_interrupts_it() -> None:
    with Child() as child:
        child.run("tx, rx = psyne.sender('ipc://a', Number), psyne.receiver('ipc://a', Number)")
        child.begin_waiting("psyne.select(rx)")
        child.interrupt()
        with pytest.raises(KeyboardInterrupt):
            child.result()
        assert child.run("tx.send(Number(n=1)); rx.receive().n") == 1


def test_a_forked_child_and_a_busy_end_are_refused() -> None:
    with Child() as child:
        child.run("tx, rx = psyne.sender('ipc://a', Number), psyne.receiver('ipc://a', Number); rx.fileno()")
        error = child.run("forked(lambda: psyne.select(rx))")
        assert isinstance(error, psyne.ForkedError)
        assert child.run("tx.send(Number(n=1)); psyne.select(rx) == [rx]")
    tx, rx = opened("b")
    thread = threading.Thread(target=lambda: rx.receive().release())
    thread.start()
    until(lambda: thread.native_id is not None and sleeping(os.getpid(), thread.native_id))
    with pytest.raises(psyne.ConcurrentUse):
        psyne.select(rx)
    tx.send(Number(n=1))
    thread.join()
    rx.close()
    tx.close()


def test_select_takes_no_wake_away_from_other_members() -> None:
    tx = psyne.sender("ipc://a", Number, pattern="spmc")
    rx = psyne.receiver("ipc://a", Number)
    with Child() as child:
        child.run("rx = psyne.receiver('ipc://a', Number, wait='block')")
        for n in range(20):
            assert psyne.select(rx, timeout=0.001) == []
            child.begin_waiting("rx.receive().n")
            tx.send(Number(n=n))
            assert child.result() == n
    assert psyne._native.counters(tx)["late_wakes"] == 0
    rx.close()
    tx.close()


def test_a_select_whose_time_is_over_hands_on_a_wake_that_came_after_its_last_look() -> None:
    tx = psyne.sender("ipc://a", Number, pattern="spmc")
    rx = psyne.receiver("ipc://a", Number)
    with Child() as child:
        child.run("rx = psyne.receiver('ipc://a', Number, wait='block')")
        child.begin_waiting("rx.receive().n")
        waiting = Waiting([rx], end_of)
        with waiting:
            assert waiting.look() == []
            tx.send(Number(n=7))  # wakes the one with the lower number, which does not look any more
        waiting.close()
        assert child.result() == 7
    assert psyne._native.counters(tx)["late_wakes"] == 0
    rx.close()
    tx.close()


def test_no_descriptor_is_left_behind() -> None:
    tx, rx = opened("a")
    psyne.select(rx, timeout=0.001)
    before = descriptors()
    for _ in range(5):
        psyne.select(rx, timeout=0.001)
        psyne.select(rx, tx, timeout=0)
    assert not descriptors() - before
    tx.close()
    rx.close()
