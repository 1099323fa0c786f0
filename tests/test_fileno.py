"""fileno(): a descriptor whose level says whether a call would wait."""

import select
import selectors
from pathlib import Path

import pytest

import psyne
from psyne import _native

from .helpers.layouts import Number
from .helpers.process import Child, descriptors


def readable(end: psyne.Sender[Number] | psyne.Receiver[Number], seconds: float = 0) -> bool:
    return bool(select.select([end], [], [], seconds)[0])


def bells(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir() if path.name.endswith((".wake", ".wake.new"))]


@pytest.mark.leaves_nothing
def test_a_receiver_is_readable_while_a_message_is_there() -> None:
    tx, rx = psyne.sender("ipc://n", Number), psyne.receiver("ipc://n", Number)
    assert rx.fileno() == rx.fileno()
    for _ in range(3):
        assert not readable(rx)
        tx.send(Number(n=1))
        tx.send(Number(n=2))
        assert readable(rx)
        rx.receive().release()
        assert readable(rx)
        rx.receive_many(4).release()
    assert not readable(rx)
    assert rx.try_receive() is None
    assert not readable(rx)
    assert _native.counters(rx)["late_wakes"] == 0
    tx.close()
    assert readable(rx)
    with pytest.raises(psyne.EndOfChannel):
        rx.receive()
    assert readable(rx)
    rx.close()
    assert readable(rx)


@pytest.mark.leaves_nothing
def test_what_was_there_before_it_was_asked_for_counts() -> None:
    tx, rx = psyne.sender("ipc://n", Number), psyne.receiver("ipc://n", Number)
    tx.send(Number(n=1))
    assert readable(rx)
    rx.close()
    tx.close()


@pytest.mark.leaves_nothing
def test_a_sender_is_readable_while_there_is_room() -> None:
    tx, rx = psyne.sender("ipc://n", Number, capacity=2), psyne.receiver("ipc://n", Number)
    assert readable(tx)
    tx.send(Number(n=1))
    assert readable(tx)
    tx.send(Number(n=2))
    assert not readable(tx)
    rx.receive().release()
    assert readable(tx)
    with tx.loan() as m:
        m.n = 3
        assert not readable(tx)
    rx.receive().release()
    rx.receive().release()
    loans = [tx.loan(), tx.loan()]
    assert not readable(tx)
    loans[1].discard()
    assert readable(tx)
    loans[0].discard()
    rx.close()
    tx.close()
    assert readable(tx)


@pytest.mark.leaves_nothing
def test_a_selector_is_woken_by_another_process() -> None:
    tx = psyne.sender("ipc://n", Number, capacity=1)
    with Child() as child:
        child.run(
            "import selectors\n"
            "rx = psyne.receiver('ipc://n', Number)\n"
            "selector = selectors.DefaultSelector()\n"
            "key = selector.register(rx, selectors.EVENT_READ)"
        )
        for n in range(20):
            child.begin_waiting("selector.select() and rx.try_receive().n")
            tx.send(Number(n=n), timeout=60)
            assert child.result() == n
        child.run("selector.close(); rx.close()")
    tx.close()


@pytest.mark.leaves_nothing
def test_a_receiver_without_a_channel_is_readable_when_there_is_one(psyne_directory: Path) -> None:
    rx = psyne.receiver("ipc://n", Number)
    fd = rx.fileno()
    assert not readable(rx)
    assert rx.try_receive() is None
    assert not readable(rx)
    tx = psyne.sender("ipc://n", Number)
    assert readable(rx)
    assert rx.try_receive() is None
    assert rx.joined
    assert not readable(rx)
    tx.send(Number(n=1))
    assert readable(rx)
    assert rx.fileno() == fd
    assert rx.receive().n == 1
    assert len(bells(psyne_directory)) == 1
    rx.close()
    tx.close()


@pytest.mark.leaves_nothing
def test_a_receiver_that_follows_keeps_its_descriptor() -> None:
    tx = psyne.sender("ipc://n", Number)
    rx = psyne.receiver("ipc://n", follow=True)
    fd = rx.fileno()
    tx.close()
    tx = psyne.sender("ipc://n", psyne.Array("u1", 3))  # another channel of this name
    assert readable(rx)
    assert rx.try_receive() is None  # follows
    assert rx.fileno() == fd
    assert not readable(rx)
    tx.send(bytes(3))
    assert readable(rx)
    rx.close()
    tx.close()


@pytest.mark.leaves_nothing
def test_blocking_calls_and_the_descriptor_go_together() -> None:
    tx, rx = psyne.sender("ipc://n", Number), psyne.receiver("ipc://n", Number)
    rx.fileno()
    with pytest.raises(psyne.Empty):
        rx.receive(timeout=0.01)
    assert not readable(rx)
    with Child() as child:
        child.run("tx = psyne.sender('ipc://n', Number)")
        for n in range(20):
            child.begin("import time; time.sleep(0.001); tx.send(Number(n=n))", n=n)
            assert rx.receive().n == n
            child.result()
            assert not readable(rx)
    tx.send(Number(n=5))
    assert readable(rx)
    rx.close()
    tx.close()


@pytest.mark.leaves_nothing
def test_a_killed_process_leaves_no_fifo_behind_for_long(psyne_directory: Path) -> None:
    with Child() as member, Child() as waiting:
        member.run("rx = psyne.receiver('ipc://n', Number); tx = psyne.sender('ipc://n', Number); rx.fileno()")
        waiting.run("rx = psyne.receiver('ipc://other', Number); rx.fileno()")
        assert member.run("rx.try_receive()") is None
        assert len(bells(psyne_directory)) == 2
        member.kill()
        waiting.kill()
    rx = psyne.receiver("ipc://third", Number)
    rx.fileno()
    assert len(bells(psyne_directory)) == 1
    rx.close()
    psyne.receiver("ipc://n", Number).close()  # looking removes what the dead left


@pytest.mark.leaves_nothing
def test_a_forked_child_leaves_the_descriptor_to_its_parent() -> None:
    with Child() as child:
        child.run("tx, rx = psyne.sender('ipc://n', Number), psyne.receiver('ipc://n', Number); rx.fileno()")
        child.run("def drop():\n    global rx, tx\n    del rx, tx\n    gc.collect()\nforked(drop)")
        code = "import select; tx.send(Number(n=1)); bool(select.select([rx], [], [], 60)[0])"
        assert child.run(code) is True
        child.run("rx.close(); tx.close()")


def test_a_closed_end_that_never_had_a_descriptor_has_none() -> None:
    tx = psyne.sender("ipc://n", Number)
    tx.close()
    with pytest.raises(psyne.ChannelClosed):
        tx.fileno()


def test_an_end_that_is_dropped_closes_its_descriptor() -> None:
    before = descriptors()
    tx = psyne.sender("ipc://n", Number)
    with selectors.DefaultSelector() as selector:
        selector.register(tx, selectors.EVENT_READ)
        assert selector.select(0)
        selector.unregister(tx)
    tx.close()
    del tx
    assert not descriptors() - before


def test_a_forked_child_that_joins_first_leaves_its_parent_the_descriptor() -> None:
    with Child() as parent:
        parent.run("rx = psyne.receiver('ipc://later', Number); fd = rx.fileno()")
        assert parent.run(
            """
def join():
    with psyne.sender('ipc://later', Number) as tx:
        tx.send(Number(n=1))
        got = rx.receive().n
        rx.close()
        return got
forked(join)"""
        )
        parent.run("import select; select.select([fd], [], [], 0); rx.try_receive()")
        assert parent.run("select.select([fd], [], [], 0)[0]") == []
        tx = psyne.sender("ipc://later", Number)
        assert parent.run("select.select([fd], [], [], 0)[0] == [fd]")
        tx.send(Number(n=2))
        assert parent.run("rx.receive().n") == 2
        tx.close()
