"""Opening: who makes a channel, what later ends must agree with, races, and who removes what."""

import gc
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import psyne
from psyne import Array, Stage, Struct, u64

from .helpers.layouts import Number, Picture, Sample
from .helpers.process import Child, descriptors

# ---- the first one, and those who come later -----------------------------------------------------------------------


def test_a_second_sender_may_leave_everything_out_or_repeat_it():
    stages = [Stage("change", mutate=True, on_crash="redeliver"), "look"]
    with (
        psyne.sender("ipc://camera", Number, pattern="mpmc", stages=stages, capacity=8),
        psyne.sender("ipc://camera", Number, pattern="mpmc", stages=stages, capacity=16) as second,
        psyne.sender("ipc://camera") as third,
    ):
        assert second.capacity == 16
        assert third.send(Number(n=1))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"pattern": "mpmc"}, r"pattern is 'mpsc', not 'mpmc'"),
        ({"stages": ["other"]}, r"stages are \['look', 'show'\], not \['other'\]"),
        ({"stages": ["show", "look"]}, r"stages are \['look', 'show'\]"),
        ({"stages": [Stage("look", mutate=True), "show"]}, "mutate"),
        ({"stages": [Stage("look", on_crash="redeliver"), "show"]}, "on_crash"),
    ],
)
def test_a_second_sender_with_another_graph_is_told_what_differs(arguments: dict, text: str):
    there: dict[str, Any] = {"stages": ["look", "show"]}
    with psyne.sender("ipc://camera", Number, **there), pytest.raises(psyne.LayoutMismatch, match=text):
        psyne.sender("ipc://camera", Number, **(there | arguments))


def test_a_second_sender_with_another_type_is_told_field_by_field():
    class Imu(Struct):
        stamp = u64()
        extra = u64()

    first = Imu

    class Imu(Struct):  # type: ignore[no-redef]
        stamp = u64(2)

    with psyne.sender("ipc://camera", first):
        with pytest.raises(psyne.LayoutMismatch, match=r"stamp: theirs <u8.*yours <u8\[2\].*extra: .*yours \(none\)"):
            psyne.sender("ipc://camera", Imu)
        with pytest.raises(psyne.LayoutMismatch, match=r"theirs: Struct Imu.*yours: Array \|u1\[4, 6\]"):
            psyne.sender("ipc://camera", Picture)


def test_a_channel_without_living_senders_is_replaced_by_one_of_another_type():
    with psyne.receiver("ipc://camera") as rx:
        with psyne.sender("ipc://camera", Number) as tx:
            tx.send(Number(n=1))
            kept = rx.receive()
        with psyne.sender("ipc://camera", Sample) as tx:
            tx.send(Sample(stamp=2))
            with psyne.receiver("ipc://camera") as fresh, fresh.receive() as m:
                assert m.stamp == 2
        assert kept.n == 1
        with pytest.raises(psyne.EndOfChannel):
            rx.receive()


def test_a_channel_without_living_senders_goes_on_with_the_same_type():
    first = psyne.sender("ipc://camera", Number)
    with psyne.receiver("ipc://camera", Number) as rx:
        first.close()
        for n in range(5):
            with pytest.raises(psyne.EndOfChannel):
                rx.receive()
            with psyne.sender("ipc://camera", Number) as tx:
                tx.send(Number(n=n))
            with rx.receive() as m:
                assert (m.n, m.info.sequence) == (n, 0)


def test_a_sender_without_a_type_needs_a_channel():
    with pytest.raises(psyne.ChannelNotFound, match=r"no channel ipc://camera; give its type"):
        psyne.sender("ipc://camera")


def test_types_that_are_no_message_types_are_refused():
    for no_type in (int, "u8", Struct, Array, Number(n=1)):
        with pytest.raises((psyne.LayoutMismatch, psyne.InvalidArgument)):
            psyne.sender("ipc://camera", no_type)  # type: ignore[call-overload]
    with pytest.raises(psyne.InvalidArgument, match="alike"):
        psyne.sender("ipc://camera", Number, Number)


def test_channels_of_different_names_have_nothing_to_do_with_each_other():
    names = ["a", "ab", "a.b", "a.0123456789abcde.channel", "ä", "a b", "x" * 128]
    ends = [(psyne.sender(f"ipc://{n}", Number, capacity=8), psyne.receiver(f"ipc://{n}")) for n in names]
    for number, (tx, _) in enumerate(ends):
        tx.send(Number(n=number))
    for number, (tx, rx) in enumerate(ends):
        assert rx.receive().n == number
        tx.close()
        with pytest.raises(psyne.EndOfChannel):
            rx.receive()
        rx.close()


@pytest.mark.parametrize("wait", ["adaptive", "block"])
def test_signals_that_come_all_the_time_hinder_neither_opening_nor_waiting(wait: str):
    with Child() as child:
        child.run("import signal; signal.signal(signal.SIGALRM, lambda *_: None)")
        child.run("signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)")
        child.run("tx = psyne.sender('ipc://alarm', Picture, capacity=1 << 21, wait=wait)", wait=wait)
        with psyne.receiver("ipc://alarm") as rx:
            child.run("tx.send(np.ones((4, 6), 'u1'))")
            assert rx.receive().array.sum() == 24
            child.run("pictures = psyne.receiver('ipc://back', wait=wait)")
            with psyne.sender("ipc://back", Picture) as back:
                child.begin_waiting("pictures.receive().array.sum().item()")
                back.send(np.ones((4, 6), "u1"))
                assert child.result() == 24


# ---- races ---------------------------------------------------------------------------------------------------------


def test_many_processes_that_open_at_the_same_time_meet_in_one_channel():
    with Child() as a, Child() as b, Child() as c, Child() as d:
        openers = [a, b, c, d]
        for _ in range(20):
            for i, opener in enumerate(openers):
                opener.begin(f"tx = psyne.sender('ipc://race', Number, capacity=8); tx.send(Number(n={i}))")
            for opener in openers:
                opener.result()
            with psyne.receiver("ipc://race") as rx:
                for opener in openers:
                    opener.run("tx.close()")
                assert sorted(m.n for m in rx) == [0, 1, 2, 3]


def test_senders_of_different_types_that_open_at_the_same_time_leave_one_of_them_in():
    with Child() as a, Child() as b:
        outcomes: Counter[str] = Counter()
        for _ in range(20):
            a.begin("tx = psyne.sender('ipc://race', Number, capacity=8)")
            b.begin("tx = psyne.sender('ipc://race', Sample, capacity=8)")
            inside = []
            for opener in (a, b):
                try:
                    opener.result()
                    inside.append(opener)
                except psyne.LayoutMismatch:
                    outcomes["mismatch"] += 1
            assert len(inside) == 1
            inside[0].run("tx.close()")
        assert outcomes["mismatch"] == 20


def test_ends_that_come_and_go_at_the_same_time_do_not_hinder_each_other():
    come_and_go = """
for n in range(100):
    with psyne.sender('ipc://coming', Number, capacity=8) as tx:
        tx.send(Number(n=n))
    with psyne.receiver('ipc://coming', Number) as rx:
        rx.try_receive_many(100)
"""
    come_and_go = come_and_go.replace(
        "rx.try_receive_many(100)", "try: rx.receive_many(100, timeout=0)\n        except (psyne.Empty, EOFError): pass"
    )
    with psyne.sender("ipc://coming", Number, pattern="mpmc"), Child() as a, Child() as b, Child() as c:
        for child in (a, b, c):
            child.begin(come_and_go)
        for child in (a, b, c):
            child.result()
    with Child() as a, Child() as b, Child() as c:  # the channel itself comes and goes
        for child in (a, b, c):
            child.begin(come_and_go.replace("capacity=8", "capacity=8, pattern='mpmc'"))
        for child in (a, b, c):
            child.result()


def test_ends_that_come_and_go_keep_no_descriptors_and_no_memory():
    def resources() -> tuple[set[Any], int]:
        gc.collect()
        return descriptors(), Path("/proc/self/maps").read_text().count(".slab")

    def come_and_go() -> None:
        with psyne.sender("ipc://many", Number, capacity=8, pattern="mpmc") as tx, psyne.receiver("ipc://many") as rx:
            with psyne.sender("ipc://many", capacity=8) as short:
                short.send(Number(n=1))
            tx.send(Number(n=2))
            view = rx.receive().array
            rx.receive().release()
            with pytest.raises(psyne.LayoutMismatch):
                psyne.receiver("ipc://many", Sample)
            with pytest.raises(psyne.LayoutMismatch):
                psyne.sender("ipc://many", Sample)
        assert view["n"] in (1, 2)

    come_and_go()
    files, mappings = resources()
    for _ in range(100):
        come_and_go()
    after = resources()
    assert not after[0] - files
    assert after[1] == mappings


def test_messages_of_senders_that_have_left_end_in_any_order():
    with psyne.sender("ipc://many", Number, capacity=8, pattern="mpmc") as stays, psyne.receiver("ipc://many") as rx:
        held: list[tuple[int, Any]] = []
        for n in range(60):
            with psyne.sender("ipc://many", capacity=1) as tx:
                tx.send(Number(n=n))
            m = rx.receive(timeout=0)
            held.append((n, m if n % 2 else m.array))
            del m
            if len(held) > 20:
                number, kept = held.pop(n * 7 % len(held))
                assert (kept.n if number % 2 else kept["n"]) == number
                del kept
            stays.send(Number(n=1000 + n))
            with rx.receive(timeout=0) as m:
                assert m.n == 1000 + n
            del m
        for number, kept in held:
            assert (kept.n if number % 2 else kept["n"]) == number


# ---- what lies where, and who removes it ---------------------------------------------------------------------------


@pytest.mark.leaves_nothing
def test_the_last_one_out_removes_the_files(psyne_directory: Path):
    tx = psyne.sender("ipc://files", Number)
    rx = psyne.receiver("ipc://files")
    assert {path.suffix for path in psyne_directory.iterdir()} == {".channel", ".slab", ".acks"}
    tx.close()
    assert list(psyne_directory.iterdir())
    rx.close()


@pytest.mark.leaves_nothing
def test_a_lane_that_was_read_is_removed_while_the_channel_lives(psyne_directory: Path):
    with psyne.receiver("ipc://files", Number) as rx, psyne.sender("ipc://files", Number, capacity=8) as stays:
        for n in range(5):
            with psyne.sender("ipc://files", capacity=8) as tx:
                tx.send(Number(n=n))
            with rx.receive() as m:
                assert m.n == n
            del m
        stays.send(Number(n=9))
        assert rx.receive().n == 9
        with pytest.raises(psyne.Empty):
            rx.receive(timeout=0.2)
        assert len(list(psyne_directory.glob("*.slab"))) == 1


@pytest.mark.leaves_nothing
def test_a_view_outlives_its_files(psyne_directory: Path):
    tx = psyne.sender("ipc://files", Number)
    rx = psyne.receiver("ipc://files")
    tx.send(Number(n=5))
    with rx.receive() as m:
        view = m.array
    tx.close()
    rx.close()
    assert view["n"] == 5
    del view, m
    gc.collect()


@pytest.mark.leaves_nothing
def test_an_interpreter_that_exits_closes_its_ends():
    with Child() as writer:
        writer.run("tx = psyne.sender('ipc://exiting', Number); tx.send(Number(n=3))")
        with psyne.receiver("ipc://exiting", Number) as rx:
            assert writer.finish() == 0
            assert [m.n for m in rx] == [3]  # and not SenderLost


def test_by_default_channels_lie_in_a_directory_of_the_users_own():
    name = f"default-{os.getpid()}"
    with Child() as child:
        child.run(
            "del os.environ['PSYNE_DIR']; tx = psyne.sender(address, Number, capacity=8)", address=f"ipc://{name}"
        )
        directory = Path(f"/dev/shm/psyne-{os.geteuid()}")
        assert directory.stat().st_mode & 0o7777 == 0o700
        assert sorted(path.suffix for path in directory.glob(f"{name}.*")) == [".acks", ".channel", ".slab"]
        child.run("tx.close()")
        assert not list(directory.glob(f"{name}.*"))


def test_ends_in_different_directories_do_not_meet(psyne_directory: Path):
    with psyne.sender("ipc://here", Number, capacity=8) as tx, Child() as child:
        child.run(
            "os.environ['PSYNE_DIR'] = path; rx = psyne.receiver('ipc://here', Number)",
            path=str(psyne_directory / "other"),
        )
        tx.send(Number(n=1))
        assert child.run("rx.try_receive()") is None
        child.run("rx.close()")
