"""Records with named fields."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from .. import _native
from .dtypes import dtype_text
from .fields import Field
from .message import Message, MessageMeta, is_reserved

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Struct", "attribute_of", "describe", "fields_of", "struct_of"]

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
    __attributes__: Mapping[str, str]  # of each field: another word than its name where ``name=`` was said

    def __init_subclass__(
        cls, layout: Literal["rows", "columns"] | None = None, dtype: np.dtype[Any] | None = None
    ) -> None:
        by_columns = layout == "columns" if layout else getattr(cls, "__columns__", False)
        if layout not in (None, "rows", "columns"):
            raise TypeError(f"layout is 'rows' or 'columns', not {layout!r}")
        cls.__columns__ = by_columns  # type: ignore[attr-defined]
        declared: dict[str, Field[Any, Any]] = dict(getattr(cls, "__fields__", {}))
        attributes: dict[str, str] = dict(getattr(cls, "__attributes__", {}))
        for key, value in list(vars(cls).items()):
            if isinstance(value, Field):
                name = value.name or key
                if attributes.get(name, key) != key:
                    raise TypeError(f"{cls.__name__} has two fields of the name {name!r}: {attributes[name]} and {key}")
                declared[name], attributes[name] = value, key
        _no_mere_words(cls)
        taken = sorted(filter(is_reserved, attributes.values()))
        if taken:
            raise TypeError(
                f"{cls.__name__}.{taken[0]}: a message has an attribute of that name; "
                f"call it otherwise here and say {taken[0]}_ = …(name={taken[0]!r}) to keep the field's name"
            )
        if not declared:
            return
        if dtype is None:
            dtype = _columns(declared) if by_columns else _rows(declared)
        cls.__fields__, cls.__attributes__ = declared, attributes
        places = fields_of(dtype)
        cls.__places__ = {
            name: _native.Field(field.dtype, field.shape, places[name][1], field.type)
            for name, field in declared.items()
        }
        for name, place in cls.__places__.items():
            setattr(cls, attributes[name], place)
        schema = {"struct": cls.__name__, **describe(dtype)}
        if by_columns:
            schema["layout"] = "columns"
        cls._lay_out(_native.Layout(dtype, (), zeroed=dtype.itemsize <= ZEROED, columns=by_columns), schema)

    def __init__(self, **fields: Any) -> None:
        for key, value in fields.items():
            attribute = self.__attributes__.get(key, key)
            if attribute not in self.__attributes__.values():
                raise TypeError(f"{type(self).__name__} has no field {key!r}; it has {list(self.__fields__)}")
            setattr(self, attribute, value)

    def _content(self) -> Any:
        if not self.__columns__:  # type: ignore[attr-defined]
            return super()._content()
        return {key: np.array(getattr(self, key)) for key in self.__attributes__.values()}

    def _fill(self, content: Any) -> None:
        if not self.__columns__:  # type: ignore[attr-defined]
            super()._fill(content)
            return
        for key, value in content.items():
            setattr(self, key, value)

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


def _no_mere_words(cls: type[Struct]) -> None:
    """A field that is forgotten to be made would be missing without a word."""
    for key in vars(cls).get("__annotations__", {}):
        if key not in vars(cls) and not key.startswith("_"):
            raise TypeError(f"{cls.__name__}.{key} is annotated only; a field is a value: {key} = u64(), or f32(3)")
    for key, value in vars(cls).items():
        if getattr(value, "__makes_field__", False):
            raise TypeError(f"{cls.__name__}.{key} = {value.__name__} lacks its brackets: {key} = {value.__name__}()")


def attribute_of(name: str, names: Collection[str]) -> str:
    """The attribute of a field of this name: the name, with a _ behind it where a message needs that itself."""
    attribute = name
    while is_reserved(attribute) or (attribute != name and attribute in names):
        attribute = attribute.strip("_") + "_" if is_reserved(attribute) else attribute + "_"
    return attribute


def struct_of(
    name: str, dtype: np.dtype[Any], *, columns: bool = False, body: Mapping[str, Any] | None = None
) -> type[Struct]:
    """A Struct class with the very offsets of a structured dtype."""
    made: dict[str, Any] = dict(body or {})
    for field, (inner, _) in fields_of(dtype).items():
        base, shape = inner.subdtype or (inner, ())
        nested: Any = struct_of(field, base) if base.fields is not None else None
        made[attribute_of(field, dtype.names or ())] = Field(base, shape, field, nested)
    if not made:
        raise TypeError(f"{name} has no fields; a message needs one")
    layout = "columns" if columns else "rows"
    return cast("type[Struct]", MessageMeta(name, (Struct,), made, layout=layout, dtype=dtype))
