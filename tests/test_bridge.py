"""`psyne bridge`: real sessions of Zenoh over loopback TCP, found by their endpoints alone, in real processes."""

import json
import signal
import socket
import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pytest

import psyne
from psyne import Array, Matrix, Struct, Text, bridge, f32, u8, u64
from psyne.bridges import Bridged
from psyne.bridges.envelope import Envelope, description
from psyne.types import VariantHdr
from psyne.types.schema import schema_of

from .helpers.bridging import KEY, Imu, Program, Source, both_ways, free_endpoint, imu, stamps
from .helpers.process import PATIENCE, until

pytest.importorskip("zenoh")

Plane = Array("f4", ndim=2)


class Frame(Struct, layout="columns"):
    stamp = u64()
    image = u8(4, 6)


@pytest.fixture
def endpoint() -> str:
    return free_endpoint()


@pytest.mark.leaves_nothing
def test_messages_of_every_kind_cross_two_bridges_and_the_end_of_the_channel_ends_both(endpoint: str) -> None:
    types = [Imu, Plane, Text, Matrix(2, 3, order="F"), Array("bf16", (3,))]
    with psyne.sender("ipc://here", *types, stages=["net"]) as out, psyne.receiver("ipc://there") as there:
        source, target = both_ways(endpoint, "--stage", "net")
        with source, target:
            out.send(Imu(stamp=7, accel=[1, 2, 3]))
            with out.loan(Plane, shape=(2, 0)) as m:
                pass
            with out.loan(Plane, shape=(2, 3)) as m:
                m.array[:] = [[1, 2, 3], [4, 5, 6]]
            out.send(Text("Grüße"))
            with out.loan(types[3]) as m:
                m.array[:] = [[1, 2, 3], [4, 5, 6]]
            with out.loan(types[4]) as m:
                m.array[:] = 2.5
            first = there.receive(timeout=PATIENCE)
            assert (type(first).__name__, first.stamp, first.accel.tolist()) == ("Imu", 7, [1, 2, 3])
            first.release()
            assert there.receive().array.shape == (2, 0)
            assert there.receive().array.tolist() == [[1, 2, 3], [4, 5, 6]]
            assert there.receive().text == "Grüße"
            matrix = there.receive()
            assert matrix.array.tolist() == [[1, 2, 3], [4, 5, 6]]
            assert matrix.array.flags.f_contiguous
            del matrix
            assert there.receive().array.astype("f4").tolist() == [2.5, 2.5, 2.5]
            out.close()
            with pytest.raises(psyne.EndOfChannel):
                there.receive(timeout=PATIENCE)
            for program in (source, target):
                code, said = program.end()
                assert (code, "carried 6, missed 0, refused 0" in said) == (0, True), said


def test_messages_in_columns_cross(endpoint: str) -> None:
    with psyne.sender("ipc://here", Frame, stages=["net"]) as out, psyne.receiver("ipc://there", Frame) as there:
        source, target = both_ways(endpoint, "--stage", "net")
        with source, target:
            for n in range(3):
                with out.loan() as m:
                    m.stamp, m.image = n, np.full((4, 6), n + 1)
            for n in range(3):
                with there.receive(timeout=PATIENCE) as m:
                    assert (m.stamp, np.unique(m.image).tolist()) == (n, [n + 1])


def test_a_bridge_in_a_stage_holds_the_sender_back_and_loses_nothing(endpoint: str) -> None:
    n, large = 1000, Array("u8", (1 << 15,))
    messages = iter(range(n))
    go_on = threading.Event()
    got: list[int] = []

    def take(m: Any) -> None:
        go_on.wait(PATIENCE)
        got.append(int(m.array[0]) if np.ptp(m.array) == 0 else -1)

    def send_until_full() -> int:
        for k in messages:
            try:
                out.send(np.full(1 << 15, k, np.uint64), timeout=0.5)
            except psyne.Full:
                return k
        return n

    with (
        psyne.sender("ipc://here", large, stages=["net"], capacity=8) as out,
        Program("ipc://here", f"zenoh://{KEY}", "--stage", "net", "--listen", endpoint),
    ):
        assert send_until_full() == 8  # nobody subscribes yet
        with (
            psyne.receiver("ipc://there", large) as there,
            Program(f"zenoh://{KEY}", "ipc://there", "--connect", endpoint),
            there.listen(take),
        ):
            out.send(np.full(1 << 15, 8, np.uint64), timeout=PATIENCE)
            held = send_until_full()  # the other ring and the network are full, too
            go_on.set()
            assert held < n
            for k in (held, *messages):
                out.send(np.full(1 << 15, k, np.uint64), timeout=PATIENCE)
            until(lambda: len(got) == n, "all messages")
        assert got == list(range(n))


def test_a_tap_holds_nobody_up_while_no_one_subscribes_and_a_late_target_gets_the_types_and_what_follows(
    endpoint: str,
) -> None:
    with (
        psyne.sender("ipc://here", Imu, stages=[], capacity=8) as out,
        Program("ipc://here", f"zenoh://{KEY}", "--listen", endpoint) as source,
    ):
        for k in range(1000):
            out.send(Imu(stamp=k), timeout=PATIENCE)
        with (
            psyne.receiver("ipc://there", Imu) as there,
            Program(f"zenoh://{KEY}", "ipc://there", "--connect", endpoint),
        ):
            number = 1000

            def arrived() -> Any:
                nonlocal number
                out.send(Imu(stamp=number))
                number += 1
                try:
                    return there.receive(timeout=0.01)
                except psyne.Empty:
                    return None

            with until(arrived, "a message") as m:
                assert m.stamp >= 1000
            out.close()
            assert source.end()[0] == 0


def test_a_source_that_is_killed_is_a_lost_sender_on_the_other_side(endpoint: str) -> None:
    with psyne.sender("ipc://here", Imu, stages=["net"]) as out, psyne.receiver("ipc://there", Imu) as there:
        source, target = both_ways(endpoint, "--stage", "net")
        with source, target:
            out.send(Imu(stamp=1))
            assert stamps(there, 1) == [1]
            source.end(signal.SIGKILL)
            with pytest.raises(psyne.SenderLost):
                there.receive(timeout=PATIENCE)
            code, said = target.end()
            assert code == 1, said
            assert "1 of 1 sources of zenoh://robot1/camera went without an end" in said


def test_a_sender_that_is_lost_before_the_bridge_is_lost_behind_it(endpoint: str) -> None:
    out = psyne.sender("ipc://here", Imu, stages=["net"])
    with psyne.receiver("ipc://there", Imu) as there:
        source, target = both_ways(endpoint, "--stage", "net")
        with source, target:
            out.send(Imu(stamp=1))
            assert stamps(there, 1) == [1]
            out.send(Imu(stamp=2))
            out.__exit__(ZeroDivisionError)  # as its with block does, when an exception leaves it
            assert stamps(there, 1) == [2]
            with pytest.raises(psyne.SenderLost):
                there.receive(timeout=PATIENCE)
            assert (source.end()[0], target.end()[0]) == (1, 1)


def test_a_target_that_follows_takes_the_next_source_with_other_types_after_one_was_killed(endpoint: str) -> None:
    with Program(f"zenoh://{KEY}", "ipc://there", "--follow", "--listen", endpoint) as target:
        for n, cls in enumerate((Imu, Frame)):
            with (
                psyne.sender(f"ipc://here{n}", cls, stages=["net"]) as out,
                psyne.receiver("ipc://there") as there,
                Program(f"ipc://here{n}", f"zenoh://{KEY}", "--stage", "net", "--connect", endpoint) as source,
            ):
                out.send(cls(stamp=n))
                with there.receive(timeout=PATIENCE) as m:
                    assert (type(m).__name__, m.stamp) == (cls.__name__, n)
                source.end(signal.SIGKILL)
                with pytest.raises(psyne.SenderLost):
                    there.receive(timeout=PATIENCE)
            until(lambda: psyne.inspect("ipc://there") is None, "the end of the channel")
        code, said = target.end(signal.SIGTERM)
        assert code == 0
        assert "stopped; carried 2, missed 0, refused 0" in said


def test_a_source_that_follows_goes_on_with_the_next_sender_and_its_types(endpoint: str) -> None:
    source = Program("ipc://here", f"zenoh://{KEY}", "--stage", "main", "--follow", "--listen", endpoint)
    target = Program(f"zenoh://{KEY}", "ipc://there", "--follow", "--connect", endpoint)
    with source, target:
        for n, cls in enumerate((Imu, Imu, Frame)):
            with psyne.receiver("ipc://there", follow=True) as there, psyne.sender("ipc://here", cls) as out:
                out.send(cls(stamp=n))
                with there.receive(timeout=PATIENCE) as m:
                    assert (type(m).__name__, m.stamp) == (cls.__name__, n)
        assert (source.end(signal.SIGINT)[0], target.end(signal.SIGINT)[0]) == (0, 0)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_bridge_that_waits_and_one_that_carries(sent: signal.Signals, endpoint: str) -> None:
    source, target = both_ways(endpoint)
    with source, target:
        assert target.end(sent) == (0, "psyne bridge: stopped; carried 0, missed 0, refused 0\n")
        assert source.end(sent)[0] == 0
    with psyne.sender("ipc://here", Imu, stages=["net"]) as out, psyne.receiver("ipc://there", Imu) as there:
        source, target = both_ways(endpoint, "--stage", "net")
        with source, target:
            out.send(Imu(stamp=1))
            assert stamps(there, 1) == [1]
            assert source.end(sent)[0] == 0
            with pytest.raises(psyne.EndOfChannel):
                there.receive(timeout=PATIENCE)
            assert target.end() == (0, "psyne bridge: the source has ended; carried 1, missed 0, refused 0\n")


def test_a_signal_gives_a_message_that_nobody_subscribed_to_back_to_its_stage(endpoint: str) -> None:
    with psyne.sender("ipc://here", Imu, stages=["net"]) as out:
        with Program("ipc://here", f"zenoh://{KEY}", "--stage", "net", "--listen", endpoint) as source:
            out.send(Imu(stamp=1))
            until(lambda: psyne.inspect("ipc://here").stages[0].held == 1, "the bridge holding it")  # type: ignore[union-attr]
            assert source.end(signal.SIGTERM)[0] == 0
        with psyne.receiver("ipc://here", Imu) as again:
            assert stamps(again, 1) == [1]


def test_a_bridge_that_drops_never_waits_and_counts(endpoint: str) -> None:
    with (
        bridge(f"zenoh://{KEY}", "ipc://there", full="drop", listen=[endpoint]) as target,
        Source(endpoint, description(schema_of([Imu]), "")) as source,
    ):
        n = 10_000
        for k in range(n):
            source.put(k, imu(k))
        until(lambda: target.statistics().carried + target.statistics().missed == n, "all messages")
        assert target.statistics().missed > 0


def test_what_zenoh_lost_and_what_the_source_missed_is_counted(endpoint: str) -> None:
    with (
        psyne.receiver("ipc://there", Imu) as there,
        bridge(f"zenoh://{KEY}", "ipc://there", listen=[endpoint]) as target,
        Source(endpoint, description(schema_of([Imu]), "")) as source,
    ):
        source.put(10, imu(0))  # who comes late has missed nothing
        source.put(11, imu(1), missed=3)
        source.put(15, imu(2))
        assert stamps(there, 3) == [0, 1, 2]
        source.end(18)
        assert target.join(PATIENCE)
        until(lambda: target.statistics() == Bridged(carried=3, missed=3 + 3 + 2, refused=0, sources=1), "the counts")


@pytest.mark.leaves_nothing
@pytest.mark.parametrize("sequence", [0, 5], ids=["the first", "a later one"])
def test_a_source_that_is_over_before_it_is_asked_has_said_its_types(sequence: int, endpoint: str) -> None:
    said = description(schema_of([Imu]), "")
    with (
        psyne.receiver("ipc://there", Imu) as there,
        bridge(f"zenoh://{KEY}", "ipc://there", listen=[endpoint]) as target,
        Source(endpoint, said, number=1) as other,
        Source(endpoint, said, number=2) as source,
    ):
        other.put(0, imu(6))
        assert stamps(there, 1) == [6]  # it is in the channel, which could be over before it sees it
        source.silence()
        source.put(sequence, imu(7), description=b"" if sequence else said)
        source.end(sequence + 1, said if sequence else b"")
        assert stamps(there, 1) == [7]
        other.end(1)
        assert target.join(PATIENCE)
        assert target.statistics() == Bridged(carried=2, sources=2)


@pytest.mark.leaves_nothing
def test_a_source_that_sent_nothing_ends_the_bridge(endpoint: str) -> None:
    with (
        bridge(f"zenoh://{KEY}", "ipc://there", listen=[endpoint]) as target,
        Source(endpoint, b"") as source,
    ):
        source.silence()
        until(lambda: source._publisher.matching_status.matching, "a subscriber")
        source.end(0, description(schema_of([Imu]), ""))
        assert target.join(PATIENCE)


GOOD = VariantHdr.of_type(0, Imu).word
HOSTILE = {
    "no envelope": (imu(0), None),
    "an empty envelope": (imu(0), b""),
    "half an envelope": (imu(0), Envelope(1, 1, GOOD).encode()[:20]),
    "another magic": (imu(0), b"NSYP" + Envelope(1, 1, GOOD).encode()[4:]),
    "another version": (imu(0), b"PSYN\x02" + Envelope(1, 1, GOOD).encode()[5:]),
    "dimensions that are not there": (imu(0), b"PSYN\x01\x08" + bytes(42)),
    "too many dimensions": (imu(0), b"PSYN\x01\xff" + bytes(42 + 8 * 255)),
    "an unknown session": (imu(0), Envelope(99, 0, GOOD).encode()),
    "another type": (imu(0), Envelope(1, 1, GOOD | 7).encode()),
    "flags": (imu(0), Envelope(1, 1, GOOD | 1 << 40).encode()),
    "a shape": (imu(0), Envelope(1, 1, GOOD, shape=(3,)).encode()),
    "too short": (imu(0)[1:], Envelope(1, 1, GOOD).encode()),
    "too long": (imu(0) + b"x", Envelope(1, 1, GOOD).encode()),
    "empty": (b"", Envelope(1, 1, GOOD).encode()),
    "a description that is none": (imu(0), Envelope(2, 0, GOOD, description=b"{}").encode()),
    "a description that is not there": (imu(0), Envelope(1, 1, GOOD, flags=2).encode()),
    "a description that is not said": (imu(0), Envelope(1, 1, GOOD).encode() + b"{}"),
    "a past one": (imu(0), Envelope(1, 0, GOOD).encode()),
}


@pytest.mark.parametrize(("payload", "attachment"), HOSTILE.values(), ids=HOSTILE.keys())
def test_a_message_that_lies_is_refused_and_the_next_one_arrives(
    payload: bytes, attachment: bytes | None, endpoint: str
) -> None:
    with (
        psyne.receiver("ipc://there", Imu) as there,
        bridge(f"zenoh://{KEY}", "ipc://there", listen=[endpoint]) as target,
        Source(endpoint, description(schema_of([Imu]), "")) as source,
    ):
        source.put(0, imu(0))
        source.put_raw(payload, attachment)
        source.put(1, imu(1))
        assert stamps(there, 2) == [0, 1]
        until(lambda: target.statistics() == Bridged(carried=2, missed=0, refused=1, sources=1), "the counts")


@pytest.mark.parametrize("shape", [(3,), (3, 1 << 40), (1 << 63, 2), (0, 1 << 63), (1 << 62, 0), (2, 1 << 10)])
def test_a_shape_that_lies_is_refused(shape: tuple[int, ...], endpoint: str) -> None:
    with (
        psyne.receiver("ipc://there", Plane) as there,
        bridge(f"zenoh://{KEY}", "ipc://there", listen=[endpoint]) as target,
        Source(endpoint, description(schema_of([Plane]), "")) as source,
    ):
        size = 4 * shape[0] * shape[1] if len(shape) == 2 and 0 in shape else 8192
        source.put(0, bytes(size), Plane, shape=shape)
        source.put(1, bytes(24), Plane, shape=(2, 3))
        with there.receive(timeout=PATIENCE) as m:
            assert m.array.shape == (2, 3)
        until(lambda: target.statistics().refused == 1, "the refusal")


FOREIGN = json.loads(description(schema_of([Imu]), ""))
DESCRIPTIONS = {
    "big-endian with words of 8 bytes, this one little-endian": {**FOREIGN, "byteorder": "big"},
    "little-endian with words of 4 bytes, this one little-endian with 8": {**FOREIGN, "word": 4},
    "version 7": {**FOREIGN, "psyne": 7},
    "KeyError": {},
    "TypeError": [],
    "does not know, or its file is damaged": {**FOREIGN, "schema": "{}"},
    "more than 1048576": {**FOREIGN, "besides": "x" * (1 << 20)},
    "this bridge takes 67108864": {**FOREIGN, "schema": schema_of([Array("u1", (1 << 40,))])},
}


@pytest.mark.parametrize(("reason", "said"), DESCRIPTIONS.items(), ids=DESCRIPTIONS.keys())
def test_a_source_that_cannot_be_understood_is_refused_and_the_next_one_taken(
    reason: str, said: Any, endpoint: str, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        psyne.receiver("ipc://there", Imu) as there,
        bridge(f"zenoh://{KEY}", "ipc://there", listen=[endpoint]) as target,
        Source(endpoint, json.dumps(said).encode(), number=1) as bad,
    ):
        bad.put(0, imu(6))
        until(lambda: target.statistics().refused == 1, "the refusal of its message")
        assert reason in caplog.text
        with Source(endpoint, description(schema_of([Imu]), ""), number=2) as good:
            good.put(0, imu(5))
            assert stamps(there, 1) == [5]


def test_a_source_of_other_types_than_the_channel_is_refused_with_the_difference(endpoint: str) -> None:
    class Other(Struct):
        stamp = u64()
        accel = f32(4)

    with (
        psyne.sender("ipc://here", Imu, stages=["net"]) as out,
        psyne.sender("ipc://there", Other),
        Program("ipc://here", f"zenoh://{KEY}", "--stage", "net", "--listen", endpoint),
        Program(f"zenoh://{KEY}", "ipc://there", "--connect", endpoint) as target,
    ):
        out.send(Imu(stamp=1))
        assert target.process.stderr is not None
        said = target.process.stderr.readline()
        assert "is refused" in said
        assert "accel" in said
        assert target.end(signal.SIGTERM)[0] == 0


def test_a_source_of_fewer_types_than_the_channel_is_refused(endpoint: str) -> None:
    with (
        bridge(f"zenoh://{KEY}", "ipc://there", listen=[endpoint]) as target,
        Source(endpoint, description(schema_of([Imu, Plane]), ""), number=1) as one,
        Source(endpoint, description(schema_of([Imu]), ""), number=2) as two,
    ):
        one.put(0, imu(0))
        until(lambda: target.statistics().sources == 1, "the one")
        two.put(0, imu(0))
        until(lambda: target.statistics().refused == 1, "the refusal of the other")


def test_a_wildcard_carries_all_sources_of_the_same_types_and_ends_with_the_last(endpoint: str) -> None:
    other = schema_of([Plane])
    with (
        psyne.receiver("ipc://there", Imu) as there,
        bridge("zenoh://*/camera", "ipc://there", listen=[endpoint]) as target,
        Source(endpoint, description(schema_of([Imu]), ""), "robot1/camera", 1) as one,
        Source(endpoint, description(schema_of([Imu]), ""), "robot2/camera", 2) as two,
    ):
        one.put(0, imu(1))
        assert stamps(there, 1) == [1]
        with Source(endpoint, description(other, ""), "robot3/camera", 3) as three:
            three.put(0, bytes(24), Plane, shape=(2, 3))
            until(lambda: target.statistics().refused == 1, "the refusal")
        until(lambda: 2 in target._carrier._live, "the token of the other")  # type: ignore[attr-defined]
        one.end(1)
        until(lambda: target._carrier._sources[1].ended, "the end of the one")  # type: ignore[attr-defined]
        one.put(1, imu(9))
        until(lambda: target.statistics().refused == 2, "the refusal of what comes behind an end")
        two.put(0, imu(2))
        two.put(1, imu(3))
        assert stamps(there, 2) == [2, 3]
        two.end(2)
        with pytest.raises(psyne.EndOfChannel):
            there.receive(timeout=PATIENCE)
        assert target.join(PATIENCE)


def test_without_the_extra_the_command_says_what_to_install() -> None:
    code = "import sys; sys.modules['zenoh'] = None; from psyne.cli import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, "bridge", "ipc://camera", "zenoh://camera"],
        capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == "psyne bridge: a bridge to zenoh:// needs eclipse-zenoh: pip install 'psyne[zenoh]'\n"


@pytest.mark.parametrize(
    ("source", "target", "options"),
    [
        ("ipc://a", "ipc://b", {}),
        ("zenoh://a", "zenoh://b", {}),
        ("ipc://a", "zenoh:///a", {}),
        ("ipc://a", "zenoh://*/a", {}),
        ("ipc://a", "zenoh://", {}),
        ("tcp://a", "zenoh://a", {}),
        ("zenoh://a", "ipc://", {}),
        ("zenoh://a", "ipc://b", {"stage": "net"}),
        ("zenoh://a", "ipc://b", {"full": "grow"}),
        ("zenoh://a", "ipc://b", {"max_bytes": 0}),
        ("ipc://a", "zenoh://b", {"max_bytes": 1000}),
        ("ipc://a", "zenoh://b", {"full": "drop"}),
        ("ipc://a", "zenoh://b", {"new_stage": True}),
    ],
)
def test_what_can_never_work_is_said_at_once(source: str, target: str, options: Any, endpoint: str) -> None:
    with pytest.raises(psyne.errors.InvalidArgument):
        bridge(source, target, listen=[endpoint], **options)


def test_an_endpoint_that_cannot_be_had_is_said(endpoint: str) -> None:
    with pytest.raises(psyne.errors.SystemFailure, match="no session of Zenoh with nonsense"):
        bridge("ipc://a", "zenoh://a", listen=["nonsense"])
    _, _, port = endpoint.rpartition(":")
    with socket.create_server(("127.0.0.1", int(port))), pytest.raises(psyne.errors.SystemFailure):
        bridge("ipc://a", "zenoh://a", listen=[endpoint])


@pytest.mark.parametrize(
    ("source", "target"), [("ipc://a", "ipc://b"), ("zenoh://a", "zenoh://b"), ("tcp://a", "ipc://a")]
)
def test_two_ends_of_one_kind_are_said_to_be(source: str, target: str) -> None:
    with pytest.raises(psyne.errors.InvalidArgument, match="one end zenoh://… and one ipc://…; got"):
        bridge(source, target)
