"""For tests of programs that use psyne: a directory for channels, and proofs that nothing was copied.

``pytest_plugins = ["psyne.testing"]`` in a conftest.py gives the fixture `psyne_directory`. (PYTEST_DONT_REWRITE: so
that a test file may import from here first without a warning.)
"""

from __future__ import annotations

import ctypes
import importlib
import mmap
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from . import _native
from .anonymous import channel
from .types import Array

if TYPE_CHECKING:
    from typing import Any

    from numpy.typing import NDArray

__all__ = ["assert_same_bytes", "psyne_directory", "touch_test"]

T = TypeVar("T")

try:
    import pytest
except ImportError:
    pass
else:

    @pytest.fixture
    def psyne_directory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
        """An empty PSYNE_DIR of the test's own, in shared memory; workers of xdist do not meet there either."""
        shared = Path("/dev/shm")
        directory = Path(tempfile.mkdtemp(prefix="psyne-test-", dir=shared if shared.is_dir() else None))
        monkeypatch.setenv("PSYNE_DIR", str(directory))
        try:
            yield directory
        finally:
            shutil.rmtree(directory)


def __getattr__(name: str) -> object:
    if name == "psyne_directory":
        raise ImportError("the fixture psyne_directory needs pytest: pip install pytest")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _claim(holds: bool | np.bool_, text: str) -> None:
    if not holds:  # an assert would not be there under python -O
        raise AssertionError(text)


def _set_first(made: Any) -> None:
    made[0] = 1


def touch_test(
    adapter: Callable[[Array[np.float32]], T],
    *,
    write: Callable[[T], object] = _set_first,
    read: Callable[[T], object] | None = None,
    nbytes: int = 256 << 20,
) -> None:
    """Proves that `adapter` makes something of a message without a copy: an array of a library, a view of a device.

    `adapter` gets a loan of `nbytes` bytes, an ``Array("f4", nbytes // 4)`` of zeros whose pages were given back. What
    it makes of it is given to `write`, which sets its first element to 1 (default: ``made[0] = 1``), and the message
    must show it. For what cannot write pass `read`, which returns the first element: the message is written, and must
    be seen. Then the pages that exist are counted: whoever copies has touched them all. Raises AssertionError with both
    numbers; also for a device that pins what it views, as CUDA does, which makes all pages.
    """
    sender, _ = channel(Array("f4", nbytes // 4), capacity=1, stages=[])
    with sender, sender.loan() as message, _sparse(message) as fd:
        before = os.fstat(fd).st_blocks
        made = adapter(message)
        if read is None:
            write(made)
            shown = message.array[0] == 1
            _claim(shown, f"{adapter} copied: what it made was written, and the message does not show it")
        else:
            message.array[0] = 1
            seen = read(made)
            _claim(seen == 1, f"{adapter} copied: the message was written, and what it made shows {seen!r}")
        touched = (os.fstat(fd).st_blocks - before) * 512
        allowed = max(nbytes // 32, 64 << 10)  # a page, which may be a huge one
        _claim(touched <= allowed, f"{adapter} copied: it touched {touched:,} of {nbytes:,} bytes for one element")
        message.discard()


@contextmanager
def _sparse(message: Array[Any]) -> Iterator[int]:
    """The file that has the message, without its pages: a slab is made with all of them."""
    mapping = _native.region(message.array).map(True)
    try:
        with mmap.mmap(mapping.fd, mapping.nbytes, offset=mapping.offset) as pages:
            pages.madvise(mmap.MADV_REMOVE)
        yield mapping.fd
    finally:
        mapping.close()


def assert_same_bytes(a: object, b: object) -> None:
    """Asserts that two things are the same memory: address, number of bytes, and a write through one seen through the
    other (taken back at once; not tried where neither may be written).

    Takes messages, batches, numpy arrays, buffers, torch tensors, JAX arrays and Arrow arrays, tensors and buffers;
    they must be contiguous in C or Fortran order.
    """
    (x, x_address), (y, y_address) = _bytes_of(a), _bytes_of(b)
    _claim(x_address == y_address, f"at {x_address:#x} and at {y_address:#x}: not the same memory")
    _claim(x.size == y.size, f"{x.size} and {y.size} bytes at the same address {x_address:#x}")
    for one, other in ((x, y), (y, x)):
        if one.flags.writeable and one.size:
            before = int(one[-1])
            one[-1] = before ^ 0xFF
            seen = int(other[-1])
            one[-1] = before
            _claim(seen == before ^ 0xFF, "a write through one is not seen through the other")


def _bytes_of(thing: Any) -> tuple[NDArray[np.uint8], int]:
    """What something holds as a flat array of bytes by its own means, and its own word where that is."""
    library = type(thing).__module__.partition(".")[0]
    address: int | None = None
    array: NDArray[np.generic]
    if library == "torch":  # has dtypes that numpy lacks
        address = int(thing.data_ptr())
        array = np.frombuffer((ctypes.c_ubyte * thing.nbytes).from_address(address), np.uint8)
    elif library in ("jax", "jaxlib"):
        address, array = int(thing.unsafe_buffer_pointer()), np.asarray(thing)
    elif library == "pyarrow":
        array = _arrow_bytes(thing)
    else:
        array = np.asarray(thing)
    flat = array.reshape(-1, order="A")
    _claim(flat.flags.c_contiguous and np.may_share_memory(flat, array), f"{type(thing).__name__} is not contiguous")
    data = flat.view(np.uint8)
    return data, int(data.__array_interface__["data"][0]) if address is None else address


def _arrow_bytes(thing: Any) -> NDArray[np.uint8]:
    pyarrow = importlib.import_module("pyarrow")
    if isinstance(thing, pyarrow.FixedSizeListArray):
        return _arrow_bytes(thing.flatten())
    if isinstance(thing, pyarrow.Array):
        width = thing.type.bit_width // 8
        first, size = thing.offset * width, len(thing) * width
        return np.frombuffer(thing.buffers()[1], np.uint8)[first : first + size]
    return np.asarray(memoryview(thing)).reshape(-1).view(np.uint8)
