"""Ends over TCP work like their local twins: one list of behaviours for both, and what only a network has."""

import gc
import os
import pickle
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import pytest

import psyne
from psyne import Array, ArrowBatch, Stage, Struct, Text, f32, u64
from psyne.types.schema import schema_of

from .helpers.layouts import Line, Number, Sample, line_of, lines_of
from .helpers.process import Child, descriptors, run_program, until
from .helpers.raw_peer import RawPeer

HERE = "tcp://127.0.0.1:0"
Open = Callable[..., tuple[Any, Any]]


class Scan(Struct, layout="columns"):
    n = u64()
    points = f32(3)


Shaped = Array("f4", ndim=2, max_bytes=1 << 16)


def open_ipc(*types: Any, sends: Any = None, takes: Any = None) -> tuple[Any, Any]:
    return psyne.sender("ipc://c", *types, **(sends or {})), psyne.receiver("ipc://c", *types, **(takes or {}))


def open_bound_receiver(*types: Any, sends: Any = None, takes: Any = None) -> tuple[Any, Any]:
    rx = psyne.receiver(HERE, *types, bind=True, **(takes or {}))
    return psyne.sender(rx.address, *types, **(sends or {})), rx


def open_bound_sender(*types: Any, sends: Any = None, takes: Any = None) -> tuple[Any, Any]:
    tx = psyne.sender(HERE, *types, bind=True, **(sends or {}))
    return tx, psyne.receiver(tx.address, *types, **(takes or {}))


WAYS = {"ipc": open_ipc, "bound receiver": open_bound_receiver, "bound sender": open_bound_sender}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def ends(way: str) -> Iterator[Open]:
    """Opens a sender and a receiver of one channel; both are closed afterwards."""
    opened: list[Any] = []

    def open_them(*types: Any, **options: Any) -> tuple[Any, Any]:
        pair = WAYS[way](*types, **options)
        opened.extend(pair)
        return pair

    yield open_them
    for end in reversed(opened):  # the receiver first: nobody lingers
        end.close()


@contextmanager
def meanwhile(function: Callable[[], Any]) -> Iterator[Future[Any]]:
    """Calls it in another thread, and waits for it at the end; what it raises is raised here."""
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(function)
        yield running
        running.result(60)


def bound_receiver(*types: Any, **options: Any) -> Any:
    return psyne.receiver(HERE, *types, bind=True, **options)


def bound_sender(*types: Any, **options: Any) -> Any:
    return psyne.sender(HERE, *types, bind=True, **options)


def numbers(rx: Any, count: int) -> list[int]:
    found = []
    for _ in range(count):
        with rx.receive() as m:
            found.append(m.n)
    return found


# ---- messages ------------------------------------------------------------------------------------------------------


def test_messages_come_in_the_order_of_their_sender(ends: Open) -> None:
    tx, rx = ends(Number, sends={"capacity": 8})

    def send() -> None:
        for n in range(1000):
            tx.send(Number(n=n))

    with meanwhile(send):
        for n in range(1000):
            with rx.receive() as m:
                assert (m.n, m.info.sequence) == (n, n)


def test_every_kind_of_type_arrives_as_it_was(ends: Open) -> None:
    pa = pytest.importorskip("pyarrow")
    table = ArrowBatch(pa.schema([("x", pa.int64())]))
    tx, rx = ends(Sample, Line, Shaped, Text, table, sends={"capacity": 16})
    pixels = np.arange(12, dtype="f4").reshape(3, 4)
    rows = pa.record_batch({"x": pa.array([1, 2, 3], pa.int64())})
    tx.send(Sample(stamp=7, kind=2, values=[1, 2, 3]))
    tx.send(Line(line_of(3, 4)))
    with tx.loan(Shaped, shape=(3, 4)) as m:
        m.array[...] = pixels
    with tx.loan(Text, size=16) as m:
        m.text = "grüße"
    tx.send(table(batch=rows))
    got = [rx.receive() for _ in range(5)]
    assert (got[0].stamp, got[0].kind, got[0].values.tolist()) == (7, 2, [1, 2, 3])
    assert np.array_equal(np.asarray(got[1]), line_of(3, 4))
    assert np.array_equal(np.asarray(got[2]), pixels)
    assert got[3].text == "grüße"
    assert got[4].batch.equals(rows)
    del got


def test_columns_come_in_batches(ends: Open) -> None:
    tx, rx = ends(Scan, sends={"capacity": 64})
    with tx.loan_many(32) as batch:
        batch["n"] = np.arange(32)
        batch["points"] = np.arange(96).reshape(32, 3)
    seen: list[int] = []
    while len(seen) < 32:
        with rx.receive_many(32) as batch:
            assert np.array_equal(batch["points"][:, 0], 3 * batch["n"])
            seen += batch["n"].tolist()
    assert seen == list(range(32))


def test_batches_of_any_verb_arrive_whole(ends: Open) -> None:
    tx, rx = ends(Line, sends={"capacity": 256})
    lines = np.empty((5000, 8), "u8")
    have = 0
    with meanwhile(lambda: (tx.send_many(lines_of(1, 0, 5000)), tx.drain())):
        while have < 2500:
            with rx.receive_many(100) as batch:
                lines[have : have + len(batch)] = batch.array
                have += len(batch)
        while have < 5000:
            have += rx.receive_into(lines[have:])
    assert np.array_equal(lines, lines_of(1, 0, 5000))


@pytest.mark.parametrize("checksum", [False, True])
@pytest.mark.parametrize("size", [1, 24, 4096, 65_537, 1 << 20, 32 << 20])
def test_messages_of_all_sizes_are_whole(way: str, size: int, checksum: bool) -> None:
    options: dict[str, Any] = {} if way == "ipc" else {"checksum": checksum}
    big = Array("u1", size)
    tx, rx = WAYS[way](big, sends={"capacity": 4} | options, takes=options)
    rounds = 3 if size > 1 << 20 else 20
    pattern = np.random.default_rng(size).integers(0, 256, size, "u1")

    def send() -> None:
        for n in range(rounds):
            with tx.loan() as m:
                m.array[:] = pattern
                m.array[0] = n

    with rx, tx, meanwhile(send):
        for n in range(rounds):
            with rx.receive() as m:
                assert m.array[0] == n
                assert np.array_equal(m.array[1:], pattern[1:])


def test_a_message_is_kept_while_its_arrays_live(ends: Open) -> None:
    tx, rx = ends(Line, sends={"capacity": 32})
    tx.send(Line(line_of(1, 0)))
    kept = np.asarray(rx.receive())
    for n in range(1, 20):
        tx.send(Line(line_of(1, n)))
        with rx.receive():
            pass
    assert np.array_equal(kept, line_of(1, 0))
    del kept


def test_timestamps_are_those_of_the_commit_here_and_of_the_sender(way: str, ends: Open) -> None:
    tx, rx = ends(Number, sends={"timestamps": True})
    before = time.monotonic_ns()
    tx.send(Number(n=1))
    after = time.monotonic_ns()
    with rx.receive() as m:
        info = m.info
    if way == "ipc":
        assert before <= info.timestamp <= after
        return
    assert before <= info.remote_timestamp <= after
    tx.close()
    with pytest.raises(psyne.EndOfChannel):
        rx.receive()


# ---- the end -------------------------------------------------------------------------------------------------------


def test_close_delivers_what_was_sent_and_then_the_channel_ends(ends: Open) -> None:
    tx, rx = ends(Number)
    for n in range(100):
        tx.send(Number(n=n))
    assert numbers(rx, 1) == [0]  # it is a member
    with meanwhile(tx.close):
        assert [m.n for m in rx] == list(range(1, 100))
    with pytest.raises(psyne.EndOfChannel):
        rx.receive()


def test_a_sender_that_comes_and_goes_leaves_its_messages() -> None:
    with bound_receiver(Number) as rx:
        with psyne.sender(rx.address, Number) as tx:
            tx.send(Number(n=1))
        carrier = rx._carrier
        until(lambda: carrier.hosted._kept and not carrier.far.peers, "it to be gone before the receiver has joined")
        assert [m.n for m in rx] == [1]


def test_drain_waits_until_the_receiver_has_let_go(ends: Open) -> None:
    tx, rx = ends(Number)
    tx.send(Number(n=1))
    with rx.receive(), pytest.raises(psyne.Full):
        tx.drain(timeout=0.05)
    tx.drain(timeout=30)


def _sends(tx: Any, n: int) -> bool:
    try:
        return bool(tx.send(Number(n=n), timeout=0.1))
    except psyne.Full:
        return False


def test_a_receiver_that_does_not_read_holds_its_sender_up(ends: Open) -> None:
    tx, rx = ends(Number, sends={"capacity": 8})
    tx.send(Number(n=0))
    first = rx.receive()  # both know each other
    sent = 1
    while _sends(tx, sent):
        sent += 1
    assert tx.statistics().occupancy == tx.capacity
    assert sent <= tx.capacity + rx.statistics().capacity
    first.release()
    assert numbers(rx, sent - 1) == list(range(1, sent))
    tx.send(Number(n=sent))


def test_full_drop_drops_and_says_how_many(ends: Open) -> None:
    tx, rx = ends(Number, sends={"capacity": 8, "full": "drop"})
    tx.send(Number(n=0))
    first = rx.receive()
    outcome = [tx.send(Number(n=n)) for n in range(1, 10_000)]
    first.release()
    assert not all(outcome)
    until(lambda: tx.send(Number(n=10_000)), "room")
    with meanwhile(tx.close):
        messages = [(m.n, m.info.missed) for m in rx]
    reached = 0
    for n, _missed in messages:
        assert n >= reached + 1
        reached = n
    assert messages[-1][0] == 10_000
    assert tx.statistics().sent == 1 + len(messages)
    assert sum(missed for _, missed in messages) == tx.statistics().missed


def test_a_ring_that_grows_takes_a_burst(ends: Open) -> None:
    tx, rx = ends(Line, sends={"capacity": 8, "full": "grow"})
    tx.send_many(lines_of(1, 0, 3000))
    assert tx.statistics().grown > 0
    lines = np.empty((3000, 8), "u8")
    have = 0
    while have < 3000:
        have += rx.receive_into(lines[have:])
    assert np.array_equal(lines, lines_of(1, 0, 3000))


def test_a_receiver_that_closes_gives_back_what_it_has_not_read(way: str) -> None:
    tx, rx = WAYS[way](Number, sends={"capacity": 64})
    for n in range(10):
        tx.send(Number(n=n))
    assert numbers(rx, 3) == [0, 1, 2]
    rx.close()
    if way == "bound receiver":
        tx._close(False)  # nobody will come: it need not linger
        tx._carrier._linger = 0.0
        tx.close()
        return
    if way == "bound sender":
        until(lambda: not tx._carrier.far.peers, "the sender to hear of it")
    again = psyne.receiver(tx.address, Number)
    with again, tx:
        assert numbers(again, 7) == list(range(3, 10))


def test_select_and_fileno_see_messages(ends: Open) -> None:
    tx, rx = ends(Number)
    tx.send(Number(n=1))
    assert psyne.select(rx, timeout=30) == [rx]
    assert numbers(rx, 1) == [1]
    fd = rx.fileno()
    tx.send(Number(n=2))
    assert psyne.select(fd, timeout=30) == [fd]
    assert numbers(rx, 1) == [2]


def test_a_listener_gets_every_message(ends: Open) -> None:
    tx, rx = ends(Number)
    seen: list[int] = []
    with rx.listen(lambda m: seen.append(m.n)) as listener:
        for n in range(50):
            tx.send(Number(n=n))
        tx.drain(30)
        tx.close()
        listener.join()
    assert seen == list(range(50))


# ---- other processes -----------------------------------------------------------------------------------------------


def sender_in(child: Child, way: str, **options: Any) -> Any:
    """A receiver here whose sender is the child's `tx`."""
    if way == "bound sender":
        address = child.run(
            "tx = psyne.sender(HERE, Number, bind=True, **options)\ntx.address", HERE=HERE, options=options
        )
        return psyne.receiver(address, Number)
    rx = bound_receiver(Number) if way == "bound receiver" else psyne.receiver("ipc://c", Number)
    child.run("tx = psyne.sender(address, Number, **options)\nNone", address=rx.address, options=options)
    return rx


def test_a_sender_of_another_process_ends_with_its_interpreter(way: str) -> None:
    with Child() as child, sender_in(child, way) as rx:
        child.begin("for n in range(1000): tx.send(Number(n=n))")
        assert numbers(rx, 500) == list(range(500))
        child.result()
        with meanwhile(child.finish):
            assert [m.n for m in rx] == list(range(500, 1000))


@pytest.mark.parametrize("network", ["bound receiver", "bound sender"])
def test_a_sender_that_is_killed_is_lost_when_its_session_is_over(network: str) -> None:
    with Child() as child:
        if network == "bound receiver":
            rx = bound_receiver(Number, session_timeout=0.2)
            child.run("tx = psyne.sender(address, Number)\nNone", address=rx.address)
        else:
            address = child.run("tx = psyne.sender(HERE, Number, bind=True)\ntx.address", HERE=HERE)
            rx = psyne.receiver(address, Number, session_timeout=0.2)
        with rx:
            child.run("for n in range(5): tx.send(Number(n=n))")
            assert numbers(rx, 5) == list(range(5))
            child.kill()
            with pytest.raises(psyne.SenderLost):
                rx.receive(timeout=30)


def test_many_senders_are_lanes_of_one_bound_receiver() -> None:
    with bound_receiver(Line) as rx:
        children = [Child() for _ in range(3)]
        for child in children:
            child.run("import layouts\ntx = psyne.sender(address, Line, capacity=16)\nNone", address=rx.address)
        until(lambda: len(rx._carrier.far.connections) == 3, "all to be there: the channel ends with the last of them")
        for number, child in enumerate(children):
            child.begin("tx.send_many(layouts.lines_of(number, 0, 2000))\ntx.close()", number=number)
        next_of, sender_of = [0, 0, 0], {}
        for _ in range(6000):
            with rx.receive() as m:
                who, count = m.array[:2].tolist()
                assert np.array_equal(np.asarray(m), line_of(who, count))
                assert count == next_of[who] == m.info.sequence
                assert sender_of.setdefault(who, m.info.sender) == m.info.sender
                next_of[who] += 1
        assert len(set(sender_of.values())) == 3
        for child in children:
            child.result()
            child.finish()
            child.__exit__()


def test_members_of_other_processes_share_a_stage() -> None:
    with bound_sender(Number, pattern="mpmc", capacity=8) as tx:
        children = [Child() for _ in range(2)]
        for child in children:
            child.begin(
                "rx = psyne.receiver(address, Number)\nseen = []\nfor m in rx: seen.append(m.n)\nseen",
                address=tx.address,
            )
        until(lambda: len(tx._carrier.far.connections) == 2, "both members")
        for n in range(500):
            tx.send(Number(n=n))
        tx.drain(60)
        tx.close()
        seen = [child.result() for child in children]
        assert sorted(seen[0] + seen[1]) == list(range(500))
        for part, child in zip(seen, children, strict=True):
            assert part == sorted(part)
            child.__exit__()


def test_stages_pass_a_message_one_after_the_other() -> None:
    with bound_sender(Number, stages=["first", "second"], capacity=8) as tx:
        first = psyne.receiver(tx.address, Number, stage="first")
        second = psyne.receiver(tx.address, Number, stage="second")
        with first, second:
            tx.send(Number(n=1))
            with first.receive() as m:
                assert m.n == 1
                assert second.try_receive() is None
            assert numbers(second, 1) == [1]
            tx.drain(30)


def test_a_stage_can_be_added_over_the_network() -> None:
    with bound_sender(Number, capacity=8) as tx, psyne.receiver(tx.address, Number) as main:
        tx.send(Number(n=0))
        assert numbers(main, 1) == [0]
        with psyne.receiver(tx.address, Number, stage="log", new_stage=True) as log:
            until(lambda: len(tx._carrier.far.connections) == 2, "the second member")
            tx.send(Number(n=1))
            assert numbers(main, 1) == [1]
            assert numbers(log, 1) == [1]


# ---- taps ----------------------------------------------------------------------------------------------------------


def test_a_tap_sees_what_is_sent_and_holds_nobody_up() -> None:
    with bound_sender(Number, stages=[], capacity=8) as tx, psyne.tap(tx.address, Number) as tap:
        until(lambda: tx._carrier.far.connections, "the tap")
        for n in range(5):
            tx.send(Number(n=n))
        kept = [tap.receive(timeout=30) for _ in range(5)]
        assert [m.n for m in kept] == list(range(5))
        kept[0].n = 7  # copies of its own
        tx.close()
        assert list(tap) == []


def test_a_tap_counts_exactly_what_it_missed_far_and_near() -> None:
    with bound_sender(Number, stages=[], capacity=64) as tx, psyne.tap(tx.address, Number) as tap:
        until(lambda: tx._carrier.far.connections, "the tap")
        for n in range(200_000):
            tx.send(Number(n=n))
        tx.close()
        reached = -1
        for m in tap:
            assert m.n == reached + 1 + m.info.missed
            reached = m.n
        assert tap.statistics().missed == 200_000 - tap.statistics().received - (199_999 - reached)


def test_a_tap_of_the_latest_skips_to_it() -> None:
    with bound_sender(Number, stages=[], capacity=8) as tx, psyne.tap(tx.address, Number, latest=True) as tap:
        until(lambda: tx._carrier.far.connections, "the tap")
        for n in range(1000):
            tx.send(Number(n=n))
        reached = -1
        while reached < 999:
            m = tap.receive(timeout=30)
            assert m.n == reached + 1 + m.info.missed
            reached = m.n


def test_a_tap_begins_with_the_history_that_it_asks_for() -> None:
    with bound_sender(Number, stages=[], capacity=8) as tx:
        for n in range(8):
            tx.send(Number(n=n))
        with psyne.tap(tx.address, Number, history=3) as tap:
            assert [tap.receive(timeout=30).n for _ in range(3)] == [5, 6, 7]


# ---- opening -------------------------------------------------------------------------------------------------------


def test_a_receiver_without_types_takes_those_of_its_sender(ends: Open) -> None:
    tx, rx = WAYS["bound receiver"](Sample)
    rx.close()
    tx._carrier._linger = 0.0
    tx.close()
    with psyne.receiver(HERE, bind=True) as rx, psyne.sender(rx.address, Sample) as tx:
        tx.send(Sample(stamp=1, kind=2, values=[3, 4, 5]))
        with rx.receive() as m:
            assert (m.stamp, m.kind, m.values.tolist()) == (1, 2, [3, 4, 5])


@pytest.mark.parametrize("network", ["bound receiver", "bound sender"])
def test_a_subset_of_the_fields_will_do(network: str) -> None:
    class Stamp(Struct):
        stamp = u64()

    if network == "bound receiver":
        rx = bound_receiver(Stamp, subset=True)
        tx = psyne.sender(rx.address, Sample)
    else:
        tx = bound_sender(Sample)
        rx = psyne.receiver(tx.address, Stamp, subset=True)
    with rx, tx:
        tx.send(Sample(stamp=5, kind=1, values=[0, 0, 0]))
        with rx.receive() as m:
            assert m.stamp == 5


def test_a_receiver_that_follows_waits_for_the_next_sender(way: str) -> None:
    with psyne.receiver("ipc://c" if way == "ipc" else HERE, Number, follow=True, **bind(way != "ipc")) as rx:
        if way == "bound sender":
            return
        for n in range(3):
            with psyne.sender(rx.address, Number) as tx:
                tx.send(Number(n=n))
                assert numbers(rx, 1) == [n]


def bind(yes: bool) -> dict[str, Any]:
    return {"bind": True} if yes else {}


def test_a_receiver_says_how_much_memory_a_sender_has_here() -> None:
    with bound_receiver(Number, capacity=16) as rx, psyne.sender(rx.address, Number) as tx:
        tx.send(Number(n=1))
        with rx.receive():
            assert rx.statistics().capacity == 16
    with pytest.raises(psyne.InvalidArgument, match="capacity=4 of a receiver is for tcp"):
        psyne.receiver("ipc://c", Number, capacity=4)


def test_a_type_that_differs_is_refused_with_its_fields_and_no_other_notices() -> None:
    class Other(Struct):
        n = f32()

    with bound_receiver(Number) as rx, psyne.sender(rx.address, Number) as good:
        good.send(Number(n=1))
        bad = psyne.sender(rx.address, Other)
        with pytest.raises(psyne.LayoutMismatch, match="n"):
            until(lambda: bad.send(Other(n=1)) and False)
        bad.close()
        good.send(Number(n=2))
        assert numbers(rx, 2) == [1, 2]


def test_a_first_sender_of_other_types_is_refused_and_the_next_one_is_the_first() -> None:
    class Other(Struct):
        n = f32()

    with bound_receiver(Number) as rx:
        with psyne.sender(rx.address, Other, linger=0) as bad, pytest.raises(psyne.LayoutMismatch, match="n"):
            until(lambda: bad.send(Other(n=1)) and False)
        with psyne.sender(rx.address, Number) as tx:
            tx.send(Number(n=2))
            assert numbers(rx, 1) == [2]


def test_a_sender_that_connects_to_a_sender_hears_what_is_there() -> None:
    with bound_sender(Number) as tx, psyne.sender(tx.address, Number, linger=0) as other:
        with pytest.raises(psyne.InvalidArgument, match=f"{tx.address} is bound by its sender"):
            until(lambda: other.send(Number(n=1)) and False)
        assert not tx._carrier.far.peers


def test_a_stage_that_is_taken_is_busy() -> None:
    with bound_sender(Number) as tx, psyne.receiver(tx.address, Number) as first:
        tx.send(Number(n=1))
        assert numbers(first, 1) == [1]
        with psyne.receiver(tx.address, Number) as second, pytest.raises(psyne.ChannelBusy):
            second.receive(timeout=30)
        tx.send(Number(n=2))
        assert numbers(first, 1) == [2]


def test_a_place_whose_peer_vanished_without_a_word_comes_free() -> None:
    """A host that lost its power says nothing: who comes for its place keeps trying until it is given up."""
    with bound_sender(Number, heartbeat=0.5, session_timeout=0.1) as tx:
        far = tx._carrier.far
        with RawPeer(tx.address) as vanished:
            vanished.greet("", "receiver")
            until(lambda: far.connections, "it to be there")
            with psyne.receiver(tx.address, Number) as rx:
                until(lambda: far.refused > 0, "it to hear that the place is taken")
                tx.send(Number(n=1))
                assert numbers(rx, 1) == [1]


def test_a_bound_end_has_one_channel_and_says_its_name(caplog: pytest.LogCaptureFixture) -> None:
    with (
        psyne.receiver(f"{HERE}/camera", Number, bind=True) as rx,
        psyne.sender(rx.address.replace("camera", "lidar"), Number, linger=0) as other,
        psyne.sender(rx.address, Number) as tx,
    ):
        other.send(Number(n=1))
        until(lambda: "no channel 'lidar'" in caplog.text and "it has 'camera'" in caplog.text, "it to be told")
        tx.send(Number(n=2))
        assert numbers(rx, 1) == [2]


def test_a_wrong_token_is_an_error_of_who_connects() -> None:
    with bound_receiver(Number, token="s" * 32) as rx:
        stranger = psyne.sender(rx.address, Number, token="t" * 32, linger=0)
        with stranger, pytest.raises(psyne.AuthenticationFailed):
            until(lambda: stranger.send(Number(n=1), timeout=1) and False)
        with psyne.sender(rx.address, Number, token="s" * 32) as tx:
            tx.send(Number(n=2))
            assert numbers(rx, 1) == [2]


@pytest.mark.parametrize(
    ("open_it", "why"),
    [
        (lambda: psyne.sender("tcp://127.0.0.1:9", Number, stages=["a"]), "bound side"),
        (lambda: psyne.sender("tcp://127.0.0.1:9", Number, pattern="mpmc"), "bound side"),
        (lambda: bound_sender(Number, stages=[Stage("a", mutate=True)]), "memory in common"),
        (
            lambda: psyne.receiver("tcp://127.0.0.1:9", stage=Stage("a", mutate=True), new_stage=True),
            "memory in common",
        ),
        (lambda: bound_receiver(Number, stage="a", new_stage=True), "leave it out"),
        (lambda: psyne.tap(HERE, Number, bind=True), "leave bind=True out"),
        (lambda: psyne.sender("tcp://127.0.0.1:9"), "types"),
        (lambda: psyne.sender(HERE, Number), "port 0"),
        (lambda: psyne.sender("tcp://127.0.0.1", Number), "bad host or port"),
        (lambda: psyne.sender("tcp://::1:80", Number), "brackets"),
        (lambda: psyne.receiver("tcp://127.0.0.1:99999", Number), "65535"),
        (lambda: psyne.receiver("tcp://127.0.0.1:9", Number, capacity=0), "capacity"),
        (lambda: bound_receiver(Number, linger=-1), "linger"),
        (lambda: bound_receiver(Number, session_timeout="x"), "session_timeout"),
        (lambda: bound_receiver(Number, max_frame=1), "max_frame"),
        (lambda: bound_receiver(Number, checksum="yes"), "checksum"),
        (lambda: bound_receiver(Number, token="short"), "token"),
        (lambda: psyne.receiver(HERE, Number, bind="yes"), "bind"),
        (lambda: psyne.sender("ipc://c", Number, bind=True), "for channels over a network"),
    ],
)
def test_what_can_never_work_is_refused_at_once(open_it: Callable[[], Any], why: str) -> None:
    with pytest.raises(psyne.InvalidArgument, match=why):
        open_it()


def test_an_address_of_all_the_world_needs_a_secret() -> None:
    with pytest.raises(psyne.InsecureBind):
        psyne.receiver("tcp://0.0.0.0:0", Number, bind=True)


def test_a_port_that_is_taken_is_an_error_of_the_system() -> None:
    with bound_receiver(Number) as rx, pytest.raises(psyne.SystemFailure):
        psyne.receiver(rx.address, Number, bind=True)


def fill(tx: Any, timeout: float) -> None:
    while True:
        tx.send(Number(n=1), timeout=timeout)


def test_all_that_is_said_names_the_address_that_was_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{nobody.getsockname()[1]}"
        tx = psyne.sender(address, Number, capacity=8, full="grow", budget=1 << 17, linger=0)
        said = [repr(tx), tx.address]
        with pytest.raises(psyne.Full) as full:
            fill(tx, 1.2)
        with pytest.raises(psyne.Full) as still_there:
            tx.drain(timeout=0.01)
        said += [str(full.value), str(still_there.value)]
        tx.close()
        with pytest.raises(psyne.ChannelClosed) as closed:
            tx.send(Number(n=1))
        with pytest.raises(psyne.NoSpace) as no_space:
            psyne.sender(address, Array("u1", 1 << 30), capacity=1 << 20)
        said += [str(closed.value), str(no_space.value)]
        said += [record.getMessage() for record in caplog.records]
        assert any("has waited 1 s for room" in text for text in said)
        assert any("cannot grow" in text for text in said)
        assert not [text for text in said if "memory://" in text or address not in text]


def test_a_bound_end_is_called_by_the_port_that_was_free(caplog: pytest.LogCaptureFixture) -> None:
    with bound_sender(Number, capacity=8, linger=0) as tx:
        assert int(tx.address.rpartition(":")[2]) > 0
        with pytest.raises(psyne.Full, match=tx.address):
            fill(tx, 1.2)
        assert [r.getMessage() for r in caplog.records if f"sender of {tx.address} has waited" in r.getMessage()]


def test_calls_have_no_answer_over_a_network() -> None:
    with bound_sender(Number) as tx, pytest.raises(psyne.InvalidArgument, match="no answer"):
        tx.call(Number(n=1))


def test_a_closed_end_says_so(ends: Open) -> None:
    tx, rx = ends(Number)
    tx.close(), rx.close()
    with pytest.raises(psyne.ChannelClosed):
        tx.send(Number(n=1))
    with pytest.raises(psyne.ChannelClosed):
        rx.receive()


@pytest.mark.parametrize("kind", ["sender", "receiver", "tap"])
def test_an_end_that_is_pickled_says_what_to_do_instead(kind: str) -> None:
    end = {"sender": bound_sender, "receiver": bound_receiver}.get(
        kind, lambda cls: psyne.tap("tcp://127.0.0.1:9", cls)
    )(Number)
    with end, pytest.raises(TypeError, match="open"):
        pickle.dumps(end)


def test_an_end_that_a_fork_copied_says_so_and_the_parent_goes_on() -> None:
    with Child() as child:
        outcome = child.run(
            "rx = psyne.receiver(HERE, Number, bind=True)\n"
            "tx = psyne.sender(rx.address, Number)\n"
            "forked(lambda: rx.receive(timeout=5))",
            HERE=HERE,
        )
        assert isinstance(outcome, psyne.ForkedError)
        assert isinstance(child.run("forked(lambda: tx.send(Number(n=1)))"), psyne.ForkedError)
        assert child.run("tx.send(Number(n=3))\nwith rx.receive() as m: n = m.n\nn") == 3


# ---- what is left behind -------------------------------------------------------------------------------------------


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="no /proc")
def test_no_descriptor_is_left_of_many_ends() -> None:
    def once() -> None:
        with bound_receiver(Number) as rx, psyne.sender(rx.address, Number) as tx:
            tx.send(Number(n=1))
            assert numbers(rx, 1) == [1]

    once()
    until(lambda: not _parting(), "the first to be gone")
    gc.collect()
    before = descriptors()
    for _ in range(100):
        once()
    gc.collect()
    # The driver may still have the last ones.
    until(lambda: len(descriptors() - before) <= 8, "all descriptors to be closed")


def _parting() -> Any:
    from psyne.network import ends

    return ends._parting


@pytest.mark.parametrize("open_it", [psyne.sender, psyne.receiver])
def test_an_end_that_could_not_be_opened_leaves_nothing(
    open_it: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(psyne.SystemFailure):
            open_it(f"tcp://127.0.0.1:{taken.getsockname()[1]}", Number, bind=True)
        gc.collect()
        until(lambda: not _parting(), "it to be gone")
    assert not caplog.records


def test_a_receiver_that_leaves_waits_for_no_sender_for_ever() -> None:
    with bound_receiver(Number) as rx, RawPeer(rx.address) as peer:
        peer.greet("", schema=schema_of([Number]))
        carrier = rx._carrier
        until(lambda: carrier.far.connections, "it to be there")
        rx.close()
        assert carrier.gone.wait(60)
        assert not carrier.far.peers


def test_a_bound_end_that_closes_while_some_are_in_the_handshake_leaves_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with ExitStack() as stack:
        tx = bound_sender(Number, stages=["a", "b", "c"])
        for stage in "abc":
            peer = stack.enter_context(RawPeer(tx.address))
            peer.greet("", "receiver", stage=stage, speaks=False)
        carrier = tx._carrier
        assert carrier.far.strangers == 3
        tx.close()
        assert carrier.gone.wait(60)
        assert not carrier.far.strangers
        assert not carrier.far.peers
        assert not caplog.records


def test_an_end_that_nobody_keeps_is_closed() -> None:
    with bound_receiver(Number) as rx:
        tx = psyne.sender(rx.address, Number)
        tx.send(Number(n=1))
        assert numbers(rx, 1) == [1]
        gc.disable()  # no cycle holds it
        try:
            del tx
        finally:
            gc.enable()
        with pytest.raises(psyne.EndOfChannel):
            rx.receive(timeout=30)


def test_a_program_that_ends_with_open_ends_delivers_what_it_sent() -> None:
    with bound_receiver(Number) as rx:
        program = f"import psyne, layouts\ntx = psyne.sender({rx.address!r}, layouts.Number)\n"
        with meanwhile(lambda: run_program(program + "for n in range(100): tx.send(layouts.Number(n=n))")):
            assert [m.n for m in rx] == list(range(100))


def test_a_process_of_multiprocessing_delivers_what_it_sent() -> None:
    """It ends without the handlers of `atexit`, and here its end is gone before it has connected."""
    run_program(
        "import multiprocessing, psyne, layouts\n"
        "def work(address):\n"
        "    psyne.sender(address, layouts.Number).send(layouts.Number(n=7))\n"
        f"with psyne.receiver({HERE!r}, layouts.Number, bind=True) as rx:\n"
        "    process = multiprocessing.get_context('fork').Process(target=work, args=(rx.address,))\n"
        "    process.start()\n"
        "    assert rx.receive(timeout=30).n == 7\n"
        "    process.join()\n"
        "    assert process.exitcode == 0\n"
    )


def test_close_waits_no_longer_than_it_may_linger(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        tx = psyne.sender(f"tcp://127.0.0.1:{nobody.getsockname()[1]}", Number, linger=0.1)
        tx.send(Number(n=1))
        tx.close()
    assert tx.closed
    assert f"{tx.address} cannot be reached: Connection refused; trying again" in caplog.text
    assert f"{tx.address} closed, and not all that it sent has arrived after 0.1 s" in caplog.text
