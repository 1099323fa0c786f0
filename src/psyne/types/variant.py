"""What lies in a slot of a channel of several types."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from .dtypes import CODES, dtype_code

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from .message import MessageMeta

__all__ = ["VariantHdr"]

FORTRAN, SHAPED, TEXT = 1, 2, 4
COLUMN = np.dtype([("type", "<u2"), ("dtype", "u1"), ("ndim", "u1"), ("flags", "<u4")])


class VariantHdr(NamedTuple):
    """The 8 bytes that a channel of several types keeps for each slot, in a column beside the ready words.

    As a 64-bit word: ``type | dtype << 16 | ndim << 24 | flags << 32``; `VariantHdr.of_column` reads a
    column of them. Channels of one type have no such column.
    """

    type: int
    """Its place in the list of types that the channel's schema has (16 bits)."""
    dtype: int
    """Code of the elements' dtype, 0 for a record, 255 for one without a code (8 bits)."""
    ndim: int
    """Dimensions of the array, 0 for a record (8 bits)."""
    flags: int
    """1: the first index moves fastest. 2: dimensions lie behind the payload, 8 bytes each. 4: UTF-8 (32 bits)."""

    @classmethod
    def of_word(cls, word: int) -> VariantHdr:
        """The header in a 64-bit word."""
        return cls(word & 0xFFFF, word >> 16 & 0xFF, word >> 24 & 0xFF, word >> 32 & 0xFFFFFFFF)

    @classmethod
    def of_column(cls, column: bytes | bytearray | memoryview) -> NDArray[np.void]:
        """The headers in the bytes of a column, as a structured array: type, dtype, ndim, flags."""
        return np.frombuffer(column, COLUMN)

    @classmethod
    def of_type(cls, number: int, message: MessageMeta) -> VariantHdr:
        """The header that all messages of a class have in a channel whose type ``number`` it is."""
        layout = message.__layout__
        flags = FORTRAN * layout.fortran | SHAPED * layout.shaped | TEXT * message.__is_text__
        return cls(number, dtype_code(layout.dtype), len(layout.shape), flags)

    @property
    def word(self) -> int:
        """The 64-bit word as it lies in memory."""
        return self.type | self.dtype << 16 | self.ndim << 24 | self.flags << 32

    @property
    def dtype_name(self) -> str:
        """``"float32"``, ``"bfloat16"``; ``"record"`` for 0, ``"other"`` for a dtype without a code."""
        if self.dtype == 0:
            return "record"
        text = next((text for text, code in CODES.items() if code == self.dtype), "other")
        return np.dtype(text).name if text[0] in "<|" else text
