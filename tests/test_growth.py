"""full="grow": rings that become larger when they have to, and smaller again."""

import asyncio
import logging
import re
import threading
from typing import Any

import numpy as np
import pytest

import psyne
from psyne import Array, ArrowBatch, Bytes, Stage, Text, aio

from .helpers.layouts import Line, Number, Record, line_of, lines_of
from .helpers.process import Child, until

Blob = Bytes(max_bytes=1 << 24)
Plane = Array("f4", ndim=2, max_bytes=1 << 24)
SOON = 0.01  # seconds of low load


def grows(address: str, *types: Any, **options: Any) -> psyne.Sender[Any]:
    return psyne.sender(address, *types, full="grow", **options)


def noise(size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, size]).integers(0, 256, size, dtype=np.uint8)


def fill(tx: Any) -> tuple[int, str]:
    """Sends lines until it is full: how many, and what it said."""
    sent = 0
    while True:
        try:
            tx.send(line_of(1, sent), timeout=0.3)
        except psyne.Full as full:
            return sent, str(full)
        sent += 1


# ---- options ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"full": "grow", "budget": 0}, "budget is a number of bytes, 1 or more; got 0"),
        ({"full": "grow", "budget": 1.5}, "got 1.5"),
        ({"full": "grow", "budget": 1 << 63}, "budget is a number of bytes"),
        ({"full": "grow", "shrink_after": 0}, "shrink_after is a number of seconds above 0; got 0"),
        ({"full": "grow", "shrink_after": float("nan")}, "shrink_after"),
        ({"full": "grow", "shrink_after": "1"}, "shrink_after"),
        ({"budget": 1 << 20}, "budget=1048576 is for rings that grow: full=\"grow\"; this one has full='block'"),
        ({"shrink_after": 1.0, "full": "drop"}, "shrink_after=1.0 is for rings that grow"),
        ({"full": "expand"}, "full='expand'; it is one of 'block', 'drop', 'grow'"),
    ],
)
def test_an_option_that_cannot_work_says_why(options: dict[str, Any], says: str):
    for opens in (lambda: psyne.sender("ipc://g", Number, **options), lambda: psyne.channel(Number, **options)):
        with pytest.raises(ValueError, match=re.escape(says)):
            opens()


def test_a_budget_below_the_first_ring_is_no_space_with_the_numbers():
    with pytest.raises(psyne.NoSpace, match=r"budget=65536 of ipc://g is used up: \d+ bytes"):
        grows("ipc://g", Number, budget=1 << 16)
    with grows("ipc://g", Number) as tx:  # nothing is left of it
        assert tx.send(Number(n=1))


def test_a_ring_that_grows_begins_small():
    fixed = Array("u1", 1 << 20)
    for types, options, slots in (
        ((Number,), {}, 4096),
        ((Line,), {}, 4096),
        ((fixed,), {}, 8),
        ((Blob,), {}, 64),
        ((Number, Blob), {}, 64),
        ((Number, Blob), {"capacity": 3}, 3),
        ((fixed, Text), {}, 8),
    ):
        with grows("ipc://g", *types, **options) as tx:
            assert tx.capacity == slots, types
            assert tx.statistics().reserved == tx.statistics().resident < 16 << 20


@pytest.mark.parametrize("kind", [Number, Blob])
def test_what_is_sent_in_a_ring_that_does_not_grow_reports_its_memory(kind: Any):
    with psyne.sender("ipc://g", kind, capacity=8) as tx:
        s = tx.statistics()
        assert (s.slabs, s.grown, s.shrunk, s.why) == (1, 0, 0, "")
        assert s.reserved >= s.resident > 0
    with psyne.receiver("ipc://other") as rx:
        assert (rx.statistics().slabs, rx.statistics().reserved) == (0, 0)


# ---- more slots ---------------------------------------------------------------------------------------------------


def test_a_full_ring_becomes_larger_and_nothing_is_lost():
    with grows("ipc://g", Line, capacity=64) as tx, psyne.receiver("ipc://g") as rx:
        for n in range(1000):
            tx.send(line_of(1, n))
        s = tx.statistics()
        assert s.capacity == tx.capacity >= 512
        assert s.slabs == s.grown + 1
        assert "the ring was full" in s.why
        for n in range(1000):
            with rx.receive(timeout=10) as m:
                assert (m.array == line_of(1, n)).all()
        assert rx.try_receive() is None


def test_after_low_load_it_has_the_memory_of_the_beginning():
    with grows("ipc://g", Line, capacity=64, shrink_after=SOON) as tx, psyne.receiver("ipc://g") as rx:
        first = tx.statistics().resident
        for _ in range(3):
            tx.send_many(lines_of(1, 0, 5000))
            assert tx.statistics().resident > 4 * first
            for _ in range(5000):
                rx.receive(timeout=10).release()
            until(lambda: tx.capacity == 64 and tx.statistics().slabs == 1, "the ring becoming small again")
            until(lambda: tx.statistics().resident == first, "the memory of the beginning")
        assert tx.statistics().shrunk > 0
        assert "the load was low" in tx.statistics().why


def test_a_batch_may_be_longer_than_the_ring():
    with grows("ipc://g", Line, capacity=8) as tx, psyne.receiver("ipc://g") as rx:
        with tx.loan_many(100) as batch:
            batch.array[...] = lines_of(1, 0, 100)
        assert tx.capacity == 128
        tx.send_many(lines_of(1, 100, 1000))
        got = 0
        while got < 1100:
            with rx.receive_many(1100, timeout=10) as some:
                assert (some.array == lines_of(1, got, len(some))).all()
                got += len(some)
        with pytest.raises(ValueError, match=r"1 to \d+ messages .* raise budget="):
            tx.loan_many(1 << 40)


def test_a_member_of_another_process_follows():
    with grows("ipc://g", Line, capacity=8) as tx, Child() as child:
        child.run("rx = psyne.receiver('ipc://g', Line)")
        tx.send_many(lines_of(3, 0, 2000))
        got = child.run("[int(m.array[1]) for _ in range(2000) for m in [rx.receive(timeout=30)]]")
        assert got == list(range(2000))


# ---- longer messages ----------------------------------------------------------------------------------------------

SIZES = [0, 1, 4087, 4088, 4089, 4096, 5000, 40_000, 1 << 20, 10, 1 << 24, 7]


@pytest.mark.parametrize("address", ["ipc://g", "memory://g"])
def test_a_message_longer_than_any_before_goes_through_in_one_loan(address: str):
    with grows(address, Blob) as tx, psyne.receiver(address) as rx:
        for size in SIZES:
            data = noise(size)
            with tx.loan(size=size) as m:
                assert len(m) == size
                m.array[:] = data
            assert tx.send(data.tobytes())
            assert tx.send(Blob(data))
            for _ in range(3):
                with rx.receive(timeout=10) as m:
                    assert (m.array == data).all()


def test_after_long_messages_and_low_load_it_is_what_it_was_at_first():
    with grows("ipc://g", Blob, shrink_after=SOON) as tx, psyne.receiver("ipc://g") as rx:
        first = tx.statistics().resident
        for size in (20_000, *[1 << 20] * 20):
            tx.send(noise(size))
            rx.receive(timeout=10).release()
        assert tx.capacity < 64
        until(lambda: tx.statistics().resident == first, "the memory of the beginning")
        assert tx.capacity == 64
        with tx.loan() as m:
            assert len(m) == 4088


def test_a_loan_without_a_size_is_what_its_slot_has_room_for():
    with grows("ipc://g", Blob) as tx, psyne.receiver("ipc://g") as rx:
        with tx.loan() as m:
            assert len(m) == 4096 - 8
            m.array[:] = 1
            m.truncate(5)
        with rx.receive() as m:
            assert m.bytes == b"\1" * 5
        with tx.loan(size=10) as m:
            m.bytes = b"a" * 4088
            with pytest.raises(
                ValueError, match=r"4089 bytes do not fit into this loan, which has room for 4088.*size="
            ):
                m.bytes = b"a" * 4089
        assert rx.receive().bytes == b"a" * 4088


def test_max_bytes_stays_the_limit_of_a_message():
    with grows("ipc://g", Blob) as tx:
        for call in (lambda: tx.loan(size=(1 << 24) + 1), lambda: tx.send(bytes((1 << 24) + 1))):
            with pytest.raises(ValueError, match="max_bytes=16777216"):
                call()
        assert tx.statistics().grown == 0


def test_a_shape_of_several_dimensions_takes_the_room_that_it_needs():
    with grows("ipc://g", Plane) as tx, psyne.receiver("ipc://g") as rx:
        for rows in (3, 500, 2, 1000):
            plane = np.arange(rows * 1000, dtype="f4").reshape(rows, 1000)
            with tx.loan(shape=plane.shape) as m:
                m.array[...] = plane
                m.truncate(rows - 1)
            tx.send(plane[:, ::2])
            assert (rx.receive(timeout=10).array == plane[:-1]).all()
            assert (rx.receive(timeout=10).array == plane[:, ::2]).all()
        with pytest.raises(TypeError, match="bring their own shape"):
            tx.loan()


@pytest.mark.parametrize("again", range(5))  # longer slots come while more are in the making, or not
def test_several_types_share_the_slots_that_grow(again: int):
    with grows("ipc://g", Record, Text(max_bytes=1 << 20), Plane) as tx, psyne.receiver("ipc://g") as rx:
        for n in range(20):
            tx.send(Record(n=n))
            tx.send("x" * (n * 5000))
            tx.send(np.full((n, 700), n, "f4"))
        for n in range(20):
            assert rx.receive(timeout=10).n == n
            assert rx.receive(timeout=10).text == "x" * (n * 5000)
            assert (rx.receive(timeout=10).array == np.full((n, 700), n)).all()


def test_a_batch_of_messages_of_their_own_shape_ends_before_an_extent():
    with grows("ipc://g", Blob) as tx, psyne.receiver("ipc://g") as rx:
        sizes = [1, 2, 100_000, 3, 4, 100_001]
        for size in sizes:
            tx.send(noise(size))
        got: list[int] = []
        while len(got) < len(sizes):
            with rx.receive_many(10, timeout=10) as batch:
                for m in batch:
                    assert (m.array == noise(len(m))).all()
                    got.append(len(m))
        assert got == sizes


def test_record_batches_grow_with_the_rest():
    pa = pytest.importorskip("pyarrow")
    schema = pa.schema([("n", pa.int64())])
    with grows("ipc://g", ArrowBatch(schema, max_bytes=1 << 22)) as tx, psyne.receiver("ipc://g") as rx:
        for n in (1, 100, 100_000):
            table = pa.record_batch([pa.array(range(n))], schema=schema)
            tx.send(table)
            assert rx.receive(timeout=10).batch.equals(table)
        with tx.loan(size=table.nbytes + 1000) as m:
            m.batch = table
        assert rx.receive(timeout=10).batch.equals(table)
        with tx.loan() as m, pytest.raises(ValueError, match=r"exceed the \d+ bytes of this loan\(size=…\)"):
            m.batch = table


def test_views_of_a_loan_and_of_a_received_message_in_an_extent_keep_their_bytes():
    with grows("ipc://g", Blob, shrink_after=SOON) as tx, psyne.receiver("ipc://g") as rx:
        kept = []
        for n in range(20):
            size = 200_000 + 1000 * n
            m = tx.loan(size=size)
            m.array[:] = noise(size)
            own = m.array
            tx.send(m)
            got = rx.receive(timeout=10)
            theirs, private, copy = got.array, got.private(), got.copy()
            del got, m
            kept.append((size, own, theirs, private, copy))
            tx.send(b"short")
            rx.receive(timeout=10).release()
        for size, own, theirs, private, copy in kept:
            data = noise(size)
            for same in (own, theirs, private.array, copy.array):
                assert (same == data).all()
            private.array[:] = 0
            assert (theirs == data).all()
        full = tx.statistics().resident
        del kept, own, theirs, private, copy
        until(lambda: tx.statistics().resident < full / 4, "the memory of the extents")


def test_a_call_comes_back_in_its_extent():
    stages = [Stage("work", mutate=True)]
    with grows("ipc://g", Blob, stages=stages) as tx, psyne.receiver("ipc://g") as rx:

        def work() -> None:
            for m in rx:
                m.array[:] += 1

        worker = threading.Thread(target=work)
        worker.start()
        for size in (10, 300_000, 4000, 1 << 22):
            with tx.call(noise(size), timeout=30) as done:
                assert (done.array == noise(size) + np.uint8(1)).all()
                assert done.info.sequence == tx.statistics().sent - 1
            with tx.loan(size=size) as m:
                m.array[:] = noise(size, 1)
                with tx.call(m, timeout=30) as done:
                    assert (done.array == noise(size, 1) + np.uint8(1)).all()
        tx.close()
        worker.join()


def test_a_tap_copies_messages_from_extents():
    with grows("ipc://g", Record, Blob) as tx, psyne.tap("ipc://g") as tap, psyne.receiver("ipc://g") as rx:
        for n, size in enumerate(SIZES):
            tx.send(noise(size))
            tx.send(Record(n=n))
            assert (tap.receive(timeout=10).array == noise(size)).all()
            seen = tap.receive(timeout=10)
            assert (seen.n, seen.info.missed) == (n, 0)
            for _ in range(2):
                rx.receive(timeout=10).release()
        assert tap.try_receive() is None


# ---- the budget ---------------------------------------------------------------------------------------------------


def test_a_budget_that_is_reached_waits_then_is_full_with_the_numbers():
    with grows("ipc://g", Line, capacity=64, budget=1 << 18) as tx, psyne.receiver("ipc://g") as rx:
        sent, why = fill(tx)
        assert "it cannot grow: budget=262144 of ipc://g is used up" in why
        assert "raise budget=" in why
        assert "budget=262144" in tx.statistics().why
        assert tx.statistics().reserved <= 1 << 18
        with rx.receive() as m:  # it goes on as soon as there is room
            assert (m.array == line_of(1, 0)).all()
        reader = threading.Thread(target=lambda: [rx.receive(timeout=30).release() for _ in range(sent - 1)])
        reader.start()
        tx.send(line_of(1, sent), timeout=30)
        reader.join()
        assert (rx.receive(timeout=10).array == line_of(1, sent)).all()


def test_a_long_message_waits_for_the_memory_of_another():
    with grows("ipc://g", Blob, budget=6 << 20) as tx, psyne.receiver("ipc://g") as rx:
        tx.send(noise(4 << 20))
        with pytest.raises(psyne.Full, match="no memory for a message of 4194312 bytes: budget=6291456"):
            tx.send(noise(4 << 20, 1), timeout=0.2)
        assert tx.try_loan(size=4 << 20) is None
        late = tx.statistics().late_wakes
        threading.Timer(0.05, lambda: rx.receive().release()).start()
        tx.send(noise(4 << 20, 2), timeout=30)
        assert (rx.receive(timeout=10).array == noise(4 << 20, 2)).all()
        assert tx.statistics().late_wakes == late == 0
        with pytest.raises(
            psyne.NoSpace, match=r"a message of 8388616 bytes is larger than all that .* budget=6291456"
        ):
            tx.loan(size=8 << 20)


def test_the_budget_is_that_of_all_senders_of_the_channel():
    options: dict[str, Any] = {"capacity": 64, "budget": 1 << 19}
    with grows("ipc://g", Line, **options) as greedy, grows("ipc://g", **options) as modest:
        for tx in (greedy, modest):
            assert "budget=524288" in fill(tx)[1]
        assert greedy.capacity > modest.capacity
        assert greedy.statistics().reserved + modest.statistics().reserved <= 1 << 19
        with grows("ipc://g", **options) as late:  # each may have its first ring, or nobody could join
            assert late.capacity == 64


# ---- every kind of channel ----------------------------------------------------------------------------------------


def test_an_anonymous_channel_grows():
    tx, rx = psyne.channel(Blob, full="grow", capacity=8)
    assert tx.capacity == 8
    with tx, rx:
        for n in range(300):
            tx.send(noise(n * 100))
        assert tx.capacity > 8
        for n in range(300):
            assert (rx.receive(timeout=10).array == noise(n * 100)).all()
        spare = tx.clone()
        assert spare.capacity == 8
        assert spare.send(noise(1 << 20), timeout=30)
        assert (rx.receive(timeout=10).array == noise(1 << 20)).all()


def test_event_loops_have_rings_that_grow():
    async def main() -> None:
        async with aio.sender("ipc://g", Blob, full="grow", capacity=8) as tx, aio.receiver("ipc://g", Blob) as rx:
            for n in range(300):
                await tx.send(noise(n * 100))
            async with tx.loan(size=1 << 20) as m:
                m.array[:] = noise(1 << 20)
            for n in range(300):
                assert ((await rx.receive()).array == noise(n * 100)).all()
            assert ((await rx.receive()).array == noise(1 << 20)).all()
        async with (
            aio.sender("ipc://b", Number, full="grow", capacity=8) as out,
            aio.receiver("ipc://b", Number) as back,
        ):
            async with out.loan_many(50) as batch:
                batch["n"] = range(50)
            assert [(await back.receive()).n for _ in range(50)] == list(range(50))

    asyncio.run(main())


def test_an_event_loop_waits_for_the_memory_of_a_long_message():
    async def main() -> None:
        async with aio.sender("ipc://g", Blob, full="grow", budget=6 << 20) as tx, aio.receiver("ipc://g", Blob) as rx:
            await tx.send(noise(4 << 20))
            task = asyncio.create_task(tx.send(noise(4 << 20, 1)))
            await asyncio.sleep(0.05)
            assert not task.done()
            (await rx.receive()).release()
            assert await asyncio.wait_for(task, 60)
            assert ((await rx.receive()).array == noise(4 << 20, 1)).all()

    asyncio.run(main())


def test_the_logger_tells_that_a_ring_grew_and_that_it_cannot(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING, "psyne"), grows("ipc://told", Line, capacity=64, budget=1 << 18) as tx:
        psyne.receiver("ipc://told")
        fill(tx)
    assert any("grew: 64 x 64 bytes to 128 x 64 bytes: the ring was full" in text for text in caplog.messages)
    assert any("cannot grow: budget=262144" in text for text in caplog.messages)
