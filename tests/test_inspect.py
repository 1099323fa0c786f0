"""A channel as it looks from outside: nobody joins, nobody is held up."""

import os
from pathlib import Path

import pytest

import psyne
from psyne import Stage
from psyne.inspect import Channel

from .helpers.layouts import Number
from .helpers.process import Child
from .test_cli import run

pytestmark = pytest.mark.leaves_nothing


def look(address: str = "ipc://n") -> Channel:
    seen = psyne.inspect(address)
    assert seen is not None
    return seen


def test_there_is_nothing_to_see_where_no_channel_is(psyne_directory: Path) -> None:
    assert psyne.inspect("ipc://n") is None
    with pytest.raises(psyne.InvalidArgument):
        psyne.inspect("n")


def test_each_stage_says_what_it_passed_holds_and_could_take() -> None:
    graph = ["first", Stage("second"), Stage("side", after="first")]
    with (
        psyne.sender("ipc://n", Number, stages=graph, capacity=16, pattern="spmc", timestamps=True) as out,
        psyne.receiver("ipc://n", Number, stage="first") as first,
        psyne.receiver("ipc://n", Number, stage="side") as side,
    ):
        for n in range(10):
            out.send(Number(n=n))
        for _ in range(6):
            first.receive().release()
        held = first.receive()
        side.receive().release()
        seen = look()
        assert (seen.address, seen.pattern) == ("ipc://n", "spmc")
        assert [(s.name, s.after, s.passed, s.held, s.waiting) for s in seen.stages] == [
            ("first", (), 6, 1, 3),
            ("second", ("first",), 0, 0, 6),
            ("side", ("first",), 1, 0, 5),
        ]
        (lane,) = seen.lanes
        assert (lane.state, lane.position, lane.capacity, lane.used, lane.slabs) == ("open", 10, 16, 10, 1)
        assert lane.reserved >= 64 * 1024  # what a slab has at least
        assert lane.sender is not None
        assert (lane.sender.pid, lane.sender.alive) == (os.getpid(), True)
        oldest = seen.stage("first").oldest
        assert oldest is not None
        assert oldest.holder is not None
        assert (oldest.position, oldest.holder.held, oldest.holder.pid) == (6, 1, os.getpid())
        assert oldest.sent == held.info.timestamp
        assert oldest.age > 0
        oldest = seen.stage("second").oldest
        assert oldest is not None
        assert (oldest.position, oldest.holder) == (0, None)
        assert seen.stage("second").members == ()
        assert len(seen.stage("side").members) == 1
        held.release()
        with pytest.raises(KeyError):
            seen.stage("third")


def test_a_ring_that_went_round_is_counted_right() -> None:
    with psyne.sender("ipc://n", Number, capacity=4) as out, psyne.receiver("ipc://n", Number) as rx:
        for n in range(11):
            out.send(Number(n=n))
            if n < 8:
                rx.receive().release()
        seen = look()
        assert (seen.lanes[0].position, seen.lanes[0].used) == (11, 3)
        assert (seen.stages[0].passed, seen.stages[0].waiting) == (8, 3)
        assert seen.stages[0].oldest == psyne.inspect("ipc://n").stages[0].oldest  # type: ignore[union-attr]


def test_a_stage_that_was_added_is_seen_from_the_message_on_that_it_sees() -> None:
    with psyne.sender("ipc://n", Number, capacity=16) as out, psyne.receiver("ipc://n", Number) as rx:
        out.send(Number(n=0))
        rx.receive().release()
        with psyne.receiver("ipc://n", Number, stage="added", new_stage=True) as added:
            for n in range(3):
                out.send(Number(n=n))
                rx.receive().release()
            added.receive().release()
            seen = look()
            assert [stage.name for stage in seen.stages] == ["main", "added"]
            stage = seen.stage("added")
            assert (stage.after, stage.passed, stage.waiting) == (("main",), 1, 2)
            assert len(stage.members) == 1
            assert (seen.stage("main").passed, seen.lanes[0].used) == (4, 2)


def test_looking_joins_nothing_and_a_dead_member_is_told_until_it_is_buried() -> None:
    with psyne.sender("ipc://n", Number, capacity=4) as out, Child() as child:
        child.run('rx = psyne.receiver("ipc://n", Number)')
        out.send(Number(n=1))
        child.run("m = rx.receive()")
        (member,) = look().stages[0].members
        assert (member.pid, member.alive, member.held) == (child.pid, True, 1)
        child.kill()
        (member,) = look().stages[0].members
        assert (member.pid, member.alive, member.held) == (child.pid, False, 1)
        with psyne.receiver("ipc://n", Number) as rx:  # buries it
            rx.receive().release()
            (member,) = look().stages[0].members
            assert (member.pid, member.alive) == (os.getpid(), True)
            assert look().redelivered == 1


def test_a_channel_inside_the_process_is_seen_too() -> None:
    with psyne.sender("memory://n", Number) as out:
        out.send(Number(n=1))
        assert look("memory://n").stages[0].waiting == 1


def test_ls_prints_the_stages() -> None:
    with (
        psyne.sender("ipc://n", Number, stages=["first", "second"], capacity=16) as out,
        psyne.receiver("ipc://n", Number, stage="first") as first,
    ):
        out.send(Number(n=1))
        out.send(Number(n=2))
        first.receive().release()
        printed = run("ls", "--stages").stdout.splitlines()
        kib = look().lanes[0].reserved // 1024
        assert printed[0].startswith("ipc://n   Number(n)")
        assert [line.split() for line in printed[1:]] == [
            f"sent 2, 2 of 16 slots used, {kib} KiB in 1 slab pid {os.getpid()}".split(),
            ["first", "passed", "1,", "held", "0,", "waiting", "1", "pid", f"{os.getpid()}"],
            ["second", "passed", "0,", "held", "0,", "waiting", "1", "nobody"],
        ]
