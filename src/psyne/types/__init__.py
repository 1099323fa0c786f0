"""Message types: classes whose instances lie in a slot (or in private memory)."""

from .array import Array, Matrix
from .arrow import ArrowBatch
from .fields import (
    bf16,
    bool_,
    c64,
    c128,
    f16,
    f32,
    f64,
    field,
    fp8_e4m3,
    fp8_e5m2,
    i4,
    i8,
    i16,
    i32,
    i64,
    u4,
    u8,
    u16,
    u32,
    u64,
)
from .foreign import AnyLayout, as_type
from .message import Message, MessageMeta
from .struct import Struct
from .text import Bytes, Text
from .variant import VariantHdr

__all__ = [
    "AnyLayout",
    "Array", "ArrowBatch", "Bytes", "Matrix", "Message", "MessageMeta", "Struct", "Text", "VariantHdr", "as_type",
    "bf16", "bool_", "c64", "c128", "f16", "f32", "f64", "field", "fp8_e4m3", "fp8_e5m2", "i4", "i8", "i16", "i32",
    "i64", "u4", "u8", "u16", "u32", "u64",
]  # fmt: skip
