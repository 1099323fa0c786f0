"""Another layout is an error that says what differs: name, dtype, shape and offset, theirs and yours."""

from typing import Any

import numpy as np
import pytest

import psyne
from psyne import Array, ArrowBatch, Bytes, Matrix, Message, Struct, Text, f32, f64, field, u8, u64
from psyne.types.schema import difference, schema_of


class Pose(Struct):
    x = f64()
    y = f64()


class Robot(Struct):
    stamp = u64()
    pose = field(Pose)
    joints = field(Pose, 2)


class Small(Struct):
    x = f32()
    y = f64()


class Deep(Struct):
    robot = field(Robot)


def renamed(name: str, **fields: Any) -> Any:
    return type(Struct)(name, (Struct,), fields)


def said(theirs: Any, yours: Any) -> str:
    return difference(schema_of(theirs), schema_of(yours))


ROBOT = {"stamp": u64(), "pose": field(Pose), "joints": field(Pose, 2)}

ONE_TYPE = [
    (Robot, renamed("Robot", **{**ROBOT, "stamp": u8()}), "stamp: theirs <u8 at byte 0, yours |u1 at byte 0"),
    (
        renamed("Imu", accel=f32(3)),
        renamed("Imu", accel=f32(4)),
        "accel: theirs <f4[3] at byte 0, yours <f4[4] at byte 0; bytes: theirs 12, yours 16",
    ),
    (
        renamed("Imu", n=u64()),
        renamed("Imu", n=u64(), extra=u64()),
        "extra: theirs (none), yours <u8 at byte 8; bytes: theirs 8, yours 16",
    ),
    (
        renamed("Imu", a=u64(), b=u8()),
        renamed("Imu", b=u8(), a=u64()),
        "a: theirs <u8 at byte 0, yours <u8 at byte 8; b: theirs |u1 at byte 8, yours |u1 at byte 0",
    ),
    (renamed("Imu", n=u64()), renamed("Gyro", n=u64()), "name: theirs Imu, yours Gyro"),
    (
        Robot,
        renamed("Robot", **{**ROBOT, "pose": field(Small)}),
        "pose.x: theirs <f8 at byte 0, yours <f4 at byte 0",
    ),
    (
        Deep,
        renamed("Deep", robot=field(renamed("Robot", **{**ROBOT, "joints": field(Small, 2)}))),
        "robot.joints.x: theirs <f8 at byte 0, yours <f4 at byte 0",
    ),
    (
        Robot,
        renamed("Robot", **{**ROBOT, "joints": field(Pose, 3)}),
        "joints: theirs struct of 16 bytes[2] at byte 24, yours struct of 16 bytes[3] at byte 24; "
        "bytes: theirs 56, yours 72",
    ),
    (
        Robot,
        renamed("Robot", **{**ROBOT, "pose": u64(2)}),
        "pose: theirs struct of 16 bytes at byte 8, yours <u8[2] at byte 8",
    ),
    (
        type(Struct)("Imu", (Struct,), {"n": u64()}, layout="columns"),
        renamed("Imu", n=u64()),
        "layout: theirs columns, yours rows",
    ),
    (Array("f4", (480, 640)), Array("f4", (640, 480)), "shape: theirs [480, 640], yours [640, 480]"),
    (Array("f4", 3), Array("f8", 3), "dtype: theirs <f4, yours <f8"),
    (Array(">f4", 3), Array("f4", 3), "dtype: theirs >f4, yours <f4"),
    (Array("bf16", 3), Array("f2", 3), "dtype: theirs bfloat16, yours <f2"),
    (
        Array("f4", ndim=2, max_bytes=64),
        Array("f4", ndim=3, max_bytes=128),
        "ndim: theirs 2, yours 3; max_bytes: theirs 64, yours 128",
    ),
    (
        Array("f4", 3),
        Array("f4", ndim=1),
        "shape: theirs [3], yours (none); ndim: theirs (none), yours 1; max_bytes: theirs (none), yours 4096",
    ),
    (Matrix(3, 4, order="F"), Matrix(3, 4), "order: theirs F, yours C"),
    (Matrix(3, 4, order="F"), Matrix(4, 3, "f4"), "dtype: theirs <f8, yours <f4; shape: theirs [3, 4], yours [4, 3]; "
                                                  "order: theirs F, yours C"),
    (Array(Pose.__layout__.dtype, 2), Array(Small.__layout__.dtype, 2), "x: theirs <f8 at byte 0, yours <f4 at byte 0"),
    (Bytes, Bytes(max_bytes=100), "max_bytes: theirs 4096, yours 100"),
    (Text(max_bytes=7), Text, "max_bytes: theirs 7, yours 4096"),
    (ArrowBatch(max_bytes=64), ArrowBatch(max_bytes=128), "max_bytes: theirs 64, yours 128"),
    (Robot, Array("f4", (2, 3)), "theirs: Struct Robot (stamp, pose, joints); yours: Array <f4[2, 3]"),
    (Text, Bytes, "theirs: Text of at most 4096 bytes; yours: Bytes of at most 4096 bytes"),
    (
        Array("f4", ndim=2),
        Matrix(2, 3, order="F"),
        "dtype: theirs <f4, yours <f8; shape: theirs (none), yours [2, 3]; ndim: theirs 2, yours (none); "
        "max_bytes: theirs 4096, yours (none); order: theirs C, yours F",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("theirs", "yours", "text"), ONE_TYPE, ids=range(len(ONE_TYPE)))
def test_the_difference_of_two_types_is_said_part_by_part(theirs: Any, yours: Any, text: str):
    assert said([theirs], [yours]) == text


def test_two_arrow_schemas_are_compared_by_their_fields():
    pa = pytest.importorskip("pyarrow")
    a, b = (ArrowBatch(pa.schema([("n", kind)]), max_bytes=64) for kind in (pa.int64(), pa.string()))
    assert "n: int64" in said([a], [b])
    assert "n: string" in said([a], [b])


def test_fields_in_another_order_at_the_same_offsets_are_named_as_that():
    formats: dict[str, Any] = {"names": ["a", "b"], "formats": ["u4", "u4"], "offsets": [0, 4]}
    turned = {"names": ["b", "a"], "formats": ["u4", "u4"], "offsets": [4, 0]}
    one, two = (psyne.types.as_type(np.dtype(spec)) for spec in (formats, turned))
    assert said([one], [two]) == "only the order of the fields"


def test_types_of_two_channels_are_paired_by_name_and_kind():
    other = renamed("Robot", **{**ROBOT, "pose": field(Small)})
    text = said([Text, Robot, Matrix(2, 2)], [other, Text(max_bytes=7), Matrix(2, 2)])
    assert text == ("Robot.pose.x: theirs <f8 at byte 0, yours <f4 at byte 0; Text.max_bytes: theirs 4096, yours 7")


def test_types_that_only_one_side_has_are_listed():
    text = said([Text, Robot], [Pose, Text, Array("f4", 3), Array("f8", 3)])
    assert text == (
        "Struct Robot (stamp, pose, joints) is only in theirs; Struct Pose (x, y) is only in yours; "
        "Array <f4[3] is only in yours; Array <f8[3] is only in yours"
    )


def test_types_in_another_order_are_the_same_for_senders_and_receivers():
    assert said([Text, Robot], [Robot, Text]) == "only the order of the types"
    with (
        psyne.sender("ipc://x", Text, Robot, capacity=2) as one,
        psyne.sender("ipc://x", Robot, Text, capacity=2) as other,
        psyne.receiver("ipc://x", Robot, Text) as rx,
    ):
        one.send("a")
        other.send(Robot(stamp=7))
        got = [rx.receive(), rx.receive()]
        assert {type(m) for m in got} == {Text, Robot}


def test_a_second_sender_is_told_what_differs_in_a_channel_of_several_types():
    other = renamed("Robot", **{**ROBOT, "stamp": f64()})
    with (
        psyne.sender("ipc://x", Text, Robot),
        pytest.raises(psyne.LayoutMismatch, match=r"Robot\.stamp: theirs <u8 at byte 0, yours <f8 at byte 0"),
    ):
        psyne.sender("ipc://x", Text, other)


def test_a_receiver_is_told_what_differs():
    other = renamed("Robot", **{**ROBOT, "pose": field(Small)})
    with psyne.sender("ipc://x", Robot), psyne.sender("ipc://y", Text, Robot):
        with pytest.raises(psyne.LayoutMismatch, match=r"x has another layout: pose\.x: theirs <f8"):
            psyne.receiver("ipc://x", other)
        with pytest.raises(psyne.LayoutMismatch, match=r"y has another layout: Robot\.pose\.x: theirs <f8"):
            psyne.receiver("ipc://y", other, Message)
        with pytest.raises(psyne.LayoutMismatch, match=r"Text_7\.max_bytes: theirs 4096, yours 7"):
            psyne.receiver("ipc://y", Robot, Text(max_bytes=7))
        with pytest.raises(psyne.LayoutMismatch, match=r"carries Text of.*, Struct Robot.*and no Struct Pose \(x, y\)"):
            psyne.receiver("ipc://y", Pose, Message)
        with pytest.raises(psyne.LayoutMismatch, match="also carries Text of at most 4096 bytes; name"):
            psyne.receiver("ipc://y", Robot)


# ---- a subset of the fields ----------------------------------------------------------------------------------------


def refused(yours: Any, *types: Any) -> str:
    with psyne.sender("ipc://x", *types), pytest.raises(psyne.LayoutMismatch) as told:
        psyne.receiver("ipc://x", yours, Message, subset=True)
    return str(told.value)


SUBSETS = [
    (renamed("Robot", stamp=f64()), "Robot: stamp: theirs <u8, yours <f8"),
    (renamed("Robot", stamp=u64(2)), "stamp: theirs <u8, yours <u8[2]"),
    (renamed("Robot", flavour=u8()), "flavour: theirs (none), yours |u1; theirs has stamp, pose, joints"),
    (renamed("Robot", pose=field(Small)), "pose.x: theirs <f8 at byte 0, yours <f4 at byte 0"),
    (renamed("Robot", joints=field(Pose, 3)), "joints: theirs struct of 16 bytes[2], yours struct of 16 bytes[3]"),
    (renamed("Robot", joints=u64()), "joints: theirs struct of 16 bytes[2], yours <u8"),
]


@pytest.mark.parametrize(("yours", "text"), SUBSETS, ids=range(len(SUBSETS)))
def test_a_subset_that_cannot_be_says_only_which_of_its_fields_are_others(yours: Any, text: str):
    for types in ([Robot], [Text, Robot]):
        told = refused(yours, *types)
        assert told.endswith(text)
        assert "ipc://x does not have these fields of Robot" in told


def test_there_is_no_subset_of_what_has_no_fields():
    assert "carries Text of at most 4096 bytes, which has no fields" in refused(Pose, Text)
    assert "and no Struct Pose (x, y)" in refused(Pose, Text, Bytes)


def test_a_subset_reads_its_fields_wherever_they_lie():
    some = renamed("Robot", joints=field(Pose, 2), stamp=u64())
    for types in ([Robot], [Text, Robot]):
        with (
            psyne.sender("ipc://x", *types, capacity=2) as tx,
            psyne.receiver("ipc://x", some, Message, subset=True) as rx,
        ):
            tx.send(Robot(stamp=5, joints=[(1, 2), (3, 4)]))
            with rx.receive() as m:
                assert isinstance(m, some)
                assert (m.stamp, m.joints["y"].tolist()) == (5, [2, 4])
                assert not hasattr(m, "pose")


def test_a_subset_of_columns_is_columns():
    class Frame(Struct, layout="columns"):
        stamp = u64()
        image = u8(4, 5)

    class Images(Struct, layout="columns"):
        image = u8(4, 5)

    with psyne.sender("ipc://x", Frame, capacity=4) as tx, psyne.receiver("ipc://x", Images, subset=True) as rx:
        for n in range(3):
            tx.send(Frame(stamp=n, image=np.full((4, 5), n)))
        with rx.receive_many(3) as batch:
            assert batch["image"].flags.c_contiguous
            assert batch["image"][:, 1, 1].tolist() == [0, 1, 2]
