"""What messages hold, so that it can be compared between processes, and a child that sends on what it gets."""

from collections.abc import Callable
from typing import Any

import numpy as np

import psyne
from psyne import _native
from psyne.address import channel_place
from psyne.types.schema import types_in

__all__ = ["as_numbers", "content", "echo", "filled", "plain"]

CAPACITY = 64


def plain(array: np.ndarray) -> Any:
    """Bytes, shape and dtype of an array; of records those of each field, without the padding between them."""
    array = np.asarray(array)  # a scalar would lose the length of its text
    if array.dtype.names:
        return {name: plain(array[name]) for name in array.dtype.names}
    if array.dtype.char in "gG":  # 10 of 16 bytes
        words = np.atleast_1d(array).copy().view("u1").reshape(-1, 16)
        return str(array.dtype), array.shape, words[:, :10].tobytes()
    return str(array.dtype), array.shape, array.tobytes()


def content(m: Any) -> Any:
    """What a message holds."""
    if isinstance(m, psyne.Text):
        return m.text
    if isinstance(m, psyne.ArrowBatch):
        return m.batch.schema.to_string(), m.batch.to_pylist()
    if type(m).__layout__.columns:
        parts = {name: (getattr(m, name), f.dtype) for name, f in type(m).__fields__.items()}
        return {
            name: plain(part.array if isinstance(part, psyne.Message) else np.asarray(part, dtype))
            for name, (part, dtype) in parts.items()
        }
    return plain(m.array)


def filled(dtype: np.dtype, shape: tuple[int, ...], seed: bytes) -> np.ndarray:
    """An array of any bits that this dtype can have, made from a few bytes."""
    if dtype.subdtype is not None:
        return filled(dtype.subdtype[0], (*shape, *dtype.subdtype[1]), seed)
    if dtype.names:
        records = np.zeros(shape, dtype)
        for i, name in enumerate(dtype.names):
            turned = seed[i % len(seed) :] + seed[: i % len(seed)]
            records[name] = filled(dtype.fields[name][0], shape, turned)
        return records
    raw = np.resize(np.frombuffer(seed, "u1"), int(np.prod(shape)) * dtype.itemsize)
    if dtype.kind == "b":
        return (raw & 1).view(dtype).reshape(shape)
    if dtype.kind == "U":
        return (raw.view("<u4") & 0x7FF).view(dtype).reshape(shape)
    if dtype.name in ("int4", "uint4"):
        return (raw.astype("i1") % 16 - (8 if dtype.name == "int4" else 0)).astype(dtype).reshape(shape)
    return raw.view(dtype).reshape(shape)


def as_numbers(records: np.ndarray) -> np.ndarray:
    """The same with one NaN for all: a field that is read as a number of Python does not keep which NaN it was."""
    for name in records.dtype.names or ():
        column = records[name]
        if column.dtype.name.startswith(("float", "bfloat", "complex")):
            column[np.isnan(column)] = np.nan
    return records


def _into_loan(tx: Any, m: Any) -> None:
    layout = type(m).__layout__
    with tx.loan(type(m), shape=m.array.shape) if layout.shaped else tx.loan(type(m)) as out:
        if layout.columns:
            for name in type(m).__fields__:
                setattr(out, name, getattr(m, name))
        else:
            out.array[...] = m.array


WAYS: dict[str, Callable[[Any, Any], Any]] = {
    "send": lambda tx, m: tx.send(m),
    "copy": lambda tx, m: tx.send(m.copy()),
    "private": lambda tx, m: tx.send(m.private()),
    "loan": _into_loan,
}

open_ends: list[Any] = []


def echo(way: str, n: int) -> list[Any]:
    """Sends n messages of the channel `there` on to the channel `back`, and says what they hold. `hang_up` ends it."""
    there = _native.describe(*channel_place("ipc://there"))
    assert there is not None
    types = types_in(there["schema"])
    rx: Any = psyne.receiver("ipc://there", *types)
    tx: Any = psyne.sender("ipc://back", *types, capacity=CAPACITY)
    open_ends.extend([rx, tx])
    seen: list[Any] = []
    while len(seen) < n:
        if way != "batch":
            with rx.receive() as m:
                seen.append(content(m))
                WAYS[way](tx, m)
            continue
        with rx.receive_many(n - len(seen)) as batch:
            seen += [content(m) for m in batch]
            of = type(batch[0])
            if of.__layout__.shaped:
                for m in batch:
                    tx.send(m)
            elif of.__layout__.columns:
                tx.send_many({name: batch[name] for name in of.__fields__})
            else:
                tx.send_many(batch.array, of)
    return seen


def hang_up() -> None:
    while open_ends:
        open_ends.pop().close()
