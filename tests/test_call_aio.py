"""Calls in event loops: many tasks call on one sender at once, and each gets its own answer."""

import functools
import random
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import anyio
import pytest

import psyne
from psyne import Stage, aio

from .helpers.answering import address_of, is_answer, jobs, worker
from .helpers.layouts import Record
from .helpers.process import until
from .test_aio import LOOPS, turns


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
