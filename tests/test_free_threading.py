"""State under threads that really run at once: without a GIL, and with one that changes hands all the time."""

import gc
import itertools
import queue
import random
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import psyne

from .helpers.layouts import Line, Number, Sample, broken_lines, line_of, lines_of
from .helpers.process import sleeping, until

NO_GIL = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))


@pytest.fixture(autouse=True)
def threads_change_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def at_once(*calls: Callable[[], Any]) -> list[Any]:
    """What came of each call, a value or an exception; all in threads that begin together."""
    outcomes: list[Any] = [None] * len(calls)
    begin = threading.Barrier(len(calls))

    def run(i: int, call: Callable[[], Any]) -> None:
        begin.wait()
        try:
            outcomes[i] = call()
        except BaseException as error:
            outcomes[i] = error

    threads = [threading.Thread(target=run, args=each) for each in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def errors_in(outcomes: list[Any], *expected: type[BaseException]) -> list[Any]:
    return [o for o in outcomes if isinstance(o, BaseException) and not isinstance(o, expected)]


@pytest.mark.skipif(not NO_GIL, reason="an interpreter with a GIL")
def test_importing_psyne_leaves_the_gil_off():
    program = "import psyne, sys; print(sys._is_gil_enabled())"
    run = subprocess.run(
        [sys.executable, "-E", "-W", "error", "-c", program], capture_output=True, text=True, check=True
    )
    assert run.stdout == "False\n"


@pytest.mark.leaves_nothing
def test_threads_end_check_and_keep_messages_while_another_receives():
    """The end of a message, its arrays and its last reference, on any thread: nothing is lost, doubled or changed."""
    count, workers = 6400, 3  # whole rings
    given: queue.SimpleQueue[Any] = queue.SimpleQueue()
    room = threading.Semaphore(40)  # below the capacity: the receiver never holds all slots

    def send(tx: psyne.Sender[Any]) -> None:
        for first in range(0, count, 20):
            tx.send_many(lines_of(1, first, 20))
        tx.drain()

    def receive(rx: psyne.Receiver[Any]) -> None:
        for _ in range(count):
            room.acquire()
            given.put(rx.receive())
        for _ in range(workers):
            given.put(None)

    def work(seed: int) -> list[int]:
        choice = random.Random(seed)
        seen: list[int] = []
        kept: list[np.ndarray] = []
        while True:
            if given.empty():
                kept.clear()  # the sender may wait for one of them
            if (m := given.get()) is None:
                return seen
            seen.append(int(m.array[1]))
            assert (m.array == line_of(1, seen[-1])).all()
            match choice.randrange(4):
                case 0:
                    m.release()
                case 1:
                    with m:
                        assert (m.copy().array == line_of(1, seen[-1])).all()
                case 2:
                    with m:
                        kept.append(m.array)
                case 3:
                    kept.append(m.array[:])  # and its message is dropped
            del m
            if len(kept) > 5:
                assert broken_lines(kept.pop(choice.randrange(len(kept))).reshape(1, 8)) == 0
            room.release()

    with psyne.sender("ipc://workers", Line, capacity=64) as tx, psyne.receiver("ipc://workers", Line) as rx:
        works = [lambda seed=seed: work(seed) for seed in range(workers)]
        outcomes = at_once(lambda: send(tx), lambda: receive(rx), *works)
        assert errors_in(outcomes) == []
        assert sorted(itertools.chain(*outcomes[2:])) == list(range(count))
        gc.collect()
        assert rx.statistics().held == 0
        tx.loan_many(64, timeout=0).discard()  # every slot came back


def test_a_message_that_is_read_and_ended_at_once_is_whole_or_released():
    def read(m: Any, n: int) -> int:
        for i in range(20):
            match i % 5:
                case 0:
                    assert m.stamp == n
                case 1:
                    c = m.copy()
                    assert (c.stamp, c.kind, c.values.tolist()) == (n, n % 256, [n, 1.0, 2.0])
                case 2:
                    view = m.values
                    assert view.tolist() == [n, 1.0, 2.0]
                    del view
                case 3:
                    assert memoryview(m).nbytes == Sample.__layout__.bytes
                case 4:
                    assert m.info.sequence in (0, n)
        return 20

    def end(m: Any) -> None:
        while True:
            try:
                return m.release()
            except BufferError:
                pass

    with psyne.sender("ipc://whole", Sample, capacity=2) as tx, psyne.receiver("ipc://whole", Sample) as rx:
        for n in range(150):
            tx.send(Sample(stamp=n, kind=n % 256, values=(n, 1, 2)))
            m: Any = rx.receive() if n % 2 else Sample(stamp=n, kind=n % 256, values=(n, 1, 2))
            if not n % 2:
                rx.receive().release()
            outcomes = at_once(lambda m=m, n=n: read(m, n), lambda m=m, n=n: read(m, n), lambda m=m: end(m))
            assert errors_in(outcomes, psyne.MessageReleased) == []
            assert outcomes[2] is None
            del m, outcomes
        assert rx.statistics().held == 0


def test_a_message_that_is_sent_on_and_ended_at_once_goes_whole_or_not_at_all():
    """Its slot is written anew as soon as it is ended: half of the next message must not go with it."""
    with (
        psyne.sender("ipc://from", Line, capacity=1) as source,
        psyne.receiver("ipc://from", Line) as rx,
        psyne.sender("ipc://to", Line, capacity=8) as tx,
        psyne.receiver("ipc://to", Line) as sink,
    ):
        source.send(line_of(1, 0))
        for n in range(1, 400):
            m = rx.receive()
            outcomes = at_once(
                lambda m=m: tx.send(m), lambda m=m: m.release(), lambda n=n: source.send(line_of(1, n), timeout=60)
            )
            assert errors_in(outcomes, psyne.MessageReleased) == []
            assert outcomes[1] is None
            if outcomes[0] is True:
                with sink.receive() as got:
                    assert (got.array == line_of(1, n - 1)).all()
        assert sink.try_receive() is None


def test_threads_that_share_an_end_are_told_so_and_lose_nothing():
    """ConcurrentUse is an answer, not a crash: whoever tries again sends and receives everything once."""
    count, each = 3, 800

    def send(tx: psyne.Sender[Any], number: int) -> None:
        for n in range(each):
            while True:
                try:
                    tx.send(line_of(number, n), timeout=0.001)
                    break
                except (psyne.ConcurrentUse, psyne.Full):
                    pass

    def receive(rx: psyne.Receiver[Any], left: "queue.SimpleQueue[None]") -> list[np.ndarray]:
        seen = []
        while True:
            try:
                left.get_nowait()
            except queue.Empty:
                return seen
            while True:
                try:
                    with rx.receive(timeout=0.001) as m:
                        seen.append(m.array.copy())
                    break
                except (psyne.ConcurrentUse, psyne.Empty):
                    pass

    left: queue.SimpleQueue[None] = queue.SimpleQueue()
    for _ in range(count * each):
        left.put(None)
    with psyne.sender("ipc://shared", Line, capacity=16) as tx, psyne.receiver("ipc://shared", Line) as rx:
        outcomes = at_once(
            *(lambda number=number: send(tx, number) for number in range(count)),
            *(lambda: receive(rx, left) for _ in range(count)),
        )
        assert errors_in(outcomes) == []
        assert tx.statistics().sent == rx.statistics().received == count * each
    lines = np.array(list(itertools.chain(*outcomes[count:])))
    assert broken_lines(lines) == 0
    assert sorted(map(tuple, lines[:, :2].tolist())) == [(s, n) for s in range(count) for n in range(each)]


@pytest.mark.leaves_nothing
def test_threads_close_count_and_use_an_end_at_once():
    expected = (psyne.ChannelClosed, psyne.ConcurrentUse, psyne.EndOfChannel)

    def use(end: Any, call: Callable[[], Any]) -> None:
        while not end.closed:
            call()

    def count(end: Any) -> None:
        while not end.closed:
            assert end.statistics().held in (0, 1)
            assert end.address in repr(end)

    for n in range(60):
        tx, rx = psyne.sender(f"ipc://at-once{n}", Number, capacity=4), psyne.receiver(f"ipc://at-once{n}", Number)

        def send(tx: Any = tx) -> None:
            with tx.loan(timeout=1) as m:
                m.n = 7

        def receive(rx: Any = rx) -> None:
            with rx.receive(timeout=1) as m:
                assert m.n == 7

        outcomes = at_once(
            lambda tx=tx, send=send: use(tx, send),
            lambda rx=rx, receive=receive: use(rx, receive),
            lambda tx=tx: count(tx),
            lambda rx=rx: count(rx),
            *(rx.close, rx.close, tx.close, tx.close)[:: 1 if n % 2 else -1],
        )
        assert errors_in(outcomes, *expected, psyne.Full) == []
        assert tx.closed
        assert rx.closed
        del outcomes, send, receive


def test_threads_that_ask_for_a_type_at_once_get_one_class():
    for n in range(1, 60):
        makers: list[Callable[[], Any]] = [
            lambda n=n: psyne.Array("f4", (n, 977)),
            lambda n=n: psyne.Matrix(n, 977, "f4"),
            lambda n=n: psyne.Bytes(max_bytes=1000 + n),
        ]
        for make in makers:
            assert len(set(map(id, at_once(make, make, make, make)))) == 1


def test_threads_that_use_an_anonymous_end_first_at_once_join_once():
    for n in range(40):
        tx, rx = psyne.channel(Number, capacity=8)

        def send(tx: psyne.Sender[Number] = tx, n: int = n) -> bool:
            return tx.send(Number(n=n))

        with tx, rx:
            outcomes = at_once(send, send, send)
            assert errors_in(outcomes, psyne.ConcurrentUse) == []
            assert outcomes.count(True) >= 1
            for _ in range(outcomes.count(True)):
                assert rx.receive(timeout=0).n == n
            assert rx.try_receive() is None


def test_a_thread_that_waits_for_a_channel_is_inside_its_receiver():
    pid = threading.main_thread().native_id
    assert pid is not None
    with psyne.receiver("ipc://later", Number) as rx:
        outcome: list[int] = []
        thread = threading.Thread(target=lambda: outcome.append(rx.receive().n))
        thread.start()
        until(lambda: thread.native_id and sleeping(pid, thread.native_id), "sleeping")
        with pytest.raises(psyne.ConcurrentUse):
            rx.receive(timeout=0)
        with psyne.sender("ipc://later", Number) as tx:
            tx.send(Number(n=5))
            thread.join()
    assert outcome == [5]


def test_a_thread_counts_while_senders_come_and_go():
    rounds = 150
    with (
        psyne.sender("ipc://coming", Number, capacity=4) as first,
        psyne.receiver("ipc://coming", Number, wait="block") as rx,
    ):

        def send() -> None:
            for n in range(rounds):
                with psyne.sender("ipc://coming", Number, capacity=4) as tx:
                    tx.send(Number(n=n))
            first.send(Number(n=rounds))

        def count() -> None:
            received = 0
            while received <= rounds:
                now = rx.statistics()
                assert now.received >= received
                assert now.capacity % 4 == 0
                assert now.held <= 1
                received = now.received

        seen = at_once(send, count, lambda: [rx.receive().n for _ in range(rounds + 1)])
        assert errors_in(seen) == []
        assert sorted(seen[2]) == list(range(rounds + 1))


@pytest.mark.parametrize("what", ["message", "array", "slice", "memoryview"])
def test_what_another_thread_drops_last_is_given_back_while_its_maker_waits(what: str):
    pid = threading.main_thread().native_id
    assert pid is not None
    with (
        psyne.sender("ipc://dropped", Number, capacity=1) as tx,
        psyne.sender("ipc://dropped", Number, capacity=1) as other,
        psyne.receiver("ipc://dropped", wait="block") as rx,
    ):
        handed: list[Any] = []

        def make(rx: Any = rx) -> None:
            with rx.receive() as m:
                view = m.array
            handed.append(view[...] if what == "slice" else memoryview(view) if what == "memoryview" else view)

        def hand_on(rx: Any = rx) -> None:
            handed.append(rx.receive()) if what == "message" else make()
            rx.receive().release()

        for n in range(10):
            tx.send(Number(n=n))
            thread = threading.Thread(target=hand_on)
            thread.start()
            until(lambda: handed, "the message")
            until(lambda thread=thread: sleeping(pid, thread.native_id), "sleeping")
            assert tx.try_loan() is None
            handed.clear()
            if what in ("message", "array"):
                tx.loan(timeout=0).discard()
            else:  # numpy's and Python's own objects wait for the thread that made them: a slice of its wait at most
                tx.loan(timeout=60).discard()
            other.send(Number(n=n))
            thread.join()
