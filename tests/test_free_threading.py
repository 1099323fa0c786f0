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

from .helpers.layouts import Line, Number, broken_lines, line_of, lines_of
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
            try:
                m = given.get_nowait()
            except queue.Empty:
                kept.clear()  # the sender may wait for one of them, and we for the sender
                m = given.get()
            if m is None:
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


def in_rounds(rounds: int, prepare: Callable[[int], None], *calls: Callable[[int], Any]) -> list[Any]:
    """Calls, at once in each round, after `prepare` in one thread. What came of each round of each, in one list."""
    number = itertools.count()
    begin = threading.Barrier(len(calls), lambda: prepare(next(number)))

    def run(call: Callable[[int], Any]) -> list[Any]:
        outcomes = []
        for n in range(rounds):
            begin.wait()
            try:
                outcomes.append(call(n))
            except Exception as error:
                outcomes.append(error)
        return outcomes

    lists = at_once(*(lambda call=call: run(call) for call in calls))
    assert errors_in(lists) == []
    return list(itertools.chain(*lists))


def a_moment() -> None:
    """Not always the same, and less than a large copy takes."""
    for _ in range(random.randrange(20000)):
        pass


Large = psyne.Array("u1", 8 << 20)  # copying takes longer than threads differ in their beginning


def send_filled(tx: psyne.Sender[Any], n: int) -> None:
    with tx.loan() as m:
        for part in (slice(4 << 20, None), slice(4 << 20)):  # its end first: who copies it meanwhile has both
            m.array[part] = n % 251


def filled(array: np.ndarray, n: int) -> bool:
    return bool((array == n % 251).all())


@pytest.mark.parametrize("where", ["in a slot", "in private memory"])
def test_a_message_that_is_read_and_ended_at_once_is_whole_or_released(where: str):
    """Its slot is written anew, and private memory is gone, as soon as it is ended."""
    given: list[Any] = [None]

    def read(n: int) -> None:
        m = given[0]
        assert filled(m.copy().array, n)
        assert filled(np.asarray(m), n)
        assert filled(m.private().array, n)
        assert m.info.sequence in (0, n)

    def end(n: int) -> None:
        a_moment()
        while True:
            try:
                return given[0].release()
            except BufferError:
                pass

    with psyne.sender("ipc://whole", Large, capacity=1) as tx, psyne.receiver("ipc://whole", Large) as rx:

        def prepare(n: int) -> None:
            given[0] = None
            if where == "in a slot":
                given[0] = rx.receive()
            else:
                given[0] = Large()
                given[0].array[:] = n % 251

        def send(n: int) -> None:
            if where == "in a slot":
                send_filled(tx, n + 1)

        send(-1)
        outcomes = in_rounds(15, prepare, read, read, end, send)
        assert errors_in(outcomes, psyne.MessageReleased) == []
        given.clear()
        assert rx.statistics().held == 0


class Wide(psyne.Struct):
    body = psyne.u8(8 << 20)


def test_private_memory_stays_while_a_thread_writes_into_it():
    given: list[Any] = [None]
    values = np.ones(8 << 20, "u2")  # of another dtype: numpy copies, and lets others run meanwhile

    def prepare(n: int) -> None:
        given[0] = Wide()

    def write(n: int) -> None:
        given[0].body = values

    def end(n: int) -> None:
        a_moment()
        given[0].release()

    assert errors_in(in_rounds(40, prepare, write, end), psyne.MessageReleased, BufferError) == []


def test_a_message_that_is_sent_on_and_ended_at_once_goes_whole_or_not_at_all():
    given: list[Any] = [None]
    with (
        psyne.sender("ipc://from", Large, capacity=1) as source,
        psyne.receiver("ipc://from", Large) as rx,
        psyne.sender("ipc://to", Large, capacity=2) as tx,
        psyne.receiver("ipc://to", Large) as sink,
    ):

        def prepare(n: int) -> None:
            given[0] = None
            given[0] = rx.receive()

        def send_on(n: int) -> bool:
            tx.send(given[0])
            with sink.receive() as got:
                return filled(got.array, n)

        def end(n: int) -> None:
            a_moment()
            given[0].release()

        def send(n: int) -> None:
            send_filled(source, n + 1)

        send(-1)
        outcomes = in_rounds(25, prepare, send_on, end, send)
        assert errors_in(outcomes, psyne.MessageReleased) == []
        assert False not in outcomes
        assert sink.try_receive() is None


def test_threads_that_share_an_end_are_told_so_and_lose_nothing():
    """ConcurrentUse is an answer, not a crash: whoever tries again sends and receives everything once."""
    count, each = 2, 4000

    def send(tx: psyne.Sender[Any], number: int) -> None:
        lines = lines_of(number, 0, each)
        for line in lines:
            while True:
                try:
                    if (loan := tx.try_loan()) is not None:
                        loan.array[:] = line
                        tx.send(loan)
                        break
                except psyne.ConcurrentUse:
                    pass

    def receive(rx: psyne.Receiver[Any], sending: list[int]) -> list[np.ndarray]:
        seen = []
        while True:
            over = not sending
            try:
                if (m := rx.try_receive()) is not None:
                    with m:
                        seen.append(m.array.copy())
                elif over:
                    return seen
            except psyne.ConcurrentUse:
                pass

    sending = list(range(count))

    def send_all(number: int) -> None:
        send(tx, number)
        sending.pop()

    with psyne.sender("ipc://shared", Line, capacity=16) as tx, psyne.receiver("ipc://shared", Line) as rx:
        outcomes = at_once(
            *(lambda number=number: send_all(number) for number in range(count)),
            *(lambda: receive(rx, sending) for _ in range(count)),
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
