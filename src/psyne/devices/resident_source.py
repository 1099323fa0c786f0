"""What is copied into a loan in memory of a GPU: from the same GPU, or from memory of the CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import LayoutMismatch
from .cuda import _Tensor
from .resident_message import ResidentMessage, join, untouchable

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Source", "source_of"]


class Source:
    """Kept until it is copied."""

    def __init__(self, kept: object, address: int, *, here: bool, stream: int | None = None) -> None:
        self.kept: object = kept
        self._address, self._here, self._stream = address, here, stream

    def copy(self, loan: ResidentMessage, stream: int) -> None:
        call = "cuMemcpyHtoDAsync_v2" if self._here else "cuMemcpyDtoDAsync_v2"
        if isinstance(self.kept, _Tensor):
            self.kept._before(stream)
        if self._stream is not None and self._stream != stream:
            join(loan.device, stream, self._stream)
        with loan.device.context() as driver:
            driver.call(call, loan.pointer, self._address, loan.nbytes, stream)


def source_of(message: object, like: NDArray[Any], address: str) -> Source:
    """Raises LayoutMismatch for another dtype, shape or order."""
    if isinstance(message, _Tensor):
        array, _ = message._elements()
        source = Source(message, message.pointer, here=False)
    elif (told_us := getattr(message, "__cuda_array_interface__", None)) is not None:
        array = untouchable(np.dtype(told_us["typestr"]), tuple(told_us["shape"]), told_us.get("strides"))
        source = Source(message, int(told_us["data"][0]), here=False, stream=told_us.get("stream"))
    else:
        array = np.asarray(message, order="C" if like.flags.c_contiguous else "F")
        source = Source(array, array.ctypes.data, here=True)
    if (array.dtype, array.shape) != (like.dtype, like.shape):
        raise LayoutMismatch(
            f"{address} carries {like.dtype}{list(like.shape)}, and this is {array.dtype}{list(array.shape)}"
        )
    if array.size > 1 and array.strides != like.strides:
        raise LayoutMismatch(
            f"the elements of {address} lie {like.strides} bytes apart, and these {array.strides}: make it contiguous"
        )
    return source
