"""The ends for event loops: asyncio, uvloop and trio, all through anyio."""

import asyncio
import gc
import os
import pickle
import random
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import numpy as np
import pytest

import psyne
from psyne import _native, aio

from .helpers.layouts import Line, Number, Sample, broken_lines, line_of
from .helpers.process import Child

MANY = 10_000
LOOPS = {
    "asyncio": {"backend": "asyncio"},
    "uvloop": {"backend": "asyncio", "backend_options": {"use_uvloop": True}},
    "trio": {"backend": "trio"},
}


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Runs a coroutine function to its end in one of the loops."""
    pytest.importorskip(request.param)
    return lambda main, *args: anyio.run(main, *args, **LOOPS[request.param])


async def turns(condition: Callable[[], Any]) -> None:
    """Lets the others run until the condition is true."""
    with anyio.fail_after(60):
        while not condition():
            await anyio.sleep(0.001)


def asleep(end: Any) -> bool:
    """Is this end armed and waited for? Its idle bit is not for Python to see; its waiting task is."""
    return bool(end._waits)


def late_wakes(end: Any) -> int:
    return int(_native.counters(end._end)["late_wakes"])


def test_messages_go_through_in_order_by_all_verbs(run: Callable[..., Any]) -> None:
    async def main() -> None:
        async with aio.sender("ipc://n", Number, capacity=8) as tx, aio.receiver("ipc://n", Number) as rx:

            async def produce() -> None:
                for n in range(0, 300, 6):
                    async with tx.loan() as m:
                        m.n = n
                    m = await tx.loan()
                    m.n = n + 1
                    assert await tx.send(m)
                    assert await tx.send(Number(n=n + 2))
                    async with tx.loan_many(2) as batch:
                        batch["n"] = [n + 3, n + 4]
                    await tx.send_many(np.array([(n + 5,)], Number(n=0).array.dtype))
                await tx.drain()
                tx.close()

            async with anyio.create_task_group() as group:
                group.start_soon(produce)
                assert [m.n async for m in rx] == list(range(300))
            assert late_wakes(rx) == 0

    run(main)


@pytest.mark.leaves_nothing
def test_a_message_wakes_a_task_in_another_process(run: Callable[..., Any]) -> None:
    async def main(child: Child) -> None:
        async with aio.sender("ipc://there", Number) as tx, aio.receiver("ipc://back", Number) as rx:
            for n in range(50):
                await tx.send(Number(n=n))
                m = await rx.receive()
                assert m.n == n
                m.release()

    code = """
    import asyncio
    async def echo():
        async with psyne.aio.receiver("ipc://there", Number) as rx, psyne.aio.sender("ipc://back", Number) as tx:
            async for m in rx:
                await tx.send(m)
            await tx.drain()
    asyncio.run(echo())
    """
    with Child() as child:
        child.begin("\n".join(line[4:] for line in code.splitlines()))
        run(main, child)
        child.result()


def test_a_receiver_without_a_channel_waits_for_it(run: Callable[..., Any]) -> None:
    async def main() -> None:
        rx = aio.receiver("ipc://n", Number)
        assert not rx.joined
        async with anyio.create_task_group() as group:
            got: list[int] = []

            async def receive() -> None:
                with await rx.receive() as m:
                    got.append(m.n)

            group.start_soon(receive)
            await turns(lambda: asleep(rx))
            tx = aio.sender("ipc://n", Number)
            await tx.send(Number(n=7))
        assert got == [7]
        tx.close()
        rx.close()

    run(main)


def test_a_message_that_is_there_does_not_go_through_the_loop_but_the_loop_gets_its_turns() -> None:
    async def main() -> None:
        tx, rx = psyne.sender("ipc://n", Number, capacity=512), aio.receiver("ipc://n", Number)
        for n in range(256):
            tx.send(Number(n=n))
        seen: list[int] = []
        loop_turns = 0

        def turn() -> None:
            nonlocal loop_turns
            loop_turns += 1
            asyncio.get_running_loop().call_soon(turn)

        await asyncio.sleep(0)
        turn()
        for _ in range(20):
            (await rx.receive()).release()
            seen.append(loop_turns)
        assert seen[0] == seen[-1] or len(set(seen)) < 20  # a slow machine may need more than a millisecond
        for _ in range(200):
            (await rx.receive()).release()
        assert loop_turns >= 3
        rx.close()
        tx.close()

    asyncio.run(main())


def test_a_full_ring_holds_the_task_until_there_is_room(run: Callable[..., Any]) -> None:
    async def main() -> None:
        tx, rx = aio.sender("ipc://n", Number, capacity=2), psyne.receiver("ipc://n", Number)
        await tx.send_many(np.zeros(2, Number(n=0).array.dtype))
        assert tx.try_loan() is None
        for wait in (tx.loan, lambda: tx.send(Number(n=1)), lambda: tx.loan_many(1), tx.drain):
            with anyio.move_on_after(0.01) as scope:
                await wait()
            assert scope.cancelled_caught
        async with anyio.create_task_group() as group:
            group.start_soon(tx.send, Number(n=5))
            await turns(lambda: asleep(tx))
            rx.receive().release()
        assert [rx.receive().n, rx.receive().n] == [0, 5]
        assert late_wakes(tx) == 0
        tx.close()
        rx.close()

    run(main)


def test_send_many_waits_for_room_again_and_again(run: Callable[..., Any]) -> None:
    async def main() -> None:
        async with aio.sender("ipc://n", Line, capacity=4) as tx, aio.receiver("ipc://n", Line) as rx:
            lines = np.array([line_of(1, n) for n in range(100)])
            async with anyio.create_task_group() as group:
                group.start_soon(tx.send_many, lines)
                for n in range(100):
                    with await rx.receive() as m:
                        assert m.array[1] == n

    run(main)


def test_full_drop_never_waits(run: Callable[..., Any]) -> None:
    async def main() -> None:
        tx, rx = aio.sender("ipc://n", Number, capacity=2, full="drop"), aio.receiver("ipc://n", Number)
        assert [await tx.send(Number(n=n)) for n in range(4)] == [True, True, False, False]
        async with tx.loan() as m:
            m.n = 9
        assert [(await rx.receive()).n for _ in range(2)] == [0, 1]
        await tx.send(Number(n=5))
        assert (await rx.receive()).info.missed == 3
        tx.close()
        rx.close()

    run(main)


def test_two_tasks_cannot_wait_on_one_end(run: Callable[..., Any]) -> None:
    async def main() -> None:
        tx, rx = aio.sender("ipc://n", Number), aio.receiver("ipc://n", Number)
        async with anyio.create_task_group() as group:
            group.start_soon(rx.receive)
            await turns(lambda: asleep(rx))
            with pytest.raises(psyne.ConcurrentUse, match="another task"):
                await rx.receive()
            await tx.send(Number(n=1))
        rx.close()
        tx.close()

    run(main)


@pytest.mark.parametrize("from_thread", [False, True])
def test_close_ends_the_waits_of_other_tasks(run: Callable[..., Any], from_thread: bool) -> None:
    async def main() -> None:
        tx, full = psyne.sender("ipc://n", Number), aio.sender("ipc://full", Number, capacity=1)
        rx, late = aio.receiver("ipc://n", Number), aio.receiver("ipc://late", Number)
        await full.send(Number(n=1))
        refused: list[str] = []

        async def wait(end: Any, verb: Callable[[], Awaitable[Any]]) -> None:
            with pytest.raises(psyne.ChannelClosed):
                await verb()
            refused.append(end.address)

        async with anyio.create_task_group() as group:
            for end, verb in ((rx, rx.receive), (full, full.loan), (late, late.receive)):
                group.start_soon(wait, end, verb)
                await turns(lambda end=end: asleep(end))
            for end in (rx, full, late):
                if from_thread:
                    thread = threading.Thread(target=end.close)
                    thread.start()
                    thread.join()
                else:
                    end.close()
        assert sorted(refused) == ["ipc://full", "ipc://late", "ipc://n"]
        tx.close()

    run(main)


def test_a_cancelled_wait_loses_nothing_and_the_end_can_be_used_again(run: Callable[..., Any]) -> None:
    async def main() -> None:
        tx, rx = aio.sender("ipc://n", Number), aio.receiver("ipc://n", Number)
        for n in range(20):
            with anyio.move_on_after(0.002):
                await rx.receive()
            await tx.send(Number(n=n))
            with await rx.receive() as m:
                assert m.n == n
        rx.close()
        tx.close()

    run(main)


def test_a_wake_in_a_cancelled_hand_goes_to_another_member() -> None:
    async def main(other: Child) -> None:
        tx = psyne.sender("ipc://n", Number, pattern="spmc")
        rx = aio.receiver("ipc://n", Number)
        other.run("rx = psyne.receiver('ipc://n', Number, wait='block')")
        for n in range(20):
            waiting = asyncio.create_task(rx.receive())
            await turns(lambda: asleep(rx))
            other.begin_waiting("rx.receive().n")
            tx.send(Number(n=n))  # wakes the member of the lower number, that is rx
            waiting.cancel()
            await asyncio.wait([waiting])
            assert waiting.cancelled()
            assert other.result() == n
        assert late_wakes(rx) == 0
        rx.close()
        tx.close()

    with Child() as other:
        asyncio.run(main(other))


def test_an_end_works_in_a_second_loop() -> None:
    tx, rx = psyne.sender("ipc://n", Number), aio.receiver("ipc://n", Number)

    async def main(n: int) -> None:
        waiting = asyncio.create_task(rx.receive())
        await turns(lambda: asleep(rx))
        tx.send(Number(n=n))
        with await waiting as m:
            assert m.n == n

    for n in range(3):
        asyncio.run(main(n))
    rx.close()
    tx.close()


def test_the_end_of_the_channel_ends_the_loop_and_is_an_error_of_receive(run: Callable[..., Any]) -> None:
    async def main() -> None:
        tx, rx = aio.sender("ipc://n", Number), aio.receiver("ipc://n", Number)
        async with anyio.create_task_group() as group:
            got: list[int] = []

            async def receive() -> None:
                got.extend([m.n async for m in rx])

            group.start_soon(receive)
            await turns(lambda: asleep(rx))
            await tx.send(Number(n=3))
            tx.close()
        assert got == [3]
        with pytest.raises(psyne.EndOfChannel):
            await rx.receive()
        rx.close()

    run(main)


def test_a_killed_sender_is_noticed_by_a_waiting_task(run: Callable[..., Any]) -> None:
    async def main(child: Child) -> None:
        child.run("tx = psyne.sender('ipc://n', Number)")
        rx = aio.receiver("ipc://n", Number)
        async with anyio.create_task_group() as group:

            async def wait() -> None:
                with pytest.raises(psyne.SenderLost):
                    await rx.receive()

            group.start_soon(wait)
            await turns(lambda: asleep(rx))
            child.kill()
        rx.close()

    with Child() as child:
        run(main, child)


def test_the_message_of_a_killed_member_comes_again(run: Callable[..., Any]) -> None:
    async def main(child: Child) -> None:
        tx = psyne.sender("ipc://n", Number, pattern="spmc")
        child.run("rx = psyne.receiver('ipc://n', Number)")
        tx.send(Number(n=4))
        child.run("m = rx.receive()")
        rx = aio.receiver("ipc://n", Number)
        async with anyio.create_task_group() as group:

            async def wait() -> None:
                with await rx.receive() as m:
                    assert (m.n, m.info.redelivered) == (4, True)

            group.start_soon(wait)
            await turns(lambda: asleep(rx))
            child.kill()
        rx.close()
        tx.close()

    with Child() as child:
        run(main, child)


def test_a_batch_lingers_for_more(run: Callable[..., Any]) -> None:
    async def main() -> None:
        async with aio.sender("ipc://n", Number, capacity=64) as tx, aio.receiver("ipc://n", Number) as rx:
            sizes: list[int] = []

            async def receive() -> None:
                async for batch in rx.batches(10, linger=20.0):
                    sizes.append(len(batch))

            async with anyio.create_task_group() as group:
                group.start_soon(receive)
                await turns(lambda: asleep(rx))
                for n in range(10):
                    await tx.send(Number(n=n))
                await turns(lambda: sizes == [10])
                with anyio.move_on_after(0.01):
                    await tx.drain()
                tx.close()
        with pytest.raises(psyne.ChannelClosed):
            await rx.receive_many(3)

    run(main)


def test_messages_of_all_senders_are_copied_into_an_array(run: Callable[..., Any]) -> None:
    async def main() -> None:
        senders = [aio.sender("ipc://n", Line) for _ in range(3)]
        rx = aio.receiver("ipc://n", Line)
        out = np.zeros((8, 8), "u8")
        async with anyio.create_task_group() as group:
            got: list[int] = []

            async def receive() -> None:
                got.append(await rx.receive_into(out, linger=0.05))

            group.start_soon(receive)
            await turns(lambda: asleep(rx))
            for n, tx in enumerate(senders):
                await tx.send(line_of(n, 0))
        assert got == [3]
        assert sorted(out[:3, 0].tolist()) == [0, 1, 2]
        assert rx.statistics().received == 3
        assert rx.statistics().blocked == 1
        assert senders[0].statistics().sent == 1
        for end in (*senders, rx):
            end.close()

    run(main)


def test_select_gives_what_is_ready(run: Callable[..., Any]) -> None:
    async def main() -> None:
        tx, rx, other = aio.sender("ipc://n", Number), aio.receiver("ipc://n", Number), aio.receiver("ipc://m", Number)
        assert await aio.select(tx) == [tx]
        ours, theirs = os.pipe()
        found: list[Any] = []

        async def wait() -> None:
            found.append(await aio.select(rx, other, ours))

        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await anyio.sleep(0.01)
            await tx.send(Number(n=1))
        async with anyio.create_task_group() as group:
            (await rx.receive()).release()
            group.start_soon(wait)
            await anyio.sleep(0.01)
            os.write(theirs, b"x")
        assert found == [[rx], [ours]]
        with anyio.move_on_after(0.01) as scope:
            await aio.select(rx, other)
        assert scope.cancelled_caught
        os.close(ours)
        os.close(theirs)
        for end in (tx, rx, other):
            end.close()

    run(main)


def test_a_blocking_end_is_taken_over() -> None:
    async def main() -> None:
        async with (
            aio.Sender(psyne.sender("ipc://n", Sample)) as tx,
            aio.Receiver(psyne.receiver("ipc://n", Sample)) as rx,
        ):
            await tx.send(Sample(stamp=1))
            assert (await rx.receive()).stamp == 1
            assert rx.address == tx.address == "ipc://n"
            assert not rx.closed
            assert "Receiver ipc://n" in repr(rx)
            assert rx.fileno() >= 0

    asyncio.run(main())


def test_the_ends_of_an_anonymous_channel_join_at_their_first_use_and_have_clones(run: Callable[..., Any]) -> None:
    async def main() -> None:
        tx, rx = aio.channel(Number, capacity=8)
        assert (tx.joined, rx.joined, tx.capacity) == (False, False, 8)
        async with anyio.create_task_group() as group:
            first, second = rx.clone(), rx.clone()
            seen: list[int] = []

            async def receive(end: aio.Receiver[Number]) -> None:
                async for m in end:
                    seen.append(m.n)

            group.start_soon(receive, first)
            group.start_soon(receive, second)
            async with tx, tx.clone() as other:
                assert tx.joined
                for n in range(50):
                    await (tx if n % 2 else other).send(Number(n=n))
                await tx.drain()
        assert sorted(seen) == list(range(50))
        assert not rx.joined
        for end in (first, second, rx):
            end.close()

    run(main)


def test_an_end_with_an_address_stays_in_its_process() -> None:
    with psyne.sender("ipc://n", Number) as tx, pytest.raises(TypeError, match="open ipc://n there"):
        pickle.dumps(aio.Sender(tx))


def test_an_end_that_was_dropped_leaves_its_channel_and_no_descriptor() -> None:
    async def main() -> None:
        tx = psyne.sender("ipc://n", Number)
        counts = set()
        for _ in range(4):
            rx = aio.receiver("ipc://n", Number)
            waiting = asyncio.create_task(rx.receive())
            await turns(lambda rx=rx: asleep(rx))
            tx.send(Number(n=1))
            (await waiting).release()
            del rx, waiting
            gc.collect()
            await asyncio.sleep(0)
            counts.add((len(os.listdir("/proc/self/fd")), len(asyncio.get_running_loop()._selector.get_map())))  # type: ignore[attr-defined]
        assert len(counts) == 1
        tx.close()

    asyncio.run(main())


def test_a_loan_is_discarded_by_an_exception_in_its_block(run: Callable[..., Any]) -> None:
    async def main() -> None:
        tx, rx = aio.sender("ipc://n", Number), aio.receiver("ipc://n", Number)
        with pytest.raises(ZeroDivisionError):
            async with tx.loan() as m:
                m.n = 1 // 0
        assert rx.try_receive() is None
        tx.close()
        rx.close()

    run(main)


def test_own_views_that_stand_in_the_way_are_an_error_and_no_wait(run: Callable[..., Any]) -> None:
    async def main() -> None:
        tx, rx = aio.sender("ipc://n", Line, capacity=1), psyne.receiver("ipc://n", Line)
        async with tx.loan() as m:
            kept = m.array
        rx.receive().release()
        with pytest.raises(psyne.LeaseLimit):
            await tx.loan()
        del kept
        tx.close()
        rx.close()

    run(main)


async def _storm(count: int, seed: int) -> None:
    """Messages through a sender and two members of a stage, all of whose waits are cancelled at random."""
    chance = random.Random(seed)
    tx = aio.sender("ipc://storm", Line, capacity=16, pattern="spmc")
    members = [aio.receiver("ipc://storm", Line) for _ in range(2)]
    seen = np.zeros(count, "u1")
    torn = 0

    async def send() -> None:
        n = 0
        while n < count:
            try:
                async with asyncio.timeout(chance.choice((0, 1e-5, 1e-4, 1))):
                    while n < count:
                        loan = await tx.loan()
                        loan.array[:] = line_of(1, n)
                        loan.__exit__(None, None, None)
                        n += 1
                        if chance.random() < 0.05:
                            await asyncio.sleep(0)
            except TimeoutError:
                pass
        tx.close()

    async def receive(rx: aio.Receiver[Any]) -> None:
        nonlocal torn
        while True:
            try:
                async with asyncio.timeout(chance.choice((0, 1e-5, 1e-4, 1))):
                    while True:
                        with await rx.receive() as m:
                            torn += broken_lines(m.array[None])
                            seen[int(m.array[1])] += 1
            except TimeoutError:
                pass
            except psyne.EndOfChannel:
                return

    await asyncio.gather(send(), *(receive(rx) for rx in members))
    assert torn == 0
    assert (seen == 1).all()
    assert late_wakes(tx) == 0
    for rx in members:
        rx.close()


@pytest.mark.parametrize(
    "count", [MANY, pytest.param(100 * MANY, marks=[pytest.mark.long, pytest.mark.watchdog(1200)])]
)
def test_random_cancellations_lose_no_message(count: int) -> None:
    asyncio.run(_storm(count, 1))


def test_a_waiting_task_costs_no_processor_time() -> None:
    async def main() -> None:
        tx, rx = psyne.sender("ipc://n", Number), aio.receiver("ipc://n", Number)
        waiting = asyncio.create_task(rx.receive())
        await turns(lambda: asleep(rx))
        start = os.times()
        await asyncio.sleep(0.5)
        end = os.times()
        assert (end.user + end.system) - (start.user + start.system) < 0.25
        tx.send(Number(n=1))
        await waiting
        rx.close()
        tx.close()

    asyncio.run(main())
