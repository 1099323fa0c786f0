"""What a message is: its fields, its array, its buffer, its copy, what is known of it."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import psyne
from psyne import Array, Struct, bool_, c64, c128, f16, f32, f64, i8, i16, i32, i64, u8, u16, u32, u64

from .helpers.layouts import Number, Picture, Sample


class Everything(Struct):
    a = u8()
    b = u16()
    c = u32()
    d = u64()
    e = i8()
    f = i16()
    g = i32()
    h = i64()
    i = f16()
    j = f32()
    k = f64()
    m = c64()
    n = c128()
    o = bool_()


EXTREMES: dict[str, list[Any]] = {
    "a": [0, 2**8 - 1], "b": [0, 2**16 - 1], "c": [0, 2**32 - 1], "d": [0, 2**64 - 1],
    "e": [-(2**7), 2**7 - 1], "f": [-(2**15), 2**15 - 1], "g": [-(2**31), 2**31 - 1], "h": [-(2**63), 2**63 - 1],
    "i": [-0.5, 65504.0], "j": [float("inf"), 2.0**-149], "k": [-1e308, 5e-324],
    "m": [1 - 2j, 0.5j], "n": [1e300 - 2j, -1j], "o": [True, False],
}  # fmt: skip


@pytest.fixture
def samples() -> Iterator[tuple[psyne.Sender[Sample], psyne.Receiver[Sample]]]:
    with psyne.sender("ipc://samples", Sample, capacity=8) as tx, psyne.receiver("ipc://samples", Sample) as rx:
        yield tx, rx


def test_a_struct_by_itself_lies_in_private_zeroed_memory():
    sample = Sample()
    assert (sample.stamp, sample.kind, sample.values.tolist()) == (0, 0, [0, 0, 0])
    sample.values = [1, 2, 3]
    sample.values[1] = 7
    assert sample.values.tolist() == [1, 7, 3]


def test_a_struct_inherits_the_fields_of_its_base():
    class Stamped(Sample):
        extra = u16(2)

    stamped = Stamped(stamp=1, extra=[2, 3])
    assert list(stamped.array.dtype.names or ()) == ["stamp", "kind", "values", "extra"]
    with psyne.sender("ipc://stamped", Stamped, capacity=8) as tx, psyne.receiver("ipc://stamped", Stamped) as rx:
        tx.send(stamped)
        with rx.receive() as m:
            assert (m.stamp, m.extra.tolist()) == (1, [2, 3])
            assert isinstance(m, Sample)


def test_a_struct_takes_its_fields_as_keywords_and_knows_no_others():
    assert Sample(stamp=5, values=(1, 2, 3)).values.tolist() == [1, 2, 3]
    with pytest.raises(TypeError, match=r"no field 'stmap'.*'stamp'"):
        Sample(stmap=5)


@pytest.mark.parametrize("which", [0, 1])
def test_every_scalar_travels_with_its_extreme_values(which: int):
    with psyne.sender("ipc://everything", Everything, capacity=8) as tx, psyne.receiver("ipc://everything") as rx:
        with tx.loan() as m:
            for name, values in EXTREMES.items():
                setattr(m, name, values[which])
        with rx.receive() as got:
            for name, values in EXTREMES.items():
                assert getattr(got, name) == values[which], name
                assert type(getattr(got, name)) is type(values[which]), name


@pytest.mark.parametrize(("field", "value"), [("a", 256), ("a", -1), ("d", 2**64), ("e", 128), ("h", -(2**63) - 1)])
def test_a_number_that_does_not_fit_its_field_is_an_overflow_error(field: str, value: int):
    everything = Everything()
    with pytest.raises(OverflowError):
        setattr(everything, field, value)
    assert getattr(everything, field) == 0


def test_an_integer_field_does_not_cut_a_float():
    with pytest.raises(TypeError):
        Sample(stamp=1.5)


def test_a_struct_loan_starts_zeroed_although_its_slot_was_used(samples: Any):
    tx, rx = samples
    for _ in range(3 * tx.capacity):
        with tx.loan() as m:
            assert (m.stamp, m.kind, m.values.tolist()) == (0, 0, [0, 0, 0])
            m.stamp, m.kind, m.values = 2**64 - 1, 255, [1, 2, 3]
        rx.receive().release()


def test_an_array_field_is_written_as_a_whole_and_by_element(samples: Any):
    tx, rx = samples
    with tx.loan() as m:
        m.values = 4
        m.values[1] = 5
        assert np.shares_memory(m.values, m.array)
    with rx.receive() as m:
        assert m.values.tolist() == [4, 5, 4]


def test_an_array_field_takes_no_other_shape(samples: Any):
    tx, _ = samples
    with tx.loan() as m:
        with pytest.raises(ValueError, match="broadcast"):
            m.values = [1, 2]
        m.discard()


def test_a_struct_is_a_structured_array_of_shape_nothing(samples: Any):
    tx, rx = samples
    tx.send(Sample(stamp=1, kind=2, values=[3, 4, 5]))
    with rx.receive() as m:
        assert m.array.shape == ()
        assert m.array.dtype.names == ("stamp", "kind", "values")
        assert m.array["values"].tolist() == [3, 4, 5]


def test_an_array_message_has_its_dtype_and_shape():
    with psyne.sender("ipc://pictures", Picture, capacity=8) as tx, psyne.receiver("ipc://pictures", Picture) as rx:
        with tx.loan() as m:
            m.array[:] = np.arange(24).reshape(4, 6)
        with rx.receive() as m:
            assert (m.array.dtype, m.array.shape) == (np.uint8, (4, 6))
            assert m.array.tolist() == np.arange(24).reshape(4, 6).tolist()


def test_a_message_is_a_buffer_over_the_same_memory():
    with psyne.sender("ipc://pictures", Picture, capacity=8) as tx, psyne.receiver("ipc://pictures") as rx:
        with tx.loan() as m:
            view = memoryview(m)
            assert (view.shape, view.itemsize, view.readonly) == ((4, 6), 1, False)
            view[1, 2] = 77
            view.release()
        with rx.receive() as m:
            with memoryview(m) as view:
                assert view.readonly
                assert view[1, 2] == 77
            assert np.shares_memory(np.asarray(m), m.array)


def test_the_same_array_type_is_the_same_class():
    assert Array("f4", (2, 3)) is Array(np.float32, (2, 3))
    assert Array("f4", (2, 3)) is not Array("f4", (3, 2))


def test_an_array_type_can_be_named_by_a_subclass():
    class Image(Array, dtype="u1", shape=(2, 3)):
        pass

    with psyne.sender("ipc://images", Image, capacity=8) as tx, psyne.receiver("ipc://images", Image) as rx:
        tx.send(np.ones((2, 3), "u1"))
        with rx.receive() as m:
            assert isinstance(m, Image)
            assert m.array.sum() == 6


@pytest.mark.parametrize("dtype", ["u1", ">i4", "f2", "c16", "?", "S5", "U3", "M8[ns]", [("x", "i4"), ("y", "f8")]])
def test_arrays_of_any_fixed_size_dtype_travel(dtype: Any):
    values = np.zeros(3, dtype)
    values.view("u1")[:] = 1
    with psyne.sender("ipc://any", Array(dtype, 3), capacity=8) as tx, psyne.receiver("ipc://any") as rx:
        tx.send(values)
        with rx.receive() as m:
            assert m.array.dtype == np.dtype(dtype)
            assert m.array.tobytes() == values.tobytes()


def test_python_objects_cannot_be_messages():
    with pytest.raises(TypeError, match="Python objects"):
        Array(object, 3)


def test_a_receiver_without_a_type_learns_all_of_it_from_the_channel(samples: Any):
    tx, rx = samples
    rx.close()
    with psyne.receiver("ipc://samples") as anybody:
        tx.send(Sample(stamp=1, kind=2, values=[3, 4, 5]))
        with anybody.receive() as m:
            assert type(m).__name__ == "Sample"
            assert (m.stamp, m.kind, m.values.tolist()) == (1, 2, [3, 4, 5])
            assert type(m).__schema__ == Sample.__schema__


def test_a_copy_is_private_and_outlives_its_channel(samples: Any):
    tx, rx = samples
    tx.send(Sample(stamp=9, values=[1, 2, 3]))
    with rx.receive() as m:
        kept = m.copy()
    rx.close()
    tx.close()
    kept.stamp += 1
    assert isinstance(kept, Sample)
    assert (kept.stamp, kept.values.tolist()) == (10, [1, 2, 3])


def test_a_released_message_says_so_and_how_to_keep_one(samples: Any):
    tx, rx = samples
    tx.send(Sample(stamp=9))
    m = rx.receive()
    m.release()
    m.release()
    for use in (
        lambda: m.stamp,
        lambda: m.values,
        lambda: m.array,
        lambda: m.copy(),
        lambda: m.info,
        lambda: memoryview(m),
    ):
        with pytest.raises(psyne.MessageReleased, match=r"copy\(\)"):
            use()
    assert "released" in repr(m)


def test_a_sent_loan_says_so(samples: Any):
    tx, _ = samples
    with tx.loan() as m:
        m.stamp = 1
    with pytest.raises(psyne.MessageReleased, match=r"sent.*loan\(\)"):
        m.stamp = 2


def test_a_received_message_cannot_be_written_discarded_or_truncated(samples: Any):
    tx, rx = samples
    tx.send(Sample(stamp=9))
    tx.send(Sample(stamp=10))
    with rx.receive() as m:
        with pytest.raises(psyne.ReadOnly, match=r"copy\(\)"):
            m.stamp = 1
        with pytest.raises(psyne.NotALoan, match=r"release\(\)"):
            m.discard()
        assert m.stamp == 9
    with rx.receive_many(4) as batch:
        with pytest.raises(psyne.NotALoan, match="loan"):
            batch.truncate(0)
        with pytest.raises(psyne.ReadOnly):
            batch["stamp"] = 0


def test_info_counts_the_messages_of_each_sender_and_tells_senders_apart():
    with (
        psyne.sender("ipc://numbers", Number, capacity=8) as a,
        psyne.sender("ipc://numbers", Number, capacity=8) as b,
        psyne.receiver("ipc://numbers", Number) as rx,
    ):
        for n in range(3):
            a.send(Number(n=n))
            b.send(Number(n=100 + n))
        infos: dict[int, list[int]] = {}
        for _ in range(6):
            with rx.receive() as m:
                assert (m.info.missed, m.info.redelivered) == (0, False)
                infos.setdefault(m.info.sender, []).append(m.info.sequence)
                assert m.n % 100 == m.info.sequence
    assert list(infos.values()) == [[0, 1, 2], [0, 1, 2]]


def test_a_field_that_messages_need_themselves_is_refused_with_the_way_out():
    with pytest.raises(TypeError, match="info_"):
        type(Struct)("Bad", (Struct,), {"info": u64()})


def test_a_field_keeps_a_reserved_name_under_another_attribute():
    class Odd(Struct):
        info_ = u64(name="info")

    with psyne.sender("ipc://odd", Odd, capacity=8) as tx, psyne.receiver("ipc://odd") as rx:
        tx.send(Odd(info=5))
        with rx.receive() as m:
            assert m.info_ == 5
            assert m.array.dtype.names == ("info",)


def test_a_message_has_no_room_for_attributes_of_its_own():
    with pytest.raises(AttributeError):
        Sample().colour = "red"  # type: ignore[attr-defined]


def test_a_message_shows_its_fields():
    assert repr(Number(n=3)) == "Number(n=3)"
