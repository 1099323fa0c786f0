"""numpy's protocols on messages, and messages over buffers of one's own."""

import ctypes
import gc
import mmap
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import psyne
from psyne import Array, Struct, f32, u64
from psyne.testing import assert_same_bytes

from .helpers.layouts import Line, Record, line_of

Ends = tuple[psyne.Sender[Any], psyne.Receiver[Any]]


@pytest.fixture
def ends() -> Iterator[Ends]:
    with psyne.sender("ipc://lines", Line, capacity=1) as tx, psyne.receiver("ipc://lines", Line) as rx:
        yield tx, rx


def slot_is_free(tx: psyne.Sender[Any]) -> bool:
    m = tx.try_loan()
    if m is not None:
        m.discard()
    return m is not None


# ---- numpy's own protocols -----------------------------------------------------------------------------------------


class Interface:
    """A library that knows only __array_interface__, and holds the message while it uses the bytes."""

    def __init__(self, m: Any) -> None:
        self.__array_interface__ = m.__array_interface__
        self.held = m


def test_who_holds_the_message_for_its_array_interface_keeps_the_slot(ends: Ends):
    tx, rx = ends
    for n in range(2):
        tx.send(line_of(1, n))
        with rx.receive() as m:
            array = np.asarray(Interface(m))
            assert_same_bytes(array, m)
            assert not array.flags.writeable
        del m
        gc.collect()
        assert not slot_is_free(tx)
        assert array.tolist() == line_of(1, n).tolist()
        del array
        assert slot_is_free(tx)


def test_a_message_that_gave_its_array_interface_keeps_its_slot_until_it_is_gone(ends: Ends):
    tx, rx = ends
    tx.send(line_of(1, 0))
    m = rx.receive()
    assert m.__array_interface__ == m.array.__array_interface__
    with pytest.raises(psyne.ViewsAlive):
        m.release()
    del m
    assert slot_is_free(tx)


@pytest.mark.parametrize("type_", [Line, Record], ids=["array", "struct"])
def test_numpy_makes_an_array_of_a_message_without_a_copy(type_: Any):
    with psyne.sender("ipc://x", type_, capacity=1) as tx, psyne.receiver("ipc://x") as rx:
        tx.send(type_())
        with rx.receive() as m:
            array = np.asarray(m)
            assert_same_bytes(array, m)
            assert array.dtype == m.array.dtype
        del m
        assert not slot_is_free(tx)
        del array
        assert slot_is_free(tx)


def test_numpy_makes_an_array_of_dtypes_that_a_buffer_cannot_describe():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    half = Array(ml_dtypes.bfloat16, 4)
    with psyne.sender("ipc://x", half, capacity=1) as tx, psyne.receiver("ipc://x", half) as rx:
        tx.send(np.arange(4).astype(ml_dtypes.bfloat16))
        with rx.receive() as m:
            array = np.asarray(m)
            assert array.dtype == ml_dtypes.bfloat16
            assert array.__array_interface__["data"] == m.array.__array_interface__["data"]
            assert np.asarray(m, np.float32).tolist() == [0, 1, 2, 3]
        del m
        assert not slot_is_free(tx)
        del array
        assert slot_is_free(tx)


def test_array_converts_and_copies_as_asked():
    m = Line(line_of(1, 0))
    assert m.__array__() is not m.__array__(copy=True)
    assert np.shares_memory(m.__array__(copy=False), m.array)
    assert not np.shares_memory(m.__array__(copy=True), m.array)
    assert m.__array__("f8").dtype == np.float64  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="without a copy"):
        m.__array__("f8", copy=False)  # type: ignore[arg-type]


# ---- memory of one's own -------------------------------------------------------------------------------------------


class Imu(Struct):
    stamp = u64()
    accel = f32(3)


def test_a_message_lies_over_a_buffer_of_ones_own_and_keeps_it():
    memory = mmap.mmap(-1, mmap.PAGESIZE)
    m = Imu.from_buffer(memory, 64)
    assert isinstance(m, Imu)
    m.stamp, m.accel = 7, (1, 2, 3)
    assert int.from_bytes(memory[64:72], "little") == 7
    assert np.frombuffer(memory, "f4", 3, 72).tolist() == [1, 2, 3]
    memory[64] = 9
    assert m.stamp == 9
    accel = m.accel
    del m
    with pytest.raises(BufferError):
        memory.close()
    del accel
    memory.close()


def test_a_message_over_a_read_only_buffer_is_read_only():
    m = Imu.from_buffer(b"\x05" + bytes(23))
    assert m.stamp == 5
    assert not m.accel.flags.writeable
    with pytest.raises(psyne.ReadOnly):
        m.stamp = 6
    with pytest.raises(TypeError):
        ctypes.c_char.from_buffer(m)
    own = m.private()
    own.stamp = 6
    assert (m.stamp, own.stamp, m.copy().stamp) == (5, 6, 5)


def test_a_message_of_ones_own_can_be_sent():
    with psyne.sender("ipc://imu", Imu) as tx, psyne.receiver("ipc://imu", Imu) as rx:
        m = Imu.from_buffer(bytearray(24))
        m.stamp = 3
        tx.send(m)
        assert rx.receive().stamp == 3


@pytest.mark.parametrize(
    ("buffer", "offset", "says"),
    [
        (bytearray(23), 0, "needs 24 bytes; this buffer has 23"),
        (bytearray(32), 16, "offset= is 16"),
        (bytearray(32), -8, "offset= is -8"),
        (bytearray(32), 2**62, "this buffer has 32"),
        (np.zeros(64, "u1")[::2], 0, "not contiguous"),
        (np.zeros(8, "u8").view("u1"), 4, "that 8 divides"),
    ],
)
def test_a_buffer_that_cannot_hold_the_message_is_refused_with_numbers(buffer: Any, offset: int, says: str):
    with pytest.raises(psyne.InvalidArgument, match=says):
        Imu.from_buffer(buffer, offset)


def test_a_buffer_with_a_shape_that_does_not_fit_is_refused_when_it_is_used():
    planes = Array("f4", ndim=2, max_bytes=1024)
    assert planes.from_buffer(bytearray(2048)).array.shape == (0, 0)
    with pytest.raises(psyne.PeerCorrupted, match="does not fit"):
        _ = planes.from_buffer(bytearray(b"\xff" * 2048)).array


def test_from_buffer_wants_a_buffer_and_a_class_with_fields():
    with pytest.raises(TypeError, match="bytes-like"):
        Imu.from_buffer(5)  # type: ignore[arg-type]
    with pytest.raises((TypeError, AttributeError)):
        Struct.from_buffer(bytearray(8))
    with pytest.raises(TypeError, match="misses"):
        Imu.from_buffer()  # type: ignore[call-arg]
    with pytest.raises(OverflowError):
        Imu.from_buffer(bytearray(24), 1 << 80)
