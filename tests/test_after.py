"""``send(m, after=event)``: a loan is over at once, and sent when work of a device is done."""

import asyncio
import gc
import logging
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future
from typing import Any, ClassVar

import numpy as np
import pytest

import psyne
from psyne import Bytes, Stage, aio
from psyne.after import LINGER

from .helpers.layouts import Line, Number, Record, broken_lines, line_of
from .helpers.process import Child, until


class Work(Future[Any]):
    """Work of a device that the test does. What it has not done at its end nobody waits for any more."""

    begun: ClassVar[list["Work"]] = []

    def __init__(self) -> None:
        super().__init__()
        self.begun.append(self)


def loan_of(tx: Any, n: int) -> Any:
    m = tx.loan(timeout=30)
    m.n = n
    return m


def send_after(tx: Any, n: int) -> Work:
    """Sends a number when the future that comes back is done."""
    work = Work()
    assert tx.send(loan_of(tx, n), after=work) is True
    return work


def received(rx: Any, count: int) -> list[int]:
    found = []
    for _ in range(count):
        with rx.receive(timeout=30) as m:
            found.append(m.n)
    return found


class Gate:
    """An event of a device, as psyne.devices has them."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self.failed: Exception | None = None
        self.waited: list[str] = []

    def open(self) -> None:
        self._event.set()

    def done(self) -> bool:
        return self._event.is_set()

    def wait(self, timeout: float | None = None) -> bool:
        self.waited.append(threading.current_thread().name)
        done = self._event.wait(timeout)
        if self.failed is not None:
            raise self.failed
        return done


def after_threads() -> list[threading.Thread]:
    return [it for it in threading.enumerate() if it.name == "psyne-after"]


@pytest.fixture(autouse=True)
def no_threads() -> Iterator[None]:
    """Those of the test before linger."""
    until(lambda: not after_threads(), "the threads of the test before")
    yield
    while Work.begun:
        if not (work := Work.begun.pop()).done():
            work.cancel()


# ---- it is sent, later ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["ipc", "memory"])
def test_a_message_comes_when_its_event_is_done_and_not_before(scheme: str):
    with psyne.sender(f"{scheme}://n", Number) as tx, psyne.receiver(f"{scheme}://n", Number) as rx:
        work = send_after(tx, 7)
        assert rx.try_receive() is None
        work.set_result(None)
        assert received(rx, 1) == [7]


def test_an_event_of_a_device_is_waited_for_by_another_thread():
    with psyne.sender("ipc://n", Number) as tx, psyne.receiver("ipc://n", Number) as rx:
        gate = Gate()
        tx.send(loan_of(tx, 7), after=gate)
        assert rx.try_receive() is None
        gate.open()
        assert received(rx, 1) == [7]
        assert gate.waited == ["psyne-after"]


def test_what_is_done_already_is_sent_at_once():
    with psyne.sender("ipc://n", Number) as tx, psyne.receiver("ipc://n", Number) as rx:
        work = Work()
        work.set_result(3)
        assert tx.send(loan_of(tx, 7), after=work)
        m = rx.try_receive()
        assert m is not None
        assert m.n == 7
        assert after_threads() == []


def test_the_loan_is_over_for_python_at_once():
    with psyne.sender("ipc://lines", Line) as tx, psyne.receiver("ipc://lines", Line) as rx:
        work = Work()
        with tx.loan() as m:
            array = m.array
            tx.send(m, after=work)
            assert not array.flags.writeable
            with pytest.raises(psyne.MessageReleased):
                m.array  # noqa: B018
        del m
        work.set_result(None)
        rx.receive(timeout=30).release()
        assert array.flags.owndata is False  # and its slot is kept


def test_what_the_device_writes_until_then_is_in_the_message():
    with psyne.sender("ipc://lines", Line) as tx, psyne.receiver("ipc://lines", Line) as rx, psyne.device("cpu") as cpu:
        for n in range(50):
            work = Work()
            with tx.loan() as m:
                view: Any = cpu.view(m)
                array = np.asarray(view)
                tx.send(m, after=work)

            def kernel(array: Any = array, n: int = n, work: Work = work) -> None:
                array[:] = line_of(1, n)
                work.set_result(None)

            threading.Thread(target=kernel).start()
            with rx.receive(timeout=30) as m:
                assert (m.array == line_of(1, n)).all()
            del view, array, kernel


def test_messages_come_in_the_order_of_the_loans():
    with psyne.sender("ipc://n", Number) as tx, psyne.receiver("ipc://n", Number) as rx:
        first, second = loan_of(tx, 1), loan_of(tx, 2)
        late, early = Gate(), Gate()
        tx.send(second, after=early)  # the one that was lent last is sent first
        tx.send(first, after=late)
        tx.send(Number(n=3))
        late.open()
        assert received(rx, 1) == [1]
        assert rx.try_receive() is None
        early.open()
        assert received(rx, 2) == [2, 3]


def test_one_thread_is_enough_for_messages_in_order_and_it_ends():
    with psyne.sender("ipc://n", Number, capacity=64) as tx, psyne.receiver("ipc://n", Number) as rx:
        works = [send_after(tx, n) for n in range(40)]
        assert len(after_threads()) == 1
        for work in reversed(works):
            work.set_result(None)
        assert received(rx, 40) == list(range(40))
        until(lambda: not after_threads(), "the thread ends")
        send_after(tx, 40).set_result(None)
        assert received(rx, 1) == [40]


def test_a_batch_is_sent_as_far_as_it_was_filled():
    with psyne.sender("ipc://n", Number, capacity=16) as tx, psyne.receiver("ipc://n", Number) as rx:
        work = Work()
        with tx.loan_many(8) as batch:
            batch["n"] = np.arange(8)
            batch.truncate(5)
            tx.send(batch, after=work)
        tx.send(Number(n=9))
        assert rx.try_receive() is None
        work.set_result(None)
        assert received(rx, 6) == [0, 1, 2, 3, 4, 9]
        assert tx.statistics().sent == 6


def test_an_empty_batch_sends_nothing():
    with psyne.sender("ipc://n", Number, capacity=16) as tx, psyne.receiver("ipc://n", Number) as rx:
        work = Work()
        with tx.loan_many(8) as batch:
            batch.truncate(0)
            assert tx.send(batch, after=work) is False
        tx.send(Number(n=9))
        assert received(rx, 1) == [9]


def test_side_columns_are_those_of_the_message():
    with (
        psyne.sender("ipc://several", Number, Record, timestamps=True) as tx,
        psyne.receiver("ipc://several", Number, Record) as rx,
    ):
        work = Work()
        tx.send(tx.loan(Record), after=work)
        tx.send(Number(n=1))
        work.set_result(None)
        with rx.receive(timeout=30) as m:
            assert isinstance(m, Record)
            assert m.info.timestamp is not None
        with rx.receive() as m:
            assert isinstance(m, Number)


def test_what_was_dropped_is_told_once_though_a_loan_failed():
    with (
        psyne.sender("ipc://n", Number, capacity=2, full="drop") as tx,
        psyne.receiver("ipc://n", Number) as rx,
    ):
        while tx.send(Number(n=0)):
            pass  # until one was dropped
        capacity = tx.capacity
        received(rx, capacity)
        work = send_after(tx, 5)
        work.set_exception(ValueError("the kernel"))
        until(lambda: not tx._events.left(), "the failure")
        with pytest.raises(psyne.EventFailed):
            tx.send(Number(n=6))
        tx.send(Number(n=6))
        with rx.receive(timeout=30) as m:
            assert (m.n, m.info.missed) == (6, 1)


def test_a_dropped_loan_waits_for_nothing():
    with psyne.sender("ipc://n", Number, capacity=2, full="drop") as tx, psyne.receiver("ipc://n", Number):
        while tx.send(Number(n=0)):
            pass
        work = Work()
        assert tx.send(tx.loan(), after=work) is False


def test_receivers_that_sleep_are_woken():
    with Child() as child, psyne.sender("ipc://n", Number) as tx:
        child.run("rx = psyne.receiver('ipc://n', Number)")
        for n in range(5):
            work = send_after(tx, n)
            child.begin_waiting("m = rx.receive(); it = m.n; m.release(); it")
            work.set_result(None)
            assert child.result() == n
        assert tx.statistics().late_wakes == 0
        child.run("rx.close()")


def test_a_sender_that_nobody_holds_back_waits_for_its_own_loans():
    with psyne.sender("ipc://n", Number, capacity=2, stages=[]) as tx:
        works = [send_after(tx, n) for n in range(tx.capacity)]
        assert tx.try_loan() is None
        with pytest.raises(psyne.Full, match="messages wait for their events"):
            tx.loan(timeout=0)
        got: list[Any] = []
        waiting = threading.Thread(target=lambda: got.append(tx.loan(timeout=60)))
        waiting.start()
        works[0].set_result(None)
        waiting.join()
        got.pop().discard()
        for work in works[1:]:
            work.set_result(None)


# ---- growth ---------------------------------------------------------------------------------------------------------


def test_a_ring_grows_over_loans_that_wait_and_none_is_lost():
    with (
        psyne.sender("ipc://n", Number, capacity=2, full="grow", budget=1 << 24) as tx,
        psyne.receiver("ipc://n", Number) as rx,
    ):
        works = [send_after(tx, n) for n in range(100)]
        assert tx.statistics().grown > 0
        for work in works[::2] + works[1::2]:
            work.set_result(None)
        assert received(rx, 100) == list(range(100))
        tx.drain(timeout=30)


def test_a_long_message_beside_its_slot_waits_and_fails_like_others():
    with (
        psyne.sender("ipc://blobs", Bytes(max_bytes=1 << 22), capacity=4, full="grow", budget=1 << 26) as tx,
        psyne.receiver("ipc://blobs") as rx,
    ):
        works: list[Work] = []
        for n in range(8):
            works.append(Work())
            with tx.loan(size=1_000_000, timeout=30) as m:
                m.array[:] = n
                tx.send(m, after=works[-1])
        for n, work in enumerate(works):
            if n % 2:
                work.set_exception(ValueError(n))
            else:
                work.set_result(None)
        for n in range(0, 8, 2):
            with rx.receive(timeout=30) as m:
                assert len(m.array) == 1_000_000
                assert (m.array == n).all()
        with pytest.raises(psyne.EventFailed):
            tx.drain(timeout=30)


# ---- an event that fails --------------------------------------------------------------------------------------------


def test_a_loan_whose_work_failed_is_not_sent_and_the_next_call_says_so():
    with psyne.sender("ipc://n", Number) as tx, psyne.receiver("ipc://n", Number) as rx:
        work = send_after(tx, 1)
        tx.send(Number(n=2))
        work.set_exception(ValueError("the kernel"))
        assert received(rx, 1) == [2]
        until(lambda: not tx._events.left(), "the failure")
        with pytest.raises(psyne.EventFailed, match=r"message 0 of ipc://n was not sent.*ValueError\('the kernel'\)"):
            tx.loan()
        tx.send(Number(n=3))  # once
        assert received(rx, 1) == [3]
        assert tx.statistics().sent == 2


def test_two_that_failed_are_told_together():
    with psyne.sender("ipc://n", Number) as tx, psyne.receiver("ipc://n", Number):
        for work in [send_after(tx, n) for n in range(2)]:
            work.set_exception(ValueError("the kernel"))
        until(lambda: not tx._events.left(), "the failures")
        with pytest.raises(psyne.EventFailed, match=r"message 0 of .*; message 1 of"):
            tx.try_loan()


def test_what_has_failed_already_is_told_by_the_call_itself():
    with psyne.sender("ipc://n", Number) as tx, psyne.receiver("ipc://n", Number) as rx:
        work = Work()
        work.set_exception(ValueError("the kernel"))
        with pytest.raises(psyne.EventFailed) as failed:
            tx.send(loan_of(tx, 1), after=work)
        assert isinstance(failed.value.__cause__, ValueError)
        tx.send(Number(n=2))
        assert received(rx, 1) == [2]


def test_work_that_was_cancelled_has_failed():
    with psyne.sender("ipc://n", Number) as tx, psyne.receiver("ipc://n", Number):
        send_after(tx, 1).cancel()
        with pytest.raises(psyne.EventFailed, match=CancelledError.__name__):
            tx.drain()


def test_close_tells_what_failed_since_the_last_call():
    with psyne.receiver("ipc://n", Number) as rx:
        with pytest.raises(psyne.EventFailed), psyne.sender("ipc://n", Number) as tx:  # noqa: PT012
            assert rx.try_receive() is None
            send_after(tx, 1).set_exception(ValueError("the kernel"))
        assert tx.closed
        with pytest.raises(psyne.EndOfChannel):
            rx.receive()


def test_an_exception_of_the_block_is_not_replaced(caplog: pytest.LogCaptureFixture):
    with psyne.receiver("ipc://n", Number), caplog.at_level(logging.WARNING, "psyne"):
        with pytest.raises(KeyError), psyne.sender("ipc://n", Number) as tx:  # noqa: PT012
            send_after(tx, 1).set_exception(ValueError("the kernel"))
            until(lambda: not tx._events.left(), "the failure")
            raise KeyError
        assert "was not sent" in caplog.text


def test_an_exception_of_the_block_takes_back_what_waits():
    with psyne.receiver("ipc://n", Number) as rx:
        with pytest.raises(KeyError), psyne.sender("ipc://n", Number) as tx:  # noqa: PT012
            assert rx.try_receive() is None
            work = send_after(tx, 1)
            raise KeyError
        with pytest.raises(psyne.SenderLost):
            rx.receive()
        work.set_result(None)


# ---- the end --------------------------------------------------------------------------------------------------------


def test_close_and_drain_wait_for_events():
    with psyne.receiver("ipc://n", Number) as rx:
        tx = psyne.sender("ipc://n", Number)
        assert rx.try_receive() is None
        work = send_after(tx, 1)
        with pytest.raises(psyne.Full, match="1 of its loans wait for their events"):
            tx.drain(timeout=0.01)
        closing = threading.Thread(target=tx.close)
        closing.start()
        until(lambda: work.running() or closing.is_alive(), "closing")
        assert not tx.closed
        work.set_result(None)
        closing.join()
        assert tx.closed
        assert received(rx, 1) == [1]
        with pytest.raises(psyne.EndOfChannel):
            rx.receive()


def test_drain_waits_for_the_event_and_then_for_the_stages():
    with psyne.sender("ipc://n", Number) as tx, psyne.receiver("ipc://n", Number) as rx:
        work = send_after(tx, 1)
        draining = threading.Thread(target=tx.drain)
        draining.start()
        work.set_result(None)
        assert received(rx, 1) == [1]
        draining.join()


def test_a_sender_that_is_dropped_sends_what_waits():
    with psyne.receiver("ipc://n", Number) as rx:
        tx = psyne.sender("ipc://n", Number)
        work = send_after(tx, 1)
        del tx
        gc.collect()
        assert rx.try_receive() is None
        work.set_result(None)
        assert received(rx, 1) == [1]


def test_ctrl_c_ends_the_wait_of_close_and_takes_the_loan_back():
    with Child() as child, psyne.receiver("ipc://n", Number) as rx:
        child.run(
            "from concurrent.futures import Future\n"
            "tx = psyne.sender('ipc://n', Number); tx.send(Number(n=1)); m = tx.loan(); work = Future()\n"
            "tx.send(m, after=work)"
        )
        assert received(rx, 1) == [1]
        child.begin_waiting("tx.close()")
        child.interrupt()
        with pytest.raises(KeyboardInterrupt):
            child.result()
        assert child.run("tx.closed")
        with pytest.raises(psyne.EndOfChannel):
            rx.receive(timeout=30)
        child.run("work.set_result(None)")
        assert child.finish() == 0


def test_a_program_that_ends_sends_what_waits_first():
    with Child() as child, psyne.receiver("ipc://n", Number) as rx:
        child.run(
            "from concurrent.futures import Future\n"
            "tx = psyne.sender('ipc://n', Number); m = tx.loan(); m.n = 7; work = Future()\n"
            "tx.send(m, after=work)"
        )
        assert rx.try_receive() is None
        child.run("threading.Thread(target=lambda: (threading.main_thread().join(), work.set_result(None))).start()")
        assert child.finish() == 0
        assert received(rx, 1) == [7]
        with pytest.raises(psyne.EndOfChannel):
            rx.receive(timeout=30)


def test_a_process_that_is_killed_before_the_event_leaves_a_hole():
    with Child() as child, psyne.receiver("ipc://n", Number) as rx:
        child.run(
            "from concurrent.futures import Future\n"
            "tx = psyne.sender('ipc://n', Number, capacity=8)\n"
            "tx.send(Number(n=0))\n"
            "m = tx.loan(); m.n = 1; tx.send(m, after=Future())\n"
            "tx.send(Number(n=2))\n"
            "m = tx.loan(); m.n = 3; tx.send(m, after=Future())"
        )
        assert received(rx, 1) == [0]
        assert rx.try_receive() is None
        child.kill()
        assert received(rx, 1) == [2]
        with pytest.raises(psyne.SenderLost):
            rx.receive(timeout=30)


def test_a_kill_at_any_time_loses_only_what_was_not_sent():
    """Numbers are sent by events of threads, in a ring that grows; what comes is in order and whole."""
    for round_ in range(3):
        with Child() as child, psyne.receiver(f"ipc://lines{round_}", Line) as rx:
            child.begin(
                "from concurrent.futures import ThreadPoolExecutor\n"
                "from layouts import line_of\n"
                "import random\n"
                "pool = ThreadPoolExecutor(4)\n"
                "def work(array, n):\n"
                " array[:] = line_of(1, n)\n"
                "cpu = psyne.device('cpu')\n"
                f"tx = psyne.sender('ipc://lines{round_}', psyne.Array('u8', 8), capacity=8, full='grow')\n"
                "n = 0\n"
                "while True:\n"
                " m = tx.loan(); array = np.asarray(cpu.view(m))\n"
                " tx.send(m, after=pool.submit(work, array, n)); n += 1; del array\n"
            )
            child.begun()
            last = -1
            for _ in range(300 * (round_ + 1)):
                with rx.receive(timeout=60) as m:
                    line = np.array(m.array)
                assert not broken_lines(line[None])
                assert line[1] == last + 1
                last = int(line[1])
            child.kill()
            try:
                while True:
                    with rx.receive(timeout=60) as m:
                        line = np.array(m.array)
                    assert not broken_lines(line[None])
                    assert line[1] > last
                    last = int(line[1])
            except psyne.SenderLost:
                pass


def test_a_forked_child_waits_for_no_event_of_its_parent():
    with Child() as child, psyne.receiver("ipc://n", Number) as rx:
        assert (
            child.run(
                "from concurrent.futures import Future\n"
                "work = Future()\n"
                "tx = psyne.sender('ipc://n', Number); m = tx.loan(); m.n = 1; tx.send(m, after=work)\n"
                "def close():\n"
                " work.set_result(None); tx.close(); return tx._events.left()\n"
                "forked(close)"
            )
            == 0
        )
        assert rx.try_receive() is None
        child.run("work.set_result(None); tx.close()")
        assert received(rx, 1) == [1]


# ---- what is refused ------------------------------------------------------------------------------------------------


def test_only_ones_own_open_loan_is_sent_after_an_event():
    with psyne.sender("ipc://n", Number) as tx, psyne.receiver("ipc://n", Number) as rx:
        work = Work()
        with pytest.raises(TypeError, match="after= is for a loan of this end"):
            tx.send(Number(n=1), after=work)
        m = tx.loan()
        for event in (3, object(), threading.Event()):
            with pytest.raises(TypeError, match="after= is an event, which has done"):
                tx.send(m, after=event)  # type: ignore[arg-type]
        tx.send(m)  # it is still open
        with pytest.raises(TypeError, match="that is open"):
            tx.send(m, after=work)
        with rx.receive() as got, pytest.raises(TypeError, match="after= is for a loan"):
            tx.send(got, after=work)


def test_a_closed_end_sends_nothing_after_an_event():
    tx = psyne.sender("ipc://n", Number)
    m = tx.loan()
    tx.close()
    with pytest.raises(psyne.ChannelClosed):
        tx.send(m, after=Work())


# ---- event loops ----------------------------------------------------------------------------------------------------


def test_a_task_sends_after_an_event_and_goes_on():
    async def main() -> list[int]:
        async with aio.receiver("ipc://n", Number) as rx:
            async with aio.sender("ipc://n", Number) as tx:
                work = Work()
                m = await tx.loan()
                m.n = 1
                assert await tx.send(m, after=work)
                assert rx.try_receive() is None
                asyncio.get_running_loop().call_later(0.05, work.set_result, None)
            return [m.n async for m in rx]

    assert asyncio.run(main()) == [1]


def test_a_task_that_drains_waits_for_events_while_others_run():
    async def main() -> None:
        async with aio.receiver("ipc://n", Number) as rx, aio.sender("ipc://n", Number) as tx:
            work = Work()
            m = await tx.loan()
            await tx.send(m, after=work)
            draining = asyncio.create_task(tx.drain())
            await asyncio.sleep(0)
            assert not draining.done()
            work.set_result(None)
            (await rx.receive()).release()
            await draining
            m = await tx.loan()
            await tx.send(m, after=(failing := Work()))
            failing.set_exception(ValueError("the kernel"))
            with pytest.raises(psyne.EventFailed):
                await tx.drain()

    asyncio.run(main())


def test_a_task_that_closes_waits_for_nobody_and_takes_the_loan_back():
    async def main() -> None:
        async with aio.receiver("ipc://n", Number) as rx:
            tx = aio.sender("ipc://n", Number)
            assert rx.try_receive() is None
            await tx.send(await tx.loan(), after=(work := Work()))
            tx.close()
            with pytest.raises(psyne.EndOfChannel):
                await rx.receive()
            work.set_result(None)

    asyncio.run(main())


def test_mutating_stages_and_calls_go_on_beside_it():
    with (
        psyne.sender("ipc://n", Record, stages=[Stage("change", mutate=True)]) as tx,
        psyne.receiver("ipc://n", Record) as rx,
    ):
        work = Work()
        m = tx.loan()
        m.n = 1
        tx.send(m, after=work)
        work.set_result(None)

        def change() -> None:
            for _ in range(2):
                with rx.receive(timeout=60) as m:
                    m.seen = m.n + 1

        thread = threading.Thread(target=change)
        thread.start()
        with tx.call(Record(n=5)) as done:
            assert done.seen == 6
        thread.join()
    assert LINGER < 1
