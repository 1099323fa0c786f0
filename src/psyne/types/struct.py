"""Records with named fields."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from .. import _native
from .dtypes import dtype_text
from .fields import Field
from .message import Message, MessageMeta, is_reserved

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Struct", "describe", "fields_of", "struct_of"]

ZEROED = 1024  # bytes up to which a loan starts zeroed


def fields_of(dtype: np.dtype[Any]) -> Mapping[str, tuple[np.dtype[Any], int]]:
    """Each field's dtype and offset, in their order."""
    fields = cast("Mapping[str, tuple[np.dtype[Any], int]]", dtype.fields or {})
    return {name: (fields[name][0], fields[name][1]) for name in dtype.names or ()}


def describe(dtype: np.dtype[Any]) -> dict[str, Any]:
    """A dtype as plain data: fields with dtype, shape and offset, or the dtype's own name."""
    if dtype.fields is None:
        return {"dtype": dtype_text(dtype)}
    fields = []
    for name, (inner, offset) in fields_of(dtype).items():
        base, shape = inner.subdtype or (inner, ())
        fields.append({"name": name, **describe(base), "shape": list(shape), "offset": offset})
    return {"fields": fields, "bytes": dtype.itemsize}


def _rows(fields: Mapping[str, Field[Any, Any]]) -> np.dtype[Any]:
    """C layout: natural alignment, padding at the end."""
    return np.dtype(
        [(name, f.dtype, f.shape) if f.shape else (name, f.dtype) for name, f in fields.items()], align=True
    )


def _columns(fields: Mapping[str, Field[Any, Any]]) -> np.dtype[Any]:
    """Without padding. Multiples of 64 bytes first, then by alignment: so every column of a ring is aligned."""
    sizes = {name: f.dtype.itemsize * int(np.prod(f.shape, dtype=np.int64)) for name, f in fields.items()}
    offsets, end = {}, 0
    for name in sorted(fields, key=lambda name: (sizes[name] % 64 != 0, -fields[name].dtype.alignment)):
        offsets[name], end = end, end + sizes[name]
    return np.dtype(
        {
            "names": list(fields),
            "formats": [(f.dtype, f.shape) if f.shape else f.dtype for f in fields.values()],
            "offsets": [offsets[name] for name in fields],
            "itemsize": end,
        }
    )


class Struct(Message):
    """A record with named fields in C layout.

    >>> class Imu(Struct):
    ...     stamp = u64()
    ...     accel = f32(3)

    ``m.stamp`` is an int, ``m.accel`` a float32 array of shape (3,) over the slot. ``Imu(stamp=1)`` by itself lies in
    private memory. ``class Frame(Struct, layout="columns")`` keeps a column per field: a field of k consecutive
    messages is one contiguous array of shape (k, \\*shape). Raises TypeError for a field whose name a message needs.
    """

    __fields__: Mapping[str, Field[Any, Any]]
    __places__: dict[str, _native.Field]  # the descriptors behind them, by the names of the fields

    def __init_subclass__(
        cls, layout: Literal["rows", "columns"] | None = None, dtype: np.dtype[Any] | None = None
    ) -> None:
        by_columns = layout == "columns" if layout else getattr(cls, "__columns__", False)
        if layout not in (None, "rows", "columns"):
            raise TypeError(f"layout is 'rows' or 'columns', not {layout!r}")
        cls.__columns__ = by_columns  # type: ignore[attr-defined]
        declared: dict[str, Field[Any, Any]] = dict(getattr(cls, "__fields__", {}))
        for key, value in list(vars(cls).items()):
            if isinstance(value, Field):
                declared[value.name or key] = value
                if value.name is not None:
                    delattr(cls, key)
        taken = sorted(name for name, f in declared.items() if f.name is None and is_reserved(name))
        if taken:
            raise TypeError(
                f"{cls.__name__}.{taken[0]}: a message has an attribute of that name; "
                f"call it otherwise here and say {taken[0]}_ = …(name={taken[0]!r}) to keep the field's name"
            )
        if not declared:
            return
        if dtype is None:
            dtype = _columns(declared) if by_columns else _rows(declared)
        cls.__fields__ = declared
        places = fields_of(dtype)
        cls.__places__ = {
            name: _native.Field(field.dtype, field.shape, places[name][1], field.type)
            for name, field in declared.items()
        }
        for name, place in cls.__places__.items():
            attribute = name.strip("_") + "_" if is_reserved(name) else name
            while cls.__places__.get(attribute, place) is not place:
                attribute += "_"
            setattr(cls, attribute, place)
        cls.__layout__ = _native.Layout(dtype, (), zeroed=dtype.itemsize <= ZEROED, columns=by_columns)
        cls.__schema__ = {"struct": cls.__name__, **describe(dtype)}
        if by_columns:
            cls.__schema__["layout"] = "columns"

    def __init__(self, **fields: Any) -> None:
        for name, value in fields.items():
            place = self.__places__.get(name)
            if place is None:
                raise TypeError(f"{type(self).__name__} has no field {name!r}; it has {list(self.__fields__)}")
            place.__set__(self, value)

    def __repr__(self) -> str:
        if not self._open:  # type: ignore[attr-defined]
            return f"<{type(self).__name__}, released>"
        shown = ", ".join(f"{name}={place.__get__(self)!r}" for name, place in self.__places__.items())
        return f"{type(self).__name__}({shown})"

    if TYPE_CHECKING:

        @property
        def array(self) -> NDArray[np.void]:
            """The record as a structured numpy array of shape () over the same memory.

            Raises TypeError for a message in columns, which is no single array.
            """
            ...


def struct_of(
    name: str, dtype: np.dtype[Any], *, bases: tuple[type, ...] = (Struct,), columns: bool = False,
    only: frozenset[str] | None = None, body: Mapping[str, Any] | None = None,
) -> type[Struct]:  # fmt: skip
    """A Struct class with the very offsets of a structured dtype; ``only`` some of its fields."""
    made: dict[str, Any] = dict(body or {})
    for field, (inner, _) in fields_of(dtype).items():
        if only is not None and field not in only:
            continue
        base, shape = inner.subdtype or (inner, ())
        nested: Any = struct_of(field, base) if base.fields is not None else None
        named = field.isidentifier() and not is_reserved(field)  # else under a key that is no field's name
        made[field if named else " " + field] = Field(base, shape, None if named else field, nested)
    if not made:
        raise TypeError(f"{name} has no fields; a message needs one")
    layout = "columns" if columns else "rows"
    return cast("type[Struct]", MessageMeta(name, bases, made, layout=layout, dtype=dtype))
