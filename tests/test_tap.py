"""Taps by all their verbs: what they see, what they say they missed, and what their messages are."""

import pickle
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest

import psyne
from psyne import Array, ArrowBatch, Struct, Text, aio, f32, u64

from .helpers.layouts import Number, Sample
from .test_aio import run  # noqa: F401  a fixture: each of the event loops
from .test_hostile import PAYLOAD, at, slab


class Scan(Struct, layout="columns"):
    n = u64()
    points = f32(3)


def number_sender(capacity: int = 8, **kwargs: Any) -> Any:
    return psyne.sender("ipc://n", Number, capacity=capacity, stages=[], **kwargs)


def send_numbers(tx: Any, start: int, end: int) -> None:
    for n in range(start, end):
        tx.send(Number(n=n))


def seen(messages: Any) -> list[tuple[int, int]]:
    return [(m.n, m.info.missed) for m in messages]


def test_messages_of_a_tap_are_kept_written_and_need_no_release() -> None:
    with number_sender() as tx, psyne.tap("ipc://n", Number) as tap:
        send_numbers(tx, 0, 5)
        kept = [tap.receive() for _ in range(5)]
        send_numbers(tx, 5, 50)
        kept[2].n = 77
        assert [m.n for m in kept] == [0, 1, 77, 3, 4]
        tx.send(kept[2])
        assert tap.receive_many(100)[-1].n in range(100)
    assert kept[4].n == 4
    assert kept[4].info == psyne.Info(4, kept[4].info.sender, 0, False)
    with kept[3] as m:
        assert m.n == 3
    with pytest.raises(psyne.MessageReleased):
        kept[3].info  # noqa: B018


def test_iteration_ends_no_message_and_stops_with_the_channel() -> None:
    with psyne.tap("ipc://n") as tap:
        with number_sender() as tx, psyne.tap("ipc://n") as batches:
            assert tap.try_receive() is None
            send_numbers(tx, 0, 7)
            tx.close()
            assert [m.n for m in list(tap)] == list(range(7))
            assert [b["n"].tolist() for b in list(batches.batches(3))] == [[0, 1, 2], [3, 4, 5], [6]]
        with pytest.raises(psyne.EndOfChannel):
            tap.receive()
        assert list(tap) == []


def test_a_batch_is_one_array_of_consecutive_messages_each_with_its_info() -> None:
    with number_sender(timestamps=True) as tx, psyne.tap("ipc://n") as tap:
        send_numbers(tx, 0, 3)
        tx.loan().discard()
        send_numbers(tx, 3, 6)
        batch = tap.receive_many(100)
        assert batch.array["n"].tolist() == [0, 1, 2, 3, 4, 5]
        assert [m.info.sequence for m in batch] == list(range(6))
        assert all(m.info.timestamp for m in batch)
        assert [m.info.timestamp for m in batch] == sorted(m.info.timestamp for m in batch)
        batch["n"][:] = 1
        assert tap.try_receive_many(10) is None
        send_numbers(tx, 6, 60)
        batch = tap.receive_many(100)
        assert (batch.info.missed, batch[1].info.missed) == (int(batch["n"][0]) - 6, 0)


def test_linger_waits_for_more_but_not_for_what_cannot_come() -> None:
    with number_sender() as tx, psyne.tap("ipc://n") as tap:
        send_numbers(tx, 0, 2)
        sender = threading.Timer(0.05, send_numbers, (tx, 2, 4))
        sender.start()
        assert tap.receive_many(4, linger=60)["n"].tolist() == [0, 1, 2, 3]
        sender.join()
        send_numbers(tx, 4, 8)
        assert len(tap.receive_many(100, linger=600)) == 4  # the lap ends


def test_a_tap_begins_with_what_is_sent_after_it_or_with_the_last_messages_of_each_sender() -> None:
    with number_sender(64) as a, number_sender(64) as b:
        send_numbers(a, 0, 20)
        send_numbers(b, 100, 102)
        none, some, all_there = (psyne.tap("ipc://n", Number, history=n) for n in (0, 3, 10**9))
        assert none.try_receive() is None
        assert sorted(seen(some.receive() for _ in range(5))) == [(17, 0), (18, 0), (19, 0), (100, 0), (101, 0)]
        assert sorted(m.n for m in (all_there.receive() for _ in range(22))) == [*range(20), 100, 101]
        send_numbers(b, 102, 103)
        assert [tap.receive().n for tap in (none, some, all_there)] == [102, 102, 102]


def test_history_counts_messages_and_not_what_was_taken_back() -> None:
    with number_sender() as tx:
        for n in range(3):
            first = tx.loan()
            send_numbers(tx, n, n + 1)
            first.discard()
        with psyne.tap("ipc://n", history=2) as tap:
            assert seen(tap.receive() for _ in range(2)) == [(1, 0), (2, 0)]


def test_a_tap_that_was_lapped_counts_what_it_missed() -> None:
    with number_sender() as tx, psyne.tap("ipc://n") as tap:
        send_numbers(tx, 0, 1000)
        first = tap.receive()
        assert first.n == first.info.missed
        assert first.n in (992, 993)
        assert seen(tap.receive() for _ in range(999 - first.n)) == [(n, 0) for n in range(first.n + 1, 1000)]


def test_latest_gives_the_newest_message_of_each_sender() -> None:
    with number_sender() as a, number_sender() as b, psyne.tap("ipc://n", latest=True) as tap:
        send_numbers(a, 0, 5)
        send_numbers(b, 100, 103)
        assert sorted(seen([tap.receive(), tap.receive()])) == [(4, 4), (102, 2)]
        assert tap.try_receive() is None
        send_numbers(a, 5, 100)
        assert seen([tap.receive()]) == [(99, 94)]
        with psyne.tap("ipc://n", latest=True, history=1) as now:
            assert sorted(seen([now.receive(), now.receive()])) == [(99, 0), (102, 0)]


def test_what_the_sender_dropped_is_missed_too() -> None:
    with (
        psyne.sender("ipc://n", Number, capacity=2, full="drop") as tx, psyne.receiver("ipc://n") as rx,
        psyne.tap("ipc://n") as tap,
    ):  # fmt: skip
        send_numbers(tx, 0, 7)
        rx.receive().release()
        send_numbers(tx, 7, 8)
        assert seen(tap.receive() for _ in range(2)) == [(1, 1), (7, 5)]
        assert tap.statistics().missed == 6


def test_taps_are_no_members_and_keep_no_channel_from_its_end() -> None:
    with (
        psyne.sender("ipc://n", Number, pattern="spsc", capacity=4) as tx, psyne.tap("ipc://n") as one,
        psyne.receiver("ipc://n") as rx, psyne.tap("ipc://n", Number) as two,
    ):  # fmt: skip
        send_numbers(tx, 0, 3)
        assert [m.n for m in (one.receive(), two.receive(), rx.receive())] == [0, 0, 0]
        rx.receive_many(2).release()
        tx.drain()
        tx.close()
        with pytest.raises(psyne.EndOfChannel):
            rx.receive()
        assert [m.n for m in one] == [m.n for m in two] == [1, 2]


def test_a_tap_after_the_end_has_the_history_and_then_the_end() -> None:
    with psyne.receiver("ipc://n", Number) as rx:
        with psyne.sender("ipc://n", Number) as tx:
            send_numbers(tx, 0, 3)
            assert rx.receive().n == 0
        with psyne.tap("ipc://n", history=2) as tap, psyne.tap("ipc://n") as late:
            assert [m.n for m in tap] == [1, 2]
            with pytest.raises(psyne.EndOfChannel):
                late.receive()


def test_a_tap_without_a_channel_waits_and_says_so() -> None:
    with psyne.tap("ipc://n") as tap:
        assert not tap.joined
        assert tap.address == "ipc://n"
        with pytest.raises(psyne.Empty, match="no sender has made ipc://n"):
            tap.receive(timeout=0.01)
        with number_sender() as tx:
            send_numbers(tx, 0, 3)
            assert [tap.receive().n for _ in range(3)] == [0, 1, 2]
            assert tap.joined
            with pytest.raises(psyne.Empty):
                tap.receive(timeout=0.01)


@pytest.mark.parametrize("address", ["ipc://n", "memory://n"])
def test_closing_ends_a_wait_and_leaves_the_messages(address: str) -> None:
    with psyne.sender(address, Number, stages=[]) as tx, psyne.tap(address) as tap:
        send_numbers(tx, 0, 1)
        kept = tap.receive()
        closer = threading.Timer(0.05, tap.close)
        closer.start()
        with pytest.raises(psyne.ChannelClosed):
            tap.receive()
        closer.join()
        assert tap.closed
        assert kept.n == 0
        with pytest.raises(psyne.ChannelClosed):
            tap.try_receive()
        tap.close()


@pytest.mark.parametrize("options", [
    {"history": -1}, {"history": 1 << 63}, {"history": 1.5}, {"latest": "x"}, {"wait": "often"}, {"follow": 3},
])  # fmt: skip
def test_an_option_that_can_never_work_is_refused(options: Any) -> None:
    with pytest.raises(psyne.InvalidArgument):
        psyne.tap("ipc://n", Number, **options)


def test_a_tap_has_options_of_its_own_and_stays_where_it_is() -> None:
    with pytest.raises(TypeError, match=r"psyne\.tap\(\) has no option 'stage'"):
        psyne.tap("ipc://n", Number, stage="main")  # type: ignore[call-overload]
    with psyne.tap("ipc://n") as tap, pytest.raises(TypeError, match="open one there"):
        pickle.dumps(tap)
    with number_sender(), pytest.raises(psyne.LayoutMismatch):
        psyne.tap("ipc://n", Sample)
    with number_sender(), psyne.tap("ipc://n") as tap, pytest.raises(ValueError, match="at least 1"):
        tap.receive_many(0)


def test_several_types_columns_text_and_arrow_arrive_as_copies() -> None:
    pa = pytest.importorskip("pyarrow")
    table = ArrowBatch(pa.schema([("x", pa.int64())]))
    plane = Array("f4", ndim=2, max_bytes=1 << 20)
    with (
        psyne.sender("ipc://events", Number, plane, Text, table, capacity=16, stages=[]) as tx,
        psyne.tap("ipc://events", Number, psyne.Message) as tap,
    ):
        tx.send(Number(n=1))
        tx.send(Number(n=2))
        tx.send(np.arange(6, dtype="f4").reshape(2, 3))
        tx.send("hello")
        tx.send(pa.record_batch({"x": [1, 2, 3]}))
        batch: Any = tap.receive_many(10)
        assert [m.n for m in batch] == [1, 2]
        got: list[Any] = [tap.receive() for _ in range(3)]
        send_numbers(tx, 0, 100)
        assert got[0].array.tolist() == [[0, 1, 2], [3, 4, 5]]
        assert str(got[1]) == "hello"
        assert got[2].batch.to_pydict() == {"x": [1, 2, 3]}
        assert tap.statistics().copied_bytes < 4096  # and not the room that they might have used


def test_columns_stay_columns() -> None:
    with psyne.sender("ipc://scans", Scan, capacity=8, stages=[]) as tx, psyne.tap("ipc://scans", Scan) as tap:
        with tx.loan_many(6) as loan:
            loan["n"] = range(6)
            loan["points"] = np.arange(18).reshape(6, 3)
        assert tap.receive().n == 0
        batch = tap.receive_many(10)
        assert batch["n"].tolist() == [1, 2, 3, 4, 5]
        assert batch["points"].ravel().tolist() == list(range(3, 18))
        assert batch[4].points.tolist() == [15, 16, 17]


@pytest.mark.parametrize("shape", [(-1, 4), (2**32, 2**32), (8, 9)])
def test_a_shape_that_does_not_fit_is_refused_and_leads_nowhere(psyne_directory: Path, shape: tuple[int, int]) -> None:
    plane = Array("f4", ndim=2, max_bytes=256)
    with psyne.sender("ipc://p", plane, capacity=4, stages=[]) as tx, psyne.tap("ipc://p") as tap:
        with tx.loan(shape=(8, 8)) as m:
            m.array[...] = 1
        memory = slab(psyne_directory, "p")
        struct.pack_into("<qq", memory, at(memory, PAYLOAD) + 256, *shape)
        message: Any = tap.receive()
        for look in (lambda: message.array, message.copy, lambda: memoryview(message)):
            with pytest.raises(psyne.PeerCorrupted):
                look()


def test_select_and_fileno_tell_of_a_tap() -> None:
    with number_sender() as tx, psyne.tap("ipc://n", Number) as tap, psyne.tap("ipc://other", Number) as other:
        assert psyne.select(tap, other, timeout=0.01) == []
        threading.Timer(0.05, send_numbers, (tx, 0, 1)).start()
        assert psyne.select(tap, other) == [tap]
        assert tap.receive().n == 0
        level = tap.fileno()
        assert psyne.select(level, timeout=0) == []
        send_numbers(tx, 1, 2)
        assert psyne.select(level, timeout=10) == [level]
        assert tap.receive().n == 1
        assert psyne.select(level, timeout=0) == []
        tx.close()
        assert set(psyne.select(level, tap)) == {level, tap}
        with pytest.raises(psyne.EndOfChannel):
            tap.receive()


def test_a_listener_is_called_with_copies() -> None:
    kept: list[Any] = []
    done = threading.Event()
    with number_sender() as tx, psyne.tap("ipc://n", Number) as tap:

        def keep(m: Number) -> None:
            kept.append(m.n)
            if len(kept) == 3:
                done.set()

        with tap.listen(keep):
            send_numbers(tx, 0, 3)
            assert done.wait(60)
        send_numbers(tx, 3, 4)
        assert tap.receive().n == 3
        assert kept == [0, 1, 2]


def test_statistics_tell_what_a_tap_copied_and_missed() -> None:
    with number_sender(timestamps=True) as tx, psyne.tap("ipc://n") as tap:
        send_numbers(tx, 0, 100)
        assert tap.statistics().occupancy == 8
        got = list(tap.receive_many(3))
        s = tap.statistics()
        assert (s.received, s.missed, s.copied_bytes) == (len(got), got[0].n, 8 * len(got))
        assert (s.capacity, s.held, s.sent, s.late_wakes) == (8, 0, 0, 0)
        assert s.latency() > 0


def test_in_event_loops_every_wait_is_a_coroutine(run: Callable[..., Any]) -> None:  # noqa: F811
    async def main() -> None:
        async with aio.tap("ipc://n", Number) as tap, aio.tap("ipc://n", latest=True) as newest:
            kept: list[Any] = []

            async def watch() -> None:
                async for m in tap:
                    kept.append(m)

            async with anyio.create_task_group() as group:
                group.start_soon(watch)
                with anyio.move_on_after(0.02):
                    await newest.receive()
                async with aio.sender("ipc://n", Number, capacity=64, stages=[]) as tx:
                    for n in range(40):
                        await tx.send(Number(n=n))
                    while len(kept) < 40:
                        await anyio.sleep(0.001)
                    assert await aio.select(newest) == [newest]
                    m = await newest.receive()
                    assert (m.n, m.info.missed) == (39, 39)
                    assert newest.try_receive() is None
                    assert newest.try_receive_many(3) is None
                    await tx.send(Number(n=40))
                    assert (await newest.receive_many(5, linger=0.001))["n"].tolist() == [40]
            assert [m.n for m in kept] == list(range(41))  # copies: no step ended the one before
            assert [b async for b in tap.batches(3)] == []
            assert tap.statistics().received == 41
        assert tap.closed

    run(main)


def test_an_event_loop_takes_over_a_tap_and_nothing_else() -> None:
    with number_sender() as tx, psyne.tap("ipc://n") as tap:
        assert aio.Tap(tap).address == "ipc://n"
        with pytest.raises(TypeError, match="takes over"):
            aio.Tap(tx)
