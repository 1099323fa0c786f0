"""DLPack: what a capsule says, and how long it keeps the slot."""

import ctypes
import gc
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import psyne
from psyne import Array, Stage, Struct, u8
from psyne.testing import assert_same_bytes

from .helpers.layouts import Line, Record, line_of, lines_of
from .helpers.process import run_program

Ends = tuple[psyne.Sender[Any], psyne.Receiver[Any]]
VERSIONED, UNVERSIONED = b"dltensor_versioned", b"dltensor"
READ_ONLY, IS_COPIED, PADDED = 1, 2, 4

capi = ctypes.pythonapi
capi.PyCapsule_IsValid.argtypes = [ctypes.py_object, ctypes.c_char_p]
capi.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
capi.PyCapsule_GetPointer.restype = ctypes.c_void_p
capi.PyCapsule_SetName.argtypes = [ctypes.py_object, ctypes.c_char_p]


class Tensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p), ("device", ctypes.c_int32 * 2), ("ndim", ctypes.c_int32), ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16), ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)), ("byte_offset", ctypes.c_uint64),
    ]  # fmt: skip


class Managed(ctypes.Structure):
    _fields_ = [("tensor", Tensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p)]


class Versioned(ctypes.Structure):
    _fields_ = [
        ("version", ctypes.c_uint32 * 2), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64), ("tensor", Tensor),
    ]  # fmt: skip


class Consumer:
    """What a tensor library does with a capsule."""

    def __init__(self, capsule: object) -> None:
        self.versioned = bool(capi.PyCapsule_IsValid(capsule, VERSIONED))
        name = VERSIONED if self.versioned else UNVERSIONED
        self.pointer = capi.PyCapsule_GetPointer(capsule, name)
        self.managed = (Versioned if self.versioned else Managed).from_address(self.pointer)
        self.tensor = self.managed.tensor
        capi.PyCapsule_SetName(capsule, b"used_" + name)

    @property
    def shape(self) -> list[int]:
        return self.tensor.shape[: self.tensor.ndim]

    @property
    def strides(self) -> list[int]:
        return self.tensor.strides[: self.tensor.ndim]

    def delete(self, prototype: Any = ctypes.CFUNCTYPE) -> None:
        """Calls the deleter; a CFUNCTYPE does so without the GIL, a PYFUNCTYPE with it."""
        prototype(None, ctypes.c_void_p)(self.managed.deleter)(self.pointer)


@pytest.fixture
def ends() -> Iterator[Ends]:
    with psyne.sender("ipc://lines", Line, capacity=1) as tx, psyne.receiver("ipc://lines", Line) as rx:
        yield tx, rx


def slot_is_free(tx: psyne.Sender[Any]) -> bool:
    m = tx.try_loan()
    if m is not None:
        m.discard()
    return m is not None


# ---- what a capsule says -------------------------------------------------------------------------------------------


def test_a_message_is_a_cpu_tensor_at_its_own_address(ends: Ends):
    tx, rx = ends
    tx.send(line_of(1, 0))
    with rx.receive() as m:
        assert m.__dlpack_device__() == (1, 0)
        got = Consumer(m.__dlpack__(max_version=(1, 0)))
        assert got.versioned
        assert list(got.managed.version) == [1, 1]
        assert got.managed.flags == READ_ONLY
        assert (got.tensor.data, got.tensor.byte_offset) == (m.array.ctypes.data, 0)
        assert (list(got.tensor.device), got.shape, got.strides) == ([1, 0], [8], [1])
        assert (got.tensor.code, got.tensor.bits, got.tensor.lanes) == (1, 64, 1)
        got.delete()


def test_numpy_takes_messages_and_batches_and_knows_what_is_read_only():
    with psyne.sender("ipc://lines", Line, capacity=8) as tx, psyne.receiver("ipc://lines") as rx:
        with tx.loan_many(4) as loan:
            whole = np.from_dlpack(loan)
            whole[:] = lines_of(1, 0, 4)
            assert_same_bytes(whole, loan.array)
        with rx.receive_many(4) as batch:
            seen = np.from_dlpack(batch)
            assert_same_bytes(seen, batch)
            assert seen.tolist() == lines_of(1, 0, 4).tolist()
            assert not seen.flags.writeable
        del whole, seen


def test_only_writable_memory_is_given_to_consumers_of_the_old_form(ends: Ends):
    tx, rx = ends
    with tx.loan() as m:
        m.array[:] = line_of(1, 0)
        got = Consumer(m.__dlpack__())
        assert not got.versioned
        assert got.tensor.data == m.array.ctypes.data
        got.delete()
    with rx.receive() as m:
        for old in ({}, {"max_version": None}, {"max_version": (0, 8)}):
            with pytest.raises(BufferError, match=r"read-only.*private\(\)"):
                m.__dlpack__(**old)


def test_a_copy_is_marked_as_one_and_leaves_the_slot_alone(ends: Ends):
    tx, rx = ends
    tx.send(line_of(1, 0))
    with rx.receive() as m:
        got = Consumer(m.__dlpack__(max_version=(1, 0), copy=True))
        assert got.managed.flags == IS_COPIED
        assert got.tensor.data != m.array.ctypes.data
        for copy in (False, None):
            same = Consumer(m.__dlpack__(max_version=(1, 0), copy=copy))
            assert (same.managed.flags, same.tensor.data) == (READ_ONLY, m.array.ctypes.data)
            same.delete()
    assert slot_is_free(tx)
    got.delete()


@pytest.mark.parametrize(
    ("keywords", "error", "says"),
    [
        ({"stream": 1}, ValueError, "no streams"),
        ({"dl_device": (2, 0)}, BufferError, r"CPU memory.*\(2, 0\)"),
        ({"dl_device": (1, 1)}, BufferError, "CPU memory"),
        ({"dl_device": 1}, TypeError, "tuple of two ints"),
        ({"max_version": (1,)}, TypeError, "tuple of two ints"),
        ({"max_version": ("1", 0)}, TypeError, "integer"),
        ({"max_version": (1 << 80, 0)}, OverflowError, "too large"),
        ({"speed": 1}, TypeError, "unexpected keyword"),
    ],
)
def test_what_a_cpu_tensor_cannot_be_is_refused(keywords: dict[str, Any], error: type[Exception], says: str):
    with pytest.raises(error, match=says):
        Line().__dlpack__(**keywords)
    with pytest.raises(TypeError, match="keywords only"):
        Line().__dlpack__(None)  # type: ignore[misc]
    Consumer(Line().__dlpack__(stream=None, max_version=(2, 7), dl_device=(1, 0))).delete()


@pytest.mark.parametrize(
    ("dtype", "code", "bits"),
    [
        ("?", 6, 8), ("i1", 0, 8), ("i2", 0, 16), ("i4", 0, 32), ("i8", 0, 64), ("u1", 1, 8), ("u2", 1, 16),
        ("u4", 1, 32), ("u8", 1, 64), ("f2", 2, 16), ("f4", 2, 32), ("f8", 2, 64), ("c8", 5, 64), ("c16", 5, 128),
    ],
)  # fmt: skip
def test_every_dtype_of_numpy_has_its_code(dtype: str, code: int, bits: int):
    got = Consumer(Array(dtype, (2, 3))().__dlpack__())
    assert (got.tensor.code, got.tensor.bits, got.tensor.lanes) == (code, bits, 1)
    assert (got.shape, got.strides) == ([2, 3], [3, 1])
    got.delete()


@pytest.mark.parametrize(
    ("name", "code", "bits"),
    [
        ("bfloat16", 4, 16), ("float8_e3m4", 7, 8), ("float8_e4m3", 8, 8), ("float8_e4m3b11fnuz", 9, 8),
        ("float8_e4m3fn", 10, 8), ("float8_e4m3fnuz", 11, 8), ("float8_e5m2", 12, 8), ("float8_e5m2fnuz", 13, 8),
        ("float8_e8m0fnu", 14, 8),
    ],
)  # fmt: skip
def test_dtypes_that_numpy_lacks_have_their_codes(name: str, code: int, bits: int):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    got = Consumer(Array(getattr(ml_dtypes, name), 4)().__dlpack__())
    assert (got.tensor.code, got.tensor.bits) == (code, bits)
    got.delete()


@pytest.mark.parametrize(
    ("name", "code", "bits"),
    [("int2", 0, 2), ("uint2", 1, 2), ("int4", 0, 4), ("uint4", 1, 4), ("float6_e2m3fn", 15, 6),
     ("float6_e3m2fn", 16, 6), ("float4_e2m1fn", 17, 4)],
)  # fmt: skip
def test_parts_of_bytes_are_padded_and_given_only_to_those_who_can_tell(name: str, code: int, bits: int):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    m = Array(getattr(ml_dtypes, name), 4)()
    for old in (None, (1, 0)):
        with pytest.raises(psyne.CannotShare, match=r"one to a byte.*view\('u1'\)"):
            m.__dlpack__(max_version=old)
    got = Consumer(m.__dlpack__(max_version=(1, 1)))
    assert (got.tensor.code, got.tensor.bits, got.managed.flags) == (code, bits, PADDED)
    got.delete()


@pytest.mark.parametrize("dtype", [">f4", "S4", "U2", "M8[s]", "g", "G", "V3"])
def test_dtypes_that_dlpack_lacks_are_refused_by_name(dtype: str):
    with pytest.raises(BufferError, match=r"byte-swapped|no type"):
        Array(dtype, 4)().__dlpack__()


def test_a_record_is_refused_and_its_fields_are_named():
    with pytest.raises(psyne.CannotShare, match="n, seen, body"):
        Record().__dlpack__()
    record = Record(body=5)
    assert np.from_dlpack(record.body).tolist() == [5] * 64


def test_a_batch_of_messages_with_room_between_them_has_strides():
    with psyne.sender("ipc://odd", Array("u1", 3), capacity=8, align=4) as tx, psyne.receiver("ipc://odd") as rx:
        tx.send_many(np.arange(12, dtype="u1").reshape(4, 3))
        with rx.receive_many(4) as batch:
            got = Consumer(batch.__dlpack__(max_version=(1, 0)))
            assert (got.shape, got.strides) == ([4, 3], [4, 1])
            got.delete()


def test_strides_that_elements_do_not_divide_are_refused():
    class Mixed(Struct):
        tag = u8()
        pair = u8(2)

    with psyne.sender("ipc://mixed", Mixed, capacity=8) as tx:
        batch = tx.loan_many(2)
        words = batch["pair"].view("u2")
        with pytest.raises(BufferError, match="of 2 bytes; this array has one of 3 bytes"):
            psyne._native.dlpack(words)
        batch.discard()


# ---- how long it keeps the slot ------------------------------------------------------------------------------------


def delete_here(got: Consumer) -> None:
    got.delete(ctypes.PYFUNCTYPE)


def delete_on_a_thread_without_the_gil(got: Consumer) -> None:
    thread = threading.Thread(target=got.delete)
    thread.start()
    thread.join()


@pytest.mark.parametrize("delete", [Consumer.delete, delete_here, delete_on_a_thread_without_the_gil])
@pytest.mark.parametrize("version", [None, (1, 0)])
def test_a_tensor_keeps_its_slot_until_its_deleter_is_called(delete: Callable[[Consumer], None], version: Any):
    stages = [Stage("change", mutate=True)]
    with psyne.sender("ipc://lines", Line, capacity=1, stages=stages) as tx, psyne.receiver("ipc://lines") as rx:
        for n in range(3):
            tx.send(line_of(1, n))
            with rx.receive() as m:
                got = Consumer(m.__dlpack__(max_version=version))
            del m
            gc.collect()
            assert not slot_is_free(tx)
            assert ctypes.c_uint64.from_address(got.tensor.data + 8).value == n
            delete(got)
            assert slot_is_free(tx)


def test_a_capsule_that_nobody_takes_gives_the_slot_back(ends: Ends):
    tx, rx = ends
    tx.send(line_of(1, 0))
    with rx.receive() as m:
        capsule = m.__dlpack__(max_version=(1, 0))
    assert not slot_is_free(tx)
    del capsule
    assert slot_is_free(tx)


def test_a_capsule_may_die_in_an_exception(ends: Ends):
    tx, rx = ends
    tx.send(line_of(1, 0))
    m = rx.receive()

    def fails() -> None:
        capsule = m.__dlpack__(max_version=(1, 0))
        raise KeyError(str(capsule))

    try:
        fails()
    except KeyError as error:
        error.__traceback__ = None
    m.release()
    assert slot_is_free(tx)


def test_a_capsule_in_the_arguments_of_a_call_that_fails_is_freed(ends: Ends):
    """The capsule's destructor then runs while the exception is set."""
    tx, rx = ends
    tx.send(line_of(1, 0))
    m = rx.receive()
    with pytest.raises(TypeError):
        (lambda: None)(m.__dlpack__(max_version=(1, 0)))  # type: ignore[call-arg]
    with pytest.raises(KeyError):
        {}[m.__dlpack__(max_version=(1, 0))]
    m.release()


def test_a_sender_does_not_use_the_slot_of_a_tensor_again(ends: Ends):
    tx, rx = ends
    with tx.loan() as m:
        tensor = np.from_dlpack(m)
        tensor[:] = line_of(1, 0)
    del m
    rx.receive().release()
    assert not slot_is_free(tx)
    del tensor
    assert slot_is_free(tx)


def test_a_released_message_is_no_tensor(ends: Ends):
    tx, rx = ends
    tx.send(line_of(1, 0))
    m = rx.receive()
    m.release()
    for use in (m.__dlpack__, lambda: m.__array_interface__, m.__array__, m.private, lambda: np.asarray(m)):
        with pytest.raises(psyne.MessageReleased):
            use()


def test_a_program_may_end_with_capsules_and_tensors_of_all_kinds():
    run_program("""
import psyne, ctypes, layouts
rx_first = psyne.receiver("ipc://x", layouts.Line)
tx = psyne.sender("ipc://x", layouts.Line)
tx.send(layouts.line_of(1, 0)); tx.send(layouts.line_of(1, 1))
m = rx_first.receive()
capsule, old = m.__dlpack__(max_version=(1, 0)), layouts.Line().__dlpack__()
import numpy as np
kept = [np.from_dlpack(m), m.private(), m.__array_interface__, capsule]
kept.append(kept)
""")
