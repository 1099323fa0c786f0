"""The four patterns limit the ends; the error names who is there and the ways out; a free place is free at once."""

from contextlib import ExitStack
from typing import Any

import pytest

import psyne

from .helpers.layouts import Number
from .helpers.process import Child

PATTERNS = ["spsc", "spmc", "mpsc", "mpmc"]
SEND = "tx = psyne.sender('ipc://limited', Number, capacity=8, pattern=pattern)"
JOIN = "rx = psyne.receiver('ipc://limited')"


def several_senders(pattern: str) -> bool:
    return pattern[0] == "m"


def several_members(pattern: str) -> bool:
    return pattern[2] == "m"


@pytest.mark.parametrize("pattern", [p for p in PATTERNS if not several_senders(p)])
def test_the_second_sender_is_refused_with_the_first_ones_pid_and_program_and_the_ways_out(pattern: str):
    with Child() as first, Child() as second:
        first.run(SEND, pattern=pattern)
        with pytest.raises(psyne.ChannelBusy, match=rf"one sender.*pid {first.pid}, child\.py.*mpsc.*mpmc"):
            second.run(SEND, pattern=pattern)
        first.run("tx.send(Number(n=1))")


@pytest.mark.parametrize("pattern", [p for p in PATTERNS if not several_members(p)])
def test_the_second_member_is_refused_with_the_first_ones_pid_and_program_and_the_ways_out(pattern: Any):
    with psyne.sender("ipc://limited", Number, pattern=pattern) as tx, Child() as first, Child() as second:
        first.run(JOIN)
        with pytest.raises(
            psyne.ChannelBusy, match=rf"stage 'main'.*pid {first.pid}, child\.py.*mpmc.*psyne\.tap\(\).*new_stage=True"
        ) as refused:
            second.run(JOIN)
        assert isinstance(refused.value, RuntimeError)
        tx.send(Number(n=1))
        assert first.run("rx.receive().n") == 1


@pytest.mark.parametrize("pattern", PATTERNS)
def test_each_pattern_lets_in_as_many_as_it_says(pattern: Any):
    with ExitStack() as stack:
        senders = [stack.enter_context(psyne.sender("ipc://limited", Number, capacity=8, pattern=pattern))]
        if several_senders(pattern):
            senders += [stack.enter_context(psyne.sender("ipc://limited", Number, capacity=8)) for _ in range(5)]
        receivers = [stack.enter_context(psyne.receiver("ipc://limited"))]
        if several_members(pattern):
            receivers += [stack.enter_context(psyne.receiver("ipc://limited")) for _ in range(5)]
        for n, tx in enumerate(senders * 6):
            tx.send(Number(n=n))
        count = len(senders) * 6
        got = [receivers[i % len(receivers)].receive(timeout=0).n for i in range(count)]
        assert sorted(got) == list(range(count))


def test_the_one_member_is_one_of_each_stage():
    with (
        psyne.sender("ipc://limited", Number, pattern="spsc", stages=["a", "b"]),
        psyne.receiver("ipc://limited", stage="a"),
        psyne.receiver("ipc://limited", stage="b"),
        pytest.raises(psyne.ChannelBusy, match="stage 'b'"),
    ):
        psyne.receiver("ipc://limited", stage="b")


@pytest.mark.parametrize("leaving", ["tx.close()", "del tx; gc.collect()", None])
def test_the_senders_place_is_free_when_it_has_left_or_was_killed(leaving: str | None):
    with Child() as first, Child() as second:
        first.run(SEND, pattern="spsc")
        with psyne.receiver("ipc://limited") as rx:
            first.run("tx.send(Number(n=1))")
            if leaving:
                first.run(leaving)
            else:
                first.kill()
            second.run(SEND, pattern="spsc")
            second.run("tx.send(Number(n=2))")
            assert [rx.receive().n for _ in range(2)] == [1, 2]


@pytest.mark.parametrize("leaving", ["rx.close()", "del rx; gc.collect()", None])
@pytest.mark.parametrize("pattern", ["spsc", "mpsc"])
def test_the_members_place_is_free_when_it_has_left_or_was_killed(pattern: Any, leaving: str | None):
    with psyne.sender("ipc://limited", Number, capacity=8, pattern=pattern) as tx, Child() as first:
        first.run(JOIN)
        tx.send(Number(n=1))
        assert first.run("rx.receive().n") == 1
        if leaving:
            first.run(leaving)
        else:
            first.kill(reap=False)  # a zombie is dead too
        with psyne.receiver("ipc://limited") as second:
            tx.send(Number(n=2))
            with second.receive() as m:
                assert m.n == 2


def test_a_member_that_leaves_with_a_message_in_hand_frees_the_place_at_once():
    with psyne.sender("ipc://limited", Number, capacity=8) as tx, psyne.receiver("ipc://limited") as first:
        tx.send(Number(n=1))
        tx.send(Number(n=2))
        held = first.receive()
        first.close()
        with psyne.receiver("ipc://limited") as second:
            assert second.receive(timeout=0).n == 2
            assert second.try_receive() is None
            assert held.n == 1


def test_a_refused_end_leaves_no_trace():
    with psyne.sender("ipc://limited", Number, capacity=8, pattern="spsc"), psyne.receiver("ipc://limited"):
        for _ in range(200):  # more than there are places for members
            with pytest.raises(psyne.ChannelBusy):
                psyne.sender("ipc://limited", Number)
            with pytest.raises(psyne.ChannelBusy):
                psyne.receiver("ipc://limited")


def test_the_places_of_a_channel_are_counted_and_the_error_says_how_many():
    with ExitStack() as stack:
        for _ in range(64):
            stack.enter_context(psyne.sender("ipc://limited", Number, capacity=1, pattern="mpmc"))
            stack.enter_context(psyne.receiver("ipc://limited"))
        with pytest.raises(psyne.ChannelBusy, match="64 senders"):
            psyne.sender("ipc://limited", Number)
        with pytest.raises(psyne.ChannelBusy, match="64 receivers"):
            psyne.receiver("ipc://limited")


def test_places_are_used_again_over_many_lives():
    with psyne.sender("ipc://limited", Number, capacity=8, pattern="mpmc") as tx:
        for n in range(300):
            tx.send(Number(n=n))
            with psyne.receiver("ipc://limited") as rx, psyne.sender("ipc://limited", capacity=1) as other:
                other.send(Number(n=1000 + n))
                assert sorted(rx.receive(timeout=0).n for _ in range(2)) == [n, 1000 + n]
