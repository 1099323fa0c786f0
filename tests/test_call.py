"""Request and reply in one slot: call() sends, waits until every stage has passed the message, and gives it back."""

import functools
import gc
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import anyio
import numpy as np
import pytest

import psyne
from psyne import Stage, aio

from .helpers.layouts import Number, Record
from .helpers.process import PATIENCE, Child, sleeping, until
from .test_aio import LOOPS, turns

WORK = Stage("work", mutate=True, on_crash="redeliver")
ANSWER = "for m in rx: m.seen = 3 * m.n + 1; m.body[:] = m.n % 251"  # a function of the question


def worker(stack: ExitStack, code: str = ANSWER, stage: str = "work", address: str = "ipc://jobs") -> Child:
    """A process that answers."""
    child = stack.enter_context(Child())
    child.run(f"rx = psyne.receiver({address!r}, stage={stage!r})")
    child.begin(code)
    return child


def jobs(stack: ExitStack, *types: Any, stages: Sequence[Stage | str] = (WORK,), **options: Any) -> psyne.Sender[Any]:
    options = {"pattern": "mpmc", "capacity": 8} | options
    return stack.enter_context(psyne.sender("ipc://jobs", *(types or (Record,)), stages=stages, **options))


def is_answer(done: Any, n: int) -> bool:
    return bool(done.n == n and done.seen == 3 * n + 1 and (done.body == n % 251).all())


def address_of(m: Any) -> int:
    return int(m.array.__array_interface__["data"][0])


# ---- blocking -------------------------------------------------------------------------------------------------------


def test_a_call_gives_back_what_the_stage_wrote():
    with ExitStack() as stack:
        tx = jobs(stack)
        worker(stack)
        for n in range(100):
            with tx.call(Record(n=n)) as done:
                assert type(done) is Record
                assert is_answer(done, n)


def test_one_s_own_loan_comes_back_in_the_same_memory():
    with ExitStack() as stack:
        tx = jobs(stack)
        worker(stack)
        loan = tx.loan()
        loan.n = 5
        place = address_of(loan)
        copied = tx.statistics().copied_bytes
        with tx.call(loan) as done:
            assert address_of(done) == place
            assert is_answer(done, 5)
            with pytest.raises(psyne.MessageReleased, match="was sent"):
                loan.n = 6
        assert tx.statistics().copied_bytes == copied
        assert tx.statistics().sent == 1


def test_a_batch_of_one_s_own_is_called_as_a_whole():
    with ExitStack() as stack:
        tx = jobs(stack)
        worker(stack)
        batch = tx.loan_many(4)
        batch["n"] = [1, 2, 3, 4]
        batch.truncate(3)
        with tx.call(batch) as done:
            assert done["seen"].tolist() == [4, 7, 10]
            assert [is_answer(m, n) for m, n in zip(done, (1, 2, 3), strict=True)] == [True] * 3
        empty = tx.loan_many(2)
        empty.truncate(0)
        with pytest.raises(ValueError, match="0 messages"):
            tx.call(empty)
        empty.discard()
        tx.call(Record(n=1)).release()


def test_the_answer_is_read_only():
    with ExitStack() as stack:
        tx = jobs(stack)
        worker(stack)
        with tx.call(Record(n=1)) as done:
            with pytest.raises(psyne.ReadOnly):
                done.seen = 1
            for view in (done.body, done.array):
                assert not view.flags.writeable
                with pytest.raises(ValueError, match="read-only"):
                    view[...] = 0
            with pytest.raises(psyne.NotALoan):
                done.discard()
            own = done.copy()
            own.seen = 7
            private = done.private()
            private.seen = 8
            assert (done.seen, own.seen, private.seen) == (4, 7, 8)
            del view
        with pytest.raises(psyne.MessageReleased):
            print(done.seen)
        assert own.seen == 7


def test_the_answer_knows_what_it_is():
    with ExitStack() as stack:
        tx = jobs(stack, timestamps=True)
        worker(stack)
        tx.send(Record(n=0))
        before = time.monotonic_ns()
        with tx.call(Record(n=1)) as done, tx.call(Record(n=2)) as other:
            assert done.info.sequence == 1
            assert other.info.sequence == 2
            assert (done.info.missed, done.info.redelivered) == (0, False)
            assert before < done.info.timestamp < other.info.timestamp
            loan = tx.loan()
            assert done.info.sender == other.info.sender == loan.info.sender
            loan.discard()


def test_the_slot_is_not_lent_again_before_the_answer_has_ended():
    with ExitStack() as stack:
        tx = jobs(stack, capacity=1)
        worker(stack)
        with tx.call(Record(n=1)) as done:
            assert tx.try_loan() is None
            with pytest.raises(psyne.LeaseLimit, match=r"call\(\)"):
                tx.loan()
            with pytest.raises(psyne.LeaseLimit):
                tx.call(Record(n=2), timeout=PATIENCE)
            assert is_answer(done, 1)
        tx.call(Record(n=2)).release()
        done = tx.call(Record(n=3))
        assert tx.try_loan() is None
        del done  # the last reference
        tx.loan(timeout=0).discard()


def test_views_that_are_kept_keep_the_slot():
    with ExitStack() as stack:
        tx = jobs(stack, capacity=1)
        worker(stack)
        done = tx.call(Record(n=7))
        body = done.body
        with pytest.raises(psyne.ViewsAlive):
            done.release()
        with done:
            pass
        assert tx.statistics().held == 1
        with pytest.raises(psyne.LeaseLimit, match="arrays that you kept"):
            tx.loan()
        assert (body == 7).all()
        del body
        assert tx.statistics().held == 0
        with tx.call(Record(n=8)) as done:
            part = done.body[2:5]
        del done
        assert tx.try_loan() is None
        assert part.tolist() == [8, 8, 8]
        del part
        tx.loan(timeout=0).discard()


def test_a_call_waits_for_every_stage_of_a_chain_and_of_a_diamond():
    diamond = [
        Stage("work", mutate=True),
        Stage("left", after=["work"]),
        Stage("right", after=["work"]),
        Stage("last", mutate=True, after=["left", "right"]),
    ]
    for stages in ([Stage("work", mutate=True), Stage("last", mutate=True)], diamond):
        with ExitStack() as stack:
            tx = jobs(stack, stages=stages, pattern="spsc")
            names = [stage.name for stage in stages]
            first = worker(stack, stage="work")
            ends = {name: stack.enter_context(Child()) for name in names[1:]}
            for name, child in ends.items():
                child.run(f"rx = psyne.receiver('ipc://jobs', stage={name!r})")
            with pytest.raises(psyne.Empty, match="stage '(left|last)' has not taken it"):
                tx.call(Record(n=1), timeout=0.05)
            ends["last"].begin("for m in rx: m.seen = m.seen + 1000")
            for name in names[1:-1]:
                ends[name].begin("sum(m.seen == 3 * m.n + 1 for m in rx)")
            for n in range(2, 50):
                with tx.call(Record(n=n)) as done:
                    assert (done.n, done.seen) == (n, 3 * n + 1001)
            tx.close()
            assert [ends[name].result() for name in names[1:-1]] == [49] * (len(names) - 2)
            first.result()


def test_a_reading_stage_that_keeps_views_does_not_hold_the_answer_up():
    with ExitStack() as stack:
        tx = jobs(stack, stages=["work"])
        worker(stack, "m = rx.receive(); body = m.body; m.__exit__(None, None, None); rest = [m.n for m in rx]")
        tx.call(Record(n=1), timeout=PATIENCE).release()
        tx.call(Record(n=2), timeout=PATIENCE).release()


def test_without_room_in_time_a_call_is_full_and_without_an_answer_in_time_empty():
    with ExitStack() as stack:
        tx = jobs(stack, capacity=1)
        with pytest.raises(psyne.Empty, match="no answer on ipc://jobs in time: stage 'work' has no member"):
            tx.call(Record(n=1), timeout=0)
        with pytest.raises(psyne.Full, match="is full"):
            tx.call(Record(n=2), timeout=0.01)
        child = stack.enter_context(Child())
        child.run("rx = psyne.receiver('ipc://jobs', stage='work'); m = rx.receive(); m.n")
        with pytest.raises(psyne.Full, match=f"holds the oldest message .pid {child.pid}"):
            tx.call(Record(n=2), timeout=0.01)
        child.begin("m.release(); m = rx.receive()")
        with pytest.raises(psyne.Empty, match=rf"stage 'work' holds it \(pid {child.pid}, child.py\)"):
            tx.call(Record(n=3), timeout=1)
        child.result()
        assert tx.statistics().held == 0  # given up, but sent
        assert child.run("m.n") == 3


def test_a_sender_that_drops_drops_no_calls():
    with ExitStack() as stack:
        tx = jobs(stack, capacity=1, full="drop")
        assert tx.send(Record(n=1))
        for _ in range(2):
            with pytest.raises(psyne.Full, match="drops no calls"):
                tx.call(Record(n=2), timeout=PATIENCE)
        with pytest.raises(psyne.Full), tx.loan() as scratch:
            tx.call(scratch)
        assert tx.statistics().missed == 0
        worker(stack)
        tx.drain()
        with tx.call(Record(n=3)) as done:
            assert is_answer(done, 3)
            assert done.info.missed == 0


def test_a_channel_without_stages_answers_no_calls():
    with ExitStack() as stack:
        tx = jobs(stack, stages=[])
        with pytest.raises(psyne.InvalidArgument, match=r"made with stages=\[\]"):
            tx.call(Record(n=1))
        assert tx.send(Record(n=1))


def test_bad_messages_are_refused_and_hold_no_slot():
    with ExitStack() as stack:
        tx = jobs(stack, capacity=1)
        worker(stack)
        for bad in (Number(n=1), np.zeros(3), "text", None):
            with pytest.raises(psyne.LayoutMismatch):
                tx.call(bad)
        for bad_time in (-1, "soon"):
            with pytest.raises((ValueError, TypeError)):
                tx.call(Record(n=1), timeout=bad_time)
        with pytest.raises(TypeError):
            tx.call()
        released = tx.loan()
        released.discard()
        with pytest.raises(psyne.MessageReleased):
            tx.call(released)
        tx.call(Record(n=1)).release()


def test_an_answer_of_several_types_is_of_the_type_that_was_sent():
    with ExitStack() as stack:
        tx = jobs(stack, Record, psyne.Text, psyne.Array("f4", ndim=2, max_bytes=1 << 12))
        worker(
            stack,
            "for m in rx:\n  if m.array.dtype == 'f4': m.array[:] *= 2\n  elif hasattr(m, 'seen'): m.seen = m.n + 1",
        )
        with tx.call("a question") as text:
            assert isinstance(text, psyne.Text)
            assert text.text == "a question"
        with tx.call(np.ones((2, 3), "f4")) as doubled:
            assert doubled.array.tolist() == [[2.0] * 3] * 2
        with tx.call(Record(n=1)) as done:
            assert done.seen == 2


def test_an_answer_in_columns():
    class Columns(psyne.Struct, layout="columns"):
        n = psyne.u64()
        seen = psyne.u64()

    with ExitStack() as stack:
        tx = jobs(stack, Columns)
        worker(stack, "for m in rx: m.seen = 3 * m.n + 1")
        for n in range(20):
            with tx.call(Columns(n=n)) as done:
                assert (done.n, done.seen) == (n, 3 * n + 1)


def test_an_answer_can_be_sent_on():
    with ExitStack() as stack:
        tx = jobs(stack)
        worker(stack)
        with tx.call(Record(n=4)) as done, tx.call(done) as again:
            assert is_answer(again, 4)
            assert again.info.sequence == done.info.sequence + 1


def test_several_senders_call_at_the_same_time():
    code = """
    tx = psyne.sender('ipc://jobs', Record, capacity=4)
    right = 0
    for n in range(start, start + 300):
        with tx.call(Record(n=n)) as done:
            right += done.n == n and done.seen == 3 * n + 1
    right
    """
    with ExitStack() as stack:
        jobs(stack)
        for _ in range(2):
            worker(stack)
        callers = [stack.enter_context(Child()) for _ in range(3)]
        for i, child in enumerate(callers):
            child.begin("\n".join(line[4:] for line in code.splitlines()), start=1000 * i)
        assert [child.result() for child in callers] == [300] * 3


def test_close_of_another_thread_ends_a_call():
    with ExitStack() as stack:
        tx = jobs(stack)
        task = threading.current_thread().native_id

        def close() -> None:
            until(lambda: sleeping(os.getpid(), task), "sleeping")
            tx.close()

        thread = threading.Thread(target=close)
        thread.start()
        with pytest.raises(psyne.ChannelClosed):
            tx.call(Record(n=1))
        thread.join()
        with pytest.raises(psyne.ChannelClosed):
            tx.call(Record(n=1))


def test_an_answer_outlives_its_sender():
    with ExitStack() as stack:
        tx = jobs(stack)
        worker(stack)
        done = tx.call(Record(n=3))
        body = tx.call(Record(n=4)).body
        tx.close()
        assert is_answer(done, 3)
        assert (body == 4).all()
        done.release()
        del tx, done
        gc.collect()
        assert (body == 4).all()


def test_ctrl_c_ends_a_call_and_gives_its_slot_up():
    with Child() as child, ExitStack() as stack:
        child.run("tx = psyne.sender('ipc://jobs', Record, stages=[psyne.Stage('work', mutate=True)], capacity=1)")
        child.begin_waiting("tx.call(Record(n=1))")
        child.interrupt()
        with pytest.raises(KeyboardInterrupt):
            child.result()
        assert child.run("tx.statistics().held") == 0
        worker(stack)
        assert child.run("with tx.call(Record(n=2)) as done: seen = done.seen\nseen") == 7


def test_a_message_that_a_stage_took_out_is_no_answer():
    with ExitStack() as stack:
        tx = jobs(stack, stages=[Stage("work", mutate=True, on_crash="skip"), "log"])
        worker(stack, "for m in rx: pass", stage="log")
        worker(stack, "m = rx.receive(); m.seen = 99; os._exit(9)")
        with pytest.raises(psyne.TakenOut, match="message 0 of ipc://jobs was not answered: stage 'work' took it out"):
            tx.call(Record(n=1), timeout=PATIENCE)
        assert tx.statistics().held == 0
        worker(stack)
        with tx.call(Record(n=2)) as done:
            assert is_answer(done, 2)


def test_a_message_that_kills_three_members_is_no_answer():
    with ExitStack() as stack:
        tx = jobs(stack)
        for _ in range(3):
            worker(stack, "m = rx.receive(); os._exit(9)")
        with pytest.raises(psyne.TakenOut, match="three of its members died"):
            tx.call(Record(n=1), timeout=PATIENCE)


def test_what_a_killed_member_held_is_answered_by_another():
    with ExitStack() as stack:
        tx = jobs(stack)
        victim = worker(stack, "m = rx.receive(); m.seen = 99; threading.Event().wait()")
        until(lambda: sleeping(victim.pid), "waiting")
        timer = threading.Thread(
            target=lambda: (until(lambda: sleeping(victim.pid), "holding"), victim.kill(), worker(stack))
        )
        timer.start()
        with tx.call(Record(n=1), timeout=PATIENCE) as done:
            assert is_answer(done, 1)
        timer.join()


def test_the_ends_of_an_anonymous_channel_call():
    tx, rx = psyne.channel(Record, stages=[WORK])

    def answer() -> None:
        with rx.clone("work") as mine:
            for m in mine:
                m.seen = m.n + 1

    thread = threading.Thread(target=answer)
    thread.start()
    with tx, tx.call(Record(n=5)) as done:
        assert done.seen == 6
    thread.join()
    rx.close()


# ---- in event loops -------------------------------------------------------------------------------------------------


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Runs a coroutine function to its end in one of the loops."""
    pytest.importorskip(request.param)
    return lambda main, *args: anyio.run(main, *args, **LOOPS[request.param])


def idle(out: aio.Sender[Any]) -> bool:
    """Nobody waits and nothing is held."""
    calls = out._answers
    return not (calls._line or calls._sent or calls._watched or out._waits or out.statistics().held)


async def ask(out: aio.Sender[Any], n: int, right: list[int] | None = None) -> None:
    with await out.call(Record(n=n)) as done:
        assert is_answer(done, n)
    if right is not None:
        right.append(n)


async def in_parallel(tasks: Sequence[Callable[[], Any]]) -> None:
    async with anyio.create_task_group() as group:
        for task in tasks:
            group.start_soon(task)


@pytest.mark.parametrize("capacity", [1, 8, 256])
def test_many_tasks_call_at_once_on_one_sender(run: Callable[..., Any], capacity: int):
    async def main(tx: Any) -> None:
        async with aio.Sender(tx) as out:
            right: list[int] = []
            await in_parallel([functools.partial(ask, out, n, right) for n in range(200)])
            assert sorted(right) == list(range(200))
            assert idle(out)

    with ExitStack() as stack:
        tx = jobs(stack, capacity=capacity)
        for _ in range(3):
            worker(stack)
        run(main, tx)


def test_answers_are_given_when_they_are_there_in_any_order(run: Callable[..., Any]):
    async def main(tx: Any) -> None:
        order: list[int] = []
        async with aio.Sender(tx) as out, anyio.create_task_group() as group:
            for n in range(3):
                group.start_soon(ask, out, n, order)
                await anyio.lowlevel.checkpoint()
            with psyne.receiver("ipc://jobs", stage="work") as rx:
                held = [await anyio.to_thread.run_sync(rx.receive) for _ in range(3)]
                for n in (1, 2, 0):
                    m = held[n]
                    m.seen, m.body = 3 * m.n + 1, m.n
                    m.release()
                    await turns(lambda n=n: n in order)
        assert order == [1, 2, 0]

    with ExitStack() as stack:
        run(main, jobs(stack))


def test_a_cancelled_call_loses_nothing_else_and_leaks_no_slot(run: Callable[..., Any]):
    async def main(tx: Any) -> None:
        async with aio.Sender(tx) as out:
            answered: list[int] = []
            scopes: dict[int, anyio.CancelScope] = {}

            async def cancellable(n: int) -> None:
                with anyio.CancelScope() as scopes[n]:
                    await ask(out, n, answered)

            async with anyio.create_task_group() as group:
                for n in range(8):  # four are sent, four wait for room
                    group.start_soon(cancellable, n)
                    await turns(lambda n=n: len(out._answers._sent) + len(out._answers._line) == n + 1)
                assert len(out._answers._line) == 4
                for n in (0, 2, 4, 6):  # the watcher among them
                    scopes[n].cancel()
                await turns(lambda: len(out._answers._sent) + len(out._answers._line) == 4)
                with ExitStack() as workers:
                    await anyio.to_thread.run_sync(worker, workers)
                    await turns(lambda: len(answered) == 4)
            assert sorted(answered) == [1, 3, 5, 7]
            assert idle(out)

    with ExitStack() as stack:
        run(main, jobs(stack, capacity=4))


def test_calls_are_cancelled_at_random_and_all_others_answered(run: Callable[..., Any]):
    chance = random.Random(4)

    async def main(tx: Any) -> None:
        async with aio.Sender(tx) as out:
            answered: list[int] = []

            async def impatient(n: int) -> None:
                with anyio.move_on_after(chance.choice([0, 0.001, 0.01])):
                    await ask(out, n)

            tasks = [functools.partial(ask, out, n, answered) for n in range(0, 300, 2)]
            tasks += [functools.partial(impatient, n) for n in range(1, 300, 2)]
            chance.shuffle(tasks)
            await in_parallel(tasks)
            assert sorted(answered) == list(range(0, 300, 2))
            assert idle(out)

    with ExitStack() as stack:
        tx = jobs(stack, capacity=4)
        for _ in range(2):
            worker(stack)
        run(main, tx)


def test_calls_go_together_with_the_sending_of_another_task(run: Callable[..., Any]):
    async def main(tx: Any) -> None:
        async with aio.Sender(tx) as out:
            sent: list[int] = []

            async def send() -> None:
                for n in range(0, 100, 4):
                    await out.send(Record(n=n))
                    async with out.loan() as m:
                        m.n = n + 1
                    async with out.loan_many(2) as batch:
                        batch["n"] = n
                    await out.send(await out.loan())
                    sent.append(n)
                await out.drain()

            await in_parallel([send, *(functools.partial(ask, out, n) for n in range(100))])
            assert len(sent) == 25
            assert idle(out)

    with ExitStack() as stack:
        tx = jobs(stack, capacity=4)
        worker(stack)
        run(main, tx)


def test_a_second_sending_task_is_refused_while_calls_go_on(run: Callable[..., Any]):
    async def main(tx: Any) -> None:
        async with aio.Sender(tx) as out, anyio.create_task_group() as group:
            right: list[int] = []
            for n in range(3):
                group.start_soon(ask, out, n, right)
            await turns(lambda: out._answers._line)
            group.start_soon(out.send, Record(n=3))
            await turns(lambda: out._waits)
            with pytest.raises(psyne.ConcurrentUse, match="another task"):
                await out.send(Record(n=4))
            with ExitStack() as workers:
                await anyio.to_thread.run_sync(worker, workers)
                await turns(lambda: len(right) == 3 and not out._waits)
                await out.drain()

    with ExitStack() as stack:
        run(main, jobs(stack, capacity=2))


def test_a_loan_of_one_s_own_is_called_before_those_that_wait_for_room(run: Callable[..., Any]):
    async def main(tx: Any) -> None:
        async with aio.Sender(tx) as out, anyio.create_task_group() as group:
            loan = await out.loan()
            place = address_of(loan)
            right: list[int] = []
            group.start_soon(ask, out, 1, right)
            await turns(lambda: out._answers._line)
            loan.n = 7
            with await out.call(loan) as done:
                assert is_answer(done, 7)
                assert address_of(done) == place
                del done
            await turns(lambda: right == [1])
            loan = await out.loan()
            group.start_soon(ask, out, 2, right)
            await turns(lambda: out._answers._line)
            assert await out.send(loan)
        assert right == [1, 2]

    with ExitStack() as stack:
        tx = jobs(stack, capacity=1)
        worker(stack)
        run(main, tx)


def test_others_wait_for_the_slot_of_an_answer_that_is_read_but_not_for_kept_views(run: Callable[..., Any]):
    async def main(tx: Any) -> None:
        async with aio.Sender(tx) as out:
            read: list[int] = []
            for verb in (functools.partial(ask, out, 2, read), out.loan):
                with await out.call(Record(n=1)) as done:
                    async with anyio.create_task_group() as group:
                        group.start_soon(discard, verb)
                        await turns(lambda: out._answers._line)
                        assert is_answer(done, 1)
                        done.release()
            assert read == [2]
            with await out.call(Record(n=1)) as done:
                body = done.body
            for verb in (functools.partial(ask, out, 2), out.loan):
                with pytest.raises(psyne.LeaseLimit):
                    await verb()
            del body
            with await out.call(Record(n=1)) as done:
                async with anyio.create_task_group() as group:
                    group.start_soon(refused, functools.partial(ask, out, 2))
                    await turns(lambda: out._answers._line)
                    body = done.body
                    done.__exit__(None, None, None)
            del done, body
            assert idle(out)

    async def discard(verb: Callable[[], Any]) -> None:
        if (m := await verb()) is not None:
            m.discard()

    async def refused(verb: Callable[[], Any]) -> None:
        with pytest.raises(psyne.LeaseLimit):
            await verb()

    with ExitStack() as stack:
        tx = jobs(stack, capacity=1)
        worker(stack)
        run(main, tx)


@pytest.mark.parametrize("from_thread", [False, True])
def test_close_ends_all_calls(run: Callable[..., Any], from_thread: bool):
    async def main(tx: Any) -> None:
        out = aio.Sender(tx)
        refused: list[int] = []

        async def refused_call(n: int) -> None:
            with pytest.raises(psyne.ChannelClosed):
                await out.call(Record(n=n))
            refused.append(n)

        async with anyio.create_task_group() as group:
            for n in range(10):
                group.start_soon(refused_call, n)
            await turns(lambda: len(out._answers._line) == 6)
            if from_thread:
                await anyio.to_thread.run_sync(out.close)
            else:
                out.close()
        assert len(refused) == 10

    with ExitStack() as stack:
        run(main, jobs(stack, capacity=4))


def test_errors_of_calls_in_event_loops_are_those_of_blocking_ones(run: Callable[..., Any]):
    async def main(tx: Any, none: Any, drops: Any) -> None:
        async with aio.Sender(tx) as out:
            with pytest.raises(psyne.LayoutMismatch):
                await out.call("text")
            with ExitStack() as workers:
                skip = "m = rx.receive(); m.seen = 99; os._exit(9)"
                await anyio.to_thread.run_sync(functools.partial(worker, workers, skip))
                with pytest.raises(psyne.TakenOut, match="stage 'work' took it out"):
                    await out.call(Record(n=1))
            assert idle(out)
        with pytest.raises(psyne.InvalidArgument, match="stages"):
            await aio.Sender(none).call(Record(n=1))
        assert drops.send(Record(n=1))
        with pytest.raises(psyne.Full):
            await aio.Sender(drops).call(Record(n=1))

    with ExitStack() as stack:
        tx = jobs(stack, stages=[Stage("work", mutate=True, on_crash="skip")])
        none = stack.enter_context(psyne.sender("ipc://none", Record, stages=[]))
        drops = stack.enter_context(psyne.sender("ipc://drops", Record, full="drop", capacity=1))
        run(main, tx, none, drops)


def test_answers_that_nobody_ends_are_told_of_when_calls_wait_for_their_slots(
    run: Callable[..., Any], caplog: pytest.LogCaptureFixture
):
    async def main(tx: Any) -> None:
        async with aio.Sender(tx) as out, anyio.create_task_group() as group:
            kept = [await out.call(Record(n=n)) for n in range(2)]
            group.start_soon(ask, out, 2)
            await turns(lambda: "waited 1 s for room: answers of call() are still read (2 of 2 slots)" in caplog.text)
            kept.clear()

    with ExitStack() as stack:
        tx = jobs(stack, capacity=2)
        worker(stack)
        run(main, tx)


def test_tasks_of_two_event_loops_do_not_call_on_one_end():
    with ExitStack() as stack:
        out = aio.Sender(jobs(stack))
        thread = threading.Thread(target=lambda: anyio.run(ask, out, 1))
        thread.start()
        until(lambda: out._answers._watched, "the call")

        async def main() -> None:
            with pytest.raises(psyne.ConcurrentUse, match="another event loop"):
                await out.call(Record(n=2))

        anyio.run(main)
        worker(stack)
        thread.join()
        anyio.run(ask, out, 3)


# ---- a storm --------------------------------------------------------------------------------------------------------

OUTSTANDING = 100
STRAIGHT = "import time\nfor m in rx: m.body[:] = m.n % 251; time.sleep(0.002 * (m.n % 7 == 0)); m.seen = 3 * m.n + 1"


def storm(calls: int, kills: int) -> None:
    """100 outstanding calls over three workers, of which one is killed again and again, and replaced."""
    chance = random.Random(7)

    async def main(tx: Any) -> None:
        left, answered = iter(range(calls)), 0
        async with aio.Sender(tx) as out:

            async def caller() -> None:
                nonlocal answered
                for n in left:
                    await ask(out, n)
                    answered += 1

            async with anyio.create_task_group() as group:
                for _ in range(OUTSTANDING):
                    group.start_soon(caller)
                for kill in range(1, kills + 1):
                    await turns(lambda kill=kill: answered >= calls * kill // (kills + 1))
                    i = chance.randrange(len(workers))
                    workers[i].kill()
                    workers[i] = await anyio.to_thread.run_sync(worker, stack, STRAIGHT)
            assert answered == calls
            assert idle(out)

    with ExitStack() as stack:
        tx = jobs(stack, capacity=64)
        workers = [worker(stack, STRAIGHT) for _ in range(3)]
        anyio.run(main, tx)


def test_every_call_gets_its_own_answer_while_workers_are_killed():
    storm(300, 6)


@pytest.mark.long
@pytest.mark.watchdog(3600)
def test_every_call_gets_its_own_answer_while_workers_are_killed_for_long():
    storm(20_000, 200)


def test_a_stopped_worker_holds_up_only_what_it_took():
    with ExitStack() as stack:
        tx = jobs(stack)
        stopped = worker(
            stack, "m = rx.receive(); m.seen = 99; os.kill(os.getpid(), 19); m.seen = 3 * m.n + 1; m.release()"
        )
        with pytest.raises(psyne.Empty, match=f"holds it .pid {stopped.pid}"):
            tx.call(Record(n=1), timeout=0.5)
        worker(stack)
        for n in range(2, 5):
            tx.call(Record(n=n), timeout=PATIENCE).release()
        os.kill(stopped.pid, signal.SIGCONT)
        stopped.result()
        tx.drain(timeout=PATIENCE)
