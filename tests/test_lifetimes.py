"""Nothing dangles: after close(), when ends are garbage in any order, at interpreter exit."""

import gc
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import psyne

from .helpers.layouts import Line, line_of, lines_of
from .helpers.process import run_program

Ends = tuple[psyne.Sender[Any], psyne.Receiver[Any]]


@pytest.fixture
def ends() -> Iterator[Ends]:
    with psyne.sender("ipc://lines", Line, capacity=1) as tx, psyne.receiver("ipc://lines", Line) as rx:
        yield tx, rx


def slot_is_free(tx: psyne.Sender[Any]) -> bool:
    m = tx.try_loan()
    if m is not None:
        m.discard()
    return m is not None


USES = "import psyne, gc, itertools; from layouts import *\n"


def test_views_stay_valid_after_close_and_keep_the_memory_until_they_are_gone(ends: Ends):
    tx, rx = ends
    tx.send(line_of(1, 5))
    with rx.receive() as m:
        view = m.array[1:]
    rx.close()
    tx.close()
    del rx, m
    gc.collect()
    assert view.tolist() == line_of(1, 5)[1:].tolist()


def test_an_open_message_outlives_the_close_of_its_receiver(ends: Ends):
    tx, rx = ends
    tx.send(line_of(1, 5))
    m = rx.receive()
    rx.close()
    assert m.array[1] == 5
    assert not slot_is_free(tx)
    m.release()
    assert slot_is_free(tx)


def test_a_loan_that_is_open_when_its_sender_closes_is_taken_back(ends: Ends):
    tx, rx = ends
    m = tx.loan()
    m.array[:] = line_of(1, 0)
    view = m.array
    tx.close()
    with pytest.raises(psyne.EndOfChannel):
        rx.receive()
    with pytest.raises(psyne.ChannelClosed):
        tx.send(m)
    m.discard()
    assert view.tolist() == line_of(1, 0).tolist()


def test_ends_messages_and_views_may_die_in_any_order():
    run_program(
        USES
        + """
names = ["tx", "rx", "loan", "taken", "view", "part", "own"]
orders = list(itertools.permutations(names))
for order in orders[:: len(orders) // 400]:
    tx = psyne.sender("ipc://lines", Line, capacity=4)
    rx = psyne.receiver("ipc://lines")
    tx.send(line_of(1, 7))
    tx.send(line_of(1, 8))
    things = {"tx": tx, "rx": rx, "loan": tx.loan(), "taken": rx.receive()}
    things["own"] = things["loan"].array
    with rx.receive() as m:
        things["view"] = m.array
        things["part"] = m.array[1:]
    del tx, rx, m
    for name in order:
        if name == "loan":
            things[name].discard()
        del things[name]
        if "part" in things:
            assert things["part"][0] == 8
        if "taken" in things:
            assert things["taken"].array[1] == 7
"""
    )


@pytest.mark.leaves_nothing
@pytest.mark.parametrize(
    "close", ["", "tx.close()", "rx.close()", "tx.close(); rx.close()", "del tx, rx", "del rx; rx2 = view"]
)
def test_an_interpreter_exits_cleanly_with_messages_and_views_alive(close: str):
    done = run_program(
        USES
        + f"""
tx = psyne.sender("ipc://lines", Line, capacity=8)
rx = psyne.receiver("ipc://lines")
for n in range(4):
    tx.send(line_of(1, n))
steps = iter(rx)
in_loop = next(steps)
taken = rx.receive()
with rx.receive() as m:
    view, part, buffer = m.array, m.array[1:], memoryview(m)
batch = rx.receive_many(4)
loan = tx.loan()
mine = loan.array
loan.discard()
class Late:
    def __del__(self, view=view, taken=taken):
        assert view[1] == 2, view
        assert taken.array[1] == 1
late = Late()
late.itself = late
{close}
"""
    )
    assert done.stderr == ""


def send_and(look: Callable[[Any], Any]) -> Callable[[Any, Any], Any]:
    """Sends a message, and looks at it in the receiver."""

    def operation(tx: Any, rx: Any) -> Any:
        tx.send(line_of(1, 1))
        with rx.receive() as m:
            return look(m)

    return operation


def lend_and(look: Callable[[Any], Any]) -> Callable[[Any, Any], Any]:
    """Looks at a loan and sends it."""

    def operation(tx: Any, rx: Any) -> None:
        with tx.loan() as m:
            look(m)
        rx.receive().release()

    return operation


def raised(call: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    try:  # without the memory that pytest.raises takes
        call(*args, **kwargs)
    except (psyne.PsyneError, TypeError, ValueError):
        return
    raise AssertionError(f"{call} raised nothing")


OPERATIONS: dict[str, Callable[[Any, Any], Any]] = {
    "send": send_and(lambda m: m.info),
    "send message": lambda tx, rx: (tx.send(Line()), rx.receive().release()),
    "send own": lambda tx, rx: (tx.send(tx.loan()), rx.receive().release()),
    "send_many": lambda tx, rx: (tx.send_many(lines_of(1, 0, 1)), rx.receive().release()),
    "loan": lend_and(lambda m: m.info),
    "loan taken back": lambda tx, rx: tx.loan().discard(),
    "try_loan": lambda tx, rx: tx.try_loan().discard(),
    "loan_many": lambda tx, rx: (lambda b: (b.array, b.truncate(0), tx.send(b), rx.try_receive()))(tx.loan_many(1)),
    "views": send_and(lambda m: (m.array, m.array[1:], memoryview(m), np.asarray(m))),
    "views of a loan": lend_and(lambda m: (m.array, m.array[1:], memoryview(m), np.asarray(m))),
    "copy": send_and(lambda m: (m.copy(), repr(m))),
    "batch": lambda tx, rx: (tx.send(line_of(1, 1)), (lambda b: (b.array, b.copy(), b.info))(rx.receive_many(4))),
    "iteration": lambda tx, rx: (tx.send(line_of(1, 1)), next(iter(rx))),
    "batches": lambda tx, rx: (tx.send(line_of(1, 1)), next(iter(rx.batches(3)))),
    "drain": lambda tx, rx: tx.drain(timeout=0),
    "nothing there": lambda tx, rx: (rx.try_receive(), rx.try_receive_many(3)),
    "empty": lambda tx, rx: (raised(rx.receive, timeout=0), raised(rx.receive_many, 3, timeout=0)),
    "full": lambda tx, rx: (tx.send(Line()), raised(tx.loan, timeout=0), rx.receive().release()),
    "another layout": lambda tx, rx: (raised(tx.send, b"123"), raised(tx.send_many, np.zeros(3))),
    "wrong call": lambda tx, rx: (raised(tx.loan, timeout=-1), raised(rx.receive, speed=3)),
    "released": lambda tx, rx: (lambda m: (m.release(), raised(m.copy), raised(memoryview, m)))(tx.loan()),
    "read-only": send_and(lambda m: (raised(m.discard), raised(m.array.__setitem__, 0, 1))),
    "views alive": send_and(lambda m: (m.array, raised(m.release))),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_no_operation_leaks_references_or_memory(ends: Ends, name: str):
    tx, rx = ends
    operation = OPERATIONS[name]

    def counted() -> tuple[int, ...]:
        gc.collect()
        return sys.getrefcount(tx), sys.getrefcount(rx), sys.getrefcount(Line), sys.getallocatedblocks()

    for _ in range(50):
        operation(tx, rx)
    before = counted()
    for _ in range(1000):
        operation(tx, rx)
    after = counted()
    assert after[:3] == before[:3]
    assert after[3] - before[3] < 500  # the interpreter's own caches breathe
