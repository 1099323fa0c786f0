"""A slot for a C library: pointers by ctypes and by cffi, both of which keep the slot while they live."""

import ctypes
import ctypes.util
import importlib.util
from typing import Any

import numpy as np

import psyne
from psyne import Array, Struct, f64, i32, u64

Row = Array("f8", 8)


class Tm(Struct):  # the beginning of C's struct tm
    sec = i32()
    min = i32()
    hour = i32()
    mday = i32()
    mon = i32()
    year = i32()


class CTm(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int) for name in ("sec", "min", "hour", "mday", "mon", "year")]


def by_ctypes() -> None:
    libc = ctypes.CDLL(None)
    order = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_double), ctypes.POINTER(ctypes.c_double))
    with psyne.sender("ipc://rows", Row) as out, psyne.receiver("ipc://rows", Row) as rows:
        with out.loan() as m:
            m.array[:] = (5, 3, 8, 1, 7, 2, 6, 4)
            pointer = m.array.ctypes.data_as(ctypes.POINTER(ctypes.c_double))
            libc.qsort(pointer, 8, 8, order(lambda a, b: int(a[0] > b[0]) - int(a[0] < b[0])))  # C sorts the slot
        with rows.receive() as m:
            assert m.array.tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
            print("qsort() of libc has sorted the slot:", m.array)

    noon = Tm()
    CTm.from_buffer(noon).hour = 12  # a ctypes.Structure over a message that may be written
    assert noon.hour == 12


def by_cffi() -> None:
    import cffi

    ffi: Any = cffi.FFI()
    ffi.cdef("void *memcpy(void *to, const void *from, size_t n);")
    libc = ffi.dlopen(None)
    with psyne.sender("ipc://rows", Row) as out, psyne.receiver("ipc://rows", Row) as rows:
        out.send(np.arange(8.0))
        with rows.receive() as m, out.loan() as copy:  # read-only there, writable here
            libc.memcpy(ffi.from_buffer("double[]", copy, require_writable=True), ffi.from_buffer("double[]", m), 64)
        assert rows.receive().array[7] == 7.0
    print("and cffi has given memcpy() two slots")


def own_memory() -> None:
    class Sample(Struct):
        stamp = u64()
        value = f64()

    memory = bytearray(1024)  # or an mmap of a device
    Sample.from_buffer(memory, 512).value = 2.5  # a message over it
    assert np.frombuffer(memory, "f8")[65] == 2.5


if __name__ == "__main__":
    by_ctypes()
    by_cffi() if importlib.util.find_spec("cffi") else print("cffi is not installed: pip install cffi")
    own_memory()
