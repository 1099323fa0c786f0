"""Sending: what `send` takes and refuses, drops, drains, capacities and alignment."""

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import psyne
from psyne import Array, Struct, f32, u8, u64

from .helpers.layouts import Number, Picture, Sample

Ends = tuple[psyne.Sender[Number], psyne.Receiver[Number]]


@pytest.fixture
def ends() -> Iterator[Ends]:
    with psyne.sender("ipc://numbers", Number, capacity=8) as tx, psyne.receiver("ipc://numbers", Number) as rx:
        yield tx, rx


def received(rx: psyne.Receiver[Number]) -> list[int]:
    """The numbers of all messages that are there now."""
    numbers = []
    while m := rx.try_receive():
        numbers.append(m.n)
        m.release()
    return numbers


# ---- send(obj) and what it refuses ---------------------------------------------------------------------------------


@pytest.fixture
def pictures() -> Iterator[tuple[psyne.Sender[Any], psyne.Receiver[Any]]]:
    with psyne.sender("ipc://pictures", Picture, capacity=8) as tx, psyne.receiver("ipc://pictures", Picture) as rx:
        yield tx, rx


PIXELS = np.arange(24, dtype="u1").reshape(4, 6)


def whole_message() -> Any:
    m = Picture()
    m.array[:] = PIXELS
    return m


@pytest.mark.parametrize(
    "thing",
    [
        PIXELS,
        np.asfortranarray(PIXELS),
        np.repeat(PIXELS, 2, axis=1)[:, ::2],
        PIXELS[::-1].copy()[::-1],
        np.broadcast_to(PIXELS[0], (4, 6)) * 0 + PIXELS,
        memoryview(PIXELS),
        memoryview(bytearray(range(24))).cast("B", (4, 6)),
        whole_message(),
    ],
    ids=["contiguous", "fortran", "strided", "reversed", "computed", "memoryview", "cast", "message"],
)
def test_send_copies_whatever_has_the_channels_layout(pictures: Any, thing: Any):
    tx, rx = pictures
    assert tx.send(thing) is True
    with rx.receive() as m:
        assert m.array.tolist() == PIXELS.tolist()


def test_send_copies_at_once_so_the_source_may_change(pictures: Any):
    tx, rx = pictures
    source = PIXELS.copy()
    tx.send(source)
    source[:] = 0
    with rx.receive() as m:
        assert m.array.tolist() == PIXELS.tolist()


@pytest.mark.parametrize(
    "thing", [b"12345678", bytearray(b"12345678"), memoryview(b"12345678"), np.arange(49, 57, dtype="u1")]
)
def test_bytes_are_an_array_of_u1(thing: Any):
    with psyne.sender("ipc://bytes", Array("u1", 8), capacity=8) as tx, psyne.receiver("ipc://bytes") as rx:
        tx.send(thing)
        with rx.receive() as m:
            assert bytes(m) == b"12345678"


def test_a_number_is_a_message_of_a_channel_of_scalars():
    with psyne.sender("ipc://scalars", Array("f8"), capacity=8) as tx, psyne.receiver("ipc://scalars") as rx:
        tx.send(2.5)
        with rx.receive() as m:
            assert m.array[()] == 2.5


@pytest.mark.parametrize(
    "thing",
    [
        PIXELS.astype("u2"),
        PIXELS.astype("i1"),
        PIXELS.astype("?"),
        PIXELS.T,
        PIXELS[:3],
        PIXELS[None],
        PIXELS.ravel(),
        bytes(24),
        bytes(25),
        memoryview(bytes(24)),
        memoryview(PIXELS.astype("f4")),
        Number(n=1),
        PIXELS.tolist(),
        5,
        "picture",
        None,
        Picture,
    ],
    ids=["u2", "i1", "bool", "transposed", "smaller", "more axes", "flat", "bytes", "too large", "flat view", "f4 view",
         "another message", "list", "number", "text", "none", "class"],
)  # fmt: skip
def test_send_refuses_another_dtype_or_shape_with_both_layouts(pictures: Any, thing: Any):
    tx, rx = pictures
    with pytest.raises(psyne.LayoutMismatch, match=r"uint8\[4, 6\].*got "):
        tx.send(thing)
    tx.send(PIXELS)
    with rx.receive() as m:
        assert m.info.sequence == 0
        assert m.array.tolist() == PIXELS.tolist()


def test_a_struct_with_the_same_name_and_other_fields_is_refused():
    class Imu(Struct):
        stamp = u64()

    first = Imu

    class Imu(Struct):  # type: ignore[no-redef]
        accel = f32(3)
        flag = u8()

    with psyne.sender("ipc://imu", first, capacity=8) as tx:
        with pytest.raises(psyne.LayoutMismatch):
            tx.send(Imu())
        tx.send(first(stamp=1))


# ---- full="drop" ---------------------------------------------------------------------------------------------------


def test_drop_loses_the_new_messages_and_tells_the_receiver_how_many():
    with (
        psyne.sender("ipc://numbers", Number, capacity=4, full="drop") as tx,
        psyne.receiver("ipc://numbers", Number) as rx,
    ):
        assert [tx.send(Number(n=n)) for n in range(7)] == [True] * 4 + [False] * 3
        with tx.loan() as m:  # one more, into memory that nobody sees
            m.n = 7
        assert received(rx) == [0, 1, 2, 3]
        tx.send_many(np.array([(8,), (9,)], Number.__layout__.dtype))
        first, second = rx.receive(), rx.receive()
        assert (first.n, first.info.missed) == (8, 4)
        assert (second.n, second.info.missed) == (9, 0)


def test_drop_counts_the_messages_of_a_batch():
    with (
        psyne.sender("ipc://numbers", Number, capacity=4, full="drop") as tx,
        psyne.receiver("ipc://numbers", Number) as rx,
    ):
        for n in range(4):
            tx.send(Number(n=n))
        with tx.loan_many(3) as batch:
            batch["n"] = 5
            batch.truncate(2)
        tx.send_many(np.zeros(11, Number.__layout__.dtype))
        assert received(rx) == [0, 1, 2, 3]
        with tx.loan_many(2) as batch:
            batch["n"] = [7, 8]
        with rx.receive_many(4) as got:
            assert got["n"].tolist() == [7, 8]
            assert got.info.missed == 13


def test_drop_does_not_count_what_was_discarded():
    with (
        psyne.sender("ipc://numbers", Number, capacity=1, full="drop") as tx,
        psyne.receiver("ipc://numbers", Number) as rx,
    ):
        tx.send(Number(n=0))
        tx.loan().discard()
        assert received(rx) == [0]
        tx.send(Number(n=1))
        with rx.receive() as m:
            assert (m.n, m.info.missed) == (1, 0)


def test_try_loan_tells_that_the_ring_is_full_although_the_sender_drops():
    with psyne.sender("ipc://numbers", Number, capacity=1, full="drop") as tx:
        tx.send(Number(n=0))
        assert tx.try_loan() is None


# ---- drain ---------------------------------------------------------------------------------------------------------


def test_drain_returns_when_all_stages_have_passed_all_messages():
    with psyne.sender("ipc://numbers", Number, capacity=8, stages=["first", "second"]) as tx:
        tx.drain(timeout=0)  # nothing was sent
        for n in range(3):
            tx.send(Number(n=n))
        with (
            psyne.receiver("ipc://numbers", stage="first") as first,
            psyne.receiver("ipc://numbers", stage="second") as second,
        ):
            for _ in range(3):
                first.receive().release()
            with pytest.raises(psyne.Full, match=r"not drained.*stage 'second' has 3 messages to pass"):
                tx.drain(timeout=0)
            drained = threading.Thread(target=tx.drain)
            drained.start()
            for left in (2, 1, 0):
                assert drained.is_alive() or left == 0
                second.receive().release()
            drained.join()


def test_drain_does_not_wait_for_views_and_discarded_loans(ends: Ends):
    tx, rx = ends
    tx.loan().discard()
    tx.send(Number(n=1))
    m = rx.receive()
    kept = m.array
    with m:
        pass
    tx.drain(timeout=0)
    assert kept["n"] == 1


# ---- capacity ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("nbytes", "capacity"),
    [(1, 4096), (64, 4096), (8192, 4096), (16384, 2048), (1 << 20, 32), (3 << 20, 10), (4 << 20, 8), (64 << 20, 8)],
)
def test_the_default_capacity_is_what_fits_in_32_mib_8_to_4096(nbytes: int, capacity: int):
    with psyne.sender("ipc://sizes", Array("u1", nbytes)) as tx:
        assert tx.capacity == capacity


@pytest.mark.parametrize(
    ("asked", "nbytes", "given"), [(1, 8, 1), (3, 8, 4), (5, 8, 8), (1000, 64, 1024), (3, 4096, 3), (5, 10000, 5)]
)
def test_the_capacity_of_small_messages_is_rounded_up_to_a_power_of_two(asked: int, nbytes: int, given: int):
    with psyne.sender("ipc://sizes", Array("u1", nbytes), capacity=asked) as tx:
        assert tx.capacity == given
        for _ in range(given):
            tx.send(np.zeros(nbytes, "u1"))
        assert tx.try_loan() is None


@pytest.mark.parametrize("align", [1, 64, 256, 4096])
def test_align_aligns_every_message(align: int):
    with (
        psyne.sender("ipc://aligned", Array("u1", 10), align=align, capacity=8) as tx,
        psyne.receiver("ipc://aligned") as rx,
    ):
        for n in range(20):
            tx.send(np.full(10, n, "u1"))
            with rx.receive() as m:
                assert m.array.ctypes.data % align == 0
                assert m.array.tolist() == [n] * 10


def test_each_sender_has_a_capacity_of_its_own():
    with psyne.sender("ipc://numbers", Number, capacity=2) as a, psyne.sender("ipc://numbers", capacity=16) as b:
        assert (a.capacity, b.capacity) == (2, 16)


def test_a_channel_of_capacity_one_alternates():
    with psyne.sender("ipc://numbers", Number, capacity=1) as tx, psyne.receiver("ipc://numbers") as rx:
        for n in range(1000):
            tx.send(Number(n=n), timeout=0)
            assert tx.try_loan() is None
            with rx.receive() as m:
                assert m.n == n


def test_a_message_may_be_larger_than_the_default_ring():
    big = Array("u1", 40 << 20)
    with psyne.sender("ipc://big", big, capacity=1) as tx, psyne.receiver("ipc://big") as rx:
        with tx.loan() as m:
            m.array[-1] = 9
        with rx.receive() as m:
            assert m.array[-1] == 9


def test_padding_and_samples_of_odd_sizes_keep_apart():
    with psyne.sender("ipc://samples", Sample, capacity=8) as tx, psyne.receiver("ipc://samples") as rx:
        for lap in range(3):
            for n in range(8):
                tx.send(Sample(stamp=n, kind=255, values=[lap] * 3))
            for n in range(8):
                with rx.receive() as m:
                    assert (m.stamp, m.kind, m.values.tolist()) == (n, 255, [lap] * 3)
