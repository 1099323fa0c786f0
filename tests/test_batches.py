"""Batches: exactly n to write, 1 to n to read, as one array over consecutive slots."""

from collections.abc import Iterator
from itertools import chain
from typing import Any

import numpy as np
import pytest

import psyne

from .helpers.layouts import Line, Number, Picture, Sample, broken_lines, lines_of
from .helpers.process import Child

Ends = tuple[psyne.Sender[Any], psyne.Receiver[Any]]
NUMBERS = Number.__layout__.dtype


@pytest.fixture
def ends() -> Iterator[Ends]:
    with psyne.sender("ipc://numbers", Number, capacity=8) as tx, psyne.receiver("ipc://numbers", Number) as rx:
        yield tx, rx


def send(tx: psyne.Sender[Any], *numbers: int) -> None:
    for n in numbers:
        tx.send(Number(n=n), timeout=0)


def received(rx: psyne.Receiver[Any]) -> list[list[int]]:
    """The batches that are there now."""
    batches = []
    while batch := rx.try_receive_many(100):
        batches.append(batch["n"].tolist())
        batch.release()
    return batches


# ---- to write ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 3, 8])
def test_loan_many_lends_exactly_n_consecutive_messages(ends: Ends, n: int):
    tx, rx = ends
    with tx.loan_many(n) as batch:
        assert len(batch) == n
        assert batch.array.shape == (n,)
        batch["n"] = np.arange(n)
        assert rx.try_receive() is None
    assert received(rx) == [list(range(n))]


def test_loan_many_waits_for_all_n_and_never_gives_fewer(ends: Ends):
    tx, rx = ends
    send(tx, *range(8))
    for _ in range(3):
        with pytest.raises(psyne.Full):
            tx.loan_many(4, timeout=0)
        rx.receive().release()
    rx.receive().release()
    with tx.loan_many(4, timeout=0) as batch:
        assert len(batch) == 4
        batch.discard()
    assert received(rx) == [[4, 5, 6, 7]]


def test_a_batch_does_not_go_over_the_end_of_the_ring(ends: Ends):
    """What is left of the lap is skipped, unseen by receivers."""
    tx, rx = ends
    for lap in range(30):
        numbers = list(range(10 * lap, 10 * lap + 1 + lap % 8))
        try:
            batch = tx.loan_many(len(numbers), timeout=0)
        except psyne.Full:  # the rest that was skipped is to be passed first
            assert rx.try_receive() is None
            batch = tx.loan_many(len(numbers), timeout=0)
        with batch:
            batch["n"] = numbers
        assert received(rx) == [numbers]


def test_a_skipped_rest_of_a_lap_waits_until_it_is_free_itself(ends: Ends):
    tx, rx = ends
    send(tx, *range(6))
    oldest = [rx.receive() for _ in range(6)]
    with pytest.raises(psyne.Full):
        tx.loan_many(3, timeout=0)  # slots 6 and 7 are skipped, 0 to 2 are held
    for m in oldest[:3]:
        m.release()
    with tx.loan_many(3, timeout=0) as batch:
        batch["n"] = [6, 7, 8]
    assert received(rx) == [[6, 7, 8]]


@pytest.mark.parametrize("n", [0, -1, 9, 10**12])
def test_loan_many_of_none_or_of_more_than_the_capacity_is_a_value_error(ends: Ends, n: int):
    with pytest.raises(ValueError, match=r"1 to 8 messages.*capacity="):
        ends[0].loan_many(n)


def test_loan_many_takes_a_whole_number(ends: Ends):
    with pytest.raises(TypeError):
        ends[0].loan_many(2.5)
    with pytest.raises(OverflowError):
        ends[0].loan_many(10**30)


@pytest.mark.parametrize("k", [0, 1, 4])
def test_truncate_sends_only_the_first(ends: Ends, k: int):
    tx, rx = ends
    for lap in range(9):
        with tx.loan_many(4) as batch:
            batch["n"] = np.arange(4) + 10 * lap
            batch.truncate(k)
            assert len(batch) == k
        send(tx, 99)
        assert list(chain(*received(rx))) == [*range(10 * lap, 10 * lap + k), 99]


def test_truncate_behind_another_loan_leaves_a_hole_that_nobody_sees(ends: Ends):
    tx, rx = ends
    batch, after = tx.loan_many(4), tx.loan()
    batch["n"] = [1, 2, 3, 4]
    after.n = 5
    batch.truncate(2)
    tx.send(batch)
    tx.send(after)
    assert received(rx) == [[1, 2], [5]]  # a batch ends before a hole


def test_truncate_cannot_lengthen_a_batch(ends: Ends):
    with ends[0].loan_many(4) as batch:
        for k in (5, -1):
            with pytest.raises(ValueError, match=r"truncate\(-?\d\) of a batch of 4"):
                batch.truncate(k)
        batch.discard()


@pytest.mark.parametrize("how", ["discard", "exception"])
def test_a_batch_that_is_taken_back_was_never_there(ends: Ends, how: str):
    tx, rx = ends
    send(tx, 0)
    if how == "discard":
        with tx.loan_many(4) as batch:
            batch["n"] = 7
            batch.discard()
    else:
        with pytest.raises(ZeroDivisionError), tx.loan_many(4) as batch:
            batch["n"] = 1 // 0
    send(tx, 1)
    assert received(rx) == [[0, 1]]


def test_a_batch_of_structs_is_written_by_field_and_as_a_whole():
    with psyne.sender("ipc://samples", Sample, capacity=8) as tx, psyne.receiver("ipc://samples") as rx:
        with tx.loan_many(3) as batch:
            batch["stamp"] = [1, 2, 3]
            batch["kind"][1:] = 9
            batch["kind"][0] = 8
            batch["values"] = np.arange(9).reshape(3, 3)
            assert batch["values"].shape == (3, 3)
            assert batch.array[2]["stamp"] == 3
        with rx.receive_many(8) as got:
            assert got["stamp"].tolist() == [1, 2, 3]
            assert got.array["kind"].tolist() == [8, 9, 9]
            assert got["values"].tolist() == np.arange(9).reshape(3, 3).tolist()


def test_a_batch_knows_only_its_fields(ends: Ends):
    with ends[0].loan_many(2) as batch:
        with pytest.raises(KeyError, match="speed"):
            batch["speed"]
        with pytest.raises(TypeError, match="field's name or a message's number"):
            batch[0.5]  # type: ignore[call-overload]
        with pytest.raises(IndexError, match="message 2 of a batch of 2"):
            batch[2]
        with pytest.raises(ValueError, match="broadcast"):
            batch["n"] = [1, 2, 3]
        batch.discard()


def test_a_batch_of_arrays_has_one_axis_more():
    with psyne.sender("ipc://pictures", Picture, capacity=8) as tx, psyne.receiver("ipc://pictures") as rx:
        with tx.loan_many(3) as batch:
            batch.array[:] = np.arange(72).reshape(3, 4, 6)
        with rx.receive_many(8) as got:
            assert got.array.shape == (3, 4, 6)
            assert got.array.ravel().tolist() == list(range(72))
            assert memoryview(got).shape == (3, 4, 6)


# ---- send_many -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [0, 1, 7, 8])
def test_send_many_copies_what_fits_at_once(ends: Ends, n: int):
    tx, rx = ends
    send(tx, 100, 101, 102)
    assert received(rx) == [[100, 101, 102]]
    tx.send_many(np.arange(n, dtype="u8").view(NUMBERS), timeout=0)
    assert list(chain(*received(rx))) == list(range(n))


def test_send_many_sends_any_number_while_somebody_receives():
    with psyne.sender("ipc://lines", Line, capacity=16) as tx, Child() as reader:
        reader.run("from layouts import broken_lines; rx = psyne.receiver('ipc://lines'); seen = []; torn = 0")
        reader.begin(
            "for batch in rx.batches(7):\n seen += batch.array[:, 1].tolist(); torn += broken_lines(batch.array)\ntorn"
        )
        tx.send_many(lines_of(5, 0, 10_000))
        tx.send_many(np.repeat(lines_of(5, 10_000, 500), 2, axis=0)[::2])  # strided
        tx.close()
        assert reader.result() == 0
        assert reader.run("seen") == list(range(10_500))


def test_send_many_that_times_out_has_sent_a_beginning(ends: Ends):
    tx, rx = ends
    with pytest.raises(psyne.Full):
        tx.send_many(np.arange(20, dtype="u8").view(NUMBERS), timeout=0)
    assert list(chain(*received(rx))) == list(range(8))


@pytest.mark.parametrize(
    "thing", [np.zeros((3, 8)), np.zeros(8, "u8"), np.zeros((2, 4), "u8"), [[0] * 8], b"12345678", None]
)
def test_send_many_refuses_another_dtype_or_shape(thing: Any):
    with (
        psyne.sender("ipc://lines", Line, capacity=16) as tx,
        pytest.raises(psyne.LayoutMismatch, match=r"uint64\[8\]"),
    ):
        tx.send_many(thing)


# ---- to read -------------------------------------------------------------------------------------------------------


def test_receive_many_gives_1_to_n_of_what_is_there(ends: Ends):
    tx, rx = ends
    send(tx, *range(8))
    for n, expected in [(3, [0, 1, 2]), (1, [3]), (100, [4, 5, 6, 7])]:
        with rx.receive_many(n) as batch:
            assert batch["n"].tolist() == expected
            assert batch.info.sequence == expected[0]
    with pytest.raises(psyne.Empty):
        rx.receive_many(3, timeout=0)


@pytest.mark.parametrize("n", [0, -5])
def test_a_batch_has_at_least_one_message(ends: Ends, n: int):
    for receive in (ends[1].receive_many, ends[1].try_receive_many, ends[1].batches):
        with pytest.raises(ValueError, match="at least 1"):
            receive(n)


def test_a_batch_ends_at_the_end_of_the_ring(ends: Ends):
    tx, rx = ends
    send(tx, *range(6))
    assert received(rx) == [[0, 1, 2, 3, 4, 5]]
    send(tx, *range(6))
    assert received(rx) == [[0, 1], [2, 3, 4, 5]]


def test_a_batch_holds_messages_of_one_sender(ends: Ends):
    tx, rx = ends
    with psyne.sender("ipc://numbers", Number, capacity=8) as other:
        for n in range(4):
            send(tx, n)
            send(other, 100 + n)
        assert sorted(received(rx)) == [[0, 1, 2, 3], [100, 101, 102, 103]]


def test_batches_iterates_until_the_end_and_each_step_ends_the_batch_before(ends: Ends):
    tx, rx = ends
    send(tx, *range(8))
    tx.close()
    seen, last = [], None
    for batch in rx.batches(3):
        if last is not None:
            with pytest.raises(psyne.MessageReleased):
                _ = last["n"]
        seen.append(batch["n"].tolist())
        last = batch
    assert seen == [[0, 1, 2], [3, 4, 5], [6, 7]]


def test_the_end_of_a_batch_gives_all_its_slots_back(ends: Ends):
    tx, rx = ends
    send(tx, *range(8))
    batch = rx.receive_many(5)
    assert tx.try_loan() is None
    batch.release()
    with tx.loan_many(5, timeout=0) as again:
        again.discard()
    with pytest.raises(psyne.Full):
        tx.loan_many(6, timeout=0)


def test_a_copy_of_a_batch_is_an_array_in_private_memory(ends: Ends):
    tx, rx = ends
    send(tx, 1, 2)
    with rx.receive_many(8) as batch:
        copy = batch.copy()
        assert not np.shares_memory(copy, batch.array)
    assert copy["n"].tolist() == [1, 2]
    copy["n"] = 0


def test_linger_waits_for_more_after_the_first():
    with psyne.sender("ipc://numbers", Number, capacity=16) as tx, Child() as reader:
        reader.run("rx = psyne.receiver('ipc://numbers')")
        reader.begin_waiting("rx.receive_many(4, linger=3600)['n'].tolist()")
        for n in range(4):
            assert not reader.answered()
            tx.send(Number(n=n))
        assert reader.result() == [0, 1, 2, 3]


def test_linger_ends_after_its_time_and_at_the_end_of_the_channel(ends: Ends):
    tx, rx = ends
    send(tx, 1, 2)
    with rx.receive_many(5, linger=0.02) as batch:
        assert batch["n"].tolist() == [1, 2]
    send(tx, 3)
    tx.close()
    with rx.receive_many(5, linger=3600) as batch:
        assert batch["n"].tolist() == [3]


@pytest.mark.parametrize("linger", [-1.0, float("nan")])
def test_a_strange_linger_is_refused(ends: Ends, linger: float):
    with pytest.raises(ValueError):  # noqa: PT011  # the text is the time-outs'
        ends[1].receive_many(5, linger=linger)


def test_batches_of_any_sizes_arrive_whole_over_many_laps():
    rng = np.random.default_rng(2)
    with psyne.sender("ipc://lines", Line, capacity=64) as tx, psyne.receiver("ipc://lines") as rx:
        sent = seen = 0
        while seen < 20_000:
            n = int(rng.integers(1, 65))
            try:
                with tx.loan_many(n, timeout=0) as batch:
                    k = int(rng.integers(0, n + 1))
                    batch.array[:k] = lines_of(1, sent, k)
                    batch.truncate(k)
                    sent += k
            except psyne.Full:
                pass
            got = rx.try_receive_many(int(rng.integers(1, 80)))
            if got is not None:
                with got:
                    assert broken_lines(got.array) == 0
                    assert got.array[:, 1].tolist() == list(range(seen, seen + len(got)))
                    seen += len(got)
