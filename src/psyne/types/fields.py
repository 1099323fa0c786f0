"""How the fields of a Struct are declared."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

import numpy as np

from .dtypes import EXTENDED, EXTENSIONS, element_from
from .message import Message, MessageMeta

if TYPE_CHECKING:
    from typing import SupportsFloat, SupportsIndex

    from numpy.typing import ArrayLike, DTypeLike, NDArray

__all__ = [
    "Field", "bf16", "bool_", "c64", "c128", "f16", "f32", "f64", "field", "fp8_e4m3", "fp8_e5m2",
    "i4", "i8", "i16", "i32", "i64", "u4", "u8", "u16", "u32", "u64",
]  # fmt: skip

V = TypeVar("V")  # what a field gives
W = TypeVar("W")  # what it takes
S = TypeVar("S", bound=np.generic)
N = TypeVar("N", bound=Message)


class Field(Generic[V, W]):
    """A field of a Struct as it is declared; the class that is made holds a native descriptor in its place."""

    def __init__(
        self, dtype: Any, shape: tuple[int, ...], name: str | None = None, type: MessageMeta | None = None
    ) -> None:
        if any(not isinstance(n, int) or n < 1 for n in shape):
            raise TypeError(f"the shape of a field is made of positive ints, as in f32(480, 640); got {shape}")
        element, dims = element_from(dtype, shape)
        self.dtype: np.dtype[Any] = element
        self.shape: tuple[int, ...] = dims
        self.name: str | None = name
        self.type: MessageMeta | None = type

    if TYPE_CHECKING:

        def __get__(self, message: object, owner: type | None = None) -> V: ...
        def __set__(self, message: object, value: W) -> None: ...


def _scalar(called: str, dtype: str) -> Any:
    def declare(*shape: int, name: str | None = None) -> Field[Any, Any]:
        return Field(dtype, shape, name)

    name = dtype if dtype in EXTENDED else np.dtype(dtype).name
    declare.__doc__ = (
        f"A {name} field of a Struct: {called}() is a number, {called}(3) an array of 3. ``name``: what the field is "
        f"called in the channel, where that is no attribute."
    )
    declare.__name__ = declare.__qualname__ = called
    declare.__makes_field__ = True  # type: ignore[attr-defined]
    return declare


if TYPE_CHECKING:

    class _Declare(Generic[V, W, S]):
        """A field of a Struct: a number, or an array of a shape."""

        @overload
        def __call__(self, *, name: str | None = None) -> Field[V, W]: ...
        @overload
        def __call__(self, n: int, /, *shape: int, name: str | None = None) -> Field[NDArray[S], ArrayLike]: ...
        def __call__(self, *shape: int, name: str | None = None) -> Any: ...

    u8: _Declare[int, SupportsIndex, np.uint8]
    u16: _Declare[int, SupportsIndex, np.uint16]
    u32: _Declare[int, SupportsIndex, np.uint32]
    u64: _Declare[int, SupportsIndex, np.uint64]
    i8: _Declare[int, SupportsIndex, np.int8]
    i16: _Declare[int, SupportsIndex, np.int16]
    i32: _Declare[int, SupportsIndex, np.int32]
    i64: _Declare[int, SupportsIndex, np.int64]
    f16: _Declare[float, SupportsFloat | SupportsIndex, np.float16]
    f32: _Declare[float, SupportsFloat | SupportsIndex, np.float32]
    f64: _Declare[float, SupportsFloat | SupportsIndex, np.float64]
    c64: _Declare[complex, complex | np.number[Any], np.complex64]
    c128: _Declare[complex, complex | np.number[Any], np.complex128]
    bool_: _Declare[bool, bool | np.bool_, np.bool_]
    bf16: _Declare[float, SupportsFloat | SupportsIndex, np.generic]
    fp8_e4m3: _Declare[float, SupportsFloat | SupportsIndex, np.generic]
    fp8_e5m2: _Declare[float, SupportsFloat | SupportsIndex, np.generic]
    i4: _Declare[int, SupportsIndex, np.generic]
    u4: _Declare[int, SupportsIndex, np.generic]
else:
    u8, u16, u32, u64 = _scalar("u8", "u1"), _scalar("u16", "u2"), _scalar("u32", "u4"), _scalar("u64", "u8")
    i8, i16, i32, i64 = _scalar("i8", "i1"), _scalar("i16", "i2"), _scalar("i32", "i4"), _scalar("i64", "i8")
    f16, f32, f64 = _scalar("f16", "f2"), _scalar("f32", "f4"), _scalar("f64", "f8")
    c64, c128, bool_ = _scalar("c64", "c8"), _scalar("c128", "c16"), _scalar("bool_", "?")
    bf16, fp8_e4m3, fp8_e5m2, i4, u4 = (_scalar(short, name) for short, name in EXTENSIONS.items())


@overload
def field(type: type[N], /, *, name: str | None = None) -> Field[N, N]: ...
@overload
def field(
    type: type[Message], n: int, /, *shape: int, name: str | None = None
) -> Field[NDArray[np.void], ArrayLike]: ...
@overload
def field(dtype: type[S], n: int, /, *shape: int, name: str | None = None) -> Field[NDArray[S], ArrayLike]: ...
@overload
def field(dtype: DTypeLike, /, *shape: int, name: str | None = None) -> Field[Any, Any]: ...
def field(of: Any, /, *shape: int, name: str | None = None) -> Any:
    """A field of any numpy dtype, or a Struct in a Struct; with a shape an array of them.

    A nested Struct is a part of its message: ``m.pose.x = 1.0`` writes in place, ``m.pose = Pose(x=1.0)`` copies. An
    array of Structs is a structured numpy array. Raises TypeError for a Struct in columns.
    """
    if not isinstance(of, MessageMeta):
        return Field(of, shape, name)
    layout = of.__layout__
    if layout.columns or layout.shaped or layout.fortran:
        raise TypeError(
            f"{of.__name__} cannot be a field: only Structs in rows and arrays of a fixed shape in C order can"
        )
    nested = of if layout.dtype.fields is not None else None
    return Field(layout.dtype, (*shape, *layout.shape), name, nested)
