"""Taps beside other processes: what they copy is whole, what they missed is counted, and nobody waits for them."""

from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest

import psyne
from psyne import Array, Stage

from .helpers.layouts import Number, Record
from .helpers.process import Child

FILL = """
for n in range(count):
    with tx.loan() as m:
        m.array[:] = n + sender * 2**32
"""


@pytest.mark.parametrize("latest", [False, True], ids=["all", "latest"])
@pytest.mark.parametrize(("words", "capacity", "senders", "count"), [
    (8, 8, 1, 60_000), (8, 64, 3, 20_000), (512, 2, 2, 20_000), (1 << 13, 4, 1, 10_000), (1 << 17, 4, 1, 1_000),
    (1 << 17, 8, 2, 500), (8, 1, 1, 30_000),
])  # fmt: skip
def test_what_a_tap_copies_is_whole_under_senders_that_lap_it(
    words: int, capacity: int, senders: int, count: int, latest: bool
) -> None:
    with ExitStack() as stack:
        children = [stack.enter_context(Child()) for _ in range(senders)]
        for child in children:
            child.run(
                "tx = psyne.sender('ipc://a', psyne.Array('u8', words), capacity=capacity, stages=[])",
                words=words, capacity=capacity,
            )  # fmt: skip
        tap = stack.enter_context(psyne.tap("ipc://a", Array("u8", words), latest=latest))
        for sender, child in enumerate(children):
            child.begin(FILL, sender=sender, count=count)
        accounted = dict.fromkeys(range(senders), 0)
        while sum(accounted.values()) < count * senders:
            message = tap.receive()
            array = message.array
            sender, number = divmod(int(array[0]), 2**32)
            assert (array == array[0]).all(), "torn"
            assert number == accounted[sender] + message.info.missed
            accounted[sender] = number + 1
        assert accounted == dict.fromkeys(range(senders), count)
        for child in children:
            child.result()
        assert tap.try_receive() is None


@pytest.mark.parametrize("capacity", [8, 64])
def test_what_was_seen_and_missed_is_what_was_sent_whatever_senders_take_back(capacity: int) -> None:
    count = 20_000
    with Child() as a, Child() as b, Child() as first, Child() as second:
        for child in (a, b):
            child.run(
                "import traffic; tx = psyne.sender('ipc://lines', Line, capacity=capacity, stages=[])",
                capacity=capacity,
            )
        for seed, watcher in enumerate((first, second)):
            watcher.run("import traffic; t = psyne.tap('ipc://lines', Line)")
            watcher.begin("traffic.watch_lines(t, seed)", seed=seed)
        for number, child in enumerate((a, b), start=1):
            child.begin("traffic.send_lines(tx, number, count); tx.close()", number=number, count=count)
        a.result()
        b.result()
        for watcher in (first, second):
            assert watcher.result() == ({1: count, 2: count}, 0, 0)


def test_a_tap_that_sleeps_is_stopped_or_killed_holds_nobody_up() -> None:
    with (
        psyne.sender("ipc://n", Number, capacity=2) as tx, psyne.receiver("ipc://n", Number) as rx,
        Child() as sleeper, Child() as stopped, Child() as killed,
    ):  # fmt: skip
        for child in (sleeper, stopped, killed):
            child.run("t = psyne.tap('ipc://n', Number, wait='block')")
        stopped.begin_waiting("[m.n for m in t]")
        stopped.stop()
        killed.begin_waiting("[m.n for m in t]")
        killed.kill()
        for n in range(20_000):
            tx.send(Number(n=n), timeout=0)
            with rx.receive(timeout=0) as m:
                assert m.n == n
        last = sleeper.run("m = t.receive(); m.n - m.info.missed")
        assert last == 0
        stopped.go_on()
        tx.close()
        assert stopped.result()[-1] == 19_999


def test_behind_a_stage_that_writes_a_tap_sees_only_what_it_has_finished() -> None:
    stages: list[Stage | str] = [Stage("rectify", mutate=True), "draw"]
    with (
        psyne.sender("ipc://r", Record, capacity=8, stages=stages) as tx,
        psyne.receiver("ipc://r", stage="draw") as draw,
        psyne.tap("ipc://r", Record) as tap,
    ):  # fmt: skip
        tx.send(Record(n=0))
        with pytest.raises(psyne.Empty):  # rectify has no member
            tap.receive(timeout=0.05)
        with Child() as rectify:
            rectify.begin(
                "with psyne.receiver('ipc://r', stage='rectify') as rx:\n"
                "    for m in rx: m.seen = m.n + 1; m.body[:] = m.n % 200; m.body[:] += 1"
            )
            for n in range(1, 2_000):
                tx.send(Record(n=n))
                draw.receive().release()
            draw.receive().release()
            tx.close()
            expected = 0
            for m in tap:
                assert m.n == expected + m.info.missed
                expected = m.n + 1
                assert m.seen == m.n + 1
                assert m.body.tolist() == [m.n % 200 + 1] * 64
            assert expected == 2_000
            rectify.result()


@pytest.mark.parametrize(("on_crash", "seen"), [("skip", [(1, 1)]), ("redeliver", [(0, 0), (1, 0)])])
def test_a_message_that_a_dead_stage_left_half_changed_is_missed_or_seen_when_it_was_changed_again(
    on_crash: Any, seen: list[tuple[int, int]]
) -> None:
    stages = [Stage("change", mutate=True, on_crash=on_crash)]
    with psyne.sender("ipc://r", Record, stages=stages) as tx, psyne.tap("ipc://r") as tap, Child() as change:
        tx.send(Record(n=0))
        tx.send(Record(n=1))
        change.run("rx = psyne.receiver('ipc://r'); m = rx.receive(); m.seen = 5")
        assert tap.try_receive() is None
        change.kill()
        with psyne.receiver("ipc://r") as rx:
            for _ in seen:
                with rx.receive() as m:
                    m.seen = 7
            got = [tap.receive(timeout=10) for _ in seen]
            assert [(m.n, m.info.missed) for m in got] == seen
            assert [m.seen for m in got] == [7] * len(seen)


def test_a_dead_sender_is_told_after_all_that_it_sent() -> None:
    with Child() as child:
        child.run("tx = psyne.sender('ipc://n', Number, stages=[]); tx.send(Number(n=0))")
        with psyne.tap("ipc://n", history=1) as tap:
            child.run("tx.send(Number(n=1)); a = tx.loan(); b = tx.loan(); b.n = 2; tx.send(b)")
            child.kill()
            assert [tap.receive(timeout=10).n for _ in range(3)] == [0, 1, 2]
            with pytest.raises(psyne.SenderLost):
                tap.receive(timeout=10)


def test_a_tap_before_its_channel_waits_and_sees_all_from_the_first_message() -> None:
    with Child() as watcher:
        watcher.begin_waiting("t = psyne.tap('ipc://n', Number); [t.receive().n for _ in range(64)]")
        with psyne.sender("ipc://n", Number, capacity=64, stages=[]) as tx:
            for n in range(64):
                tx.send(Number(n=n))
            assert watcher.result() == list(range(64))


@pytest.mark.leaves_nothing
def test_a_tap_that_follows_goes_on_with_the_next_sender_and_another_channel() -> None:
    with psyne.tap("ipc://n", follow=True) as tap:
        for start in (0, 10):
            with psyne.sender("ipc://n", Number, stages=[]) as tx:
                for n in range(start, start + 3):
                    tx.send(Number(n=n))
                assert [tap.receive(timeout=10).n for _ in range(3)] == [start, start + 1, start + 2]
        with pytest.raises(psyne.Empty):
            tap.receive(timeout=0.05)
        with psyne.sender("ipc://n", Array("f8", 2), stages=[]) as tx:  # replaces the channel
            tx.send(np.array([1.0, 2.0]))
            assert tap.receive(timeout=10).array.tolist() == [1.0, 2.0]


def test_a_stage_that_is_added_and_writes_is_waited_for_while_it_is_there() -> None:
    with psyne.sender("ipc://r", Record, capacity=8, stages=[]) as tx, psyne.tap("ipc://r", Record) as tap:
        tx.send(Record(n=0))
        assert tap.receive(timeout=10).seen == 0
        with psyne.receiver("ipc://r", stage=Stage("late", mutate=True), new_stage=True) as late:
            tx.send(Record(n=1))
            assert tap.try_receive() is None
            with late.receive(timeout=10) as m:
                m.seen = 5
            got = tap.receive(timeout=10)
            assert (got.n, got.seen, got.info.missed) == (1, 5, 0)
            tx.send(Record(n=2))
            assert tap.try_receive() is None
        got = tap.receive(timeout=10)  # the stage has gone with its last member
        assert (got.n, got.seen) == (2, 0)
