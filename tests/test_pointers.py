"""C libraries reach messages through ctypes and cffi; what they hold keeps the slot."""

import ctypes
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import psyne
from psyne import Array, Struct, f32, u64

Ends = tuple[psyne.Sender[Any], psyne.Receiver[Any]]
Plane = Array("f4", (32, 64))


class Frame(Struct):
    stamp = u64()
    small = f32(3)


@pytest.fixture
def ends() -> Iterator[Ends]:
    with psyne.sender("ipc://planes", Plane, capacity=1) as tx, psyne.receiver("ipc://planes", Plane) as rx:
        yield tx, rx


def slot_is_free(tx: psyne.Sender[Any]) -> bool:
    m = tx.try_loan()
    if m is not None:
        m.discard()
    return m is not None


class CFrame(ctypes.Structure):
    _fields_ = [("stamp", ctypes.c_uint64), ("small", ctypes.c_float * 3)]


def test_ctypes_lays_structures_over_writable_messages_and_keeps_the_slot():
    with psyne.sender("ipc://frames", Frame, capacity=1) as tx, psyne.receiver("ipc://frames") as rx:
        with tx.loan() as m:
            structure = CFrame.from_buffer(m)
            structure.stamp, structure.small[1] = 7, 2.5
            assert ctypes.addressof(ctypes.c_char.from_buffer(m)) == m.array.ctypes.data
        del m
        with rx.receive() as got:
            assert (got.stamp, got.small.tolist()) == (7, [0, 2.5, 0])
        del got
        assert not slot_is_free(tx)
        del structure
        assert slot_is_free(tx)


def test_ctypes_reads_received_messages_through_a_pointer_and_cannot_have_them_writable(ends: Ends):
    tx, rx = ends
    tx.send(np.full((32, 64), 3, "f4"))
    with rx.receive() as m:
        with pytest.raises(TypeError, match=r"read-?only|not writable"):
            ctypes.c_char.from_buffer(m)
        pointer = m.array.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        assert pointer[5] == 3
    del m
    assert not slot_is_free(tx)  # the pointer keeps the array
    del pointer
    assert slot_is_free(tx)


def test_cffi_takes_messages_as_buffers_and_keeps_the_slot(ends: Ends):
    ffi = pytest.importorskip("cffi").FFI()
    tx, rx = ends
    with tx.loan() as m:
        numbers = ffi.from_buffer("float[]", m, require_writable=True)
        assert int(ffi.cast("uintptr_t", numbers)) == m.array.ctypes.data
        numbers[2] = 1.5
        del numbers
    del m
    with rx.receive() as m:
        assert m.array[0, 2] == 1.5
        with pytest.raises((BufferError, ValueError), match="read-only"):
            ffi.from_buffer("float[]", m, require_writable=True)
        numbers = ffi.from_buffer("float[]", m)
    del m
    assert not slot_is_free(tx)
    assert numbers[2] == 1.5
    del numbers
    assert slot_is_free(tx)
