"""Nothing dangles: after close(), when ends are garbage in any order, at interpreter exit."""

import gc
from collections.abc import Iterator
from typing import Any

import pytest

import psyne

from .helpers.layouts import Line, line_of
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
