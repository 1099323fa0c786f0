"""The channel behind a bound address: whom it takes, and as what."""

import weakref
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

import psyne
from psyne import Stage
from psyne.network.bodies import Request
from psyne.network.hosted import Hosted, usual_capacity
from psyne.types.schema import schema_of

from .helpers.layouts import Number, Picture

LOCAL, ADDRESS = "ipc://numbers", "tcp://host:9999/numbers"
SCHEMA = schema_of([Number])
SENDS = Request("sender", schema=SCHEMA)


def offered(**options: Any) -> Hosted:
    return Hosted(LOCAL, ADDRESS, **options)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def receives(stage: str = "", **fields: Any) -> Request:
    return Request("receiver", stage=stage, **fields)


# ---- senders -------------------------------------------------------------------------------------------------------


def test_the_first_remote_sender_makes_the_channel_as_it_was_agreed(stack: ExitStack):
    lane = offered(pattern="mpmc", stages=[Stage("one"), Stage("two")], capacity=32).sender(SENDS)
    stack.callback(lane.close)
    seen = psyne.inspect(LOCAL)
    assert seen is not None
    assert (seen.pattern, [stage.name for stage in seen.stages]) == ("mpmc", ["one", "two"])
    assert lane.capacity == 32
    assert ADDRESS in repr(lane)  # what its errors say, too


def test_a_channel_that_is_there_keeps_its_pattern_and_stages(stack: ExitStack):
    stack.enter_context(psyne.sender(LOCAL, Number, pattern="mpmc", stages=["one", "two"]))
    stack.callback(offered().sender(SENDS).close)
    seen = psyne.inspect(LOCAL)
    assert seen is not None
    assert (seen.pattern, [stage.name for stage in seen.stages]) == ("mpmc", ["one", "two"])


def test_who_takes_no_senders_says_where_they_are():
    with pytest.raises(psyne.InvalidArgument, match=f"{ADDRESS} is bound by its sender: receivers and taps connect"):
        offered(takes_senders=False).admit(SENDS)


def test_messages_that_this_side_does_not_take_are_refused_before_anything_is_made():
    def accept(schema: str) -> None:
        assert schema == SCHEMA
        raise psyne.LayoutMismatch("others")

    for refused in (offered(accept=accept).admit, offered(accept=accept).sender):
        with pytest.raises(psyne.LayoutMismatch, match="others"):
            refused(SENDS)
    assert psyne.inspect(LOCAL) is None


def test_types_that_are_not_those_of_the_channel_are_refused(stack: ExitStack):
    stack.enter_context(psyne.sender(LOCAL, Picture, pattern="mpmc"))
    with pytest.raises(psyne.LayoutMismatch, match=ADDRESS):
        offered().admit(SENDS)


def test_where_only_local_senders_make_it_a_channel_must_be_there(stack: ExitStack):
    hosted = offered(creates=False)
    with pytest.raises(psyne.ChannelNotFound, match=rf"no channel {ADDRESS} yet.*only senders of its own host"):
        hosted.admit(SENDS)
    stack.enter_context(psyne.sender(LOCAL, Number, pattern="mpmc"))
    assert hosted.admit(SENDS) is not None


def test_a_ring_has_the_capacity_of_the_channel_or_of_the_session_or_what_is_usual(stack: ExitStack):
    assert offered().slots(SENDS) == usual_capacity(SCHEMA)
    assert offered(capacity=5).slots(SENDS) == 5
    lane = offered(capacity=32, pattern="mpmc").sender(SENDS, 64)
    stack.callback(lane.close)
    assert lane.capacity == 64


def test_a_usual_ring_has_8_mebibytes_and_between_8_and_4096_messages():
    assert usual_capacity(SCHEMA) == 4096
    assert usual_capacity(schema_of([psyne.Array("u1", (1 << 16,))])) == 128
    assert usual_capacity(schema_of([psyne.Array("u1", (1 << 24,))])) == 8
    assert usual_capacity(schema_of([Number, psyne.Array("u1", (1 << 16,))])) == 128  # the largest counts


# ---- lanes that end ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("failed", [False, True])
def test_a_lane_stays_until_the_end_of_this_process_has_joined(stack: ExitStack, failed: bool):
    hosted = offered()
    with psyne.receiver(LOCAL, Number) as rx:
        hosted.joining = lambda: rx
        lane = hosted.sender(SENDS)
        hosted.close(lane, failed)
        assert not lane.closed
        hosted.close(lane, failed)  # again is harmless
        assert rx.try_receive() is None
        hosted.let_lanes_go()
        assert lane.closed
        gone = weakref.ref(lane)
        del lane
        assert gone() is None  # and its memory
        with pytest.raises(psyne.SenderLost if failed else psyne.EndOfChannel):
            rx.receive(timeout=30)
        hosted.let_lanes_go()


def test_a_lane_goes_at_once_where_that_end_has_joined_or_is_closed_or_nobody_is_there(stack: ExitStack):
    rx = stack.enter_context(psyne.receiver(LOCAL, Number, follow=True))
    hosted = offered(pattern="mpmc")
    hosted.joining = lambda: rx
    keep = stack.enter_context(psyne.sender(LOCAL, Number, pattern="mpmc"))
    assert rx.try_receive() is None  # it has joined
    assert rx.joined
    joined = hosted.sender(SENDS)
    hosted.close(joined, False)
    assert joined.closed
    late = stack.enter_context(psyne.receiver(LOCAL, Number))
    late.close()
    hosted.joining = lambda: late
    closed = hosted.sender(SENDS)
    hosted.close(closed, False)
    assert closed.closed
    waits = stack.enter_context(psyne.receiver(LOCAL, Number))
    hosted.joining = lambda: waits
    hosted.close(closed, False)  # again: nothing of it is kept
    gone = weakref.ref(closed)
    del closed
    assert gone() is None
    alone = offered(pattern="mpmc").sender(SENDS)
    offered().close(alone, False)
    assert alone.closed
    assert not keep.closed


# ---- receivers and taps --------------------------------------------------------------------------------------------


def test_a_channel_that_nobody_has_made_has_no_receivers(stack: ExitStack):
    hosted = offered()
    for request in (receives(), Request("tap")):
        with pytest.raises(psyne.ChannelNotFound, match=f"no channel {ADDRESS} yet: no sender has made it$"):
            hosted.reader(request)
    rx = stack.enter_context(psyne.receiver(LOCAL, Number))
    hosted.joining = lambda: rx
    with pytest.raises(psyne.ChannelNotFound, match=r"made it \(a receiver is bound there\)"):
        hosted.reader(receives())


def test_a_stage_that_mutates_has_no_remote_members_named_or_not(stack: ExitStack):
    stack.enter_context(psyne.sender(LOCAL, Number, stages=[Stage("paint", mutate=True)]))
    for stage in ("paint", ""):
        with pytest.raises(psyne.InvalidArgument, match=rf"stage 'paint' of {ADDRESS} changes messages in place"):
            offered().reader(receives(stage))


def test_beside_a_stage_that_mutates_there_may_be_remote_members(stack: ExitStack):
    stack.enter_context(
        psyne.sender(LOCAL, Number, stages=[Stage("paint", mutate=True), Stage("show", after=["paint"])])
    )
    rx = offered().reader(receives("show"))
    stack.callback(rx.close)
    with pytest.raises(psyne.InvalidArgument, match=rf"{ADDRESS}.*'paint'.*'show'") as refused:
        offered().reader(receives())
    assert LOCAL not in str(refused.value)


def test_a_stage_that_is_not_there_is_none_also_beside_one_that_mutates(stack: ExitStack):
    stack.enter_context(psyne.sender(LOCAL, Number, stages=[Stage("paint", mutate=True)]))
    with pytest.raises(psyne.InvalidArgument, match="no stage 'other'"):
        offered().reader(receives("other"))


def test_a_channel_that_goes_while_a_receiver_comes_is_not_there(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Hosted, "there", {"stages": []})
    with pytest.raises(psyne.ChannelNotFound, match=f"no channel {ADDRESS} yet"):
        offered().reader(receives())


def test_a_remote_stage_cannot_mutate_and_is_added_where_it_asks_to_be(stack: ExitStack):
    stack.enter_context(psyne.sender(LOCAL, Number, stages=["one", "two"]))
    with pytest.raises(psyne.InvalidArgument, match="of another host cannot change messages in place"):
        offered().reader(receives("log", added=(None, True, False)))
    assert [stage.name for stage in _stages()] == ["one", "two"]
    rx = offered().reader(receives("log", added=(("one",), False, False)))
    stack.callback(rx.close)
    assert [(stage.name, tuple(stage.after)) for stage in _stages()][2] == ("log", ("one",))


def test_a_place_that_is_taken_is_told_by_the_address_that_the_peer_knows(stack: ExitStack):
    stack.enter_context(psyne.sender(LOCAL, Number, pattern="spsc"))
    stack.callback(offered().reader(receives()).close)
    with pytest.raises(psyne.ChannelBusy, match=ADDRESS) as refused:
        offered().reader(receives())
    assert LOCAL not in str(refused.value)


def test_a_tap_begins_where_it_asks_to(stack: ExitStack):
    tx = stack.enter_context(psyne.sender(LOCAL, Number, stages=[], capacity=8))
    for n in range(5):
        tx.send(Number(n=n))
    for request, first in ((Request("tap", history=3), 2), (Request("tap", latest=True, history=3), 4)):
        tap = offered().reader(request)
        stack.callback(tap.close)
        assert isinstance(tap, psyne.Tap)
        with tap.receive(timeout=30) as m:
            assert m.n == first


# ---- who is woken by the sender ------------------------------------------------------------------------------------


def test_taps_and_stages_right_behind_the_sender_are_next_and_those_behind_others_are_not(stack: ExitStack):
    hosted = offered()
    assert hosted.is_next(Request("tap"))
    assert not hosted.is_next(receives())  # there is no channel
    stack.enter_context(
        psyne.sender(LOCAL, Number, stages=["one", Stage("two", after=["one"]), Stage("three", after=[])])
    )
    next_to_it = [stage for stage in ("one", "two", "three", "", "four") if hosted.is_next(receives(stage))]
    assert next_to_it == ["one", "three", ""]


def _stages() -> list[Any]:
    seen = psyne.inspect(LOCAL)
    assert seen is not None
    return list(seen.stages)
