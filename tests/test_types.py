"""Arrays, matrices, columns, nested and foreign layouts: they arrive as they were sent."""

import ctypes
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import pytest
from numpy.typing import NDArray

import psyne
from psyne import Array, Matrix, Struct, bf16, f32, f64, field, u8, u64


class Pose(Struct):
    x = f64()
    y = f64()


class Robot(Struct):
    stamp = u64()
    pose = field(Pose)
    joints = field(Pose, 2)


class Frame(Struct, layout="columns"):
    stamp = u64()
    image = u8(4, 5, 3)
    gain = f32()


class Stamp(Struct):
    stamp = u64()


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_matrix_arrives_in_its_order_whatever_the_order_it_is_sent_in(order):
    kind = Matrix(3, 4, "f8", order=order)
    value = np.arange(12.0).reshape(3, 4)
    with psyne.sender("ipc://m", kind, capacity=8) as tx, psyne.receiver("ipc://m", kind) as rx:
        tx.send(value)
        tx.send(np.asfortranarray(value))
        with rx.receive_many(2) as batch:
            assert batch.array.tolist() == [value.tolist()] * 2
            assert batch[0].array.flags.f_contiguous == (order == "F")


def test_a_nested_struct_is_a_part_of_its_message():
    with psyne.sender("ipc://r", Robot, capacity=8) as tx, psyne.receiver("ipc://r", Robot) as rx:
        with tx.loan() as m:
            m.pose.x = 2.5
            m.joints[1]["y"] = 3
            part = m.pose
        with pytest.raises(psyne.MessageReleased):
            part.x = 1
        tx.send(Robot(pose=Pose(x=7)))
        with rx.receive() as m:
            assert (m.pose.x, m.joints["y"].tolist()) == (2.5, [0, 3])
            with pytest.raises(psyne.ReadOnly):
                m.pose.y = 1
        assert rx.receive().pose.x == 7


def test_columns_of_consecutive_messages_are_contiguous():
    with psyne.sender("ipc://f", Frame, capacity=8) as tx, psyne.receiver("ipc://f", Frame) as rx:
        for lap in range(3):
            for n in range(8):
                with tx.loan() as m:
                    m.stamp, m.image, m.gain = lap * 8 + n, np.full((4, 5, 3), n, "u1"), n / 2
            with rx.receive_many(8) as batch:
                assert batch["stamp"].tolist() == list(range(lap * 8, lap * 8 + 8))
                assert batch["image"].shape == (8, 4, 5, 3)
                assert batch["image"].flags.c_contiguous
                assert batch["image"][:, 3, 4, 2].tolist() == list(range(8))
                assert [m.gain for m in batch] == [n / 2 for n in range(8)]
                with pytest.raises(TypeError, match="columns"):
                    batch.array  # noqa: B018
                copied = batch.copy()
        tx.send_many(copied[:3])
        tx.send_many({name: copied[name][:5] for name in ("stamp", "image", "gain")})
        with rx.receive_many(8) as batch:
            assert batch["stamp"].tolist() == [16, 17, 18, 16, 17, 18, 19, 20]


def test_a_foreign_layout_arrives_as_a_struct_with_its_fields():
    class Point(ctypes.Structure):
        _pack_ = 1
        _fields_ = [("tag", ctypes.c_uint8), ("x", ctypes.c_double)]

    @dataclass
    class Sample:
        n: int
        values: Annotated[NDArray[np.float32], (3,)]

    for name, kind, value in (
        ("c", Point, Point(3, 1.5)),
        ("d", Sample, Sample(4, np.array([1, 2, 3], "f4"))),
    ):
        with psyne.sender(f"ipc://{name}", kind, capacity=8) as tx, psyne.receiver(f"ipc://{name}") as rx:
            tx.send(value)
            m = rx.receive()
            assert type(m).__name__ == kind.__name__
            assert (m.tag, m.x) == (3, 1.5) if name == "c" else (m.n, m.values.tolist()) == (4, [1, 2, 3])


def test_a_subset_of_the_fields_is_read_where_they_lie():
    with psyne.sender("ipc://s", Robot, capacity=8) as tx, psyne.receiver("ipc://s", Stamp, subset=True) as rx:
        tx.send(Robot(stamp=9))
        m = rx.receive()
        assert isinstance(m, Stamp)
        assert m.stamp == 9


@pytest.mark.parametrize("name", ["bf16", "fp8_e4m3", "fp8_e5m2", "int4"])
def test_elements_that_numpy_lacks_arrive(name):
    kind = Array(name, (2, 3))
    value = np.array([[1, 2, 3], [-1, 0, 4]]).astype(kind.__layout__.dtype)
    with psyne.sender("ipc://e", kind, capacity=8) as tx, psyne.receiver("ipc://e") as rx:
        tx.send(value)
        m = rx.receive()
        assert m.array.dtype == value.dtype
        assert m.array.astype("f4").tolist() == [[1, 2, 3], [-1, 0, 4]]


def test_a_shape_beyond_the_room_is_refused_with_the_numbers():
    kind = Array("f4", ndim=2, max_bytes=64)
    with psyne.sender("ipc://b", kind, capacity=8) as tx:
        with pytest.raises(ValueError, match="max_bytes=64"):
            tx.loan(shape=(5, 4))
        with pytest.raises(ValueError, match="2 dimensions"):
            tx.loan(shape=4)
        with pytest.raises(psyne.LayoutMismatch):
            tx.send(np.zeros((5, 4), "f4"))


class Timed(Struct):
    when = field("M8[ns]")
    gain = bf16()
    flag = u8()
    tag = field("S3")


def test_records_that_no_buffer_can_describe_are_arrays_of_their_very_dtype():
    m = Timed(when=np.datetime64("2020-01-01", "ns"), gain=1.5, flag=1, tag=b"abc")
    assert np.asarray(m).dtype == m.array.dtype == Timed.__layout__.dtype
    assert np.shares_memory(np.asarray(m), m.array)
    with pytest.raises(AttributeError, match="cannot describe"):
        m.__array_interface__  # noqa: B018


def test_a_field_without_a_shape_is_what_python_has():
    m = Timed(when=np.datetime64("2020-01-01", "us"), gain=1.5, flag=1, tag=b"abc")
    assert [type(value) for value in (m.gain, m.flag, m.tag)] == [float, int, bytes]
    assert type(Array("int4")(-3).item()) is int
    assert type(Array("U3")("ab").item()) is str


@pytest.mark.parametrize("dtype", ["S", "U", "V0", "S0"])
def test_elements_of_no_bytes_are_refused(dtype: str):
    for call in (
        lambda: Array(dtype, 3),
        lambda: Array(dtype, ndim=1),
        lambda: type(Struct)("A", (Struct,), {"a": field(dtype)}),
    ):
        with pytest.raises(TypeError, match="no bytes"):
            call()


def test_a_dtype_that_has_a_shape_adds_its_axes():
    triple = np.dtype(("f4", (3,)))

    class Pair(Struct):
        one = field(triple)
        two = field(triple, 2)

    m = Pair(one=(1, 2, 3))
    assert (m.one.tolist(), m.two.shape) == ([1, 2, 3], (2, 3))
    assert Array(triple, 2)().array.shape == (2, 3)
    with pytest.raises(TypeError, match="not arrays"):
        Matrix(2, 3, triple)


def test_a_field_of_a_reserved_name_is_found_in_a_batch_by_its_name():
    class Odd(Struct):
        info_ = u64(name="info")

    with psyne.sender("ipc://o", Odd, capacity=2) as tx, psyne.receiver("ipc://o", Odd) as rx:
        with tx.loan_many(2) as batch:
            batch["info"] = [3, 4]
        with rx.receive_many(2) as batch:
            assert batch["info"].tolist() == [3, 4]
            with pytest.raises(KeyError, match="other"):
                batch["other"]


def test_a_packed_ctypes_structure_in_another_lies_where_ctypes_has_it():
    class Inner(ctypes.Structure):
        _pack_ = 2
        _fields_ = [("a", ctypes.c_uint8), ("b", ctypes.c_uint32)]

    class Outer(ctypes.Structure):
        _fields_ = [("flag", ctypes.c_uint8), ("inner", Inner * 2), ("last", ctypes.c_uint16)]

    value = Outer(1, (Inner * 2)(Inner(2, 3), Inner(4, 5)), 6)
    with psyne.sender("ipc://c", Outer, capacity=2) as tx, psyne.receiver("ipc://c") as rx:
        tx.send(value)
        with rx.receive() as m:
            assert (m.flag, m.inner["b"].tolist(), m.last) == (1, [3, 5], 6)
            assert bytes(m.array.tobytes()) == bytes(value)


def test_bits_of_a_ctypes_structure_are_refused():
    class Bits(ctypes.Structure):
        _fields_ = [("a", ctypes.c_uint8, 3), ("b", ctypes.c_uint8, 5)]

    with pytest.raises(psyne.LayoutMismatch, match="bits"):
        psyne.types.as_type(Bits)
