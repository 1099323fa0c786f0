"""m.info in every situation, timestamps, copies of every type, and receive_into()."""

import mmap
import struct
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import psyne
from psyne import Array, ArrowBatch, Bytes, Info, Matrix, Message, Struct, Text, _native, f32, field, u8, u64

from .helpers.contents import content
from .helpers.layouts import Line, Number, Record, lines_of
from .helpers.process import Child


class Pose(Struct):
    x = u64()


class Robot(Struct):
    stamp = u64()
    pose = field(Pose)


class Frame(Struct, layout="columns"):
    stamp = u64()
    image = u8(4, 5)


NOTHING = Info(0, 0, 0, False, 0)


# ---- info ----------------------------------------------------------------------------------------------------------


def test_a_loan_knows_its_place_and_the_receiver_sees_the_same():
    with psyne.sender("ipc://x", Number, capacity=8) as tx, psyne.receiver("ipc://x") as rx:
        for n in range(20):
            with tx.loan() as m:
                lent = m.info
                assert (lent.sequence, lent.missed, lent.redelivered, lent.stamp) == (n, 0, False, 0)
            with rx.receive() as m:
                assert m.info == lent
        with tx.loan_many(3) as batch:
            assert batch.info.sequence == 20
            assert [m.info.sequence for m in batch] == [20, 21, 22]


def test_a_loan_that_is_taken_back_leaves_a_gap_when_another_came_after_it():
    with psyne.sender("ipc://x", Number, capacity=8) as tx, psyne.receiver("ipc://x") as rx:
        first, second = tx.loan(), tx.loan()
        first.discard()
        tx.send(second)
        assert rx.receive().info.sequence == 1


@pytest.mark.parametrize("kind", [Robot, Frame], ids=["rows", "columns"])
def test_each_message_of_a_batch_has_an_info_of_its_own(kind: Any):
    with (
        psyne.sender("ipc://x", kind, capacity=8, full="drop", timestamps=True) as tx,
        psyne.receiver("ipc://x", kind) as rx,
    ):
        for n in range(5):
            tx.send(kind(stamp=n))
        with rx.receive_many(2) as batch:
            assert [m.info.sequence for m in batch] == [0, 1]
        for n in range(5, 13):
            tx.send(kind(stamp=n))  # the last three are lost
        with rx.receive_many(1):
            pass
        tx.send(kind(stamp=13))
        with rx.receive_many(8) as batch:
            infos = [m.info for m in batch]
            assert batch.info == infos[0]
            assert [i.sequence for i in infos] == [3, 4, 5, 6, 7]
            stamps = [i.timestamp for i in infos]
            assert stamps == sorted(stamps)
            assert len({i.sender for i in infos}) == 1
        with rx.receive_many(8) as batch:
            assert [m.info.sequence for m in batch] == [8, 9, 10]
            assert [m.info.missed for m in batch] == [0, 0, 3]


def test_a_nested_record_has_the_info_of_its_message():
    with psyne.sender("ipc://x", Robot, capacity=8) as tx, psyne.receiver("ipc://x", Robot) as rx:
        tx.send_many(np.zeros(3, Robot.__layout__.dtype))
        with rx.receive_many(3) as batch:
            assert batch[2].pose.info == batch[2].info
            assert batch[2].info.sequence == 2


def test_private_memory_has_no_place():
    with psyne.sender("ipc://x", Number, capacity=8, timestamps=True) as tx, psyne.receiver("ipc://x") as rx:
        tx.send(Number())
        tx.send(Number())
        rx.receive().release()
        with rx.receive() as m:
            assert m.info.sequence == 1
            for own in (m.copy(), m.private(), Number(n=1), Number.from_buffer(bytearray(8))):
                assert own.info == NOTHING


def test_infos_of_what_is_over_raise():
    with psyne.sender("ipc://x", Number, capacity=8) as tx, psyne.receiver("ipc://x") as rx:
        with tx.loan() as lent:
            pass
        with rx.receive_many(1) as batch:
            part = batch[0]
        for over in (lent, batch, part):
            with pytest.raises(psyne.MessageReleased):
                over.info  # noqa: B018


def test_senders_have_numbers_that_are_never_used_again():
    seen = set()
    with psyne.receiver("ipc://x", Number) as rx, psyne.sender("ipc://x", Number, capacity=2):
        for n in range(5):
            with psyne.sender("ipc://x", capacity=2) as tx:
                tx.send(Number(n=n))
                with rx.receive() as m:
                    seen.add(m.info.sender)
    assert len(seen) == 5


# ---- timestamps ----------------------------------------------------------------------------------------------------


def stamped(kind: Any, **options: Any) -> bool:
    with psyne.sender("ipc://x", kind, capacity=2, **options) as tx, psyne.receiver("ipc://x") as rx:
        before = time.monotonic_ns()
        tx.loan().__exit__(None, None, None)
        after = time.monotonic_ns()
        with rx.receive() as m:
            if m.info.stamp == 0:
                with pytest.raises(psyne.InvalidArgument, match="timestamps=True"):
                    m.info.timestamp  # noqa: B018
                return False
            assert before <= m.info.timestamp <= after
            return True


def test_timestamps_are_kept_from_4_kib_on_or_as_asked_for():
    assert not stamped(Array("u1", 4095))
    assert stamped(Array("u1", 4096))
    assert stamped(Number, timestamps=True)
    assert not stamped(Array("u1", 4096), timestamps=False)


def test_every_way_to_send_keeps_the_time():
    with psyne.sender("ipc://x", Number, capacity=16, timestamps=True) as tx, psyne.receiver("ipc://x") as rx:
        times = [time.monotonic_ns()]
        for send in (
            lambda: tx.send(Number()),
            lambda: tx.send(tx.loan()),
            lambda: tx.send_many(np.zeros(2, Number.__layout__.dtype)),
            lambda: tx.loan_many(2).__exit__(None, None, None),
        ):
            send()
            times.append(time.monotonic_ns())
        got = []
        for _ in range(6):
            with rx.receive() as m:
                got.append(m.info.timestamp)
        bounds = [0, 1, 2, 2, 3, 3]
        assert all(times[b] <= t <= times[b + 1] for b, t in zip(bounds, got, strict=True))


def test_the_time_is_of_the_end_of_a_loan_and_the_same_in_another_process():
    with psyne.sender("ipc://x", Number, capacity=2, timestamps=True) as tx, Child() as other:
        other.run("rx = psyne.receiver('ipc://x')")
        m = tx.loan()
        lent = time.monotonic_ns()
        tx.send(m)
        sent = time.monotonic_ns()
        stamp, now = other.run("import time; m = rx.receive(); m.info.timestamp, time.monotonic_ns()")
        assert lent <= stamp <= sent <= now


# ---- timestamps of another host --------------------------------------------------------------------------------------

REMOTE_OFFSET = 96  # in SlabShape


@pytest.fixture
def far(monkeypatch: pytest.MonkeyPatch, psyne_directory: Path) -> Callable[[Iterable[int]], None]:
    """Senders keep the clock of another host; what it returns writes it, as a link does, for the first slots of ``ipc://x``."""
    monkeypatch.setattr(_native, "open_sender", partial(_native.open_sender, remote=True))

    def write(times: Iterable[int]) -> None:
        with open(next(psyne_directory.glob("x.*.slab")), "r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
            (column,) = struct.unpack_from("<Q", memory, REMOTE_OFFSET)
            for slot, t in enumerate(times):
                struct.pack_into("<Q", memory, column + 8 * slot, t)

    return write


@pytest.mark.parametrize("kind", [Robot, Frame], ids=["rows", "columns"])
def test_what_came_over_a_network_has_the_clock_of_its_sender_beside_ours(kind: Any, far: Any):
    with (
        psyne.sender("ipc://x", kind, capacity=8, timestamps=True) as tx,
        psyne.receiver("ipc://x", kind) as rx,
        psyne.tap("ipc://x", kind) as tap,
    ):
        far(range(1000, 1008))
        before = time.monotonic_ns()
        for n in range(4):
            tx.send(kind(stamp=n))
        first = tap.receive()
        assert first.info.remote_timestamp == 1000
        copies = tap.receive_many(3)
        assert [m.info.remote_timestamp for m in copies] == [1001, 1002, 1003]
        assert [m.info.missed for m in copies] == [0, 0, 0]
        with rx.receive() as m:
            assert m.info == first.info
            assert m.info.timestamp >= before
        with rx.receive_many(3) as batch:
            assert [m.info for m in batch] == [m.info for m in copies]
            assert batch.info.remote_stamp == 1001


def test_what_did_not_come_over_a_network_says_so(far: Any):
    with psyne.sender("ipc://x", Number, capacity=8) as tx, psyne.receiver("ipc://x") as rx:
        tx.send(Number())  # the other host keeps no time
        with rx.receive() as m:
            assert m.info.remote_stamp == 0
            with pytest.raises(psyne.InvalidArgument, match="over a network"):
                m.info.remote_timestamp  # noqa: B018
    with pytest.raises(psyne.InvalidArgument, match="over a network"):
        NOTHING.remote_timestamp  # noqa: B018


# ---- copy() --------------------------------------------------------------------------------------------------------


def arrow_message() -> Any:
    pa = pytest.importorskip("pyarrow")
    return ArrowBatch(max_bytes=1 << 12)(batch=pa.record_batch({"s": ["a", None, "ccc"]}))


MESSAGES: dict[str, Any] = {
    "struct": lambda: Robot(stamp=3, pose=Pose(x=4)),
    "columns": lambda: Frame(stamp=3, image=np.arange(20).reshape(4, 5)),
    "array": lambda: Array("f4", (2, 3))(np.arange(6).reshape(2, 3)),
    "scalar": lambda: Array("f8")(2.5),
    "own shape": lambda: Array("f4", ndim=2)(np.arange(6, dtype="f4").reshape(2, 3)),
    "matrix": lambda: Matrix(2, 3, order="F")(np.arange(6).reshape(2, 3)),
    "bytes": lambda: Bytes(b"abc"),
    "text": lambda: Text("grüß"),
    "arrow": arrow_message,
}


@pytest.mark.parametrize("name", MESSAGES)
def test_a_copy_of_each_type_is_the_same_in_memory_of_its_own(name: str):
    m = MESSAGES[name]()
    kind = type(m)
    with psyne.sender("ipc://x", kind, capacity=1) as tx, psyne.receiver("ipc://x", kind) as rx:
        tx.send(m)
        with rx.receive() as got:
            copies = [got.copy(), got.private(), got.copy().copy()]
        del got
        with tx.loan() if name != "own shape" else tx.loan(shape=(32, 32)) as again:  # the slot was free
            if name != "columns":
                again.array[...] = 0
        for made in copies:
            assert type(made) is kind
            assert content(made) == content(m)
            assert made._open
        if name == "columns":
            copies[0].stamp = 9
            assert (copies[0].stamp, copies[1].stamp) == (9, 3)
        else:
            before = content(copies[1])
            copies[0].array[...] = 1
            assert content(copies[1]) == before


# ---- receive_into() ------------------------------------------------------------------------------------------------


def test_receive_into_takes_what_is_there_of_all_senders():
    with psyne.receiver("ipc://x", Line) as rx:
        senders = [psyne.sender("ipc://x", Line, capacity=8) for _ in range(3)]
        for number, tx in enumerate(senders):
            tx.send_many(lines_of(number, 0, 5))
        out = np.zeros((12, 8), "u8")
        assert rx.receive_into(out) == 12
        assert rx.receive_into(out[:2]) == 2
        rest = np.zeros((12, 8), "u8")
        assert rx.receive_into(rest, linger=0.01) == 1
        assert not rest[1:].any()
        assert rx.statistics().copied_bytes == 15 * 64
        for tx in senders:
            tx.loan().discard()  # all slots are free
            tx.close()
        with pytest.raises(psyne.EndOfChannel):
            rx.receive_into(rest)


def test_receive_into_keeps_the_order_of_each_sender_over_many_laps():
    with psyne.receiver("ipc://x", Line) as rx, Child() as one, Child() as two:
        for number, child in enumerate((one, two)):
            child.run("from layouts import lines_of; tx = psyne.sender('ipc://x', Line, capacity=16)")
            child.begin("for n in range(0, 700, 7): tx.send_many(lines_of(me, n, 7))\ntx.close()", me=number)
        got, out = [], np.zeros((20, 8), "u8")
        while True:
            try:
                n = rx.receive_into(out, linger=0.001)
            except psyne.EndOfChannel:
                if sum(len(part) for part in got) == 1400:
                    break
                continue  # the one was done before the other began
            got.append(out[:n].copy())
        lines = np.concatenate(got)
        for number in (0, 1):
            assert (lines[lines[:, 0] == number] == lines_of(number, 0, 700)).all()
        one.result()
        two.result()


def test_receive_into_lingers_for_a_sender_that_is_late():
    with psyne.sender("ipc://x", Line, capacity=8) as tx, Child() as other:
        other.run("rx = psyne.receiver('ipc://x'); out = np.zeros((5, 8), 'u8')")
        tx.send_many(lines_of(1, 0, 2))
        other.begin_waiting("rx.receive_into(out, linger=3600)")
        with psyne.sender("ipc://x", capacity=8) as late:
            late.send_many(lines_of(2, 0, 3))
            assert other.result() == 5
            assert other.run("out[:, 0].tolist()") == [1, 1, 2, 2, 2]


def test_receive_into_times_out_and_leaves_out_alone():
    with psyne.sender("ipc://x", Line, capacity=8), psyne.receiver("ipc://x") as rx:
        out = np.full((3, 8), 7, "u8")
        with pytest.raises(psyne.Empty):
            rx.receive_into(out, timeout=0.01)
        assert (out == 7).all()


def read_only() -> Any:
    out = np.zeros((3, 8), "u8")
    out.flags.writeable = False
    return out


WRONG: list[tuple[Any, type[Exception], str]] = [
    ([1, 2, 3], TypeError, "numpy array, not a list"),
    (bytearray(64), TypeError, "numpy array, not a bytearray"),
    (np.zeros((3, 8), "i8"), psyne.LayoutMismatch, "any number of these"),
    (np.zeros((3, 7), "u8"), psyne.LayoutMismatch, "any number of these"),
    (np.zeros(8, "u8"), psyne.LayoutMismatch, "any number of these"),
    (np.zeros((0, 8), "u8"), ValueError, "at least one message"),
    (np.zeros((6, 8), "u8")[::2], ValueError, "C-contiguous"),
    (read_only(), ValueError, "writable"),
]


@pytest.mark.parametrize(("out", "error", "text"), WRONG, ids=range(len(WRONG)))
def test_receive_into_refuses_what_it_cannot_fill_and_takes_nothing(out: Any, error: type[Exception], text: str):
    with psyne.sender("ipc://x", Line, capacity=8) as tx, psyne.receiver("ipc://x") as rx:
        tx.send(lines_of(1, 0, 1)[0])
        with pytest.raises(error, match=text):
            rx.receive_into(out)
        assert rx.receive_into(np.zeros((1, 8), "u8")) == 1


def test_receive_into_is_for_one_type_in_rows():
    for kinds in ([Text], [Frame], [Matrix(2, 3, order="F")], [Number, Text]):
        with (
            psyne.sender("ipc://x", *kinds, capacity=8),
            psyne.receiver("ipc://x", *kinds, Message) as rx,
            pytest.raises(TypeError, match="one type in rows and C order"),
        ):
            rx.receive_into(np.zeros(3, "u8"))


def test_receive_into_fills_records():
    with psyne.sender("ipc://x", Record, capacity=8) as tx, psyne.receiver("ipc://x", Record) as rx:
        tx.send(Record(n=3, body=4))
        out = np.zeros(2, Record.__layout__.dtype)
        assert rx.receive_into(out) == 1
        assert (out["n"].tolist(), out["body"][0].tolist()) == ([3, 0], [4] * 64)


class Odd(Struct):
    a = f32(3)
    b = u8()


def test_receive_into_closes_the_gaps_between_slots():
    with psyne.sender("ipc://x", Odd, capacity=8, align=256) as tx, psyne.receiver("ipc://x", Odd) as rx:
        for n in range(4):
            tx.send(Odd(a=n, b=n))
        out = np.zeros(4, Odd.__layout__.dtype)
        assert rx.receive_into(out) == 4
        assert out["b"].tolist() == out["a"][:, 2].tolist() == [0, 1, 2, 3]
