"""Channels without a name: their ends join at their first use, and what was sent outlives who sent it."""

import contextlib
import gc
import os
import threading
from pathlib import Path

import numpy as np
import pytest

import psyne
from psyne import Stage

from .helpers.layouts import Line, Number, Picture, lines_of
from .helpers.process import run_program, until


def pages(end) -> int:
    """Bytes that the memory of a channel really has."""
    return os.fstat(end._handover.memory.fd).st_blocks * 512


def test_two_ends_of_one_thread_are_a_channel():
    tx, rx = psyne.channel(Number)
    with tx, rx:
        tx.send(Number(n=41))
        with tx.loan() as m:
            m.n = 42
        assert [rx.receive().n, rx.receive().n] == [41, 42]
        assert rx.try_receive() is None


@pytest.mark.leaves_nothing
def test_an_anonymous_channel_needs_no_file():
    tx, rx = psyne.channel(Number)
    tx.send(Number(n=1))
    assert rx.receive().n == 1
    assert os.listdir(os.environ["PSYNE_DIR"]) == []


@pytest.mark.parametrize(
    "use",
    [
        lambda tx: tx.send(Number(n=1)),
        lambda tx: tx.loan().discard(),
        lambda tx: tx.try_loan().discard(),
        lambda tx: tx.loan_many(2).discard(),
        lambda tx: tx.send_many(np.zeros(3, Number.__layout__.dtype)),
        lambda tx: tx.drain(),
        lambda tx: tx.__enter__(),
    ],
    ids=["send", "loan", "try_loan", "loan_many", "send_many", "drain", "with"],
)
def test_a_sender_joins_at_its_first_use(use):
    tx, _ = psyne.channel(Number)
    assert not tx.joined
    use(tx)
    assert tx.joined


@pytest.mark.parametrize(
    "use",
    [
        lambda rx: rx.receive(timeout=0),
        lambda rx: rx.try_receive(),
        lambda rx: rx.receive_many(2, timeout=0),
        lambda rx: rx.try_receive_many(2),
        lambda rx: rx.__enter__(),
    ],
    ids=["receive", "try_receive", "receive_many", "try_receive_many", "with"],
)
def test_a_receiver_joins_at_its_first_use(use):
    _, rx = psyne.channel(Number)
    assert not rx.joined
    with contextlib.suppress(psyne.Empty):
        use(rx)
    assert rx.joined


def test_an_end_that_has_not_joined_knows_what_it_will_be():
    tx, rx = psyne.channel(Number, capacity=5)
    joined = tx.clone()
    joined.send(Number(n=1))
    assert tx.capacity == joined.capacity == 8
    assert not tx.closed
    assert tx.address == rx.address == joined.address
    assert tx.address.startswith("anonymous://")
    assert tx.address in repr(tx)
    with pytest.raises(ValueError, match=r"loan_many\(9\): 1 to 8"):
        tx.loan_many(9)
    with pytest.raises(ValueError, match=r"loan_many\(0\): 1 to 8"):
        tx.loan_many(0)
    assert not tx.joined


def test_a_loan_of_an_end_that_has_not_joined_lies_in_a_slot():
    tx, rx = psyne.channel(Picture)
    with tx.loan() as m:
        m.array[...] = 7
    assert (rx.receive().array == 7).all()


def test_an_end_that_was_closed_unused_never_counted():
    tx, rx = psyne.channel(Number, pattern="spsc")
    other = tx.clone()
    tx.close()
    assert tx.closed
    with pytest.raises(psyne.Empty):  # not the end: no sender has come yet
        rx.receive(timeout=0)
    other.send(Number(n=1))
    other.close()
    assert [m.n for m in rx] == [1]
    with pytest.raises(psyne.ChannelClosed):
        tx.send(Number(n=1))


def test_a_with_block_that_sends_nothing_is_a_sender_that_came_and_went():
    tx, rx = psyne.channel(Number)
    with tx:
        pass
    assert list(rx) == []


def test_nothing_is_lost_when_the_sender_has_gone_before_the_receiver_comes():
    tx, rx = psyne.channel(Number, capacity=8)
    with tx:
        for n in range(5):
            tx.send(Number(n=n))
    del tx
    gc.collect()
    assert [m.n for m in rx] == [0, 1, 2, 3, 4]
    with pytest.raises(psyne.EndOfChannel):
        rx.receive()


def test_a_receiver_that_comes_after_all_was_received_sees_the_end():
    tx, rx = psyne.channel(Number)
    late = rx.clone()
    with tx:
        tx.send(Number(n=1))
    assert [m.n for m in rx] == [1]
    rx.close()
    with pytest.raises(psyne.EndOfChannel):
        late.receive()


def test_a_receiver_that_comes_first_waits_for_a_sender():
    tx, rx = psyne.channel(Number)
    got = []
    thread = threading.Thread(target=lambda: got.append(rx.receive().n))
    thread.start()
    until(lambda: rx.joined)
    tx.send(Number(n=3))
    thread.join()
    assert got == [3]


def test_an_ended_channel_goes_on_with_the_next_sender_when_it_is_followed():
    tx, rx = psyne.channel(Number, follow=True)
    for n in range(3):
        with tx.clone() as one:
            one.send(Number(n=n))
    assert [rx.receive().n for _ in range(3)] == [0, 1, 2]
    with pytest.raises(psyne.Empty):
        rx.receive(timeout=0.01)


def test_a_receiver_that_leaves_passes_what_it_did_not_take_to_the_next():
    tx, rx = psyne.channel(Number)
    tx.send_many(np.array([(n,) for n in range(4)], Number.__layout__.dtype))
    with rx.clone() as first:
        assert first.receive().n == 0
    assert [rx.receive().n for _ in range(3)] == [1, 2, 3]


def test_any_number_of_ends_share_a_channel_by_default():
    tx, rx = psyne.channel(Number)
    senders, receivers = [tx, tx.clone()], [rx, rx.clone()]
    for n in range(20):
        senders[n % 2].send(Number(n=n))
    assert sorted(receivers[n % 2].receive().n for n in range(20)) == list(range(20))


@pytest.mark.parametrize(("pattern", "one_sender", "one_receiver"), [("spsc", 1, 1), ("spmc", 1, 0), ("mpsc", 0, 1)])
def test_a_pattern_holds_for_clones(pattern: str, one_sender: bool, one_receiver: bool):
    tx, rx = psyne.channel(Number, pattern=pattern)
    with tx, rx:
        for end, one, use in ((tx.clone(), one_sender, "drain"), (rx.clone(), one_receiver, "try_receive")):
            if one:
                with pytest.raises(psyne.ChannelBusy, match="anonymous://"):
                    getattr(end, use)()
                assert not end.joined
            else:
                getattr(end, use)()


def test_a_place_that_is_taken_is_free_later_for_the_same_end():
    tx, rx = psyne.channel(Number, pattern="spsc")
    tx.send(Number(n=1))
    second = tx.clone()
    with pytest.raises(psyne.ChannelBusy):
        second.send(Number(n=2))
    tx.close()
    second.send(Number(n=2))
    assert [rx.receive().n, rx.receive().n] == [1, 2]


def test_with_several_stages_a_receiver_says_which_is_its_own():
    tx, rx = psyne.channel(Number, stages=[Stage("rectify", mutate=True), "infer"])
    with pytest.raises(psyne.InvalidArgument, match=r"several stages; say stage= one of 'rectify', 'infer'"):
        rx.receive()
    rectify, infer = rx.clone(stage="rectify"), rx.clone(stage="infer")
    tx.send(Number(n=20))
    assert infer.try_receive() is None
    with rectify.receive() as m:
        m.n += 1
    assert infer.receive().n == 21
    with pytest.raises(psyne.InvalidArgument, match="no stage 'draw'"):
        rx.clone(stage="draw").receive()


def test_full_channels_drop_or_say_so():
    tx, rx = psyne.channel(Number, capacity=2, full="drop")
    assert [tx.send(Number(n=n)) for n in range(4)] == [True, True, False, False]
    assert rx.receive().n == 0
    blocking, _ = psyne.channel(Number, capacity=2)
    blocking.send_many(np.zeros(2, Number.__layout__.dtype))
    with pytest.raises(psyne.Full, match="anonymous://"):
        blocking.send(Number(n=2), timeout=0)


def test_a_lane_that_was_received_gives_its_memory_back():
    tx, rx = psyne.channel(Line, capacity=4096)
    empty = pages(rx)
    for _ in range(10):
        with tx.clone() as one:
            one.send_many(lines_of(1, 0, 4096))
            assert pages(rx) - empty >= 4096 * 64
        for _ in range(4096):
            rx.receive()
    with tx:
        tx.send_many(lines_of(1, 0, 1))  # whoever comes and goes cleans up
        rx.receive()
        rx.try_receive()
    left = pages(rx) - empty
    assert left < 3 * 4096 * 64 * 2  # not ten rings of 256 KiB with their words


def test_arrays_outlive_the_lane_that_they_lie_in():
    tx, rx = psyne.channel(Line, capacity=8)
    with tx.loan() as m:
        m.array[:] = 5
        sent = m.array
    rx.receive().release()
    for end in (tx, rx):
        end.close()
    del tx, rx, m
    gc.collect()
    assert (sent == 5).all()


def test_a_sent_array_keeps_its_bytes_when_others_clean_up():
    tx, rx = psyne.channel(Line, capacity=8)
    with tx.loan() as m:
        m.array[:] = 5
        sent = m.array
    rx.receive().release()
    tx.close()
    late = rx.clone()
    for end in (rx, late):
        with pytest.raises(psyne.EndOfChannel):
            end.receive()
        end.close()
    assert (sent == 5).all()


def test_more_than_there_is_memory_for_is_an_error_with_numbers_and_leaves_no_page():
    meminfo = Path("/proc/meminfo").read_text().splitlines()
    free = next(int(line.split()[1]) for line in meminfo if line.startswith("MemAvailable")) * 1024
    tx, rx = psyne.channel(psyne.Array("u1", 1 << 30), capacity=(free >> 30) + 8)
    before = pages(rx)
    with pytest.raises(psyne.NoSpace, match=r"\d+ bytes"):
        tx.drain()
    assert not tx.joined
    assert pages(rx) - before < 1 << 20
    with pytest.raises(psyne.NoSpace, match=r"at most 70368744177664"):
        psyne.channel(psyne.Array("u1", 1 << 30), capacity=1 << 17)[0].drain()


def test_close_from_another_thread_ends_a_wait():
    _, rx = psyne.channel(Number)
    errors = []

    def wait() -> None:
        with pytest.raises(psyne.ChannelClosed) as caught:
            rx.receive()
        errors.append(caught.value)

    thread = threading.Thread(target=wait)
    thread.start()
    until(lambda: rx.joined)
    rx.close()
    thread.join()
    assert len(errors) == 1


def test_a_channel_between_threads_carries_all_messages():
    tx, rx = psyne.channel(Line, capacity=64)
    got: list[tuple[int, int]] = []

    def send(sender: int, end) -> None:
        with end:
            end.send_many(lines_of(sender, 0, 2000))

    def receive(end) -> None:
        with end:
            mine = [tuple(m.array[:2].tolist()) for m in end]
        got.extend(mine)

    with tx:
        senders = [threading.Thread(target=send, args=(i, tx.clone())) for i in range(3)]
        receivers = [threading.Thread(target=receive, args=(rx.clone(),)) for _ in range(2)]
        for thread in senders + receivers:
            thread.start()
        for thread in senders:
            thread.join()
    for thread in receivers:
        thread.join()
    assert sorted(got) == [(sender, n) for sender in range(3) for n in range(2000)]


@pytest.mark.parametrize(
    "wrong",
    [
        {"pattern": "smsp"}, {"pattern": None}, {"full": "burst"}, {"wait": "never"}, {"capacity": 0}, {"align": 3},
        {"stages": "main"}, {"stages": ["a", "a"]},
    ],
    ids=str,
)  # fmt: skip
def test_options_that_can_never_work_are_refused(wrong: dict):
    with pytest.raises(psyne.InvalidArgument):
        psyne.channel(Number, **wrong)


def test_a_channel_needs_a_type():
    with pytest.raises(psyne.InvalidArgument, match="needs the types"):
        psyne.channel()
    with pytest.raises(psyne.LayoutMismatch):
        psyne.channel(int)


def test_a_descriptor_that_is_no_channel_is_refused():
    from psyne import _native

    for fd in (os.open("/dev/null", os.O_RDWR), os.memfd_create("short")):
        with pytest.raises((psyne.IncompatibleChannel, psyne.SystemFailure)):
            _native.describe(fd, "0")
        os.close(fd)
    with pytest.raises(psyne.SystemFailure, match="not open"):
        _native.describe(fd, "0")


def test_a_program_that_forgets_its_ends_closes_them():
    done = run_program(
        "import os, psyne, layouts\n"
        "tx, rx = psyne.channel(layouts.Number)\n"
        "kept = rx.clone()\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    tx.send(layouts.Number(n=3))\n"
        "    raise SystemExit\n"
        "os.waitpid(pid, 0)\n"
        "print([m.n for m in rx])\n"
    )
    assert done.stdout.strip() == "[3]"
