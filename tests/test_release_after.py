"""``m.release(after=event)``: a received message is over at once, and goes on when work of a device is done."""

import asyncio
import gc
import logging
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any, ClassVar

import numpy as np
import pytest

import psyne
from psyne import Stage, aio

from .helpers.layouts import Line, Number, Record, broken_lines, line_of
from .helpers.process import Child, until


class Work(Future[Any]):
    """Work of a device that the test does. What it has not done at its end nobody waits for any more."""

    begun: ClassVar[list["Work"]] = []

    def __init__(self) -> None:
        super().__init__()
        self.begun.append(self)


@pytest.fixture(autouse=True)
def no_work_is_left() -> Iterator[None]:
    yield
    while Work.begun:
        if not (work := Work.begun.pop()).done():
            work.cancel()


@contextmanager
def chain(
    *, type: Any = Record, on_crash: Any = "skip", members: int = 1, capacity: int = 4, scheme: str = "ipc"
) -> Iterator[tuple[Any, ...]]:
    """A sender, the members of a stage that mutates, and a reading stage behind it."""
    address = f"{scheme}://chain"
    stages = [Stage("change", mutate=True, on_crash=on_crash), "look"]
    pattern: Any = "spmc" if members > 1 else "spsc"
    with ExitStack() as stack:
        tx = stack.enter_context(psyne.sender(address, type, capacity=capacity, stages=stages, pattern=pattern))
        change = [stack.enter_context(psyne.receiver(address, type, stage="change")) for _ in range(members)]
        look = stack.enter_context(psyne.receiver(address, type, stage="look"))
        yield tx, *change, look


def release_after(rx: Any, **changes: int) -> Work:
    """Releases the next message when the future that comes back is done."""
    work = Work()
    with rx.receive(timeout=30) as m:
        for name, value in changes.items():
            setattr(m, name, value)
        m.release(after=work)
    return work


# ---- it goes on, later ----------------------------------------------------------------------------------------------


def test_a_message_whose_views_live_goes_on_to_readers_at_the_end_of_its_block():
    """Why there is after=: by itself a view, such as that of a running kernel, holds up nobody who only reads."""
    with chain() as (tx, change, look):
        tx.send(Record(n=1))
        with change.receive() as m:
            view = m.body
        assert look.try_receive() is not None
        del view


@pytest.mark.parametrize("scheme", ["ipc", "memory"])
def test_the_next_stage_gets_it_when_the_event_is_done_and_not_before(scheme: str):
    with chain(scheme=scheme) as (tx, change, look):
        tx.send(Record(n=1))
        work = release_after(change, seen=5)
        assert look.try_receive() is None
        work.set_result(None)
        with look.receive(timeout=30) as m:
            assert (m.n, m.seen) == (1, 5)


def test_what_the_device_writes_until_then_is_in_the_message():
    with chain(type=Line) as (tx, change, look), psyne.device("cpu") as cpu:
        for n in range(50):
            tx.send(line_of(1, 0))
            work = Work()
            with change.receive() as m:
                array = np.asarray(cpu.view(m))  # type: ignore[call-overload]
                m.release(after=work)

            def kernel(array: Any = array, n: int = n, work: Work = work) -> None:
                array[:] = line_of(2, n)
                work.set_result(None)

            threading.Thread(target=kernel).start()
            with look.receive(timeout=30) as m:
                assert (m.array == line_of(2, n)).all()
            del array, kernel


def test_the_message_is_over_for_python_at_once():
    with chain() as (tx, change, look), psyne.device("cpu") as cpu:
        tx.send(Record(n=1))
        with change.receive() as m:
            body, view = m.body, cpu.view(m.body)
            part = body[:4]  # numpy does not know of it
            m.release(after=(work := Work()))
            assert not body.flags.writeable
            assert not view.writable
            with pytest.raises(psyne.ReadOnly):
                cpu.view(part, writable=True)
            with pytest.raises(psyne.MessageReleased):
                m.n  # noqa: B018
            m.release()  # the end of the block does as little
            m.release(after=work)
        work.set_result(None)
        look.receive(timeout=30).release()


def test_views_that_still_live_then_hold_up_the_sender_and_no_reader():
    with chain(capacity=1) as (tx, change, look):
        tx.send(Record(n=1))
        with change.receive() as m:
            body = m.body
            m.release(after=(work := Work()))
        assert look.try_receive() is None
        work.set_result(None)
        look.receive(timeout=30).release()
        assert tx.try_loan() is None
        assert body[0] == 0
        del body
        tx.loan(timeout=30).discard()


def test_a_stage_that_only_reads_holds_up_no_reader_but_keeps_the_slot():
    with (
        psyne.sender("ipc://n", Number, capacity=1, stages=["infer", "draw"]) as tx,
        psyne.receiver("ipc://n", Number, stage="infer") as infer,
        psyne.receiver("ipc://n", Number, stage="draw") as draw,
    ):
        tx.send(Number(n=1))
        work = release_after(infer)
        draw.receive(timeout=0).release()
        assert tx.try_loan() is None
        work.set_result(None)
        tx.loan(timeout=30).discard()


def test_what_is_done_already_goes_on_at_once():
    with chain() as (tx, change, look):
        tx.send(Record(n=1))
        (work := Work()).set_result(None)
        change.receive().release(after=work)
        assert look.try_receive() is not None


def test_a_batch_goes_on_as_a_whole():
    with chain(capacity=8) as (tx, change, look):
        for n in range(5):
            tx.send(Record(n=n))
        with change.receive_many(8) as batch:
            batch["seen"] = batch["n"] + 1
            batch.release(after=(work := Work()))
            assert len(batch) == 5
        assert look.try_receive() is None
        work.set_result(None)
        seen = []
        for _ in range(5):
            with look.receive(timeout=30) as m:
                seen.append(m.seen)
        assert seen == [1, 2, 3, 4, 5]


def test_a_loop_goes_on_while_the_device_works():
    works = []
    with chain(capacity=8) as (tx, change, look):
        for n in range(8):
            tx.send(Record(n=n))
        for m in change:
            works.append(Work())
            m.release(after=works[-1])
            if len(works) == 8:
                break
        for work in reversed(works):
            assert look.try_receive() is None  # they go on in their order
            work.set_result(None)
        for n in range(8):
            with look.receive(timeout=30) as m:
                assert m.n == n


def test_readers_that_sleep_are_woken():
    with Child() as child, chain() as (tx, change, look):
        look.close()
        child.run("rx = psyne.receiver('ipc://chain', stage='look')")
        for n in range(5):
            tx.send(Record(n=n))
            work = release_after(change, seen=n)
            child.begin_waiting("m = rx.receive(); it = m.seen; m.release(); it")
            work.set_result(None)
            assert child.result() == n
        assert child.run("rx.statistics().late_wakes") == 0
        child.run("rx.close()")


def test_a_sender_that_waits_for_the_slot_is_woken():
    with Child() as child, psyne.receiver("ipc://n", Number) as rx:
        child.run("tx = psyne.sender('ipc://n', Number, capacity=1); tx.send(Number(n=1))")
        work = release_after(rx)
        child.begin_waiting("tx.send(Number(n=2))")
        work.set_result(None)
        assert child.result()
        rx.receive(timeout=30).release()
        child.run("tx.close()")


def test_who_released_every_slot_waits_for_the_next_message():
    """It holds all of the ring, but not for ever: no LeaseLimit."""
    with (
        psyne.sender("ipc://n", Number, capacity=2, stages=[Stage("change", mutate=True)]) as tx,
        psyne.receiver("ipc://n", Number) as rx,
    ):
        for n in range(tx.capacity):
            tx.send(Number(n=n))
        works = [release_after(rx) for _ in range(tx.capacity)]
        assert rx.try_receive() is None
        with pytest.raises(psyne.Empty):
            rx.receive(timeout=0)
        got: list[Any] = []
        receiving = threading.Thread(target=lambda: got.append(rx.receive(timeout=60).n))
        receiving.start()
        works[0].set_result(None)
        tx.send(Number(n=9), timeout=60)
        receiving.join()
        assert got == [9]
        works[1].set_result(None)


# ---- an event that fails --------------------------------------------------------------------------------------------


def test_a_message_whose_work_failed_is_taken_out_and_the_next_call_says_so():
    with chain() as (tx, change, look):
        tx.send(Record(n=1))
        tx.send(Record(n=2))
        release_after(change, seen=1).set_exception(ValueError("the kernel"))
        until(lambda: not change._events.left(), "the failure")
        with pytest.raises(
            psyne.EventFailed, match=r"message 0 of ipc://chain .* failed \(ValueError\('the kernel'\)\)"
        ):
            change.receive(timeout=0)
        change.receive(timeout=0).release()  # once
        with look.receive(timeout=30) as m:
            assert m.n == 2  # the other one was half changed
        assert look.try_receive() is None


def test_a_stage_that_redelivers_gets_it_again():
    with chain(on_crash="redeliver") as (tx, change, look):
        tx.send(Record(n=1))
        release_after(change, seen=1).set_exception(ValueError("the kernel"))
        until(lambda: not change._events.left(), "the failure")
        with pytest.raises(psyne.EventFailed):
            change.try_receive()
        assert look.try_receive() is None
        with change.receive(timeout=30) as m:
            assert (m.n, m.info.redelivered) == (1, True)
        with look.receive(timeout=30) as m:
            assert m.n == 1


def test_a_message_on_which_work_fails_three_times_is_taken_out():
    with chain(on_crash="redeliver") as (tx, change, look):
        tx.send(Record(n=1))
        tx.send(Record(n=2))
        for _ in range(3):
            release_after(change).set_exception(ValueError("the kernel"))
            until(lambda: not change._events.left(), "the failure")
            with pytest.raises(psyne.EventFailed):
                change.try_receive()
        with change.receive(timeout=30) as m:
            assert m.n == 2
        with look.receive(timeout=30) as m:
            assert m.n == 2


def test_views_that_live_when_it_failed_keep_their_bytes():
    with chain(capacity=1) as (tx, change, look):
        tx.send(Record(n=1))
        with change.receive() as m:
            m.body[:] = 7
            body = m.body
            m.release(after=(work := Work()))
        work.set_exception(ValueError("the kernel"))
        until(lambda: not change._events.left(), "the failure")
        assert look.try_receive() is None  # it passes over what was taken out
        assert tx.try_loan() is None
        assert (body == 7).all()
        del body
        assert look.try_receive() is None
        tx.send(Record(n=2), timeout=30)
        with pytest.raises(psyne.EventFailed):
            change.try_receive()
        change.receive(timeout=30).release()
        with look.receive(timeout=30) as m:
            assert m.n == 2


def test_who_waits_for_the_next_message_is_told_of_the_failure():
    with Child() as child, psyne.sender("ipc://chain", Record, stages=[Stage("change", mutate=True)]) as tx:
        child.run(
            "from concurrent.futures import Future\n"
            "rx = psyne.receiver('ipc://chain'); rx.try_receive(); work = Future()"
        )
        tx.send(Record(n=1))
        child.run("m = rx.receive(); m.seen = 1; m.release(after=work)")  # so it does not come again
        child.run("threading.Timer(0.2, work.set_exception, [ValueError('the kernel')]).start()")
        child.begin("for m in rx: pass")
        with pytest.raises(psyne.EventFailed, match="the kernel"):
            child.result()
        child.run("rx.close()")


def test_what_has_failed_already_is_told_by_the_call_itself():
    with chain() as (tx, change, look):
        tx.send(Record(n=1))
        (work := Work()).set_exception(ValueError("the kernel"))
        with pytest.raises(psyne.EventFailed) as failed, change.receive() as m:  # noqa: PT012
            m.seen = 1
            m.release(after=work)
        assert isinstance(failed.value.__cause__, ValueError)
        tx.send(Record(n=2))
        change.receive(timeout=0).release()
        assert look.receive(timeout=30).n == 2


def test_close_tells_what_failed_since_the_last_call(caplog: pytest.LogCaptureFixture):
    with psyne.sender("ipc://n", Number, capacity=8, stages=[Stage("change", mutate=True)], pattern="mpmc") as tx:
        for n in range(2):
            tx.send(Number(n=n))
        with pytest.raises(psyne.EventFailed), psyne.receiver("ipc://n", Number) as rx:
            release_after(rx).set_exception(ValueError("the kernel"))
        assert rx.closed
        with caplog.at_level(logging.WARNING, "psyne"), pytest.raises(KeyError), psyne.receiver("ipc://n") as rx:  # noqa: PT012
            release_after(rx).set_exception(ValueError("the kernel"))
            events: Any = rx._events
            until(lambda: not events.left(), "the failure")
            raise KeyError  # is not replaced
        assert "was to be released after failed" in caplog.text


# ---- the end --------------------------------------------------------------------------------------------------------


def test_close_waits_for_events():
    with chain() as (tx, change, look):
        tx.send(Record(n=1))
        work = release_after(change, seen=5)
        closing = threading.Thread(target=change.close)
        closing.start()
        assert look.try_receive() is None
        assert not change.closed
        work.set_result(None)
        closing.join()
        assert change.closed
        assert look.receive(timeout=30).seen == 5


def test_an_exception_of_the_block_waits_for_nothing_and_the_message_goes_on():
    with chain() as (tx, change, look):
        tx.send(Record(n=1))
        work = release_after(change, seen=5)
        with pytest.raises(KeyError), change:
            raise KeyError
        assert change.closed
        assert look.try_receive() is None
        work.set_result(None)
        assert look.receive(timeout=30).seen == 5


def test_the_end_of_the_channel_comes_after_what_the_device_still_works_on():
    with chain() as (tx, change, look):
        tx.send(Record(n=1))
        work = release_after(change, seen=5)
        tx.close()
        with pytest.raises(psyne.EndOfChannel):
            change.receive(timeout=30)
        assert look.try_receive() is None  # not ended yet
        work.set_result(None)
        look.receive(timeout=30).release()
        with pytest.raises(psyne.EndOfChannel):
            look.receive(timeout=30)


def test_a_receiver_that_is_dropped_passes_on_what_waits():
    with (
        psyne.sender("ipc://n", Record, stages=[Stage("change", mutate=True), "look"]) as tx,
        psyne.receiver("ipc://n", Record, stage="look") as look,
    ):
        change = psyne.receiver("ipc://n", Record, stage="change")
        tx.send(Record(n=1))
        work = release_after(change, seen=5)
        del change
        gc.collect()
        assert look.try_receive() is None
        work.set_result(None)
        assert look.receive(timeout=30).seen == 5


def test_a_program_that_ends_waits_for_the_device_first():
    with Child() as child, chain() as (tx, change, look):
        change.close()
        child.run(
            "from concurrent.futures import Future\n"
            "rx = psyne.receiver('ipc://chain', Record, stage='change'); work = Future()"
        )
        tx.send(Record(n=1))
        child.run("m = rx.receive(); m.seen = 5; m.release(after=work)")
        assert look.try_receive() is None
        child.run("threading.Thread(target=lambda: (threading.main_thread().join(), work.set_result(None))).start()")
        assert child.finish() == 0
        assert look.receive(timeout=30).seen == 5


@pytest.mark.parametrize("on_crash", ["skip", "redeliver"])
def test_a_process_that_is_killed_before_the_event_died_on_the_message(on_crash: str):
    with Child() as child, chain(on_crash=on_crash, members=2) as (tx, first, second, look):
        first.close()
        child.run("from concurrent.futures import Future\nrx = psyne.receiver('ipc://chain', Record, stage='change')")
        tx.send(Record(n=1))
        child.run("m = rx.receive(); m.seen = 5; m.release(after=Future())")
        tx.send(Record(n=2))
        child.kill()
        if on_crash == "redeliver":
            with second.receive(timeout=60) as m:
                assert (m.n, m.info.redelivered) == (2, False) or (m.n, m.info.redelivered) == (1, True)
            second.receive(timeout=60).release()
        else:
            assert second.receive(timeout=60).n == 2
        gc.collect()
        assert look.receive(timeout=60).n == (1 if on_crash == "redeliver" else 2)


def test_leave_hands_back_what_is_untouched_and_passes_on_what_waits():
    with chain(members=2) as (tx, first, second, look):
        tx.send(Record(n=1))
        tx.send(Record(n=2))
        work = release_after(first, seen=5)
        m = first.receive()
        leaving = threading.Thread(target=first.leave)
        leaving.start()
        with second.receive(timeout=30) as again:
            assert (again.n, again.info.redelivered) == (2, False)
        work.set_result(None)
        leaving.join()
        assert look.receive(timeout=30).seen == 5
        del m


def test_whole_lines_cross_a_stage_whose_work_threads_do():
    """In rings that grow, with several members, by threads that end in any order."""
    with (
        chain(type=Line, members=2, capacity=16) as (tx, first, second, look),
        psyne.device("cpu") as cpu,
    ):

        def kernel(array: Any) -> None:
            array[:] = line_of(2, int(array[1]))

        with ThreadPoolExecutor(4) as pool:

            def change(rx: Any) -> None:
                for m in rx:
                    m.release(after=pool.submit(kernel, np.asarray(cpu.view(m))))  # type: ignore[call-overload]

            def send() -> None:
                for n in range(2000):
                    tx.send(line_of(1, n))
                tx.close()

            threads = [threading.Thread(target=change, args=[rx]) for rx in (first, second)]
            threads.append(threading.Thread(target=send))
            for thread in threads:
                thread.start()
            for n in range(2000):
                with look.receive(timeout=60) as m:
                    line = np.array(m.array)
                assert not broken_lines(line[None])
                assert (line[0], line[1]) == (2, n)
            for thread in threads:
                thread.join()


# ---- what is refused ------------------------------------------------------------------------------------------------


def test_only_what_a_receiver_got_is_released_after_an_event():
    with chain() as (tx, change, look):
        work = Work()
        with tx.loan() as m:
            with pytest.raises(TypeError, match=r"a loan goes with send\(m, after=event\)"):
                m.release(after=work)
            m.discard()
        with pytest.raises(TypeError, match="messages that a receiver got"):
            Record(n=1).release(after=work)
        tx.send(Record(n=1))
        with change.receive_many(4) as batch:
            with pytest.raises(TypeError, match="a part of a message ends with the whole"):
                batch[0].release(after=work)
            for event in (3, object(), threading.Event()):
                with pytest.raises(TypeError, match="after= is an event, which has done"):
                    batch.release(after=event)  # type: ignore[arg-type]
            with pytest.raises(TypeError, match="no arguments but after="):
                batch.release(work)  # type: ignore[misc]
            with pytest.raises(TypeError, match="unexpected keyword argument 'when'"):
                batch.release(when=work)  # type: ignore[call-arg]
            batch.release(after=None)
        assert look.receive().n == 1


# ---- event loops ----------------------------------------------------------------------------------------------------


def test_a_task_releases_after_an_event_and_goes_on():
    async def main() -> None:
        stages = [Stage("change", mutate=True), "look"]
        async with (
            aio.sender("ipc://chain", Record, stages=stages) as tx,
            aio.receiver("ipc://chain", Record, stage="look") as look,
        ):
            async with aio.receiver("ipc://chain", Record, stage="change") as change:
                await tx.send(Record(n=1))
                m = await change.receive()
                m.seen = 5
                m.release(after=(work := Work()))
                assert look.try_receive() is None
                asyncio.get_running_loop().call_later(0.05, work.set_result, None)
            with await look.receive() as m:
                assert m.seen == 5

    asyncio.run(main())


def test_a_task_that_closes_or_leaves_waits_for_nobody():
    async def main() -> None:
        stages = [Stage("change", mutate=True), "look"]
        async with aio.sender("ipc://chain", Record, stages=stages) as tx:
            look = aio.receiver("ipc://chain", Record, stage="look")
            for end in ("close", "leave"):
                change = aio.receiver("ipc://chain", Record, stage="change")
                await tx.send(Record(n=1))
                m = await change.receive()
                m.release(after=(work := Work()))
                getattr(change, end)()
                assert look.try_receive() is None
                work.set_result(None)
                with await look.receive() as got:
                    assert got.n == 1
            look.close()

    asyncio.run(main())


def test_a_task_that_waits_is_told_of_a_failure():
    async def main() -> None:
        async with (
            aio.sender("ipc://n", Record, stages=[Stage("change", mutate=True)]) as tx,
            aio.receiver("ipc://n", Record) as rx,
        ):
            await tx.send(Record(n=1))
            m = await rx.receive()
            m.seen = 1  # so it does not come again
            m.release(after=(work := Work()))
            waiting = asyncio.create_task(rx.receive())
            await asyncio.sleep(0)
            work.set_exception(ValueError("the kernel"))
            with pytest.raises(psyne.EventFailed, match="the kernel"):
                await waiting

    asyncio.run(main())
