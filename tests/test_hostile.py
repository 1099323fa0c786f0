"""What another process wrote and got wrong, or means ill: an error, nothing read or written outside of the message."""

import contextlib
import copy
import json
import math
import mmap
import os
import random
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import psyne
from psyne import Array, ArrowBatch, Bytes, Message, Struct, Text, VariantHdr, _native, field, u64
from psyne.types.schema import difference, in_order_of, read_kinds, schema_of, type_name, types_in

from .helpers.layouts import Number
from .helpers.process import Child, run_program, until

FEW = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
REFUSED = (psyne.LayoutMismatch, psyne.IncompatibleChannel)


class Pose(Struct):
    x = u64()


class Robot(Struct):
    stamp = u64()
    pose = field(Pose)
    joints = field(Pose, 2)


Plane = Array("f4", ndim=2, max_bytes=256)
Small = Text(max_bytes=64)
TYPES = [Robot, Plane, Small, Bytes(max_bytes=32)]
VARIANTS, PAYLOAD = 80, 120  # where a slab says at which byte these columns begin


def slab(directory: Path, channel: str) -> mmap.mmap:
    file = os.open(next(directory.glob(f"{channel}.*.slab")), os.O_RDWR)
    try:
        return mmap.mmap(file, 0)
    finally:
        os.close(file)


def at(memory: mmap.mmap, where: int) -> int:
    (offset,) = struct.unpack_from("<Q", memory, where)
    return int(offset)


@pytest.fixture
def ends() -> Iterator[tuple[Any, Any]]:
    with (
        psyne.sender("ipc://events", *TYPES, capacity=4) as tx,
        psyne.receiver("ipc://events", Robot, Message) as rx,
    ):
        yield tx, rx


# ---- headers -------------------------------------------------------------------------------------------------------

RIGHT = VariantHdr.of_type(0, Robot)
headers = st.one_of(
    st.integers(0, 2**64 - 1),
    st.builds(lambda n, **kw: RIGHT._replace(**{k: v for k, v in kw.items() if v is not None}).word ^ n,
              st.just(0), type=st.none() | st.integers(0, 65535), dtype=st.none() | st.integers(0, 255),
              ndim=st.none() | st.integers(0, 255), flags=st.none() | st.integers(0, 2**32 - 1)),
)  # fmt: skip


@FEW
@given(word=headers)
@example(word=VariantHdr(4, 0, 0, 0).word)
@example(word=VariantHdr(1, 11, 3, 2).word)
@example(word=VariantHdr(0, 0, 0, 1).word)
def test_a_header_is_that_of_its_type_or_the_message_is_passed_over(ends: Any, psyne_directory: Path, word: int):
    tx, rx = ends
    memory = slab(psyne_directory, "events")
    known = {VariantHdr.of_type(i, cls).word: cls for i, cls in enumerate(TYPES)}
    with tx.loan(Robot) as m:
        sequence = m.info.sequence
    struct.pack_into("<Q", memory, at(memory, VARIANTS) + 8 * (sequence % 4), word)
    tx.send("after it")
    before = bytes(memory)
    if word in known:
        with rx.receive(timeout=5) as m:
            assert type(m).__schema__ == known[word].__schema__
    else:
        with pytest.raises(psyne.PeerCorrupted, match="passed over"):
            rx.receive(timeout=5)
    assert bytes(memory) == before
    with rx.receive(timeout=5) as m:
        assert str(m) == "after it"


dims = st.one_of(st.integers(-(2**63), 2**63 - 1), st.integers(-2, 70), st.sampled_from([2**62, 2**32, 2**31, 2**48]))


@FEW
@given(shape=st.tuples(dims, dims))
@example(shape=(0, 2**62))
@example(shape=(2**62, 0))
@example(shape=(2**32, 2**32))
@example(shape=(8, 8))
@example(shape=(8, 9))
def test_a_shape_fits_its_slot_or_no_array_is_made(ends: Any, psyne_directory: Path, shape: tuple[int, int]):
    tx, rx = ends
    memory = slab(psyne_directory, "events")
    with tx.loan(Plane, shape=(8, 8)) as m:
        m.array[...] = 1
        sequence = m.info.sequence
    stride = 320  # 256 bytes, two dimensions, to the next multiple of 64
    struct.pack_into("<qq", memory, at(memory, PAYLOAD) + stride * (sequence % 4) + 256, *shape)
    tx.send("after it")
    before = bytes(memory)
    fits = min(shape) >= 0 and math.prod(max(n, 1) for n in shape) <= 2**46 and 4 * math.prod(shape) <= 256
    looks: list[Any] = [
        lambda m: m.array,
        np.asarray,
        lambda m: m.copy().array,
        lambda m: memoryview(m),
        np.from_dlpack,
    ]
    looks += [lambda m: m.private().array, lambda m: m.item() if math.prod(shape) != 1 else m.array]
    with rx.receive(timeout=5) as m:
        for look in looks[:-1] if fits else looks:
            if fits:
                assert np.asarray(look(m)).shape == shape
            else:
                with pytest.raises(psyne.PeerCorrupted, match="does not fit the 256 bytes"):
                    look(m)
    assert bytes(memory) == before
    with rx.receive(timeout=5) as m:
        assert str(m) == "after it"


def test_text_that_is_no_utf8_is_peer_corrupted_and_its_bytes_can_be_looked_at(psyne_directory: Path):
    with psyne.sender("ipc://text", Small, capacity=4) as tx, psyne.receiver("ipc://text", Small) as rx:
        for text in ("ää", "after it"):
            tx.send(text)
        memory = slab(psyne_directory, "text")
        payload = at(memory, PAYLOAD)
        struct.pack_into("<q", memory, payload + 64, 3)  # in the midst of a letter
        with rx.receive() as m:
            for look in (lambda: m.text, lambda: str(m), lambda: repr(m), lambda: m.copy().text):
                with pytest.raises(psyne.PeerCorrupted, match="UTF-8"):
                    look()
            assert m.array.tobytes() == "ää".encode()[:3]
        with rx.receive() as m:
            assert m.text == "after it"


# ---- the directory of a lane, and extents --------------------------------------------------------------------------

LANES, LANE, CELLS = 45056, 1152, 640  # where a channel's lanes begin, bytes of one, and where its 32 cells begin in it
ROOM, EXTENTS, EXTENT_STRIDE = 64, 104, 112  # in the header of a slab
RECEIVE_ALL = """
try:
    with psyne.receiver("ipc://numbers", follow=False) as rx:
        while m := rx.try_receive():
            got.append(m.n)
            m.release()
except psyne.IncompatibleChannel as error:
    got.append(str(error))
"""


def change(path: Path, where: int, *words: int) -> bytes:
    """What stood there before."""
    with path.open("r+b") as file:
        file.seek(where)
        before = file.read(8 * len(words))
        file.seek(where)
        file.write(struct.pack(f"<{len(words)}Q", *words))
    return before


def received(reader: Child) -> Any:
    reader.run("got = []")
    reader.run(RECEIVE_ALL)
    return reader.run("got")


NUMBER = 2**40 - 1  # the part of a cell's word that is a number; above it stands a join
ABSURD = [1, 2, 33, 2**31, 2**39, 2**63, 2**64 - 1]


def cell_word(channel: Path) -> int:
    """Of the first cell of the first lane."""
    (word,) = struct.unpack_from("<Q", channel.read_bytes(), LANES + CELLS)
    return int(word)


@pytest.mark.parametrize("number", ABSURD)
def test_cells_that_name_slabs_which_are_not_there_lead_nowhere(psyne_directory: Path, number: int):
    with psyne.sender("ipc://numbers", Number, capacity=8, pattern="mpmc") as tx, Child() as reader:
        (channel,) = psyne_directory.glob("numbers.*.channel")
        join = cell_word(channel) & ~NUMBER
        with psyne.receiver("ipc://numbers", Number) as rx:
            for n, word in enumerate((number, (join + number) % 2**64)):  # of another sender, and of this one
                for cell in (1, 17, 31):
                    change(channel, LANES + CELLS + 16 * cell, word, 2**64 - 1)
                    change(channel, LANES + 63 * LANE + CELLS + 16 * cell, word, 2**64 - 1)
                tx.send(Number(n=n))
                assert rx.receive(timeout=5).n == n
                tx.send(Number(n=10 + n))
                assert received(reader) == [10 + n]
                tx.send(Number(n=20 + n))
                assert rx.receive(timeout=5).n == 20 + n


@pytest.mark.parametrize("number", [0, *ABSURD[1:]])
def test_a_slab_that_its_cell_does_not_name_is_not_found_and_found_again_when_it_does(
    psyne_directory: Path, number: int
):
    with psyne.sender("ipc://numbers", Number, capacity=8, pattern="mpmc") as tx, Child() as reader:
        (channel,) = psyne_directory.glob("numbers.*.channel")
        tx.send(Number(n=7))
        right = cell_word(channel)
        assert right & NUMBER == 1
        for word in (number, ((right & ~NUMBER) + number) % 2**64):
            change(channel, LANES + CELLS, word)
            assert received(reader) == []
        change(channel, LANES + CELLS, right)
        assert received(reader) == [7]


WRONG_SHAPES: dict[str, dict[int, int]] = {
    "a room that is larger than the slot": {ROOM: 9},
    "a room without end": {ROOM: 2**64 - 1},
    "a room that is too small": {ROOM: 0},
    "extents without words for them": {EXTENT_STRIDE: 4096},
    "words of extents that have no bytes": {EXTENTS: 4096 + 64},
    "words of extents before the ready words": {EXTENTS: 8, EXTENT_STRIDE: 4096},
    "words of extents in the payload": {EXTENTS: 2**40, EXTENT_STRIDE: 4096},
    "words of extents at an odd place": {EXTENTS: 4096 + 65, EXTENT_STRIDE: 4096},
    "extents that lie between lines": {EXTENTS: 4096 + 64, EXTENT_STRIDE: 4097},
    "extents that overflow": {EXTENTS: 4096 + 64, EXTENT_STRIDE: 2**61},
    "extents of all addresses": {EXTENTS: 4096 + 64, EXTENT_STRIDE: 2**64 - 64},
}


@pytest.mark.parametrize("what", WRONG_SHAPES)
def test_a_slab_that_says_what_cannot_be_is_refused(psyne_directory: Path, what: str):
    with psyne.sender("ipc://numbers", Number, capacity=8, pattern="mpmc") as tx, Child() as reader:
        tx.send(Number(n=1))
        (path,) = psyne_directory.glob("numbers.*.slab")
        before = {where: change(path, where, word) for where, word in WRONG_SHAPES[what].items()}
        (told,) = received(reader)
        assert path.name in told
        assert "sizes that do not fit" in told
        for where, word in before.items():
            change(path, where, int.from_bytes(word, "little"))
        assert received(reader) == [1]


@pytest.mark.parametrize("size", [None, 0, 4096, 2**20])
def test_extents_that_are_not_there_or_too_short_are_not_read(psyne_directory: Path, size: int | None):
    """A slab that suddenly has extents, and a file of them that somebody made."""
    with psyne.sender("ipc://numbers", Number, capacity=8, pattern="mpmc") as tx, Child() as reader:
        tx.send(Number(n=1))
        (path,) = psyne_directory.glob("numbers.*.slab")
        change(path, EXTENTS, 4096 + 64, 2**20)
        if size is not None:
            extents = path.with_suffix(".extents")
            extents.touch(0o600)
            os.truncate(extents, size)
        told = received(reader)
        assert told == [] if size is None else "extents that do not fit their file" in told[0]


@pytest.mark.parametrize(
    ("size", "says"),
    [
        (1, "lies in 1 bytes"),
        (7, "lies in 7"),
        (8, "the 0 bytes"),
        (4096, "the 4088 bytes"),
        (2**40, None),
        (2**62, None),
    ],
)
def test_a_message_keeps_within_an_extent_that_lies_about_its_size(psyne_directory: Path, size: int, says: str | None):
    kind = Bytes(max_bytes=1 << 20)
    with psyne.sender("ipc://blobs", kind, full="grow") as tx, psyne.receiver("ipc://blobs") as rx:
        with tx.loan(size=200_000) as m:
            m.array[:] = 5
        memory = slab(psyne_directory, "blobs")
        struct.pack_into("<Q", memory, at(memory, EXTENTS), size)
        told = pytest.raises(psyne.PeerCorrupted, match=says) if says else contextlib.nullcontext()
        with told, rx.receive() as m:
            assert len(m.array) == 0  # what lies at the end of the address space of an extent
        tx.send(b"next")
        assert rx.receive().bytes == b"next"


# ---- Arrow ---------------------------------------------------------------------------------------------------------

ARROW_READER = """
rx = psyne.receiver("ipc://arrow")
def look():
    with rx.receive(timeout=10) as m:
        try:
            batch = m.batch
        except psyne.PeerCorrupted:
            return "refused"
        batch.validate(full=True)
        batch.to_pylist()
        str(batch)
        return "read"
"""


def arrow_bytes() -> bytes:
    pa = pytest.importorskip("pyarrow")
    batch = pa.record_batch(
        {
            "n": pa.array([1, None, 3]),
            "s": pa.array(["one", None, "drei"]),
            "v": pa.array(["one", None, "a text of more than twelve bytes"], pa.string_view()),
            "l": pa.array([[1, 2], None, [3]]),
            "d": pa.array(["a", "b", "a"]).dictionary_encode(),
            "r": pa.array([{"x": 1, "y": "z"}, None, {"x": None, "y": ""}]),
        }
    )
    return bytes(memoryview(ArrowBatch(max_bytes=1 << 14)(batch=batch)))


def corrupted(chance: random.Random, whole: bytes) -> bytes:
    data = bytearray(whole)
    match chance.randrange(5):
        case 0:
            return chance.randbytes(chance.randrange(200))
        case 1:
            return bytes(data[: chance.randrange(len(data))])
        case 2:
            for _ in range(chance.randrange(1, 9)):
                data[chance.randrange(len(data))] = chance.randrange(256)
        case 3:
            place = chance.randrange(0, len(data) - 8) & ~3
            struct.pack_into("<i", data, place, chance.choice([-1, 1 << 30, -(1 << 31), 1000, (1 << 31) - 1]))
        case 4:
            place = chance.randrange(0, len(data) - 8) & ~7
            struct.pack_into("<q", data, place, chance.choice([-1, 1 << 62, -(1 << 63), 1 << 20, (1 << 40) + 8, 4096]))
    return bytes(data)


def send_corrupted(count: int, seed: int) -> None:
    """The reader is another process: what leads it out of the message ends it."""
    whole, chance = arrow_bytes(), random.Random(seed)
    raw: Any = ArrowBatch(max_bytes=1 << 14)
    outcomes = {"read": 0, "refused": 0}
    with psyne.sender("ipc://arrow", raw, capacity=8) as tx, Child() as reader:
        reader.run(ARROW_READER)
        for done in range(0, count, 50):
            reader.begin("[look() for _ in range(50)]")
            reader.begun()
            for _ in range(50):
                data = corrupted(chance, whole)
                if (m := tx.try_loan(size=len(data))) is None:
                    until(lambda: reader.answered() or _native.ready(tx), "room, or an answer")
                    if reader.answered():
                        reader.result()  # raises what ended it
                    m = tx.loan(size=len(data))
                with m:
                    memoryview(m)[:] = data
            for outcome in reader.result():
                outcomes[outcome] += 1
            assert done < count
        with tx.loan(size=len(whole)) as m:
            memoryview(m)[:] = whole
        assert reader.run("look()") == "read"
    assert outcomes["refused"] > count // 4
    assert outcomes["read"] > 0


def test_arrow_bytes_that_lie_are_refused_or_can_be_read_whole():
    send_corrupted(1000, 1)


@pytest.mark.long
@pytest.mark.watchdog(1800)
def test_arrow_bytes_that_lie_are_refused_or_can_be_read_whole_many_times():
    send_corrupted(100_000, 2)


def test_offsets_that_lead_out_of_an_arrow_column_are_peer_corrupted():
    pa = pytest.importorskip("pyarrow")
    kind: Any = ArrowBatch(max_bytes=1 << 12)
    for column in (pa.array(["one", "two"]), pa.array([[1], [2, 3]])):
        m = kind(batch=pa.record_batch({"c": column}))
        offsets = m.batch["c"].buffers()[1]
        place = offsets.address - m.array.ctypes.data
        for wrong in (1 << 30, -1):
            m.array[place + 4 : place + 8] = np.frombuffer(struct.pack("<i", wrong), "u1")
            with pytest.raises(psyne.PeerCorrupted, match="no Arrow record batch"):
                m.batch  # noqa: B018


def test_a_record_batch_of_another_schema_than_the_channels_is_peer_corrupted():
    pa = pytest.importorskip("pyarrow")
    declared: Any = ArrowBatch(pa.schema([("n", pa.int64())]), max_bytes=1 << 12)
    other = bytes(memoryview(ArrowBatch(max_bytes=1 << 12)(batch=pa.record_batch({"n": pa.array([1.5])}))))
    m = declared()
    m._reshape(len(other))
    m.array[...] = np.frombuffer(other, "u1")
    with pytest.raises(psyne.PeerCorrupted, match=r"n: int64(.|\n)*n: double"):
        m.batch  # noqa: B018


# ---- the schema text -----------------------------------------------------------------------------------------------

SCHEMA = schema_of([Robot, Plane, Small])
keys = st.sampled_from(["types", "struct", "fields", "name", "dtype", "shape", "offset", "bytes", "layout", "array",
                        "ndim", "max_bytes", "order", "text", "arrow"])  # fmt: skip
odd = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), keys,
    st.sampled_from([-1, 0, 2**31, 2**62, 2**63, 2**100, [], [0], [-1], [2**31, 2**31], [1] * 40, [2**62], [1.0]]),
    st.sampled_from(["O", "|O8", "<f4", "S0", "V0", "U", "i4,f8", "(3,)f4", "__class__", "columns", "F", "bfloat16"]),
)  # fmt: skip
anything = st.recursive(odd, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=5))


def places(d: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    for key, value in d.items() if isinstance(d, dict) else enumerate(d) if isinstance(d, list) else ():
        yield from places(value, (*path, key))


@st.composite
def damaged_schemas(draw: Any) -> str:
    """A schema in which one or two places hold something else, or are gone."""
    d = json.loads(SCHEMA)
    for _ in range(draw(st.integers(1, 2))):
        inner = [p for p in places(d) if p]
        if not inner:
            break
        path = draw(st.sampled_from(inner))
        inside = d
        for key in path[:-1]:
            inside = inside[key]
        if draw(st.integers(0, 4)) == 0:
            del inside[path[-1]]
        else:
            inside[path[-1]] = copy.deepcopy(draw(anything))  # what is drawn is shared
    return json.dumps(d)


def look_at_all(schema: str) -> None:
    """Whatever reads a schema gives an answer or an error of psyne."""
    yours = schema_of([Robot, Small])
    for read in (
        lambda: types_in(schema),
        lambda: read_kinds(schema, [], False, "ipc://x"),
        lambda: read_kinds(schema, [Robot], False, "ipc://x"),
        lambda: read_kinds(schema, [Robot, Message], True, "ipc://x"),
        lambda: read_kinds(schema, [Number], True, "ipc://x"),
        lambda: in_order_of(schema, [Robot, Small]),
        lambda: difference(schema, yours),
        lambda: type_name(schema),
    ):
        with contextlib.suppress(psyne.LayoutMismatch):
            read()


@FEW
@given(schema=damaged_schemas() | anything.map(json.dumps) | st.text(max_size=20))
def test_a_damaged_schema_is_an_error_of_psyne(schema: str):
    look_at_all(schema)


@pytest.mark.long
@pytest.mark.watchdog(1800)
@settings(FEW, max_examples=20_000)
@given(schema=damaged_schemas() | anything.map(json.dumps) | st.text(max_size=20))
def test_a_damaged_schema_is_an_error_of_psyne_many_times(schema: str):
    look_at_all(schema)


def struct_schema(**changes: Any) -> str:
    one = {"name": "n", "dtype": "<u8", "shape": [], "offset": 0}
    whole: dict[str, Any] = {"struct": "Number", "fields": [one], "bytes": 8}
    for key, value in changes.items():
        (one if key in one else whole)[key] = value
    return json.dumps(whole)


def nested(depth: int) -> str:
    """A record in a record in …"""
    begin, end = '"fields":[{"name":"n",', ',"shape":[],"offset":0}],"bytes":8'
    return '{"struct":"Deep",' + begin * depth + '"dtype":"<u8"' + end * depth + "}"


WRONG = {
    "an offset behind the end": struct_schema(offset=1),
    "an offset before the beginning": struct_schema(offset=-8),
    "an offset that overflows": struct_schema(offset=2**63 - 4),
    "an offset of many digits": struct_schema(offset=10**100),
    "a shape that overflows": struct_schema(shape=[2**32, 2**32]),
    "a huge shape": struct_schema(shape=[2**40]),
    "a negative shape": struct_schema(shape=[-1]),
    "Python objects": struct_schema(dtype="|O8"),
    "no bytes": struct_schema(dtype="|S0", bytes=0),
    "a size that is too small": struct_schema(bytes=4),
    "a size that is negative": struct_schema(bytes=-8),
    "a name twice": struct_schema(fields=json.loads(struct_schema())["fields"] * 2, bytes=16),
    "no fields": struct_schema(fields=[]),
    "brackets without end": "[" * 100_000,
    "records in records without end": nested(100_000),
    "records in many records": nested(2000),
    "too many types": json.dumps({"types": [{"text": n + 1} for n in range(2000)]}),
    "no types": '{"types": []}',
    "an array of objects": '{"array": {"dtype": "|O8"}, "shape": [1]}',
    "an array of too many dimensions": json.dumps({"array": {"dtype": "|u1"}, "shape": [1] * 60}),
    "an array of its own shape of nothing": '{"array": {"dtype": "|S0"}, "ndim": 1, "max_bytes": 8}',
    "an array that is too large": json.dumps({"array": {"dtype": "<f8"}, "shape": [2**30, 2**30]}),
    "a text that is too large": json.dumps({"text": 2**60}),
    "a text of a fraction": '{"text": 1.5}',
    "an Arrow schema that is a number": '{"arrow": 5, "max_bytes": 100}',
    "NaN": '{"text": NaN}',
    "nothing": "",
    "a NUL": "\0",
}


@pytest.mark.parametrize("what", WRONG)
def test_a_schema_that_cannot_be_is_refused(what: str):
    with pytest.raises(psyne.LayoutMismatch, match=r"describe|description"):
        types_in(WRONG[what])
    look_at_all(WRONG[what])


@pytest.mark.parametrize("depth", [1, 30, 100, 200, 300, 400, 480, 700])
def test_records_in_records_are_read_or_refused_at_any_depth(depth: int):
    look_at_all(nested(depth))
    if depth <= 30:
        assert schema_of(types_in(nested(depth))) == nested(depth)
    else:
        with pytest.raises(psyne.LayoutMismatch, match=r"more than 32 levels|recursion"):
            types_in(nested(depth))


def test_an_arrow_schema_that_is_none_is_refused_when_a_batch_is_read():
    pa = pytest.importorskip("pyarrow")
    for text in ("", "no base64!", "AAAA", "/////wAAAAA="):
        (kind,) = types_in(json.dumps({"arrow": text, "max_bytes": 1 << 12}))
        m: Any = kind()
        with pytest.raises(psyne.LayoutMismatch, match="damaged"):
            m.batch = pa.record_batch({"n": [1]})


@FEW
@given(data=st.data())
def test_a_damaged_schema_in_the_channel_file_is_refused_by_both_ends(psyne_directory: Path, data: Any):
    with psyne.sender("ipc://robots", Robot, capacity=2) as tx:
        (path,) = psyne_directory.glob("robots.*.channel")
        text = schema_of([Robot]).encode()
        with path.open("r+b") as file:
            place = file.read().index(text)
            wrong = bytearray(text)
            for _ in range(data.draw(st.integers(1, 4))):
                wrong[data.draw(st.integers(0, len(text) - 1))] = data.draw(st.integers(0, 255))
            file.seek(place)
            file.write(wrong)
        if bytes(wrong) != text:
            for open_end in (
                lambda: psyne.receiver("ipc://robots", Robot),
                lambda: psyne.receiver("ipc://robots", Number, subset=True),
                lambda: psyne.sender("ipc://robots", Robot),
            ):
                with pytest.raises(REFUSED):
                    open_end()
            for open_end in (lambda: psyne.receiver("ipc://robots"), lambda: psyne.sender("ipc://robots")):
                with contextlib.suppress(*REFUSED):
                    open_end().close()  # a field may have another name now
        tx.send(Robot(stamp=1))  # the others are not disturbed


def test_a_list_of_channels_shows_the_others_when_one_is_damaged(psyne_directory: Path, capsys: Any):
    from psyne.cli import main

    with psyne.sender("ipc://robots", Robot, capacity=2), psyne.sender("ipc://sound", Number, capacity=2):
        (path,) = psyne_directory.glob("robots.*.channel")
        with path.open("r+b") as file:
            place = file.read().index(b'{"struct"')
            file.seek(place)
            file.write(b"\xff\xfe")
        main(["ls"])
    shown = capsys.readouterr().out.splitlines()
    assert "ipc://robots" in shown[0]
    assert "damaged" in shown[0]
    assert "Number(n)" in shown[1]


def test_a_program_with_hostile_field_names_works_like_any():
    """Names that Python or a message asks for itself get other attributes; the fields keep them."""
    run_program("""
import numpy as np, psyne
from psyne.types import as_type
names = ["__class__", "__del__", "__init__", "__slots__", "__layout__", "__len__", "__bool__", "__qualname__", "__",
         "_open", "_message_of", "array", "array_", "info", "mro", "a b", " array", "", "x" * 1000, "\\0"]
dtype = np.dtype([(n or "empty", "u1") for n in names])
kind = as_type(dtype)
value = np.array(tuple(range(len(names))), dtype)
with psyne.sender("ipc://x", kind, capacity=2) as tx, psyne.receiver("ipc://x") as rx:
    tx.send(value)
    with rx.receive_many(2) as batch:
        assert batch.array[0] == value
        for i, n in enumerate(dtype.names):
            assert batch[n].tolist() == [i], n
        m = batch[0]
        assert (m.array_, m.array__, m.class_, m.info_, m.mro) == (12, 11, 0, 13, 14)
        repr(m), m.copy(), m.info
        assert kind(**{"__class__": 5, "array": 6}).array["array"] == 6
""")
