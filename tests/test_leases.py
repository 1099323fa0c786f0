"""Views are leases: what keeps a slot, what gives it back, what is read-only, what waits for whom."""

import gc
import random
import signal
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import psyne
from psyne import Stage

from .helpers.layouts import Line, Number, Record, line_of, lines_of
from .helpers.process import Child

Ends = tuple[psyne.Sender[Any], psyne.Receiver[Any]]

VIEWS: dict[str, Callable[[Any], Any]] = {
    "array": lambda m: m.array,
    "slice": lambda m: m.array[2:4],
    "slice of a slice": lambda m: m.array[1:][1:],
    "reshaped": lambda m: m.array.reshape(2, -1),
    "other dtype": lambda m: m.array.view("u1"),
    "asarray": lambda m: np.asarray(m.array),
    "asarray of the message": lambda m: np.asarray(m),
    "memoryview": lambda m: memoryview(m),
    "memoryview of the array": lambda m: memoryview(m.array),
    "slice of a memoryview": lambda m: memoryview(m)[2:],
    "iterator": lambda m: iter(m.array.reshape(2, -1)),
    "frombuffer": lambda m: np.frombuffer(m.array, "u8"),
    "closure": lambda m: lambda a=m.array: a[0],
}


@pytest.fixture
def ends() -> Iterator[Ends]:
    with psyne.sender("ipc://lines", Line, capacity=1) as tx, psyne.receiver("ipc://lines", Line) as rx:
        yield tx, rx


def slot_is_free(tx: psyne.Sender[Any]) -> bool:
    m = tx.try_loan()
    if m is not None:
        m.discard()
    return m is not None


# ---- what keeps a slot ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", VIEWS)
def test_a_view_keeps_the_slot_and_the_last_one_gone_gives_it_back(ends: Ends, kind: str):
    tx, rx = ends
    for n in range(3):
        tx.send(line_of(1, n))
        with rx.receive() as m:
            view = VIEWS[kind](m)
        del m
        gc.collect()
        assert not slot_is_free(tx)
        del view
        assert slot_is_free(tx)


def test_a_view_of_a_field_keeps_the_slot():
    with psyne.sender("ipc://records", Record, capacity=1) as tx, psyne.receiver("ipc://records") as rx:
        tx.send(Record(n=1, body=7))
        with rx.receive() as m:
            body, n = m.body, m.n
        assert not slot_is_free(tx)
        assert (body.tolist(), n) == ([7] * 64, 1)
        del body
        assert slot_is_free(tx)


def test_two_views_keep_the_slot_until_both_are_gone(ends: Ends):
    tx, rx = ends
    tx.send(line_of(1, 0))
    with rx.receive() as m:
        first, second = m.array, m.array[3:]
    del m, first
    assert not slot_is_free(tx)
    del second
    assert slot_is_free(tx)


def test_a_number_of_a_view_does_not_keep_the_slot(ends: Ends):
    tx, rx = ends
    tx.send(line_of(1, 0))
    with rx.receive() as m:
        number, copy, total = m.array[1], m.array.copy(), m.array.sum()
    assert slot_is_free(tx)
    assert (number, copy[1], total) == (0, 0, line_of(1, 0).sum())


def test_a_message_that_is_forgotten_leaves_its_slot_to_its_views(ends: Ends):
    tx, rx = ends
    tx.send(line_of(1, 0))
    m = rx.receive()
    view = m.array
    del m
    gc.collect()
    assert not slot_is_free(tx)
    assert view.tolist() == line_of(1, 0).tolist()
    del view
    assert slot_is_free(tx)


def test_each_view_of_a_batch_keeps_all_of_it():
    with psyne.sender("ipc://lines", Line, capacity=8) as tx, psyne.receiver("ipc://lines") as rx:
        tx.send_many(lines_of(1, 0, 8))
        with rx.receive_many(8) as batch:
            last = batch.array[7]
        assert not slot_is_free(tx)
        assert last.tolist() == line_of(1, 7).tolist()
        del last
        assert slot_is_free(tx)


def test_a_cycle_of_garbage_gives_the_slot_back_when_it_is_collected(ends: Ends):
    tx, rx = ends
    tx.send(line_of(1, 0))
    with rx.receive() as m:
        cycle: list[Any] = [m.array]
        cycle.append(cycle)
    del m, cycle
    gc.collect()
    assert slot_is_free(tx)


def test_release_with_living_views_raises_buffererror_and_keeps_the_message(ends: Ends):
    tx, rx = ends
    tx.send(line_of(1, 0))
    m = rx.receive()
    for view in VIEWS.values():
        kept = view(m)
        with pytest.raises(BufferError, match=r"drop them or copy\(\)"):
            m.release()
        assert m.array[1] == 0
        del kept
    m.release()
    assert slot_is_free(tx)


def test_release_of_a_batch_with_living_views_raises_buffererror(ends: Ends):
    tx, rx = ends
    tx.send(line_of(1, 0))
    batch = rx.receive_many(1)
    view = batch.array
    with pytest.raises(psyne.ViewsAlive):
        batch.release()
    del view
    batch.release()


def test_a_sender_that_keeps_its_own_view_is_told_so(ends: Ends):
    tx, rx = ends
    with tx.loan() as m:
        m.array[:] = line_of(1, 0)
        mine = m.array
    del m
    rx.receive().release()
    assert not slot_is_free(tx)
    with pytest.raises(psyne.LeaseLimit, match="arrays that you kept"):
        tx.loan()
    assert mine.tolist() == line_of(1, 0).tolist()
    del mine
    assert slot_is_free(tx)


# ---- what is read-only ---------------------------------------------------------------------------------------------


def test_received_arrays_are_read_only_and_stay_so(ends: Ends):
    tx, rx = ends
    tx.send(line_of(1, 0))
    with rx.receive() as m:
        for array in (m.array, m.array[2:], m.array.view("u1"), np.asarray(m)):
            with pytest.raises(ValueError, match="read-only"):
                array[0] = 1
            with pytest.raises(ValueError, match="WRITEABLE"):
                array.flags.writeable = True
        with pytest.raises(TypeError):
            memoryview(m)[0] = 1
        assert m.array.tolist() == line_of(1, 0).tolist()


def test_the_arrays_of_a_loan_turn_read_only_when_it_is_sent(ends: Ends):
    tx, rx = ends
    m = tx.loan()
    array, same = m.array, m.array
    array[:] = line_of(1, 0)
    tx.send(m)
    for view in (array, same):
        with pytest.raises(ValueError, match="read-only"):
            view[1] = 5
        with pytest.raises(ValueError, match="WRITEABLE"):
            view.flags.writeable = True
    with rx.receive() as got:
        assert got.array.tolist() == line_of(1, 0).tolist()


@pytest.mark.parametrize("field", ["body", "array"])
def test_the_arrays_of_fields_and_batches_turn_read_only_too(field: str):
    with psyne.sender("ipc://records", Record, capacity=8) as tx:
        with tx.loan() as m:
            of_message = getattr(m, field)
        with tx.loan_many(3) as batch:
            of_batch = batch["body"] if field == "body" else batch.array
        discarded = tx.loan()
        of_discarded = getattr(discarded, field)
        discarded.discard()
        for array in (of_message, of_batch, of_discarded):
            assert not array.flags.writeable


def test_the_arrays_of_a_mutating_stage_turn_read_only_when_it_passes_the_message_on():
    stages = [Stage("change", mutate=True)]
    with psyne.sender("ipc://records", Record, capacity=1, stages=stages) as tx, psyne.receiver("ipc://records") as rx:
        tx.send(Record(n=1))
        with rx.receive() as m:
            body = m.body
            body[:] = 9
        with pytest.raises(ValueError, match="read-only"):
            body[0] = 1
        assert not slot_is_free(tx)
        del body
        assert slot_is_free(tx)


def test_a_receivers_slab_is_mapped_read_only():
    with psyne.sender("ipc://lines", Line, capacity=8) as tx, Child() as reader:
        tx.send(line_of(1, 0))
        reader.run("rx = psyne.receiver('ipc://lines'); m = rx.receive()")
        mapped = reader.run("[line.split()[1] for line in open('/proc/self/maps') if '.slab' in line]")
        assert mapped == ["r--s"]
        reader.begin("ctypes.memset(m.array.ctypes.data, 1, 1)")
        assert reader.process.wait() == -signal.SIGSEGV
        with psyne.receiver("ipc://lines") as survivor:
            assert survivor.receive().array.tolist() == line_of(1, 0).tolist()


# ---- PASSED and DONE -----------------------------------------------------------------------------------------------


def test_a_view_kept_in_a_reading_stage_does_not_delay_the_next_reading_stage():
    """`for m in rx: a = m.array` holds the slot, not the message."""
    with (
        psyne.sender("ipc://lines", Line, capacity=4, stages=["first", "second"]) as tx,
        psyne.receiver("ipc://lines", stage="first") as first,
        psyne.receiver("ipc://lines", stage="second") as second,
    ):
        kept = []
        steps = iter(first)
        tx.send_many(lines_of(1, 0, 4))
        for n in range(4):
            kept.append(next(steps).array)
            if n:
                assert second.receive(timeout=0).array[1] == n - 1
        assert second.try_receive() is None  # the fourth is still in the loop's hand
        assert not slot_is_free(tx)
        del kept[0]
        assert slot_is_free(tx)


def test_a_mutating_stage_waits_for_the_last_view_of_the_stage_before_it():
    with (
        psyne.sender("ipc://records", Record, capacity=4, stages=["look", Stage("change", mutate=True)]) as tx,
        psyne.receiver("ipc://records", stage="look") as look,
        psyne.receiver("ipc://records", stage="change") as change,
    ):
        tx.send(Record(n=1, body=3))
        with look.receive() as m:
            view = m.body[5:]
        assert change.try_receive() is None
        assert view.tolist() == [3] * 59
        del view, m
        with change.receive(timeout=0) as m:
            m.body[:] = 4


def test_a_mutating_stage_waits_for_the_views_of_all_stages_before_it():
    stages = ["one", "two", Stage("change", mutate=True)]
    with (
        psyne.sender("ipc://records", Record, capacity=4, stages=stages) as tx,
        psyne.receiver("ipc://records", stage="one") as one,
        psyne.receiver("ipc://records", stage="two") as two,
        psyne.receiver("ipc://records", stage="change") as change,
    ):
        tx.send(Record(n=1))
        with one.receive() as m:
            view = m.body
        two.receive().release()
        assert change.try_receive() is None
        del view, m
        change.receive(timeout=0).release()


def test_no_view_ever_changes_while_it_is_held_over_many_laps():
    stages = [Stage("change", mutate=True), "look"]
    with (
        psyne.sender("ipc://lines", Line, capacity=16, stages=stages, pattern="spsc") as tx,
        psyne.receiver("ipc://lines", stage="change") as change,
        psyne.receiver("ipc://lines", stage="look") as look,
    ):
        chance = random.Random(4)
        held: list[tuple[Any, bytes]] = []
        count = seen = 0
        while seen < 5000:
            m = tx.try_loan()
            if m is not None:
                m.array[:] = line_of(1, count)
                tx.send(m)
                count += 1
            m = change.try_receive() if chance.random() < 0.8 else None
            if m is not None:
                with m:
                    m.array[:] = line_of(2, int(m.array[1]))
                    if chance.random() < 0.1:
                        held.append((m.array[2:], m.array[2:].tobytes()))
            m = look.try_receive() if chance.random() < 0.8 else None
            if m is not None:
                with m:
                    assert m.array.tolist() == line_of(2, seen).tolist()
                    seen += 1
                    if chance.random() < 0.3:
                        view = chance.choice([m.array, m.array[3:], memoryview(m)])
                        held.append((view, view.tobytes()))
                        del view
            while len(held) > 10 or (held and chance.random() < 0.3):
                let_go(held.pop(chance.randrange(len(held))))


def let_go(view_and_bytes: tuple[Any, bytes]) -> None:
    assert view_and_bytes[0].tobytes() == view_and_bytes[1]


def test_no_view_changes_while_another_process_sends_at_full_speed():
    with Child() as writer, psyne.receiver("ipc://lines", Line) as rx:
        writer.run("from layouts import lines_of; tx = psyne.sender('ipc://lines', Line, capacity=128)")
        writer.begin("for n in range(300): tx.send_many(lines_of(1, 100 * n, 100))\ntx.close()")
        chance = random.Random(5)
        held: list[tuple[int, tuple[Any, bytes]]] = []  # with the position behind its batch
        for batch in rx.batches(8):
            newest = batch.info.sequence + len(batch)
            if chance.random() < 0.5:
                view = chance.choice([batch.array, batch.array[-1], memoryview(batch)[:1]])
                held.append((newest, (view, view.tobytes())))
                del view
            # A view that is kept for a lap stops the sender, and then this loop: let go after half a lap.
            while held and (held[0][0] + 64 < newest or chance.random() < 0.4):
                let_go(held.pop(0)[1])
        writer.result()
        while held:
            let_go(held.pop()[1])


class EndsMessage:
    """A number whose conversion ends the message that it is being written to."""

    def __init__(self, end):
        self.end = end

    def __index__(self):
        self.end()
        return 7


def test_a_value_that_ends_its_message_while_it_is_written_changes_no_other_one():
    with psyne.sender("ipc://n", Number, capacity=4) as tx, psyne.receiver("ipc://n", Number) as rx:
        later = []

        def end():
            m.discard()
            later.append(tx.loan())
            later[0].n = 5

        m = tx.loan()
        m.n = EndsMessage(end)
        assert later[0].n == 5
        tx.send(later[0])
        assert rx.receive().n == 5
        own = Number(n=1)
        with pytest.raises(psyne.ViewsAlive):
            own.n = EndsMessage(own.release)
        assert own.n == 1
