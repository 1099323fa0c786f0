"""Messages for other libraries, over the same memory: torch, JAX, MLX, Warp, numba, Arrow, LAPACK.

Each function takes a message, a batch or a numpy array of one (a field, a slice). What comes back keeps the slot.
They check what the libraries do not, and raise instead of a copy in silence (`CannotShare`) or a write into a read-only
page (`ReadOnly`), which would kill the process. With ``private=True`` one gets writable pages of one's own that are
copied as they are written (`Message.private`); what is below 64 KiB, or lies at an address that the library
cannot use, is copied at once.

`torch`, `jax`, `warp` and `numba` also take what a CUDA device has of a message (``dev.view(m)``, ``dev.upload(m)``),
and make an array of that GPU; other views are the message on the CPU. On a GPU they have been tried with a stand-in for
its driver only.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from mmap import PAGESIZE
from types import ModuleType
from typing import TYPE_CHECKING, Protocol, cast

import numpy as np

from . import _native
from .batch import Batch
from .devices import Device, View
from .errors import CannotShare, ReadOnly
from .types import ArrowBatch

if TYPE_CHECKING:
    from typing import Any

    import jax as _jax  # pyright: ignore[reportMissingImports]
    import mlx.core as _mlx  # pyright: ignore[reportMissingImports]
    import pyarrow as _arrow  # pyright: ignore[reportMissingImports]
    import torch as _torch  # pyright: ignore[reportMissingImports]
    import warp as _warp  # pyright: ignore[reportMissingImports]
    from numpy.typing import NDArray

    class Viewable(Protocol):
        """A message or a batch; a device's view of one."""

        @property
        def array(self) -> NDArray[Any]: ...


__all__ = ["arrow", "jax", "lapack", "mlx", "numba", "torch", "warp"]

JAX_ALIGNMENT = 64
WARP_DIMENSIONS = 4

# What libraries raise where they have no such GPU, dtype or layout.
REFUSALS: tuple[type[Exception], ...] = (AssertionError, BufferError, ImportError, RuntimeError, TypeError, ValueError)


def _library(name: str, package: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"{package} is not installed: pip install {package}, or psyne[interop]") from error


def _view(message: Viewable | NDArray[np.generic], private: bool, align: int = 1) -> NDArray[np.generic]:
    if not isinstance(message, np.ndarray) and not hasattr(message, "array"):
        raise TypeError(f"a message, a batch or an array of one is wanted, not {type(message).__name__}")
    array = message if isinstance(message, np.ndarray) else message.array
    if isinstance(message, View) and not message.writable:
        array = array.view()
        array.flags.writeable = False
    return _native.private_array(array, align) if private else array


def _address(array: NDArray[np.generic]) -> int:
    return int(array.__array_interface__["data"][0])


def _text(array: NDArray[np.generic]) -> str:
    kind = f"records of {', '.join(array.dtype.names)}, " if array.dtype.names else str(array.dtype)
    return f"{kind}{list(array.shape)}"


def _writable(array: NDArray[np.generic], library: str) -> None:
    if not array.flags.writeable:
        raise ReadOnly(
            f"{library} writes without asking, and this {_text(array)} is read-only: a write would kill the process. "
            "private=True gives a copy-on-write view, m.copy() a copy; a stage that mutates may write in place"
        )


def _on_gpu(message: object) -> bool:
    """Is it what a CUDA device has of a message?"""
    has = hasattr(type(message), "__cuda_array_interface__")  # as tensors of others
    return has and isinstance(getattr(message, "device", None), Device)


def _from_gpu(take: Callable[[Any], Any], there: Any, library: str, private: bool, writes: bool = True) -> Any:
    """What a library makes of a view on a GPU."""
    if private:
        raise CannotShare("a GPU has no copy-on-write pages: upload() gives a copy there")
    if writes and isinstance(there, View):
        there.check_writable(f"{library}, which does not ask,")
    try:
        return take(there)
    except REFUSALS as error:
        raise CannotShare(f"{library} cannot use {there!r} as it is: {error}") from error


class _Exporter:
    """An array of any dtype, as DLPack consumers want it."""

    def __init__(self, array: NDArray[np.generic]) -> None:
        self._array = array

    def __dlpack__(self, **keywords: object) -> object:
        return _native.dlpack(self._array, **keywords)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)


def torch(message: Viewable | NDArray[np.generic], *, private: bool = False) -> _torch.Tensor:
    """A tensor over the message, which keeps the slot; writing the tensor writes the message.

    Raises ReadOnly for what was received by a stage that does not mutate (torch has no read-only tensors), CannotShare
    for dtypes and strides that torch does not have.
    """
    module = _library("torch", "torch")
    if _on_gpu(message):
        return cast("_torch.Tensor", _from_gpu(module.from_dlpack, message, "torch", private))
    array = _view(message, private)
    _writable(array, "torch")
    if any(stride < 0 for stride in array.strides):
        raise CannotShare(f"torch has no negative strides, and this array has {array.strides}: reverse it there")
    try:
        tensor = module.from_dlpack(_Exporter(array))
    except BufferError as error:
        raise CannotShare(f"torch cannot use {_text(array)} as it is: {error}") from error
    return cast("_torch.Tensor", tensor)


def jax(message: Viewable | NDArray[np.generic], *, private: bool = False) -> _jax.Array:
    """A JAX array over the message, read-only or not; it keeps the slot. JAX itself never writes into it.

    JAX takes arrays to be constant: do not write the message while the array lives. Raises CannotShare when the address
    is not a multiple of 64 bytes, for strides with gaps, for 64-bit numbers unless jax_enable_x64 is on, and for dtypes
    that JAX stores otherwise.
    """
    module = _library("jax", "jax")
    if _on_gpu(message):
        return _jax_on_gpu(module, message, private)
    array = _view(message, private, JAX_ALIGNMENT)
    address = _address(array)
    if address % JAX_ALIGNMENT != 0:
        raise CannotShare(
            f"JAX needs an address that {JAX_ALIGNMENT} divides, and this {_text(array)} is at {address:#x} "
            f"(rest {address % JAX_ALIGNMENT}), so it would copy. Open the sender with align=64, put the field at a "
            "multiple of 64 bytes, or take private=True, which copies to such an address"
        )
    if module.dtypes.canonicalize_dtype(array.dtype) != array.dtype:
        raise CannotShare(
            f"JAX would convert {array.dtype} to {module.dtypes.canonicalize_dtype(array.dtype)}: "
            'jax.config.update("jax_enable_x64", True) keeps it'
        )
    device = module.devices("cpu")[0]
    try:
        if array.flags.c_contiguous:
            made = module.device_put(array, device, may_alias=True)
        else:  # the axes of a compact array in another order; nothing else is possible
            made = module.dlpack.from_dlpack(_Exporter(array), device=device, copy=False)
    except (BufferError, RuntimeError, ValueError) as error:
        raise CannotShare(f"JAX cannot use {_text(array)} with strides {array.strides} as it is: {error}") from error
    if made.unsafe_buffer_pointer() != address:
        raise CannotShare(f"JAX copied {_text(array)}: it stores it otherwise")
    return cast("_jax.Array", made)


def mlx(message: Viewable | NDArray[np.generic], *, private: bool = False) -> _mlx.array:
    """An MLX array over the message, which keeps the slot: on a Mac. Not verified on hardware.

    MLX puts the result of ``x += 1`` into the memory of x, and that of ``mlx(m) + 1``, where nobody else has the array.
    So it raises ReadOnly for what was received by a stage that does not mutate; and CannotShare where MLX would copy:
    when the address is not a multiple of the page (``align=mmap.PAGESIZE``; views of ``psyne.device("metal")`` begin at
    multiples of 16 bytes), for dtypes that it converts, and where it has no Metal.
    """
    module = _library("mlx.core", "mlx")
    if not hasattr(module, "from_dlpack"):
        raise ImportError(f"MLX takes memory of others from version 0.32.1 on; this is {module.__version__}")
    array = _view(message, private, PAGESIZE)
    _writable(array, "MLX")
    if any(stride < 0 for stride in array.strides):
        raise CannotShare(f"MLX has no negative strides, and this array has {array.strides}: reverse it there")
    if array.dtype.char in "dD":
        raise CannotShare(f"MLX would convert {array.dtype}: its GPUs have none of that")
    if rest := _address(array) % PAGESIZE:
        raise CannotShare(
            f"MLX needs an address that {PAGESIZE} divides, and this {_text(array)} is at {_address(array):#x} "
            f"(rest {rest}), so it would copy. Open the sender with align={PAGESIZE}, give mx.from_dlpack the view of "
            'psyne.device("metal"), or take private=True, which copies to such an address'
        )
    try:
        made = module.from_dlpack(_Exporter(array), copy=False)
    except (BufferError, OverflowError, ValueError) as error:
        raise CannotShare(f"MLX cannot use {_text(array)} as it is: {error}") from error
    return cast("_mlx.array", made)


def _jax_on_gpu(module: ModuleType, there: Any, private: bool) -> _jax.Array:
    made = _from_gpu(lambda it: module.dlpack.from_dlpack(it, copy=False), there, "JAX", private, writes=False)
    if made.unsafe_buffer_pointer() != there.pointer:
        raise CannotShare(f"JAX copied {there!r}")
    return cast("_jax.Array", made)


def warp(message: Viewable | NDArray[np.generic], dtype: Any = None, *, private: bool = False) -> _warp.array[Any]:
    """A Warp array over the message, which keeps the slot; kernels that write the array write the message.

    `dtype`: one of Warp, for elements that are vectors, matrices or structs (``wp.vec3``: the last axis has 3 numbers);
    default: the message's own. Raises ReadOnly for what was received by a stage that does not mutate (Warp has no
    read-only arrays), CannotShare for dtypes and strides that Warp would convert, and for more than 4 dimensions.
    """
    module = _library("warp", "warp-lang")
    kind = {} if dtype is None else {"dtype": dtype}
    there: Any = message
    if _on_gpu(there):
        device = f"cuda:{there.__dlpack_device__()[1]}"
        made = _from_gpu(lambda it: module.array(it, device=device, copy=False, **kind), there, "Warp", private)
        address, text = there.pointer, repr(there)
        same = made.__cuda_array_interface__["typestr"] == there.__cuda_array_interface__["typestr"]  # it only warns
    else:
        array = _view(message, private)
        _writable(array, "Warp")
        address, text = _address(array), f"{_text(array)} with strides {array.strides}"
        try:
            made = module.array(array, device="cpu", copy=False, **kind)
        except REFUSALS as error:
            raise CannotShare(f"Warp cannot use {text} as it is: {error}") from error
        same = True  # or else it has copied
    if made.ptr != address or not same:
        raise CannotShare(f"Warp would convert {text} to have {getattr(made.dtype, '__name__', 'the struct')} of it")
    if made.ndim > WARP_DIMENSIONS:
        raise CannotShare(f"Warp has arrays of up to {WARP_DIMENSIONS} dimensions; reshape {text}")
    return cast("_warp.array[Any]", made)


def numba(message: Viewable | NDArray[np.generic], *, private: bool = False) -> Any:
    """What functions of numba take, which keeps the slot: the array of a message for ``njit``, which refuses to compile
    a write into a read-only one; of a view on a GPU a device array for ``cuda.jit``, which would write without asking.

    Raises ReadOnly for a view on a GPU that may not be written, CannotShare for dtypes that numba lacks there.
    """
    if _on_gpu(message):
        return _from_gpu(_library("numba.cuda", "numba").as_cuda_array, message, "numba", private)
    return _view(message, private)


def arrow(
    message: Viewable | NDArray[np.generic], *, private: bool = False
) -> _arrow.Array | _arrow.Tensor | _arrow.RecordBatch:
    """The message in Arrow's form, which keeps the slot: numbers as an Array, more dimensions as a Tensor, records as a
    RecordBatch (an array field is a fixed-size list).

    An `ArrowBatch` is what it carries. Raises CannotShare for dtypes that Arrow lacks (complex) or packs otherwise
    (bool), and for strides in what is not a Tensor: several records lie in columns only with ``layout="columns"``, or
    when they have one field.
    """
    module = _library("pyarrow", "pyarrow")
    if isinstance(message, ArrowBatch):
        return (message.private() if private else message).batch
    columns = _columns(message, private)
    if columns is not None:
        made = {name: _column(module, column, name) for name, column in columns.items()}
        return cast("_arrow.RecordBatch", module.RecordBatch.from_pydict(made))
    array = _view(message, private)
    if array.ndim > 1:
        _arrow_type(module, array)
        return cast("_arrow.Tensor", module.Tensor.from_numpy(array))
    return cast("_arrow.Array", _column(module, array.reshape(-1), "it"))


def _columns(message: Viewable | NDArray[np.generic], private: bool) -> dict[str, NDArray[Any]] | None:
    """The fields of records, each as one array; None for what is no record."""
    if isinstance(message, Batch) and len(message):  # whose messages perhaps lie in columns
        names = type(message[0]).__layout__.dtype.names
        return None if names is None else {name: _view(message[name], private) for name in names}
    array = _view(message, private)
    if array.dtype.names is None:
        return None
    rows = cast("NDArray[np.void]", array.reshape(-1))
    return {name: rows[name] for name in array.dtype.names}


def _arrow_type(module: ModuleType, array: NDArray[np.generic]) -> object:
    if array.dtype.kind not in "iufmM" or not array.dtype.isnative or not array.flags.aligned:
        raise CannotShare(
            f"Arrow cannot use {_text(array)} as it is. Hand over a view of whole numbers, as m.array.view('u1')"
        )
    try:
        return module.from_numpy_dtype(array.dtype)
    except module.ArrowNotImplementedError as error:
        raise CannotShare(f"Arrow has no type for {array.dtype}: {error}") from error


def _column(module: ModuleType, array: NDArray[np.generic], name: str) -> object:
    """One column: n numbers, or n arrays as fixed-size lists."""
    kind = _arrow_type(module, array)
    if not array.flags.c_contiguous:
        raise CannotShare(
            f"Arrow needs a column in one piece; {name} has {array.itemsize} bytes every {array.strides[0]}. "
            'Declare the Struct with layout="columns", or copy it'
        )
    column = module.Array.from_buffers(kind, array.size, [None, module.py_buffer(array)])
    for n in reversed(array.shape[1:]):
        column = module.FixedSizeListArray.from_arrays(column, n)
    return column


def lapack(message: Viewable | NDArray[np.generic], *, private: bool = False) -> NDArray[Any]:
    """The array itself, once it is sure that scipy.linalg works on it in place and may.

    ``scipy.linalg.cholesky(lapack(m), overwrite_a=True)`` computes in the slot. SciPy's ``overwrite_*`` does not look
    whether an array is read-only, and a write into a received message kills the process; and it copies without a word
    what is not Fortran-ordered. Raises ReadOnly for the one, CannotShare for the other. A C-ordered matrix can be
    handed over as its transpose: ``lapack(m.array.T)``.
    """
    array = _view(message, private)
    _writable(array, "LAPACK")
    if array.dtype.char not in "fdFD" or not array.dtype.isnative or not array.flags.aligned:
        raise CannotShare(f"LAPACK computes with float32, float64, complex64 and complex128; this is {_text(array)}")
    if not array.flags.f_contiguous:
        raise CannotShare(
            f"LAPACK works in place on Fortran-ordered arrays only; the strides of this {_text(array)} are "
            f'{array.strides}. Hand over its transpose, m.array.T, or declare the matrix with order="F"'
        )
    return array
