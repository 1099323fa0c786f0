"""What a DLPack capsule says."""

import ctypes
from typing import Any, NamedTuple

__all__ = ["Tensor", "flags", "tensor"]


class Tensor(NamedTuple):
    data: int
    device: tuple[int, int]
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    byte_offset: int


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p), ("type", ctypes.c_int32), ("id", ctypes.c_int32), ("ndim", ctypes.c_int32),
        ("dtype", ctypes.c_uint32), ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)), ("byte_offset", ctypes.c_uint64),
    )  # fmt: skip


def flags(capsule: Any) -> int | None:
    """1: read-only. None: a capsule that cannot say it."""
    if not versioned(capsule):
        return None
    return ctypes.c_uint64.from_address(address(capsule) + 3 * 8).value  # after version, context, deleter


def tensor(capsule: Any) -> Tensor:
    """Its DLTensor; strides in elements."""
    before = 4 * 8 if versioned(capsule) else 0  # version, context, deleter, flags
    t = _Tensor.from_address(address(capsule) + before)
    return Tensor(t.data, (t.type, t.id), tuple(t.shape[: t.ndim]), tuple(t.strides[: t.ndim]), t.byte_offset)


def versioned(capsule: Any) -> bool:
    return "versioned" in repr(capsule)


def address(capsule: Any) -> int:
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    return int(get(capsule, b"dltensor_versioned" if versioned(capsule) else b"dltensor"))
