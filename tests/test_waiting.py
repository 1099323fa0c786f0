"""Waiting: who wakes whom, Ctrl-C, close() from another thread, the GIL, time-outs, idle processors."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import psyne
from psyne import _native

from .helpers.layouts import Number
from .helpers.process import Child, cpu_ticks, sleeping, until

MODES = ["adaptive", "spin", "block"]

# Each wait that there is, in a channel with a full sender `full` and a receiver `rx` without messages.
SET_UP = """
full = psyne.sender('ipc://full', Number, capacity=1, wait=wait); full.send(Number(n=0))
tx = psyne.sender('ipc://empty', Number, capacity=4, wait=wait)
rx = psyne.receiver('ipc://empty', wait=wait)
nowhere = psyne.receiver('ipc://nowhere', wait=wait)
"""
WAITS = {
    "receive": "rx.receive()",
    "receive with a time-out": "rx.receive(timeout=3600)",
    "receive_many": "rx.receive_many(5)",
    "iteration": "next(iter(rx))",
    "loan": "full.loan()",
    "loan_many": "full.loan_many(1)",
    "send": "full.send(Number(n=1))",
    "send_many": "full.send_many(np.zeros(3, Number.__layout__.dtype))",
    "drain": "full.drain()",
    "receive without a channel": "nowhere.receive()",
    "linger": "tx.send(Number(n=7)); rx.receive_many(5, linger=3600)",
}
SLEEPS_ALWAYS = {"receive without a channel"}


class Waiter(threading.Thread):
    """A thread in one call; keeps what came of it."""

    def __init__(self, call: Callable[[], Any]) -> None:
        super().__init__()
        self.call, self.outcome = call, None
        self.start()

    def run(self) -> None:
        try:
            self.outcome = self.call()
        except Exception as error:
            self.outcome = error

    def until_it_waits(self, spins: bool) -> None:
        pid, thread = threading.main_thread().native_id, until(lambda: self.native_id)
        if spins:
            start = cpu_ticks(pid, thread)
            until(lambda: cpu_ticks(pid, thread) >= start + 2, "spinning")
        else:
            until(lambda: sleeping(pid, thread), "sleeping")


# ---- Ctrl-C --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wait", MODES)
def test_ctrl_c_interrupts_every_wait_and_nothing_is_lost(wait: str):
    with Child() as child:
        child.run(SET_UP, wait=wait)
        for name, call in WAITS.items():
            child.begin_waiting(call, spins=wait == "spin" and name not in SLEEPS_ALWAYS)
            child.interrupt()
            with pytest.raises(KeyboardInterrupt):
                child.result()
        # The message that lingered was never seen by its caller: it comes again, and not as the dead man's.
        assert child.run("m = rx.receive(); (m.n, m.info.redelivered)") == (7, False)
        assert child.run("m.release(); tx.send(Number(n=8)); m = rx.receive(); m.n") == 8
        assert child.run("other = psyne.receiver('ipc://full'); other.receive().n") == 0
        assert child.run("full.send(Number(n=1), timeout=0); other.receive().n") == 1


def test_a_signal_handler_that_returns_lets_the_wait_go_on(tmp_path: Path):
    seen = tmp_path / "seen"
    with psyne.sender("ipc://numbers", Number) as tx, Child() as child:
        child.run("import signal; signal.signal(signal.SIGINT, lambda *_: open(path, 'w').close())", path=str(seen))
        child.run("rx = psyne.receiver('ipc://numbers')")
        child.begin_waiting("rx.receive().n")
        child.interrupt()
        until(seen.exists, "the handler")
        assert not child.answered()
        tx.send(Number(n=3))
        assert child.result() == 3


# ---- close() from another thread, and the GIL ----------------------------------------------------------------------


@pytest.mark.parametrize("wait", MODES)
@pytest.mark.parametrize("name", WAITS)
def test_close_from_another_thread_ends_every_wait(wait: Any, name: str):
    space: dict[str, Any] = {"psyne": psyne, "np": np, "Number": Number, "wait": wait}
    exec(SET_UP, space)
    ends = [space[end] for end in ("rx", "nowhere", "full", "tx")]  # a closed sender would end the receiver's channel
    setup, _, call = WAITS[name].rpartition("; ")
    exec(setup, space)
    waiter = Waiter(lambda: eval(call, space))
    # Only a thread that runs while the other waits gets here: waits let the GIL go.
    waiter.until_it_waits(spins=wait == "spin" and name not in SLEEPS_ALWAYS)
    space[next(end for end in ("full", "rx", "nowhere") if f"{end}." in call or f"({end})" in call)].close()
    waiter.join()
    for end in ends:
        end.close()
    if name == "iteration":
        assert isinstance(waiter.outcome, StopIteration)
    elif name == "linger":
        assert isinstance(waiter.outcome, (psyne.ChannelClosed, _native.Batch))
    else:
        assert isinstance(waiter.outcome, psyne.ChannelClosed), waiter.outcome


@pytest.mark.parametrize("wait", MODES)
def test_a_wait_lets_other_threads_of_its_process_run(wait: Any):
    with psyne.sender("ipc://numbers", Number, wait=wait) as tx, psyne.receiver("ipc://numbers", wait=wait) as rx:
        waiter = Waiter(lambda: [rx.receive().n for _ in range(100)])
        waiter.until_it_waits(spins=wait == "spin")
        for n in range(100):
            tx.send(Number(n=n))
        waiter.join()
        assert waiter.outcome == list(range(100))


def test_close_twice_and_from_many_threads_is_one_close():
    with psyne.sender("ipc://numbers", Number) as tx, psyne.receiver("ipc://numbers") as rx:
        waiter = Waiter(rx.receive)
        waiter.until_it_waits(spins=False)
        closers = [Waiter(rx.close) for _ in range(8)]
        for thread in [*closers, waiter]:
            thread.join()
        assert isinstance(waiter.outcome, psyne.ChannelClosed)
        assert {closer.outcome for closer in closers} == {None}
        tx.send(Number(n=1))


# ---- time-outs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wait", MODES)
def test_a_timeout_is_waited_out_in_full(wait: Any):
    with (
        psyne.sender("ipc://numbers", Number, capacity=1, wait=wait) as tx,
        psyne.receiver("ipc://numbers", wait=wait) as rx,
    ):
        start = time.monotonic()
        with pytest.raises(psyne.Empty):
            rx.receive(timeout=0.15)
        assert time.monotonic() - start >= 0.15
        tx.send(Number(n=1))
        for call in (tx.loan, tx.drain):
            start = time.monotonic()
            with pytest.raises(psyne.Full):
                call(timeout=0.15)
            assert time.monotonic() - start >= 0.15


# ---- wake-ups ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wait", MODES)
def test_two_processes_play_ping_pong_and_no_wake_is_late(wait: str):
    with Child() as a, Child() as b:
        a.run("ping = psyne.sender('ipc://ping', Number, wait=wait)", wait=wait)
        b.run("ping = psyne.receiver('ipc://ping', wait=wait)", wait=wait)
        b.run("pong = psyne.sender('ipc://pong', Number, wait=wait)")
        a.run("pong = psyne.receiver('ipc://pong', wait=wait)")
        b.begin("for m in ping: pong.send(m)")
        a.begin("for n in range(2000):\n ping.send(Number(n=n))\n with pong.receive() as m: assert m.n == n")
        a.result()
        assert a.run("psyne._native.counters(ping)['late_wakes'], psyne._native.counters(pong)['late_wakes']") == (0, 0)
        a.run("ping.close()")
        b.result()


def test_each_message_wakes_one_more_of_the_sleeping_members():
    with psyne.sender("ipc://jobs", Number, pattern="mpmc") as tx, Child() as a, Child() as b, Child() as c:
        members = [a, b, c]
        for member in members:
            member.run("rx = psyne.receiver('ipc://jobs')")
            member.begin_waiting("m = rx.receive(); m.n")  # keeps it: the next one is another's
        for n in range(3):
            tx.send(Number(n=n))
        assert sorted(member.result() for member in members) == [0, 1, 2]


def test_a_batch_wakes_as_many_members_as_it_needs():
    with psyne.sender("ipc://jobs", Number, pattern="mpmc") as tx, Child() as a, Child() as b, Child() as c:
        members = [a, b, c]
        for member in members:
            member.run("rx = psyne.receiver('ipc://jobs')")
            member.begin_waiting("m = rx.receive(); m.n")
        with tx.loan_many(3) as batch:
            batch["n"] = [0, 1, 2]
        assert sorted(member.result() for member in members) == [0, 1, 2]
        assert _native.counters(tx)["late_wakes"] == 0  # type: ignore[index]


def test_the_hand_over_between_stages_wakes_the_next_stage():
    with psyne.sender("ipc://chain", Number, stages=["first", "second"]) as tx, Child() as first, Child() as second:
        first.run("rx = psyne.receiver('ipc://chain', stage='first', wait='block')")
        second.run("rx = psyne.receiver('ipc://chain', stage='second', wait='block')")
        for n in range(50):
            first.begin_waiting("m = rx.receive(); m.n")
            second.begin_waiting("m = rx.receive(); m.n")
            tx.send(Number(n=n))
            assert first.result() == n
            assert not second.answered()
            first.run("m.release()")
            assert second.result() == n
            second.run("m.release()")
        assert _native.counters(tx)["late_wakes"] == 0  # type: ignore[index]


@pytest.mark.parametrize("keeps_it", [False, True])
def test_every_waiting_member_hears_of_the_end_when_nothing_can_come_back(keeps_it: bool):
    with psyne.sender("ipc://jobs", Number, pattern="mpmc") as tx, Child() as a, Child() as b:
        for member in (a, b):
            member.run("rx = psyne.receiver('ipc://jobs')")
            member.begin_waiting("m = rx.receive()")
        tx.send(Number(n=1))
        until(lambda: a.answered() or b.answered())
        busy, idle = (a, b) if a.answered() else (b, a)
        busy.result()
        tx.close()
        idle.interrupt()
        with pytest.raises(KeyboardInterrupt):  # it has not ended: what the busy one holds would come back if it died
            idle.result()
        with pytest.raises(psyne.Empty):
            idle.run("rx.receive(timeout=0.05)")
        idle.begin_waiting("rx.receive()")
        busy.begin("rx.receive()" if keeps_it else "m.release(); rx.receive()")
        for member in (busy, idle):
            with pytest.raises(psyne.EndOfChannel):
                member.result()


@pytest.mark.parametrize("wait", ["adaptive", "block"])
def test_a_receiver_that_waits_uses_hardly_any_processor(wait: str):
    with psyne.sender("ipc://numbers", Number), Child() as child:
        child.run("import time; rx = psyne.receiver('ipc://numbers', wait=wait)", wait=wait)
        used = """
start = time.thread_time()
try: rx.receive(timeout=2)
except psyne.Empty: pass
time.thread_time() - start"""
        assert child.run(used) <= 0.005 * 2
