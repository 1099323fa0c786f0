"""Every type goes to another process and comes back: shapes, dtypes and contents by hypothesis, compared exactly."""

import ctypes
import math
from collections.abc import Callable, Iterator
from dataclasses import make_dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import psyne
from psyne import Array, ArrowBatch, Bytes, Matrix, Struct, Text, field
from psyne.types import as_type
from psyne.types.dtypes import dtype_from

from .helpers.contents import CAPACITY, as_numbers, content, filled, plain
from .helpers.process import Child

pytest.importorskip("ml_dtypes")

DTYPES = ["?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "g", "c8", "c16", "G"]
DTYPES += [">u2", ">f8", "M8[ns]", "m8[s]", "S5", "U3", "V7", "bf16", "fp8_e4m3", "fp8_e5m2", "int4", "uint4"]

dtypes = st.sampled_from(DTYPES).map(dtype_from)
shapes = st.lists(st.integers(1, 4), max_size=3).map(tuple)
seeds = st.binary(min_size=1, max_size=16)
counts = st.integers(1, 8)
ways = st.sampled_from(["send", "copy", "private", "loan", "batch"])

FEW = settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
MANY = settings(FEW, max_examples=500)

Send = Callable[[psyne.Sender[Any]], None]


def many_ways(**strategies: Any) -> Callable[[Any], Any]:
    """A test of a few examples, and its long form of many."""

    def decorate(test: Any) -> Any:
        many = MANY(given(**strategies)(test))
        globals()[test.__name__ + "_in_many_examples"] = pytest.mark.long(pytest.mark.watchdog(1800)(many))
        return FEW(given(**strategies)(test))

    return decorate


@pytest.fixture(scope="module")
def process() -> Iterator[Child]:
    with Child() as child:
        child.run("from contents import echo, hang_up")
        yield child


@pytest.fixture
def other(process: Child, psyne_directory: Path) -> Child:
    """The other process, the same for all tests, in the directory of this one."""
    process.run("hang_up(); os.environ['PSYNE_DIR'] = directory", directory=str(psyne_directory))
    return process


def there_and_back(other: Child, types: Any, send: Send, expected: list[Any], way: str) -> None:
    """Sends messages to the other process, which sees them and sends them back in one of the ways there are."""
    types = types if isinstance(types, list) else [types]
    other.run("hang_up()")  # what an example that failed left
    with psyne.sender("ipc://there", *types, capacity=CAPACITY) as tx:
        send(tx)
        assert other.run("echo(way, n)", way=way, n=len(expected)) == expected
        with psyne.receiver("ipc://back", *types) as rx:  # raises unless the schema has come back as well
            for wanted in expected:
                with rx.receive(timeout=10) as m:
                    assert isinstance(m, tuple(as_type(cls) for cls in types))
                    assert content(m) == wanted
            assert rx.try_receive() is None
            other.run("hang_up()")


def in_one(values: list[Any]) -> np.ndarray:
    """One array of all; np.stack() would close gaps between fields and turn bytes round."""
    made = np.empty((len(values), *values[0].shape), values[0].dtype)
    for i, value in enumerate(values):
        made[i] = value
    return made


def how_to_send(values: list[Any], kind: Any, how: str) -> Send:
    """The ways to send arrays."""
    everything = in_one(values)

    def send(tx: Any) -> None:
        if how == "many":
            tx.send_many(everything)
        elif how == "loan_many":
            with tx.loan_many(len(values)) as batch:
                batch.array[...] = everything
        else:
            for value in values:
                if how == "loan":
                    with tx.loan() as m:
                        m.array[...] = value
                else:
                    tx.send(value if how == "send" else kind(value))

    return send


sendings = st.sampled_from(["send", "message", "loan", "many", "loan_many"])


# ---- arrays --------------------------------------------------------------------------------------------------------


@many_ways(dtype=dtypes, shape=shapes, seeds=st.lists(seeds, min_size=1, max_size=8), how=sendings, way=ways)
def test_an_array_of_a_fixed_shape(other: Child, dtype: Any, shape: Any, seeds: Any, how: str, way: str):
    values = [filled(dtype, shape, seed) for seed in seeds]
    kind = Array(dtype, shape)
    there_and_back(other, kind, how_to_send(values, kind, how), [plain(v) for v in values], way)


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_array_of_each_dtype(other: Child, dtype: str):
    value = filled(dtype_from(dtype), (2, 3), bytes(range(1, 17)))
    there_and_back(other, Array(dtype, (2, 3)), lambda tx: tx.send(value), [plain(value)], "send")


@many_ways(dtype=dtypes, seed=seeds, order=st.sampled_from("CF"), shape=st.tuples(st.integers(1, 5), st.integers(1, 5)),
       how=sendings, way=ways, n=counts, turned=st.booleans())  # fmt: skip
def test_a_matrix_in_either_order(other: Child, dtype: Any, seed: bytes, order: Any, shape: Any, how: str, way: str,
                                  n: int, turned: bool):  # fmt: skip
    value = filled(dtype, shape, seed)
    kind = Matrix(*shape, dtype, order=order)
    values = [np.asfortranarray(value) if turned else value] * n
    there_and_back(other, kind, how_to_send(values, kind, how), [plain(value)] * n, way)


@many_ways(dtype=dtypes, shape=st.lists(st.integers(0, 4), min_size=1, max_size=4).map(tuple), seed=seeds,
       cut=st.integers(0, 4), spare=st.integers(0, 40), how=st.sampled_from(["send", "message", "loan"]), way=ways,
       turned=st.booleans())  # fmt: skip
@example(dtype=np.dtype("u1"), shape=(0, 4), seed=b"a", cut=0, spare=0, how="loan", way="batch", turned=False)
def test_an_array_that_brings_its_own_shape(other: Child, dtype: Any, shape: Any, seed: bytes, cut: int, spare: int,
                                            how: str, way: str, turned: bool):  # fmt: skip
    value = filled(dtype, shape, seed)
    value = value.T.copy().T if turned else value
    kind: Any = Array(dtype, ndim=len(shape), max_bytes=max(value.nbytes, dtype.itemsize) + spare)
    cut = min(cut, shape[0])

    def send(tx: Any) -> None:
        tx.send(value if how == "send" else kind(value))
        with tx.loan(shape=shape) as m:
            m.array[...] = value
            m.truncate(cut)

    there_and_back(other, kind, send, [plain(value), plain(value[:cut])], way)


@many_ways(dtype=dtypes, seed=seeds)
def test_a_scalar_is_the_number_that_numpy_has(other: Child, dtype: Any, seed: bytes):
    value = filled(dtype, (), seed)
    kind = Array(dtype)
    with psyne.sender("ipc://there", kind, capacity=2) as tx:
        tx.send(value)
        other.run("rx = psyne.receiver('ipc://there'); m = rx.receive(); number = m.item()")
        extended = dtype.isbuiltin == 2
        wanted = (int(value) if "int" in dtype.name else float(value)) if extended else value.item()
        got = other.run("bytes(number) if isinstance(number, memoryview) else number")
        other.run("del number, m; rx.close()")
        assert type(got) is type(wanted) or isinstance(value, np.longdouble)
        assert got == wanted or (got != got and wanted != wanted)


# ---- bytes, text, Arrow --------------------------------------------------------------------------------------------


@many_ways(values=st.lists(st.binary(max_size=100), min_size=1, max_size=8), way=ways, how=st.integers(0, 3))
@example(values=[b"", b"x" * 100], way="batch", how=3)
def test_bytes(other: Child, values: list[bytes], way: str, how: int):
    kind = Bytes(max_bytes=100)

    def send(tx: Any) -> None:
        for value in values:
            if how == 3:
                with tx.loan(size=len(value)) as m:
                    memoryview(m)[:] = value
            else:
                tx.send([value, kind(value), memoryview(value)][how])

    there_and_back(other, kind, send, [plain(np.frombuffer(v, "u1")) for v in values], way)


@many_ways(values=st.lists(st.text(max_size=25), min_size=1, max_size=8), way=ways, how=st.integers(0, 2))
@example(values=["", "x" * 100, "\U0010ffff" * 25, "a\0b"], way="batch", how=2)
def test_text(other: Child, values: list[str], way: str, how: int):
    kind = Text(max_bytes=100)

    def send(tx: Any) -> None:
        for value in values:
            if how == 2:
                with tx.loan() as m:
                    m.text = value
            else:
                tx.send([value, kind(value)][how])

    there_and_back(other, kind, send, list(values), way)


def test_text_that_is_too_long_by_one_byte_is_refused():
    with psyne.sender("ipc://t", Text(max_bytes=4), capacity=2) as tx:
        for call in (lambda: tx.send("ääa"), lambda: Text(max_bytes=4)("ääa")):
            with pytest.raises((ValueError, psyne.LayoutMismatch), match="4"):
                call()
        assert tx.send("ää")


def record_batches() -> st.SearchStrategy[Any]:
    """Record batches of any schema: numbers, text, nulls, lists, structs, dictionaries."""
    import pyarrow as pa

    leaves: dict[Any, st.SearchStrategy[Any]] = {
        pa.int64(): st.integers(-(2**63), 2**63 - 1),
        pa.uint8(): st.integers(0, 255),
        pa.float64(): st.floats(allow_nan=False),
        pa.bool_(): st.booleans(),
        pa.string(): st.text(max_size=8),
        pa.large_string(): st.text(max_size=8),
        pa.string_view(): st.text(max_size=30),
        pa.binary(): st.binary(max_size=8),
        pa.binary(3): st.binary(min_size=3, max_size=3),
        pa.timestamp("us"): st.integers(0, 2**40),
        pa.dictionary(pa.int8(), pa.string()): st.sampled_from(["a", "b", "ä"]),
        pa.null(): st.none(),
    }
    leaf = st.sampled_from(list(leaves.items()))
    nested = st.recursive(
        leaf,
        lambda inner: st.one_of(
            inner.map(lambda p: (pa.list_(p[0]), st.lists(st.none() | p[1], max_size=3))),
            inner.map(lambda p: (pa.list_(p[0], 2), st.lists(st.none() | p[1], min_size=2, max_size=2))),
            st.tuples(inner, inner).map(
                lambda p: (
                    pa.struct([("x", p[0][0]), ("y", p[1][0])]),
                    st.fixed_dictionaries({"x": st.none() | p[0][1], "y": st.none() | p[1][1]}),
                )
            ),
        ),
        max_leaves=3,
    )

    @st.composite
    def batch(draw: Any) -> Any:
        rows = draw(st.integers(0, 5))
        columns = {}
        for name, (kind, values) in draw(st.dictionaries(st.text(max_size=5), nested, max_size=4)).items():
            try:
                columns[name] = pa.array(draw(st.lists(st.none() | values, min_size=rows, max_size=rows)), kind)
            except pa.ArrowNotImplementedError:  # a list of dictionaries
                columns[name] = pa.array([None] * rows, pa.null())
        made = pa.RecordBatch.from_pydict(columns)
        try:
            made.validate(full=True)
        except pa.ArrowInvalid:  # pyarrow makes indices of an empty dictionary where a struct is null
            assume(False)
        return made.slice(1) if rows > 1 and draw(st.booleans()) else made

    return batch()


def buffers_of(batch: Any) -> Iterator[Any]:
    for column in batch.columns:
        yield from (b for b in column.buffers() if b is not None and b.size)


@many_ways(data=st.data(), way=ways, declared=st.booleans(), how=st.integers(0, 2))
def test_an_arrow_record_batch(other: Child, data: Any, way: str, declared: bool, how: int):
    pytest.importorskip("pyarrow")
    batch = data.draw(record_batches())
    kind: Any = ArrowBatch(batch.schema, max_bytes=1 << 14) if declared else ArrowBatch(max_bytes=1 << 14)

    def send(tx: Any) -> None:
        for _ in range(2):
            if how == 0:
                with tx.loan() as m:
                    m.batch = batch
            else:
                tx.send(batch if how == 1 else kind(batch=batch))

    expected = (batch.schema.to_string(), batch.to_pylist())
    there_and_back(other, kind, send, [expected] * 2, way)
    with psyne.sender("ipc://in", kind, capacity=2) as tx, psyne.receiver("ipc://in", kind) as rx:
        tx.send(batch)
        with rx.receive() as m:
            low = m.array.ctypes.data
            for buffer in buffers_of(m.batch):
                assert low <= buffer.address <= buffer.address + buffer.size <= low + len(m)
            assert m.batch.equals(batch)


# ---- records -------------------------------------------------------------------------------------------------------


@st.composite
def struct_types(draw: Any, layout: str = "rows", depth: int = 2) -> tuple[Any, np.dtype]:
    """A Struct class, and the dtype that C would give it (in rows)."""
    fields: dict[str, Any] = {}
    members: list[Any] = []
    for i in range(draw(st.integers(1, 4))):
        name, shape = f"f{i}", draw(st.lists(st.integers(1, 3), max_size=2).map(tuple))
        if depth and draw(st.booleans()):
            of, dtype = draw(struct_types(depth=depth - 1))
        else:
            of = dtype = draw(dtypes)
        fields[name] = field(of, *shape)
        members.append((name, dtype, shape) if shape else (name, dtype))
    made = type(Struct)("Made", (Struct,), fields, layout=layout)
    return made, np.dtype(members, align=True)


@many_ways(made=struct_types(), seeds=st.lists(seeds, min_size=1, max_size=4), way=ways, how=sendings)
def test_a_struct_of_any_fields_and_structs_in_it(other: Child, made: Any, seeds: Any, way: str, how: str):
    kind, dtype = made
    assert kind.__layout__.dtype == dtype
    values = [filled(dtype, (), seed) for seed in seeds]

    def message(value: Any) -> Any:
        return kind(**{name: value[name] for name in dtype.names})

    there_and_back(other, kind, how_to_send(values, message, how), [plain(v) for v in values], way)


@many_ways(made=struct_types(layout="columns", depth=1), seeds=st.lists(seeds, min_size=1, max_size=8), way=ways,
       how=st.sampled_from(["message", "loan", "many", "dict", "loan_many"]))  # fmt: skip
def test_a_struct_in_columns(other: Child, made: Any, seeds: Any, way: str, how: str):
    kind, dtype = made
    values = as_numbers(in_one([filled(dtype, (), seed) for seed in seeds]))

    def send(tx: Any) -> None:
        if how == "many":
            tx.send_many(values.astype(kind.__layout__.dtype))
        elif how == "dict":
            tx.send_many({name: values[name] for name in dtype.names})
        elif how == "loan_many":
            with tx.loan_many(len(values)) as batch:
                for name in dtype.names:
                    batch[name] = values[name]
        else:
            for value in values:
                fields = {name: value[name] for name in dtype.names}
                if how == "message":
                    tx.send(kind(**fields))
                    continue
                with tx.loan() as m:
                    for name in dtype.names:
                        setattr(m, name, fields[name])

    there_and_back(other, kind, send, [plain(v) for v in values], way)


@st.composite
def numpy_records(draw: Any) -> np.dtype:
    """A structured dtype with gaps, odd offsets and either byte order."""
    formats, offsets, end = [], [], 0
    for _ in range(draw(st.integers(1, 4))):
        base = draw(dtypes)
        shape = draw(st.lists(st.integers(1, 3), max_size=2).map(tuple))
        formats.append((base, shape) if shape else base)
        offsets.append(end + draw(st.integers(0, 5)))
        end = offsets[-1] + base.itemsize * math.prod(shape)
    names = draw(st.permutations(["a", "class", "info", "x y", "größe", "_open", "__init__"]))[: len(formats)]
    spec = {"names": names, "formats": formats, "offsets": offsets, "itemsize": end + draw(st.integers(0, 5))}
    return np.dtype(spec)


@many_ways(dtype=numpy_records(), seeds=st.lists(seeds, min_size=1, max_size=4), way=ways, how=sendings)
def test_a_numpy_record_with_its_very_offsets(other: Child, dtype: Any, seeds: Any, way: str, how: str):
    values = [filled(dtype, (), seed) for seed in seeds]
    kind = as_type(dtype)
    assert kind.__layout__.dtype == dtype
    how = "send" if how == "message" else how
    there_and_back(other, kind, how_to_send(values, kind, how), [plain(v) for v in values], way)


C_TYPES: list[Any] = [ctypes.c_bool, ctypes.c_int8, ctypes.c_uint16, ctypes.c_int, ctypes.c_uint64, ctypes.c_float]
C_TYPES += [ctypes.c_double, ctypes.c_size_t, ctypes.c_char]


@st.composite
def c_structures(draw: Any, depth: int = 1) -> Any:
    kinds = st.sampled_from(C_TYPES)
    if depth:
        kinds = kinds | c_structures(depth=depth - 1)
    fields = []
    for i in range(draw(st.integers(1, 4))):
        kind, n = draw(kinds), draw(st.integers(0, 3))
        fields.append((f"f{i}", kind * n if n else kind))
    body: dict[str, Any] = {"_fields_": fields}
    if draw(st.booleans()):
        body = {"_pack_": draw(st.sampled_from([1, 2, 4])), "_fields_": fields}
    return type("Point", (ctypes.Structure,), body)


@many_ways(kind=c_structures(), seed=seeds, way=ways, n=counts)
def test_a_ctypes_structure_packed_or_not(other: Child, kind: Any, seed: bytes, way: str, n: int):
    dtype = as_type(kind).__layout__.dtype
    assert {name: dtype.fields[name][1] for name in dtype.names} == {n: getattr(kind, n).offset for n in dtype.names}
    value = filled(dtype, (), seed)
    instance = kind.from_buffer_copy(value.tobytes())

    def send(tx: Any) -> None:
        for _ in range(n):
            tx.send(instance)

    assert dtype.itemsize == ctypes.sizeof(kind)
    there_and_back(other, kind, send, [plain(value)] * n, way)


ANNOTATIONS: list[tuple[Any, str]] = [
    (int, "i8"), (float, "f8"), (bool, "?"), (complex, "c16"), (np.float32, "f4"), (np.uint8, "u1"), (np.int16, "i2"),
]  # fmt: skip


@st.composite
def classes_with_annotations(draw: Any, depth: int = 1) -> tuple[Any, np.dtype]:
    """A dataclass or a msgspec.Struct, and the dtype of its fields."""
    annotations, members = [], []
    for i in range(draw(st.integers(1, 4))):
        name, choice = f"f{i}", draw(st.integers(0, 2 if depth else 1))
        kind, dtype = draw(st.sampled_from(ANNOTATIONS))
        shape: tuple[int, ...] = ()
        if choice == 1:
            shape = tuple(draw(st.lists(st.integers(1, 3), min_size=1, max_size=2)))
            scalar = np.dtype(dtype).type
            kind = Annotated[NDArray[scalar], shape]  # type: ignore[valid-type]
        elif choice == 2:
            kind, dtype = draw(classes_with_annotations(depth=0))
        annotations.append((name, kind))
        members.append((name, dtype, shape) if shape else (name, dtype))
    if draw(st.booleans()):
        made = pytest.importorskip("msgspec").defstruct("Sample", annotations)
    else:
        made = make_dataclass("Sample", annotations)
    return made, np.dtype(members, align=True)


def instance_of(made: Any, value: Any) -> Any:
    hints = [f.type if hasattr(f, "type") else f for f in getattr(made, "__dataclass_fields__", {}).values()]
    hints = hints or [made.__annotations__[name] for name in made.__struct_fields__]
    parts = []
    for name, hint in zip(value.dtype.names, hints, strict=True):
        part = value[name]
        if isinstance(hint, type) and part.dtype.names:
            parts.append(instance_of(hint, part))
        else:
            parts.append(part.item() if part.shape == () else part)
    return made(*parts)


@many_ways(made=classes_with_annotations(), seed=seeds, way=ways, n=counts)
def test_a_dataclass_or_msgspec_struct_and_one_in_another(other: Child, made: Any, seed: bytes, way: str, n: int):
    kind, dtype = made
    value = filled(dtype, (), seed)
    instance = instance_of(kind, value)

    def send(tx: Any) -> None:
        for _ in range(n):
            tx.send(instance)

    expected = [content(as_type(kind)._message_of(instance))] * n  # a signalling NaN is a quiet one after float()
    there_and_back(other, kind, send, expected, way)


# ---- several types -------------------------------------------------------------------------------------------------


class Imu(Struct):
    stamp = psyne.u64()
    accel = psyne.f32(3)


Plane = Array("f4", ndim=2, max_bytes=256)
Corner = Matrix(2, 3, "f8", order="F")
Note = Text(max_bytes=50)
Blob = Bytes(max_bytes=70)
Level = Array("c8")
VALUES: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (Imu, seeds.map(lambda s: filled(Imu.__layout__.dtype, (), s))),
    (Plane, st.tuples(st.tuples(st.integers(0, 8), st.integers(0, 8)), seeds).map(
        lambda p: filled(np.dtype("f4"), p[0], p[1]))),
    (Corner, seeds.map(lambda s: filled(np.dtype("f8"), (2, 3), s))),
    (Note, st.text(max_size=12)),
    (Blob, st.binary(max_size=70)),
    (Level, seeds.map(lambda s: filled(np.dtype("c8"), (), s))),
]  # fmt: skip


@many_ways(order=st.permutations(range(len(VALUES))), data=st.data(), way=ways)
def test_several_types_in_one_channel_in_any_order(other: Child, order: Any, data: Any, way: str):
    picks = data.draw(st.lists(st.sampled_from(order), min_size=1, max_size=30))
    values = [(VALUES[i][0], data.draw(VALUES[i][1])) for i in picks]
    expected: list[Any] = []
    for kind, value in values:
        expected.append(value if kind is Note else plain(np.frombuffer(value, "u1") if kind is Blob else value))

    def send(tx: Any) -> None:
        for kind, value in values:
            if data.draw(st.booleans()):
                tx.send(kind(value) if kind is not Imu else value)
                continue
            with tx.loan(kind, shape=value.shape) if kind is Plane else tx.loan(kind) as m:
                if kind is Note:
                    m.text = value
                elif kind is Blob:
                    m.bytes = value
                else:
                    m.array[...] = value

    there_and_back(other, [VALUES[i][0] for i in order], send, expected, way)
