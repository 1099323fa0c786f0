"""Callbacks: rx.listen() calls functions with messages, on a thread of its own."""

import logging
import threading
from typing import Any

import pytest

import psyne

from .helpers.layouts import Number, Sample
from .helpers.process import Child, until


@pytest.fixture
def ends() -> Any:
    tx, rx = psyne.sender("ipc://n", Number), psyne.receiver("ipc://n", Number)
    yield tx, rx
    tx.close()
    rx.close()


@pytest.mark.leaves_nothing
def test_a_function_is_called_with_every_message_and_ends_it(ends: Any) -> None:
    tx, rx = ends
    seen: list[int] = []
    kept: list[Any] = []

    def handle(m: Number) -> None:
        seen.append(m.n)
        kept.append(m)

    with rx.listen(handle) as listener:
        for n in range(100):
            tx.send(Number(n=n))
        tx.drain()
        until(lambda: len(seen) == 100)
        assert "running" in repr(listener)
    assert seen == list(range(100))
    assert listener.error is None
    with pytest.raises(psyne.MessageReleased):
        _ = kept[0].n


def test_the_receiver_can_be_used_again_after_stop(ends: Any) -> None:
    tx, rx = ends
    for n in range(50):
        listener = rx.listen(lambda m: None)
        listener.stop()
        assert listener.join(60)
        tx.send(Number(n=n))
        assert rx.receive(timeout=60).n == n
        with pytest.raises(psyne.Empty):
            rx.receive(timeout=0.001)


def test_stop_does_not_wait_for_a_message_nor_for_the_function(ends: Any) -> None:
    tx, rx = ends
    begun, go_on = threading.Event(), threading.Event()

    def handle(m: Number) -> None:
        begun.set()
        go_on.wait(60)

    listener = rx.listen(handle)
    tx.send(Number(n=1))
    tx.send(Number(n=2))
    assert begun.wait(60)
    listener.stop()
    assert not listener.join(0)
    go_on.set()
    assert listener.join(60)
    assert rx.receive().n == 2


def test_a_function_may_stop_its_own_listener(ends: Any) -> None:
    tx, rx = ends
    listeners: list[psyne.Listener] = []
    ready = threading.Event()

    def handle(m: Number) -> None:
        ready.wait(60)
        listeners[0].stop()

    listeners.append(rx.listen(handle))
    ready.set()
    tx.send(Number(n=1))
    tx.send(Number(n=2))
    assert listeners[0].join(60)
    assert rx.receive().n == 2
    threading.Timer(0.05, lambda: tx.send(Number(n=3))).start()
    assert rx.receive(timeout=60).n == 3  # the stop that nobody waited for does not end this wait


def test_an_exception_stops_it_is_logged_and_raised_by_join(ends: Any, caplog: pytest.LogCaptureFixture) -> None:
    tx, rx = ends
    listener = rx.listen(lambda m: 1 // (m.n - 1))
    tx.send(Number(n=0))
    tx.send(Number(n=1))
    with pytest.raises(ZeroDivisionError):
        listener.join(60)
    assert isinstance(listener.error, ZeroDivisionError)
    assert "the listener of ipc://n stopped: ZeroDivisionError" in caplog.text
    tx.send(Number(n=2))
    assert rx.receive().n == 2
    with pytest.raises(ZeroDivisionError), listener:
        pass
    with pytest.raises(KeyError, match="the block's own"), listener:
        raise KeyError("the block's own")


def test_on_error_log_goes_on(ends: Any, caplog: pytest.LogCaptureFixture) -> None:
    tx, rx = ends
    seen: list[int] = []

    def handle(m: Number) -> None:
        seen.append(m.n)
        raise ValueError(f"of {m.n}")

    with caplog.at_level(logging.ERROR, "psyne"), rx.listen(handle, on_error="log") as listener:
        tx.send(Number(n=1))
        tx.send(Number(n=2))
        until(lambda: len(seen) == 2)
    assert listener.error is None
    assert "of 1" in caplog.text
    assert "of 2" in caplog.text


def test_each_class_has_its_function_and_message_takes_all_others() -> None:
    tx = psyne.sender("ipc://both", Number, Sample, psyne.Text)
    rx = psyne.receiver("ipc://both", Number, Sample, psyne.Message)
    seen: list[tuple[str, int]] = []
    handlers = {
        Number: lambda m: seen.append(("number", m.n)),
        Sample: lambda m: seen.append(("sample", m.stamp)),
        psyne.Message: lambda m: seen.append(("other", len(m.array))),
    }
    with rx.listen(handlers):
        tx.send(Sample(stamp=1))
        tx.send(Number(n=2))
        tx.send("text")
        tx.send(Number(n=3))
        until(lambda: len(seen) == 4)
    assert seen == [("sample", 1), ("number", 2), ("other", 4), ("number", 3)]
    with rx.listen({Sample: print, psyne.Text: print}) as listener:
        tx.send(Number(n=2))
        with pytest.raises(psyne.InvalidArgument, match=r"Number came on ipc://both .* handlers for Sample, Text"):
            listener.join(60)
        listener._error = None
    tx.close()
    rx.close()


@pytest.mark.parametrize("handlers", [{}, 3, {Number: 3}, {int: print}, {"Number": print}, None])
def test_what_is_no_handler_is_refused(ends: Any, handlers: Any) -> None:
    with pytest.raises(psyne.InvalidArgument, match=r"listen\(\)"):
        ends[1].listen(handlers)
    with pytest.raises(psyne.InvalidArgument, match="on_error"):
        ends[1].listen(print, on_error="ignore")


def test_the_end_of_the_channel_and_close_end_it_without_an_error(ends: Any) -> None:
    tx, rx = ends
    listener = rx.listen(lambda m: None)
    tx.close()
    assert listener.join(60)
    tx2, rx2 = psyne.sender("ipc://m", Number), psyne.receiver("ipc://m", Number)
    listener = rx2.listen(lambda m: None)
    rx2.close()
    assert listener.join(60)
    tx2.close()


def test_a_lost_sender_is_an_error(caplog: pytest.LogCaptureFixture) -> None:
    rx = psyne.receiver("ipc://n", Number)
    with Child() as child:
        child.run("tx = psyne.sender('ipc://n', Number)")
        listener = rx.listen(lambda m: None)
        until(lambda: rx.joined)
        child.kill()
    with pytest.raises(psyne.SenderLost):
        listener.join(60)
    rx.close()


def test_a_receiver_without_a_channel_listens_as_soon_as_there_is_one() -> None:
    rx = psyne.receiver("ipc://late", Number)
    seen: list[int] = []
    with rx.listen(lambda m: seen.append(m.n)):
        tx = psyne.sender("ipc://late", Number)
        tx.send(Number(n=1))
        until(lambda: seen == [1])
    with psyne.receiver("ipc://never", Number) as never, never.listen(print):
        pass
    tx.close()
    rx.close()
