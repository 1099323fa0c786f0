"""What newcomers try: it works, or the error says what to do instead."""

import copy
import ctypes
import inspect
import pickle
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import psyne
from psyne import Array, Bytes, Matrix, Message, Struct, Text, f32, u16, u64

from .helpers.process import run_program


class Imu(Struct):
    stamp = u64()
    accel = f32(3)


class Column(Struct, layout="columns"):
    stamp = u64()
    image = f32(4, 4)
    info_ = u16(name="info")


def of_array(*shape: int, value: float = 1.5) -> Message:
    return Array("f4", shape)(np.full(shape, value, "f4"))


MESSAGES: list[Any] = [
    Imu(stamp=3, accel=(1, 2, 3)),
    Column(stamp=4, image=2, info=5),
    of_array(2, 3),
    of_array(),
    Matrix(2, 3, order="F")(np.arange(6.0).reshape(2, 3)),
    Array("i4", ndim=2, max_bytes=256)(np.ones((3, 5), "i4")),
    Text("ä text"),
    Text(max_bytes=10)("ä text"),
    Bytes(b"\0bytes"),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)
def test_a_message_is_pickled_and_copied_into_private_memory(message: Any):
    for made in (pickle.loads(pickle.dumps(message)), copy.copy(message), copy.deepcopy(message)):
        assert type(made) is type(message)
        assert made is not message
        assert repr(made) == repr(message)


def test_a_received_message_is_pickled_and_outlives_its_slot():
    tx, rx = psyne.channel(Imu)
    tx.send(Imu(stamp=7))
    with rx.receive() as m:
        text = pickle.dumps(m)
    assert pickle.loads(text).stamp == 7


def test_a_message_that_is_over_is_not_pickled():
    m = Imu()
    m.release()
    with pytest.raises(psyne.MessageReleased):
        pickle.dumps(m)


@pytest.mark.parametrize(
    "made", [Array("f4", 3), Array("u1", ndim=1), Matrix(2, 2, order="F"), Text(max_bytes=8), Bytes(max_bytes=8), Imu]
)
def test_a_class_is_pickled_also_when_a_call_made_it(made: Any):
    assert pickle.loads(pickle.dumps(made)) is made


def test_the_class_of_a_dataclass_is_pickled_as_the_dataclass():
    tx, rx = psyne.channel(Plain)
    tx.send(Plain(1))
    cls = type(rx.receive())
    assert pickle.loads(pickle.dumps(cls)) is cls


@dataclass
class Plain:
    number: int
    gain: float = 2.5


def test_the_classes_of_a_program_go_to_joblib_by_value():
    pytest.importorskip("joblib")
    done = run_program(
        "import joblib, psyne\n"
        "from psyne import Struct, f32, u64, field\n"
        "class Point(Struct):\n"
        "    x = f32(2)\n"
        "class Job(Struct):\n"
        "    number = u64()\n"
        "    point = field(Point)\n"
        "def work(jobs, results):\n"
        "    with results:\n"
        "        for job in jobs:\n"
        "            results.send(Job(number=job.number + 1, point=Point(x=job.point.x)))\n"
        "if __name__ == '__main__':\n"
        "    (tx, rx), (out, back) = psyne.channel(Job), psyne.channel(Job)\n"
        "    with tx:\n"
        "        tx.send(Job(number=1, point=Point(x=(3, 4))))\n"
        "    joblib.Parallel(n_jobs=2)([joblib.delayed(work)(rx, out)])\n"
        "    print([(m.number, m.point.x.tolist()) for m in back])\n"
    )
    assert done.stdout == "[(2, [3.0, 4.0])]\n", done.stderr


def test_the_defaults_of_a_dataclass_count_in_what_is_sent():
    tx, rx = psyne.channel(Plain)
    tx.send(Plain(1))
    with rx.receive() as m:
        assert (m.number, m.gain) == (1, 2.5)


def test_a_dataclass_may_have_fields_that_messages_have_attributes_for():
    @dataclass
    class Page:
        copy: int
        info: float

    tx, rx = psyne.channel(Page)
    tx.send(Page(2, 0.5))
    with rx.receive() as m:
        assert (m.copy_, m.info_) == (2, 0.5)
        assert m.array.dtype.names == ("copy", "info")


def test_a_field_of_another_name_is_the_attribute_that_was_declared():
    class Line(Struct):
        length_ = u64(name="length")

    class Longer(Line):
        width = u64()

    m = Longer(length=3, width=1)
    m.length_ += 1
    assert (m.length_, m.array["length"]) == (4, 4)
    assert not hasattr(m, "length")
    assert Line(length_=2).length_ == 2


def test_two_fields_cannot_have_one_name():
    with pytest.raises(TypeError, match="two fields of the name 'a': a and b"):

        class Twice(Struct):
            a = u64()
            b = u64(name="a")


def test_a_field_is_a_value_and_not_an_annotation():
    with pytest.raises(TypeError, match=r"accel is annotated only.*accel = u64\(\)"):

        class Mixed(Struct):
            stamp = u64()
            accel: f32  # type: ignore[valid-type]


def test_a_field_has_brackets():
    with pytest.raises(TypeError, match=r"stamp = u64 lacks its brackets"):

        class Bare(Struct):
            stamp = u64


def test_declarations_have_names_and_help():
    assert u64.__name__ == "u64"
    assert "uint64" in u64.__doc__
    with pytest.raises(TypeError, match=r"^u64\(\) got an unexpected keyword argument 'default'"):
        u64(default=3)


def test_a_structure_with_padding_is_sent_without_a_warning():
    class Fix(ctypes.Structure):
        _fields_ = [("number", ctypes.c_uint8), ("time", ctypes.c_double)]

    tx, rx = psyne.channel(Fix)
    tx.send(Fix(3, 1.5))
    with rx.receive() as m:
        assert (m.number, m.time) == (3, 1.5)


@pytest.mark.parametrize("wrong", [3, "text", (1, 2), [1], None, {"stamp": 1}, Imu, np.zeros(3)], ids=repr)
def test_a_wrong_thing_is_refused_with_the_names_of_the_fields(wrong: object):
    tx, _ = psyne.channel(Imu)
    with pytest.raises(psyne.LayoutMismatch, match=r"carries Imu \(stamp: uint64, accel: float32\[3\]\); got "):
        tx.send(wrong)


@pytest.mark.parametrize("types", [(Text,), (Text, Imu)], ids=["alone", "with others"])
def test_a_text_that_is_too_long_is_an_error_with_both_numbers(types: Any):
    tx, _ = psyne.channel(*types)
    with pytest.raises(ValueError, match=r"5000 bytes do not fit into a Text, .* max_bytes=4096"):
        tx.send("x" * 5000)
    with pytest.raises(ValueError, match="5000 bytes do not fit"), tx.loan(Text) as m:
        m.text = "x" * 5000
    with pytest.raises(ValueError, match="4098 bytes do not fit"):
        Text("ä" * 2049)


def test_text_and_bytes_refuse_each_others_values():
    with pytest.raises(TypeError, match="takes a str, not bytes"):
        Text(b"x")  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="Text takes a str"):
        Bytes("x")  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="not int"):
        Bytes(3)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="1 or more; got 0"):
        Text(max_bytes=0)


def test_a_loan_that_needs_a_shape_says_so():
    tx, _ = psyne.channel(Array("f4", ndim=2))
    with pytest.raises(TypeError, match=r"shape of 2 dimensions: loan\(shape="):
        tx.loan()


def test_an_option_of_another_end_is_refused_with_those_that_there_are():
    for call, options in (
        (lambda: psyne.sender("ipc://a", Imu, stage="main"), "pattern, stages"),  # type: ignore[call-overload]
        (lambda: psyne.receiver("ipc://a", Imu, history=4), "stage, new_stage, wait"),  # type: ignore[call-overload]
        (lambda: psyne.channel(Imu, stage="main"), "pattern, stages"),  # type: ignore[call-overload]
        (lambda: psyne.aio.sender("ipc://a", Imu, timeout=1), "pattern, stages"),  # type: ignore[call-overload]
    ):
        with pytest.raises(TypeError, match=f"has no option .* it has {options}"):
            call()


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        (int, r"Array\(\"i8\"\)"),
        (str, "Text"),
        ("f4", r"Array\('f4'\)"),
        ([Imu, Text], "one by one"),
        (Imu | Text, "one by one"),
    ],
    ids=repr,
)
def test_what_is_no_type_is_refused_with_what_may_be_meant(given: Any, hint: str):
    with pytest.raises(psyne.LayoutMismatch, match=hint):
        psyne.channel(given)


def test_select_takes_ends_one_by_one():
    _, rx = psyne.channel(Imu)
    with pytest.raises(psyne.InvalidArgument, match="one by one"):
        psyne.select([rx])  # type: ignore[type-var]


def test_a_batch_says_what_it_is():
    tx, rx = psyne.channel(Imu)
    with tx.loan_many(3) as batch:
        assert repr(batch) == "<psyne.Batch of 3 Imu>"
    assert repr(batch) == "<psyne.Batch, released>"
    with rx.receive_many(2) as batch:
        assert repr(batch) == "<psyne.Batch of 2 Imu>"


def test_a_test_file_may_import_from_psyne_testing_before_pytest_does(tmp_path: Path):
    (tmp_path / "test_own.py").write_text(
        "from psyne.testing import touch_test\n"
        "pytest_plugins = ['psyne.testing']\n"
        "def test_it(psyne_directory): touch_test(lambda m: m.array, nbytes=1 << 20)\n"
    )
    command = [sys.executable, "-m", "pytest", "-W", "error", "-p", "no:cacheprovider", "test_own.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


def test_help_shows_how_a_method_is_called():
    assert (
        str(inspect.signature(psyne.Sender.loan))
        == "(self, type=None, /, *, shape=Ellipsis, size=Ellipsis, timeout=None)"
    )
    assert str(inspect.signature(psyne.Receiver.receive_many)) == "(self, /, n, timeout=None, linger=0.0)"
    for cls in (
        psyne.Sender,
        psyne.Receiver,
        psyne.aio.Sender,
        psyne.aio.Receiver,
        psyne.Queue,
        psyne.Struct,
        psyne.Batch,
    ):
        missing = [
            name for name in dir(cls) if name[0] != "_" and not inspect.getdoc(inspect.getattr_static(cls, name))
        ]
        assert missing == [], cls


def test_an_option_that_would_be_ignored_is_refused():
    with pytest.raises(TypeError, match="max_bytes=5 is for an Array with ndim="):
        Array("f4", 3, max_bytes=5)
    with pytest.raises(TypeError, match="lies in C order"):

        class Plane(Array[np.float32], dtype="f4", ndim=2, order="F"): ...

    with pytest.raises(TypeError, match="shape=, or ndim="):
        Array("f4", 3, ndim=1)


@pytest.mark.parametrize(
    "options", [{"timestamps": "yes"}, {"align": "64"}, {"capacity": 2.5}, {"wait": "Spin"}, {"full": "wait"}], ids=repr
)
def test_an_option_of_the_wrong_kind_is_an_invalid_argument(options: Any):
    with pytest.raises(psyne.InvalidArgument, match=next(iter(options))):
        psyne.sender("ipc://a", Imu, **options)


@pytest.mark.parametrize("options", [{"follow": "x"}, {"subset": 2}, {"stage": 3}, {"wait": None}], ids=repr)
def test_an_option_of_a_receiver_is_checked_too(options: Any):
    with pytest.raises(psyne.InvalidArgument, match=next(iter(options))):
        psyne.receiver("ipc://a", Imu, **options)


def test_a_channel_of_whole_numbers_takes_no_others():
    tx, rx = psyne.channel(Array("i4"))
    with pytest.raises(psyne.LayoutMismatch, match="got float"):
        tx.send(1.5)
    with pytest.raises(psyne.LayoutMismatch, match=r"got numpy\.float32"):
        tx.send(np.float32(2))
    tx.send(np.int64(3))
    assert rx.receive().item() == 3


def test_who_has_fewer_fields_is_told_of_subset():
    class Sample(Struct):
        stamp = u64()
        gain = f32()

    Few = type(Sample)("Sample", (Struct,), {"gain": f32()})
    Other = type(Sample)("Sample", (Struct,), {"gain": u64()})
    with psyne.sender("ipc://samples", Sample):
        with pytest.raises(psyne.LayoutMismatch, match="subset=True"):
            psyne.receiver("ipc://samples", Few)
        with pytest.raises(psyne.LayoutMismatch) as error:
            psyne.receiver("ipc://samples", Other)
    assert "subset" not in str(error.value)


def test_an_end_for_event_loops_takes_over_an_end_of_its_kind():
    tx, rx = psyne.channel(Imu)
    with pytest.raises(TypeError, match=r"takes over a psyne\.Receiver, not <psyne\.Sender"):
        psyne.aio.Receiver(tx)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"psyne\.aio\.sender\(address\) opens one"):
        psyne.aio.Sender("ipc://a")  # type: ignore[arg-type]
    rx.close()


def test_a_queue_gives_what_a_message_holds():
    queue: psyne.Queue[Any] = psyne.Queue()
    for item in (Text("hi"), Bytes(b"x"), of_array(2)):
        queue.put(item)
    assert [queue.get(), queue.get()] == ["hi", b"x"]
    assert queue.get().tolist() == [1.5, 1.5]
