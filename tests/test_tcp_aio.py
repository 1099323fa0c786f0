"""Ends over TCP in event loops: the loop moves the bytes, nothing blocks it, and closing waits beside it."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import anyio
import numpy as np
import pytest

import psyne
from psyne import Array, aio

from .helpers.layouts import Line, Number, line_of, lines_of
from .helpers.process import Child
from .test_aio import run, turns  # noqa: F401  a fixture: each of the event loops

HERE = "tcp://127.0.0.1:0"
Run = Callable[..., Any]


def open_bound_receiver(*types: Any, sends: Any = None, takes: Any = None) -> tuple[Any, Any]:
    rx = aio.receiver(HERE, *types, bind=True, **(takes or {}))
    return aio.sender(rx.address, *types, **(sends or {})), rx


def open_bound_sender(*types: Any, sends: Any = None, takes: Any = None) -> tuple[Any, Any]:
    tx = aio.sender(HERE, *types, bind=True, **(sends or {}))
    return tx, aio.receiver(tx.address, *types, **(takes or {}))


WAYS = {"bound receiver": open_bound_receiver, "bound sender": open_bound_sender}


@pytest.fixture(params=WAYS)
def ends(request: pytest.FixtureRequest) -> Callable[..., tuple[Any, Any]]:
    return WAYS[request.param]


def test_messages_go_through_in_order(run: Run, ends: Callable[..., Any]) -> None:  # noqa: F811
    async def main() -> None:
        tx, rx = ends(Number, sends={"capacity": 8})
        async with rx, anyio.create_task_group() as tasks:

            async def send() -> None:
                async with tx:
                    for n in range(3000):
                        await tx.send(Number(n=n))

            tasks.start_soon(send)
            reached = 0
            async for m in rx:
                assert m.n == reached
                reached += 1
            assert reached == 3000

    run(main)


def test_batches_and_large_messages_are_whole(run: Run, ends: Callable[..., Any]) -> None:  # noqa: F811
    async def main() -> None:
        tx, rx = ends(Line, sends={"capacity": 64})
        async with rx, tx, anyio.create_task_group() as tasks:
            tasks.start_soon(tx.send_many, lines_of(1, 0, 2000))
            seen = 0
            while seen < 2000:
                with await rx.receive_many(50) as batch:
                    assert np.array_equal(batch.array, lines_of(1, seen, len(batch)))
                    seen += len(batch)
        big = Array("u1", 8 << 20)
        tx, rx = ends(big, sends={"capacity": 4})
        async with rx, tx:
            for n in range(6):
                async with tx.loan() as m:
                    m.array[:] = n
                with await rx.receive() as m:
                    assert (m.array == n).all()

    run(main)


def test_a_round_trip_between_two_processes(run: Run) -> None:  # noqa: F811
    with Child() as child:
        there = child.run("rx = psyne.receiver(HERE, Line, bind=True)\nrx.address", HERE=HERE)

        async def main() -> None:
            async with aio.receiver(HERE, Line, bind=True) as back, aio.sender(there, Line) as tx:
                child.begin("with psyne.sender(back, Line) as tx:\n    for m in rx: tx.send(m)\n", back=back.address)
                for n in range(500):
                    await tx.send(Line(line_of(2, n)))
                    with await back.receive() as m:
                        assert np.array_equal(m.array, line_of(2, n))

        run(main)
        child.result()


def test_the_loop_moves_the_bytes_and_trio_leaves_it_to_the_thread(run: Run) -> None:  # noqa: F811
    async def main() -> None:
        from psyne.network.driver import LoopDriver

        async with aio.receiver(HERE, Number, bind=True) as rx:
            driver = rx._end._carrier._driver
            try:
                loop = asyncio.get_running_loop()
            except RuntimeError:
                assert not isinstance(driver, LoopDriver)
            else:
                assert isinstance(driver, LoopDriver)
                assert driver._loop is loop

    run(main)


def test_a_sender_waits_for_room_and_others_run_meanwhile(run: Run, ends: Callable[..., Any]) -> None:  # noqa: F811
    async def main() -> None:
        tx, rx = ends(Number, sends={"capacity": 8})
        async with rx, anyio.create_task_group() as tasks:
            sent = 0

            async def send() -> None:
                nonlocal sent
                async with tx:
                    for n in range(20_000):
                        await tx.send(Number(n=n))
                        sent += 1

            tasks.start_soon(send)
            with await rx.receive() as first:
                await turns(lambda: tx._waits)
                assert sent <= 8 + rx.statistics().capacity
                assert first.n == 0
            reached = 1
            async for m in rx:
                assert m.n == reached
                reached += 1
            assert reached == 20_000

    run(main)


def test_drain_waits_beside_the_loop(run: Run, ends: Callable[..., Any]) -> None:  # noqa: F811
    async def main() -> None:
        tx, rx = ends(Number)
        async with rx, tx:
            await tx.send(Number(n=1))
            with await rx.receive():
                with anyio.move_on_after(0.05) as scope:
                    await tx.drain()
                assert scope.cancelled_caught
            await tx.drain()

    run(main)


def test_leaving_an_end_waits_until_all_has_arrived_and_others_run(run: Run) -> None:  # noqa: F811
    async def main() -> None:
        rx = psyne.receiver(HERE, Number, bind=True)  # on the thread
        tx = aio.sender(rx.address, Number)
        seen: list[int] = []
        async with tx:
            for n in range(100):
                await tx.send(Number(n=n))
        reading = threading.Thread(target=lambda: seen.extend(m.n for m in rx))
        reading.start()
        await anyio.to_thread.run_sync(reading.join)
        assert seen == list(range(100))
        rx.close()

    run(main)


def test_close_returns_at_once_though_nobody_listens(run: Run) -> None:  # noqa: F811
    async def main() -> None:
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            tx = aio.sender(f"tcp://127.0.0.1:{nobody.getsockname()[1]}", Number, linger=0.2)
            await tx.send(Number(n=1))
            carrier = tx._end._carrier
            tx.close()
            assert not carrier.gone.is_set()  # it lingers
            ticks = 0
            while not carrier.gone.is_set():
                await anyio.sleep(0.001)
                ticks += 1
            assert ticks > 1

    run(main)


def test_taps_select_and_refusals_are_as_of_blocking_ends(run: Run) -> None:  # noqa: F811
    async def main() -> None:
        async with aio.sender(HERE, Number, bind=True, stages=[]) as tx, aio.tap(tx.address, Number) as tap:
            await turns(lambda: tx._end._carrier.far.connections)
            for n in range(5):
                await tx.send(Number(n=n))
            assert await aio.select(tap) == [tap]
            assert [(await tap.receive()).n for _ in range(5)] == list(range(5))
            with pytest.raises(psyne.InvalidArgument, match="no answer"):
                await tx.call(Number(n=1))
        with pytest.raises(psyne.InvalidArgument, match="bind"):
            aio.receiver(HERE, bind="yes")  # type: ignore[arg-type]

    run(main)


def test_a_type_that_differs_wakes_the_task_that_waits(run: Run) -> None:  # noqa: F811
    async def main() -> None:
        async with aio.sender(HERE, Number, bind=True) as tx, aio.receiver(tx.address, Line) as rx:
            with pytest.raises(psyne.LayoutMismatch):
                await rx.receive()

    run(main)


def test_a_loop_that_ended_leaves_no_end_open_for_ever() -> None:
    kept: list[Any] = []

    async def main() -> None:
        tx, rx = open_bound_receiver(Number)
        await tx.send(Number(n=1))
        with await rx.receive():
            kept.extend((tx, rx))

    asyncio.run(main())
    for end in kept:
        carrier = end._end._carrier
        end.close()
        assert carrier.gone.is_set()
        assert not carrier.far.connections


def test_an_idle_connection_costs_no_processor_time(run: Run, ends: Callable[..., Any]) -> None:  # noqa: F811
    async def main() -> None:
        tx, rx = ends(Number)
        async with rx, tx:
            await tx.send(Number(n=1))
            with await rx.receive():
                pass
            await tx.drain()
            before = time.process_time()
            await anyio.sleep(0.5)
            assert time.process_time() - before < 0.1

    run(main)
