"""Drivers: one contract, for a thread of the package's own and for the event loops."""

import asyncio
import contextlib
import gc
import socket
import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any

import pytest
import uvloop

import psyne
from psyne.network import driver as module
from psyne.network.driver import Driver, LoopDriver, ThreadDriver, thread_driver

from .helpers.process import PATIENCE, Child, until

# ---- the contract --------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def looping(loop: asyncio.AbstractEventLoop) -> Iterator[Driver]:
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield LoopDriver(loop)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture(params=["thread", "asyncio", "uvloop"])
def driver(request: pytest.FixtureRequest) -> Iterator[Driver]:
    if request.param == "thread":
        of_its_own = ThreadDriver()
        yield of_its_own
        of_its_own.stop()
        assert not of_its_own.running
        of_its_own.forked()  # closes its descriptors
    else:
        with looping(asyncio.new_event_loop() if request.param == "asyncio" else uvloop.new_event_loop()) as of_a_loop:
            yield of_a_loop


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


def inside(driver: Driver, function: Callable[[], Any]) -> Any:
    """What a function returns in a callback of the driver. All callbacks asked for before have then been called."""
    results: SimpleQueue[Any] = SimpleQueue()
    driver.soon(lambda: results.put(function()))
    return results.get(timeout=PATIENCE)


def test_callbacks_are_called_in_order_on_one_thread_that_is_not_the_callers(driver: Driver):
    calls: list[tuple[int, int]] = []
    for n in range(100):
        driver.soon(lambda n=n: calls.append((n, threading.get_ident())))
    other = inside(driver, threading.get_ident)
    assert calls == [(n, other) for n in range(100)]
    assert other != threading.get_ident()


def test_a_callback_may_ask_for_the_next_one(driver: Driver):
    calls: SimpleQueue[str] = SimpleQueue()
    driver.soon(lambda: (calls.put("first"), driver.soon(lambda: calls.put("second")), calls.put("first again")))
    assert [calls.get(timeout=PATIENCE) for _ in range(3)] == ["first", "first again", "second"]


def test_a_descriptor_is_called_for_as_long_as_it_can_be_read(driver: Driver, pair: Any):
    ours, theirs = pair
    got: SimpleQueue[bytes] = SimpleQueue()
    driver.watch(ours.fileno(), True, False, lambda: got.put(ours.recv(1)))
    theirs.send(b"abc")  # level-triggered: three calls for one packet
    assert [got.get(timeout=PATIENCE) for _ in range(3)] == [b"a", b"b", b"c"]
    assert got.empty()
    driver.unwatch(ours.fileno())


def test_a_descriptor_is_called_for_when_it_can_be_written(driver: Driver, pair: Any):
    ours, theirs = pair
    with contextlib.suppress(BlockingIOError):
        while ours.send(bytes(65536)):
            pass
    called: SimpleQueue[None] = SimpleQueue()
    driver.watch(ours.fileno(), False, True, lambda: (driver.unwatch(ours.fileno()), called.put(None)))
    inside(driver, bool)
    assert called.empty()
    theirs.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while theirs.recv(1 << 20):
            pass
    called.get(timeout=PATIENCE)


def test_watching_again_changes_what_is_waited_for(driver: Driver, pair: Any):
    ours, theirs = pair
    fd = ours.fileno()
    got: SimpleQueue[str] = SimpleQueue()
    driver.watch(fd, True, False, lambda: (ours.recv(9), got.put("before")))
    theirs.send(b"x")
    assert got.get(timeout=PATIENCE) == "before"
    inside(driver, lambda: driver.watch(fd, False, False, lambda: got.put("left alone")))
    theirs.send(b"x")
    for _ in range(3):
        inside(driver, bool)
    assert got.empty()
    driver.watch(fd, True, False, lambda: (ours.recv(9), got.put("after")))
    assert got.get(timeout=PATIENCE) == "after"
    driver.watch(fd, True, True, lambda: (driver.unwatch(fd), got.put("either")))
    assert got.get(timeout=PATIENCE) == "either"


def test_a_descriptor_that_is_not_watched_is_not_called_for(driver: Driver, pair: Any):
    ours, theirs = pair
    calls: list[int] = []
    driver.unwatch(ours.fileno())  # was never watched
    theirs.send(b"x")

    def watch_and_not() -> None:
        driver.watch(ours.fileno(), True, False, lambda: calls.append(1))
        driver.unwatch(ours.fileno())

    inside(driver, watch_and_not)
    driver.watch(ours.fileno(), True, False, lambda: calls.append(2))
    until(lambda: calls)
    driver.unwatch(ours.fileno())
    seen = inside(driver, lambda: len(calls))
    assert inside(driver, lambda: len(calls)) == seen
    assert set(calls) == {2}


def test_of_two_descriptors_that_are_ready_one_may_unwatch_the_other(driver: Driver):
    with contextlib.ExitStack() as stack:
        pairs = [socket.socketpair() for _ in range(2)]
        for ours, theirs in pairs:
            stack.enter_context(ours)
            stack.enter_context(theirs)
            theirs.send(b"x")
        calls: list[int] = []

        def called(n: int) -> None:
            calls.append(n)
            for ours, _ in pairs:
                driver.unwatch(ours.fileno())

        def watch_both() -> None:
            for n, (ours, _) in enumerate(pairs):
                driver.watch(ours.fileno(), True, False, lambda n=n: called(n))

        inside(driver, watch_both)
        until(lambda: calls)
        for _ in range(3):
            inside(driver, bool)
        assert len(calls) == 1


def test_the_number_of_a_closed_descriptor_can_be_watched_again(driver: Driver):
    for n in range(20):
        ours, theirs = socket.socketpair()
        got: SimpleQueue[bytes] = SimpleQueue()
        driver.watch(ours.fileno(), True, False, lambda ours=ours, got=got: got.put(ours.recv(9)))
        theirs.send(b"%d" % n)
        assert got.get(timeout=PATIENCE) == b"%d" % n
        inside(driver, lambda ours=ours: (driver.unwatch(ours.fileno()), ours.close()))
        theirs.close()


def test_a_timer_is_called_once_and_after_its_time(driver: Driver):
    calls: SimpleQueue[int] = SimpleQueue()
    for n, seconds in enumerate((0.03, 0.02, 0.0)):
        driver.later(seconds, lambda n=n: calls.put(n))
    assert [calls.get(timeout=PATIENCE) for _ in range(3)] == [2, 1, 0]
    assert calls.empty()


def test_a_cancelled_timer_is_not_called(driver: Driver):
    calls: SimpleQueue[int] = SimpleQueue()
    cancel = driver.later(0.01, lambda: calls.put(1))
    cancel()
    driver.later(0.02, lambda: calls.put(2))
    assert calls.get(timeout=PATIENCE) == 2
    cancel()  # again is harmless
    inside(driver, lambda: driver.later(0.01, lambda: calls.put(3)))()
    driver.later(0.02, lambda: calls.put(4))
    assert calls.get(timeout=PATIENCE) == 4


def test_a_timer_that_is_due_may_be_cancelled_by_the_one_before_it(driver: Driver):
    calls: SimpleQueue[str] = SimpleQueue()

    def both() -> None:
        driver.later(0.0, lambda: (cancel(), calls.put("first")))
        cancel = driver.later(0.0, lambda: calls.put("second"))

    inside(driver, both)
    assert calls.get(timeout=PATIENCE) == "first"
    driver.later(0.01, lambda: calls.put("third"))
    assert calls.get(timeout=PATIENCE) == "third"


def test_a_callback_that_raises_is_logged_and_ends_nothing(driver: Driver, caplog: pytest.LogCaptureFixture):
    driver.soon(lambda: 1 / 0)
    driver.later(0.0, lambda: [][1])
    called: SimpleQueue[None] = SimpleQueue()
    driver.later(0.01, lambda: called.put(None))
    called.get(timeout=PATIENCE)
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [ZeroDivisionError, IndexError]
    assert {record.name for record in caplog.records} == {"psyne"}


def test_a_descriptor_whose_callback_raises_is_watched_no_more(
    driver: Driver, pair: Any, caplog: pytest.LogCaptureFixture
):
    ours, theirs = pair
    driver.watch(ours.fileno(), True, False, lambda: 1 / 0)
    theirs.send(b"x")  # and nobody reads it
    until(lambda: caplog.records)
    for _ in range(5):
        inside(driver, bool)
    assert len(caplog.records) == 1


def test_many_threads_may_ask_at_once(driver: Driver):
    calls: SimpleQueue[tuple[int, int]] = SimpleQueue()

    def ask(who: int) -> None:
        for n in range(200):
            driver.soon(lambda n=n: calls.put((who, n)))
            driver.later(60.0, bool)()

    threads = [threading.Thread(target=ask, args=(who,)) for who in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    got = [calls.get(timeout=PATIENCE) for _ in range(800)]
    for who in range(4):
        assert [n for w, n in got if w == who] == list(range(200))


# ---- the thread ----------------------------------------------------------------------------------------------------


@pytest.fixture
def impatient() -> Iterator[ThreadDriver]:
    """A thread that ends after 10 ms with nothing to do."""
    driver = ThreadDriver(idle=0.01)
    yield driver
    driver.stop()
    driver.forked()


def test_a_thread_ends_when_it_has_nothing_to_do_and_comes_back(impatient: ThreadDriver):
    assert not impatient.running  # not before its first use
    first = inside(impatient, threading.current_thread)
    assert (first.name, first.daemon) == ("psyne network", True)
    until(lambda: not impatient.running)
    first.join()
    assert inside(impatient, threading.current_thread) is not first


def test_a_thread_stays_while_something_is_watched_or_due(impatient: ThreadDriver, pair: Any):
    ours, theirs = pair
    called: SimpleQueue[None] = SimpleQueue()
    impatient.later(0.1, lambda: called.put(None))
    first = inside(impatient, threading.current_thread)
    called.get(timeout=PATIENCE)
    impatient.watch(ours.fileno(), True, False, lambda: (impatient.unwatch(ours.fileno()), called.put(None)))
    inside(impatient, lambda: impatient.later(0.1, lambda: theirs.send(b"x")))
    called.get(timeout=PATIENCE)
    assert first.is_alive() or not impatient.running


def test_what_was_cancelled_or_unwatched_does_not_keep_the_thread(impatient: ThreadDriver, pair: Any):
    for what in ("timer", "descriptor", "both"):
        cancel = impatient.later(3600.0, bool) if what != "descriptor" else bool
        if what != "timer":
            impatient.watch(pair[0].fileno(), True, False, bool)
        inside(impatient, bool)
        if what != "timer":
            impatient.unwatch(pair[0].fileno())
        cancel()
        until(lambda: not impatient.running, f"the end after a {what}")


def test_cancelled_timers_do_not_pile_up():
    driver = ThreadDriver()
    driver.later(1800.0, bool)
    for _ in range(10_000):
        driver.later(3600.0, bool)()
    assert len(driver._timers) <= 2 * module.MANY
    driver.stop()
    driver.forked()


def test_a_finaliser_may_ask_while_its_thread_is_asking():
    driver = ThreadDriver()
    called: list[int] = []

    class Cycle:
        def __init__(self, number: int) -> None:
            self.number, self.itself = number, self

        def __del__(self) -> None:
            driver.soon(lambda: called.append(self.number))
            driver.later(3600.0, bool)()

    before = gc.get_threshold()
    try:
        for n in range(1000):
            gc.set_threshold(1 + n % 40)  # collects at any place of what follows
            Cycle(n)
            driver.later(3600.0, bool)()
    finally:
        gc.set_threshold(*before)
    gc.collect()
    inside(driver, bool)
    assert sorted(called) == list(range(1000))
    driver.stop()
    driver.forked()


def test_a_system_exit_in_a_callback_does_not_end_the_thread(impatient: ThreadDriver, caplog: pytest.LogCaptureFixture):
    def leave() -> None:
        raise SystemExit(3)

    impatient.soon(leave)
    assert inside(impatient, lambda: 5) == 5
    assert "SystemExit" in caplog.text


def test_a_process_has_one_thread():
    assert thread_driver() is thread_driver()


def test_a_thread_that_was_stopped_may_be_asked_again(impatient: ThreadDriver):
    first = inside(impatient, threading.current_thread)
    impatient.stop()
    assert not first.is_alive()
    assert inside(impatient, lambda: 7) == 7
    inside(impatient, impatient.stop)  # from a callback: does not wait for itself


def test_a_forked_child_has_a_thread_of_its_own_and_leaves_the_parents_alone():
    with Child() as parent:
        parent.run(
            "import socket; from psyne.network.driver import thread_driver\n"
            "from queue import SimpleQueue; got = SimpleQueue()\n"
            "ours, theirs = socket.socketpair(); theirs_driver = thread_driver()\n"
            "theirs_driver.watch(ours.fileno(), True, False, lambda: got.put(ours.recv(9)))\n"
            "cancel = theirs_driver.later(3600.0, bool)"
        )
        parent.run(
            "def in_child():\n"
            "    assert thread_driver() is not theirs_driver\n"
            "    theirs_driver.unwatch(ours.fileno()); cancel(); theirs_driver.stop()\n"
            "    done = SimpleQueue(); thread_driver().soon(lambda: done.put(5)); assert done.get(timeout=30) == 5\n"
            "    theirs_driver.soon(bool)"
        )
        outcome = parent.run("forked(in_child)")
        assert isinstance(outcome, psyne.ForkedError), outcome
        assert "parent process" in str(outcome)
        assert parent.run("theirs.send(b'on'); got.get(timeout=30)") == b"on"


def test_a_program_ends_while_its_thread_watches():
    with Child() as child:
        child.run(
            "import socket; from psyne.network.driver import thread_driver\n"
            "ours, theirs = socket.socketpair(); thread_driver().watch(ours.fileno(), True, False, bool)"
        )
        child.begin("import sys; sys.exit(0)")
        assert child.process.wait(PATIENCE) == 0


# ---- the loops -----------------------------------------------------------------------------------------------------


def test_callbacks_of_a_loop_run_in_it_and_it_is_asked_from_inside():
    async def main() -> None:
        driver = LoopDriver(asyncio.get_running_loop())
        ours, theirs = socket.socketpair()
        with ours, theirs:
            done = asyncio.get_running_loop().create_future()
            driver.watch(ours.fileno(), True, False, lambda: (driver.unwatch(ours.fileno()), done.set_result(1)))
            theirs.send(b"x")
            assert await done == 1
            cancelled = driver.later(3600.0, bool)
            cancelled()
            tick = asyncio.Event()
            driver.later(0.0, tick.set)
            await tick.wait()

    asyncio.run(main(), debug=True)


def test_a_loop_that_is_closed_calls_nothing_and_unwatches_in_silence():
    loop = asyncio.new_event_loop()
    driver = LoopDriver(loop)
    cancel = driver.later(1.0, bool)
    loop.close()
    driver.unwatch(0)
    cancel()
    with pytest.raises(RuntimeError, match="closed"):
        driver.soon(bool)
