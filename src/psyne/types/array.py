"""Arrays: of one shape, or of a shape that each message brings."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, overload

import numpy as np

from .. import _native
from .dtypes import element_from
from .message import Message, MessageMeta, made_once
from .struct import describe

if TYPE_CHECKING:
    from typing import Self

    from numpy.typing import ArrayLike, NDArray

    _Shape = int | tuple[int, ...]

__all__ = ["MAX_BYTES", "Array", "Matrix", "array_type"]

S = TypeVar("S", bound=np.generic, covariant=True)
MAX_BYTES = 4096  # default of types whose messages differ in size


class Array(Message, Generic[S]):
    """An array: ``Array("f4", (480, 640))`` is a class of messages, to name it or to hand to an opener.

    ``Array("f8")`` is one number. ``Array("f4", ndim=2, max_bytes=1 << 20)``: each message brings its own shape of so
    many dimensions (1 to 8) and at most so many bytes (default 4096): ``loan(shape=(480, 640))``, ``truncate(n)``.
    ``m.array`` is a numpy array of this dtype and shape over the slot, ``m.item()`` the number of a scalar.
    """

    if TYPE_CHECKING:
        # A class, not an instance: what the checkers must know to infer Sender[Array[np.uint8]].
        @overload
        def __new__(  # type: ignore[misc]
            cls, dtype: Literal["u1", "uint8"], shape: _Shape = (), *, ndim: int | None = None, max_bytes: int = ...
        ) -> type[Array[np.uint8]]: ...
        @overload
        def __new__(  # type: ignore[misc]
            cls, dtype: Literal["u2", "uint16"], shape: _Shape = (), *, ndim: int | None = None, max_bytes: int = ...
        ) -> type[Array[np.uint16]]: ...
        @overload
        def __new__(  # type: ignore[misc]
            cls, dtype: Literal["u4", "uint32"], shape: _Shape = (), *, ndim: int | None = None, max_bytes: int = ...
        ) -> type[Array[np.uint32]]: ...
        @overload
        def __new__(  # type: ignore[misc]
            cls, dtype: Literal["u8", "uint64"], shape: _Shape = (), *, ndim: int | None = None, max_bytes: int = ...
        ) -> type[Array[np.uint64]]: ...
        @overload
        def __new__(  # type: ignore[misc]
            cls, dtype: Literal["i1", "int8"], shape: _Shape = (), *, ndim: int | None = None, max_bytes: int = ...
        ) -> type[Array[np.int8]]: ...
        @overload
        def __new__(  # type: ignore[misc]
            cls, dtype: Literal["i2", "int16"], shape: _Shape = (), *, ndim: int | None = None, max_bytes: int = ...
        ) -> type[Array[np.int16]]: ...
        @overload
        def __new__(  # type: ignore[misc]
            cls, dtype: Literal["i4", "int32"], shape: _Shape = (), *, ndim: int | None = None, max_bytes: int = ...
        ) -> type[Array[np.int32]]: ...
        @overload
        def __new__(  # type: ignore[misc]
            cls, dtype: Literal["i8", "int64"], shape: _Shape = (), *, ndim: int | None = None, max_bytes: int = ...
        ) -> type[Array[np.int64]]: ...
        @overload
        def __new__(  # type: ignore[misc]
            cls, dtype: Literal["f2", "float16"], shape: _Shape = (), *, ndim: int | None = None, max_bytes: int = ...
        ) -> type[Array[np.float16]]: ...
        @overload
        def __new__(  # type: ignore[misc]
            cls, dtype: Literal["f4", "float32"], shape: _Shape = (), *, ndim: int | None = None, max_bytes: int = ...
        ) -> type[Array[np.float32]]: ...
        @overload
        def __new__(  # type: ignore[misc]
            cls, dtype: Literal["f8", "float64"], shape: _Shape = (), *, ndim: int | None = None, max_bytes: int = ...
        ) -> type[Array[np.float64]]: ...
        @overload
        def __new__(  # type: ignore[misc]
            cls, dtype: Literal["c8", "complex64"], shape: _Shape = (), *, ndim: int | None = None, max_bytes: int = ...
        ) -> type[Array[np.complex64]]: ...
        @overload
        def __new__(  # type: ignore[misc]
            cls,
            dtype: Literal["c16", "complex128"],
            shape: _Shape = (),
            *,
            ndim: int | None = None,
            max_bytes: int = ...,
        ) -> type[Array[np.complex128]]: ...
        @overload
        def __new__(  # type: ignore[misc]
            cls, dtype: Literal["?", "bool"], shape: _Shape = (), *, ndim: int | None = None, max_bytes: int = ...
        ) -> type[Array[np.bool_]]: ...
        @overload
        def __new__(  # type: ignore[misc]
            cls, dtype: type[S] | np.dtype[S], shape: _Shape = (), *, ndim: int | None = None, max_bytes: int = ...
        ) -> type[Array[S]]: ...
        @overload
        def __new__(  # type: ignore[misc]
            cls, dtype: str, shape: _Shape = (), *, ndim: int | None = None, max_bytes: int = ...
        ) -> type[Array[Any]]: ...
        @overload
        def __new__(cls, value: ArrayLike | None = None) -> Self: ...
        def __new__(cls, *args: Any, **kwargs: Any) -> Any: ...

        @property
        def array(self) -> NDArray[S]:
            """A numpy array over the same memory; read-only for receivers that do not mutate."""
            ...

        def __array__(self, dtype: None = None, copy: bool | None = None) -> NDArray[S]: ...
        @overload
        def item(self: Array[np.bool_]) -> bool: ...
        @overload
        def item(self: Array[np.integer[Any]]) -> int: ...
        @overload
        def item(self: Array[np.floating[Any]]) -> float: ...
        @overload
        def item(self: Array[np.complexfloating[Any, Any]]) -> complex: ...
        @overload
        def item(self) -> Any: ...
        def item(self) -> Any:
            """The one element as a Python number. Raises ValueError for an array of another size than 1."""

    else:

        def __new__(cls, *args: Any, **kwargs: Any) -> Any:
            if cls is not Array:
                return super().__new__(cls)
            return array_type(*args, **kwargs)

        def __init__(self, value: Any = None) -> None:
            if value is None:
                return
            if self.__layout__.shaped:
                value = np.asarray(value, self.__layout__.dtype)
                self._reshape(value.shape)
            self.array[...] = value

    @classmethod
    def _takes(cls, value: Any) -> bool:
        layout = cls.__layout__
        return not layout.shaped and layout.shape == () and isinstance(value, (int, float, complex, np.generic))

    def __init_subclass__(
        cls, dtype: Any = None, shape: int | tuple[int, ...] = (), ndim: int | None = None,
        max_bytes: int | None = None, order: Literal["C", "F"] = "C",
    ) -> None:  # fmt: skip
        if dtype is None:
            return
        element, dims = _checked(dtype, shape)
        if ndim is not None:
            if dims != () or not 1 <= ndim <= 8:
                raise TypeError(f"an Array has a shape=, or ndim= from 1 to 8; got shape={shape} and ndim={ndim}")
            if order != "C":
                raise TypeError("an Array that brings its shape lies in C order; Matrix(rows, columns) has order=")
            max_bytes = MAX_BYTES if max_bytes is None else max_bytes
            if max_bytes < element.itemsize:
                raise TypeError(f"max_bytes={max_bytes} holds no {element} of {element.itemsize} bytes")
            cls._lay_out(
                _native.Layout(element, (0,) * ndim, max_bytes=max_bytes),
                {"array": describe(element), "ndim": ndim, "max_bytes": max_bytes},
            )
            return
        if max_bytes is not None:
            raise TypeError(f"max_bytes={max_bytes} is for an Array with ndim=; one with a shape= has its size by that")
        if any(not isinstance(n, (int, np.integer)) or n < 1 for n in dims):
            raise TypeError(f"the shape of an Array is made of positive ints; got {dims}")
        schema = {"array": describe(element), "shape": [int(n) for n in dims]}
        if order == "F":
            schema["order"] = "F"
        cls._lay_out(_native.Layout(element, dims, fortran=order == "F"), schema)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.array!r}>" if self._open else f"<{type(self).__name__}, released>"  # type: ignore[attr-defined]


class Matrix(Array[S]):
    """A matrix for linear algebra: ``Matrix(rows, columns, dtype="f8", order="C")`` is a class of messages.

    With ``order="F"`` the first index moves fastest, as LAPACK wants it: scipy then works on the slot itself.
    ``m.array`` has the shape (rows, columns) in either order.
    """

    if TYPE_CHECKING:
        # As for Array; float64 without a dtype.
        @overload
        def __new__(  # type: ignore[misc]
            cls, rows: int, columns: int, dtype: Literal["u1", "uint8"], order: Literal["C", "F"] = "C"
        ) -> type[Matrix[np.uint8]]: ...
        @overload
        def __new__(  # type: ignore[misc]
            cls, rows: int, columns: int, dtype: Literal["u2", "uint16"], order: Literal["C", "F"] = "C"
        ) -> type[Matrix[np.uint16]]: ...
        @overload
        def __new__(  # type: ignore[misc]
            cls, rows: int, columns: int, dtype: Literal["u4", "uint32"], order: Literal["C", "F"] = "C"
        ) -> type[Matrix[np.uint32]]: ...
        @overload
        def __new__(  # type: ignore[misc]
            cls, rows: int, columns: int, dtype: Literal["u8", "uint64"], order: Literal["C", "F"] = "C"
        ) -> type[Matrix[np.uint64]]: ...
        @overload
        def __new__(  # type: ignore[misc]
            cls, rows: int, columns: int, dtype: Literal["i1", "int8"], order: Literal["C", "F"] = "C"
        ) -> type[Matrix[np.int8]]: ...
        @overload
        def __new__(  # type: ignore[misc]
            cls, rows: int, columns: int, dtype: Literal["i2", "int16"], order: Literal["C", "F"] = "C"
        ) -> type[Matrix[np.int16]]: ...
        @overload
        def __new__(  # type: ignore[misc]
            cls, rows: int, columns: int, dtype: Literal["i4", "int32"], order: Literal["C", "F"] = "C"
        ) -> type[Matrix[np.int32]]: ...
        @overload
        def __new__(  # type: ignore[misc]
            cls, rows: int, columns: int, dtype: Literal["i8", "int64"], order: Literal["C", "F"] = "C"
        ) -> type[Matrix[np.int64]]: ...
        @overload
        def __new__(  # type: ignore[misc]
            cls, rows: int, columns: int, dtype: Literal["f2", "float16"], order: Literal["C", "F"] = "C"
        ) -> type[Matrix[np.float16]]: ...
        @overload
        def __new__(  # type: ignore[misc]
            cls, rows: int, columns: int, dtype: Literal["f4", "float32"], order: Literal["C", "F"] = "C"
        ) -> type[Matrix[np.float32]]: ...
        @overload
        def __new__(  # type: ignore[misc]
            cls, rows: int, columns: int, dtype: Literal["f8", "float64"], order: Literal["C", "F"] = "C"
        ) -> type[Matrix[np.float64]]: ...
        @overload
        def __new__(  # type: ignore[misc]
            cls, rows: int, columns: int, dtype: Literal["c8", "complex64"], order: Literal["C", "F"] = "C"
        ) -> type[Matrix[np.complex64]]: ...
        @overload
        def __new__(  # type: ignore[misc]
            cls, rows: int, columns: int, dtype: Literal["c16", "complex128"], order: Literal["C", "F"] = "C"
        ) -> type[Matrix[np.complex128]]: ...
        @overload
        def __new__(  # type: ignore[misc]
            cls, rows: int, columns: int, dtype: Literal["?", "bool"], order: Literal["C", "F"] = "C"
        ) -> type[Matrix[np.bool_]]: ...
        @overload
        def __new__(  # type: ignore[misc]
            cls, rows: int, columns: int, *, order: Literal["C", "F"] = "C"
        ) -> type[Matrix[np.float64]]: ...
        @overload
        def __new__(  # type: ignore[misc]
            cls, rows: int, columns: int, dtype: type[S] | np.dtype[S], order: Literal["C", "F"] = "C"
        ) -> type[Matrix[S]]: ...
        @overload
        def __new__(cls, value: ArrayLike | None = None) -> Self: ...
        def __new__(cls, *args: Any, **kwargs: Any) -> Any: ...

    else:

        def __new__(cls, *args: Any, **kwargs: Any) -> Any:
            if cls is not Matrix:
                return super().__new__(cls)
            return _matrix_type(*args, **kwargs)


_made: weakref.WeakValueDictionary[tuple[Any, ...], MessageMeta] = weakref.WeakValueDictionary()


def _checked(dtype: Any, shape: int | tuple[int, ...]) -> tuple[np.dtype[Any], tuple[int, ...]]:
    element, dims = element_from(dtype, (shape,) if isinstance(shape, int) else tuple(shape))
    if element.hasobject or element.itemsize == 0:
        what = "holds Python objects" if element.hasobject else "has no bytes"
        raise TypeError(f"{element!r} {what}; messages need a fixed-size dtype")
    return element, dims


def array_type(
    dtype: Any = None, shape: int | tuple[int, ...] = (), *, ndim: int | None = None, max_bytes: int | None = None
) -> MessageMeta:
    """The class of messages that `Array` gives."""
    if dtype is None:
        raise TypeError("Array(dtype, shape) makes a message class, e.g. Array('f4', (480, 640))")
    element, dims = _checked(dtype, shape)
    key = (Array, element, dims, ndim, max_bytes or MAX_BYTES if ndim is not None else max_bytes)
    name = f"Array_{element.name}" + "".join(f"_{n}" for n in dims) + (f"_{ndim}d" if ndim is not None else "")
    body = {"__module__": __name__}
    return made_once(
        _made,
        key,
        lambda: MessageMeta(name, (Array,), body, dtype=element, shape=dims, ndim=ndim, max_bytes=max_bytes),
    )


def _matrix_type(
    rows: int | None = None, columns: int | None = None, dtype: Any = "f8", order: Literal["C", "F"] = "C"
) -> MessageMeta:
    if not isinstance(rows, int) or not isinstance(columns, int):
        raise TypeError('Matrix(rows, columns) makes a message class, e.g. Matrix(3, 4, "f8", order="F")')
    if order not in ("C", "F"):
        raise TypeError(f"order is 'C' (rows lie together) or 'F' (columns do), not {order!r}")
    element, dims = _checked(dtype, (rows, columns))
    if len(dims) != 2:
        raise TypeError(f"the elements of a matrix are numbers, not arrays of shape {dims[2:]}")
    key = (Matrix, element, rows, columns, order)
    name, body = f"Matrix_{element.name}_{rows}_{columns}_{order}", {"__module__": __name__}
    return made_once(_made, key, lambda: MessageMeta(name, (Matrix,), body, dtype=element, shape=dims, order=order))
