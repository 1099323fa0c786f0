"""Messages of several channels that belong together by their stamps."""

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import psyne
from psyne import Array, Stage, Struct, f64, u64
from psyne.matching import Line, Nearest, Stamps

from .helpers.process import Child


class Frame(Struct):
    stamp = u64()
    n = u64()


class Imu(Struct):
    stamp = u64()
    n = u64()


class Columns(Struct, layout="columns"):
    stamp = u64()
    n = u64()


class Seconds(Struct):
    at = f64()
    corners = f64(2)


class Ends:
    """A camera and sensors, all in this process."""

    def __init__(self, *types: Any, **options: Any) -> None:
        made = [psyne.channel(cls, **options) for cls in types or (Frame, Imu)]
        self.tx = [tx.__enter__() for tx, _ in made]  # joined: so each has an end, also without a message
        self.rx = [rx for _, rx in made]
        self.sent = [0] * len(made)

    def send(self, i: int, *stamps: int) -> None:
        for stamp in stamps:
            with self.tx[i].loan(timeout=0) as m:
                m.stamp, m.n = stamp, self.sent[i]
            self.sent[i] += 1

    def held(self, i: int) -> int:
        return int(self.rx[i].statistics().held)


def stamps_of(found: Any) -> tuple[Any, ...]:
    return tuple(it["stamp"].tolist() if isinstance(it, psyne.Batch) else it.stamp for it in found)


def given_now(aligned: Any) -> list[tuple[Any, ...]]:
    """All sets that are certain now."""
    sets = []
    while (found := aligned.try_receive()) is not None:
        sets.append(stamps_of(found))
    return sets


def all_given(aligned: Any) -> list[tuple[Any, ...]]:
    return [stamps_of(found) for found in aligned]


# ---- the nearest ---------------------------------------------------------------------------------------------------


def test_a_set_has_the_nearest_message_of_each_channel():
    ends = Ends(Frame, Imu, Imu)
    with psyne.align(*ends.rx, by="stamp", tolerance=5) as aligned:
        ends.send(1, 1, 8, 11, 20, 30)
        ends.send(2, 4, 14, 24, 34)
        ends.send(0, 10, 21)
        assert given_now(aligned) == [(10, 11, 14), (21, 20, 24)]


def test_a_set_is_given_as_soon_as_no_nearer_message_can_come():
    ends = Ends()
    with psyne.align(*ends.rx, by="stamp", tolerance=100) as aligned:
        ends.send(0, 50)
        ends.send(1, 40)
        assert given_now(aligned) == []  # 59 could come
        ends.send(1, 41)
        ends.send(1, 59)
        assert given_now(aligned) == [(50, 41)]  # of two as near the earlier
        ends.send(0, 70)
        ends.send(1, 70)
        assert given_now(aligned) == [(70, 70)]  # nothing is nearer than this


@pytest.mark.parametrize("frames_first", [True, False])
def test_the_order_in_which_channels_bring_their_messages_changes_nothing(frames_first: bool):
    ends = Ends()
    with psyne.align(*ends.rx, by="stamp", tolerance=3) as aligned:
        for i in (0, 1) if frames_first else (1, 0):
            assert given_now(aligned) == []
            ends.send(i, *((10, 20, 30) if i == 0 else (9, 19, 22, 40)))
        assert given_now(aligned) == [(10, 9), (20, 19)]
        assert aligned.statistics().unmatched == 1


def test_a_message_farther_than_the_tolerance_leaves_its_frame_out():
    ends = Ends()
    with psyne.align(*ends.rx, by="stamp", tolerance=4) as aligned:
        ends.send(0, 10, 20, 30)
        ends.send(1, 5, 16, 35)
        assert given_now(aligned) == [(20, 16)]
        assert aligned.statistics().unmatched == 2


def test_without_a_tolerance_any_distance_will_do_and_with_0_only_the_same_stamp():
    for tolerance, expected in ((None, [(10, 1), (20, 20)]), (0, [(20, 20)])):
        ends = Ends()
        with psyne.align(*ends.rx, by="stamp", tolerance=tolerance) as aligned:
            ends.send(0, 10, 20)
            ends.send(1, 1, 20, 21)
            assert given_now(aligned) == expected


def test_one_message_may_serve_several_sets_and_stays_held_as_long():
    ends = Ends(capacity=4)
    with psyne.align(*ends.rx, by="stamp", tolerance=50) as aligned:
        ends.send(1, 10)
        ends.tx[1].close()
        ends.send(0, 5, 10, 15)
        samples = [sample for _, sample in (aligned.receive(), aligned.receive(), aligned.receive())]
        assert samples[0] is samples[1] is samples[2]
        assert samples[0].stamp == 10
        assert ends.held(1) == 1
        ends.send(0, 100)
        with pytest.raises(psyne.EndOfChannel):
            aligned.receive()
        assert ends.held(1) == ends.held(0) == 0


def test_stamps_are_compared_as_whole_numbers():
    big = 1 << 63  # where float64 has steps of 2048
    for read in ("stamp", lambda m: m.stamp, lambda m: np.uint64(m.stamp)):
        ends = Ends()
        with psyne.align(*ends.rx, by=read, tolerance=2) as aligned:
            ends.send(0, big + 5)
            ends.send(1, big, big + 3, big + 8)
            assert given_now(aligned) == [(big + 5, big + 3)]


def test_each_channel_may_have_its_own_field_or_a_function():
    tx, rx = psyne.channel(Seconds)
    ends = Ends()
    with psyne.align(ends.rx[0], rx, by=(lambda m: m.stamp * 1e-9, "at"), tolerance=0.005) as aligned:
        for at in (1.0, 1.004, 1.02):
            tx.send(Seconds(at=at))
        ends.send(0, 1_003_000_000)
        frame, sample = aligned.receive(timeout=0)
        assert (frame.stamp, sample.at) == (1_003_000_000, 1.004)


def test_a_stamp_that_falls_or_is_not_finite_is_passed_over_and_counted():
    (tx, rx), ends = psyne.channel(Seconds), Ends()
    with psyne.align(ends.rx[0], rx, by=("stamp", "at"), tolerance=2) as aligned:
        for at in (float("nan"), 1.0, 0.5, float("inf"), 2.0, float("-inf"), 2.0, 9.0):
            tx.send(Seconds(at=at))
        ends.send(0, 1, 3, 2)
        for expected in ((1, 1.0), (3, 2.0)):
            frame, sample = aligned.receive(timeout=0)
            assert (frame.stamp, sample.at) == expected
        assert aligned.try_receive() is None
        assert aligned.statistics().late == (1, 4)
        assert rx.statistics().held == 3  # 2.0, 2.0, 9.0


@dataclass
class Fake:
    stamp: int
    ended: int = 0

    def __exit__(self, *_: object) -> None:
        self.ended += 1


def nearest_of(frames: list[int], others: list[list[int]], tolerance: float) -> list[tuple[int, ...]]:
    """What the nearest mode gives, by trying all."""
    sets = []
    for frame in frames:
        found = [min(stamps, key=lambda s: (abs(s - frame), s), default=None) for stamps in others]
        if all(s is not None and abs(s - frame) <= tolerance for s in found):
            sets.append((frame, *found))
    return sets


STAMPS = st.lists(st.integers(0, 60), max_size=12).map(sorted)


@settings(max_examples=200, deadline=None)
@given(st.lists(STAMPS, min_size=2, max_size=4), st.sampled_from([0, 1, 3, 10, float("inf")]), st.data())
def test_the_matching_finds_what_trying_all_finds_in_any_order_of_arrival(
    channels: list[list[int]], tolerance: float, data: st.DataObject
):
    messages = [[Fake(s) for s in stamps] for stamps in channels]
    lines = [Line(Stamps(lambda m: m.stamp, "")) for _ in channels]
    matching = Nearest(lines, tolerance)
    coming = [deque(line) for line in messages]
    sets: list[tuple[int, ...]] = []

    def take() -> None:
        matching.finish()
        while (found := matching.take()) is not None:
            assert not any(m.ended for m in found)
            sets.append(tuple(m.stamp for m in found))
            matching.finish()

    while open_lines := [i for i, line in enumerate(lines) if not line.ended]:
        i = data.draw(st.sampled_from(open_lines))
        if coming[i]:
            lines[i].put(coming[i].popleft())
        else:
            lines[i].ended = True
        take()
        if matching.over():
            matching.clear()
            break
    assert sets == nearest_of(channels[0], channels[1:], tolerance)
    came = [m for line, rest in zip(messages, coming, strict=True) for m in line[: len(line) - len(rest)]]
    assert all(m.ended == 1 for m in came)
    if len(open_lines) == 0:
        assert matching.unmatched == len(channels[0]) - len(sets)


# ---- all between ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [Imu, Columns])
def test_between_gives_all_since_the_frame_before_up_to_its_stamp(cls: Any):
    ends = Ends(Frame, cls)
    with psyne.align(*ends.rx, by="stamp", between=True) as aligned:
        ends.send(1, 1, 2, 10, 11)
        ends.send(0, 10, 10, 20)
        assert given_now(aligned) == [(10, [1, 2, 10]), (10, [])]
        assert aligned.try_receive() is None  # 20 may come twice
        ends.send(1, 20, 20, 21)
        assert given_now(aligned) == [(20, [11, 20, 20])]


@pytest.mark.parametrize("cls", [Imu, Columns])
@pytest.mark.parametrize("singly", [True, False])
def test_consecutive_samples_are_the_slots_themselves_however_they_came(cls: Any, singly: bool):
    ends = Ends(Frame, cls, capacity=64)
    with psyne.align(*ends.rx, by="stamp", between=True) as aligned:
        for stamp in range(1, 18):
            ends.send(1, stamp)
            if singly:
                assert aligned.try_receive() is None
        ends.send(0, 8, 16)
        first = aligned.receive(timeout=0)[1]
        kept = first["n"]
        assert first["stamp"].tolist() == list(range(1, 9))
        assert first[3].info.sequence == 3
        second = aligned.receive(timeout=0)[1]
        assert second.info.sequence == 8
        assert second["n"].__array_interface__["data"][0] - kept.__array_interface__["data"][0] == 8 * kept.strides[0]
        assert aligned.statistics().copied == (0, 0)
        assert ends.rx[1].statistics().copied_bytes == 0
        assert kept.tolist() == list(range(8))
        assert ends.held(1) == 17  # 8 by the array, 8 by the set, 1 for the next
        del kept, second, first
        assert aligned.try_receive() is None
        assert ends.held(1) == 1


@pytest.mark.parametrize("cls", [Imu, Columns])
def test_what_is_not_consecutive_is_one_read_only_copy_of_the_same_form(cls: Any):
    ends = Ends(Frame, cls, capacity=8)
    with psyne.align(*ends.rx, by="stamp", between=True, hold=7) as aligned:
        ends.send(1, 1, 2, 3, 4, 5, 6)
        ends.send(0, 5)
        assert given_now(aligned) == [(5, [1, 2, 3, 4, 5])]
        ends.send(1, 7, 8, 9, 10)  # over the end of the ring
        ends.send(0, 9)
        frame, batch = aligned.receive(timeout=0)
        assert (frame.stamp, batch["stamp"].tolist(), [m.n for m in batch]) == (9, [6, 7, 8, 9], [5, 6, 7, 8])
        assert batch["stamp"].flags.c_contiguous == (cls is Columns)
        assert aligned.statistics().copied == (0, 4)
        assert ends.rx[1].statistics().copied_bytes == 4 * 16
        assert ends.held(1) == 1
        with pytest.raises(psyne.ReadOnly):
            batch["n"] = 0
        assert not batch["n"].flags.writeable


def test_samples_of_several_senders_are_one_batch_and_what_comes_late_is_counted():
    ends = Ends()
    other = ends.tx[1].clone()
    with psyne.align(*ends.rx, by="stamp", between=True) as aligned:
        for stamp in range(1, 7):
            (other if stamp % 2 else ends.tx[1]).send(Imu(stamp=stamp))
            assert aligned.try_receive() is None
        other.send(Imu(stamp=4))
        ends.send(0, 5)
        assert given_now(aligned) == [(5, [1, 2, 3, 4, 5])]
        assert aligned.statistics().late == (0, 1)
        assert aligned.statistics().copied == (0, 5)


@settings(max_examples=60, deadline=None)
@given(STAMPS, st.lists(st.integers(0, 60), max_size=30), st.sampled_from([8, 64]), st.data())
def test_between_gives_every_sample_once_and_all_that_was_taken_back(
    frames: list[int], samples: list[int], capacity: int, data: st.DataObject
):
    """Against a plain sort of the stamps, with late samples among them."""
    if capacity == 8:
        samples = sorted(samples)
    ends = Ends(capacity=capacity)
    aligned = psyne.align(*ends.rx, by="stamp", between=True, hold=capacity - 3)
    coming: list[deque[int]] = [deque(frames), deque(samples)]
    sets: list[tuple[Any, ...]] = []
    while open_ends := [i for i in (0, 1) if not ends.tx[i].closed]:
        i = data.draw(st.sampled_from(open_ends))
        if not coming[i]:
            ends.tx[i].close()
        else:
            for _ in range(min(len(coming[i]), data.draw(st.integers(1, 3)))):
                ends.send(i, coming[i].popleft())
        try:
            while (found := aligned.try_receive()) is not None:
                sets.append(stamps_of(found))
        except psyne.EndOfChannel:  # of the reference
            break
    good = [s for i, s in enumerate(samples) if s == max(samples[: i + 1])]
    expected, rest = [], deque(good)
    for frame in frames:
        expected.append((frame, [rest.popleft() for _ in range(sum(s <= frame for s in rest))]))
    let_go = aligned.statistics().let_go
    if capacity == 64:
        assert let_go == (0, 0)
        assert sets == expected
    else:  # the oldest may be gone
        given_stamps = [s for _, found in sets for s in found]
        assert given_stamps == sorted(given_stamps)
        assert len(sets) == len(frames) - let_go[0]
    aligned.close()
    assert [ends.held(i) for i in (0, 1)] == [0, 0]


# ---- hold ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("between", [True, False])
def test_a_silent_channel_lets_the_oldest_of_the_others_go_and_stops_no_sender(between: bool):
    ends = Ends(capacity=8)
    with psyne.align(*ends.rx, by="stamp", between=between, hold=3) as aligned:
        for stamp in range(100, 150):
            ends.send(1, stamp)  # without room it would raise Full
            assert aligned.try_receive() is None
            assert ends.held(1) <= 3
        assert aligned.statistics().let_go == (0, 47)
        assert aligned.statistics().held == (0, 3)
        ends.send(0, 148)
        assert given_now(aligned) == [(148, [147, 148] if between else 148)]


@pytest.mark.parametrize("between", [True, False])
def test_frames_are_let_go_as_well(between: bool):
    ends = Ends(capacity=8)
    with psyne.align(*ends.rx, by="stamp", between=between) as aligned:  # half the ring
        for stamp in range(1, 11):
            ends.send(0, stamp * 10)
            assert aligned.try_receive() is None
        assert aligned.statistics().let_go == (6, 0)
        assert aligned.statistics().held == (4, 0)
        ends.send(1, 75, 81, 999)
        assert given_now(aligned)[:2] == ([(70, []), (80, [75])] if between else [(70, 75), (80, 81)])


def test_a_set_never_has_another_one_than_the_nearest_because_that_was_let_go():
    ends = Ends(capacity=8)
    with psyne.align(*ends.rx, by="stamp", hold=2) as aligned:
        for stamp in (10, 20, 30):
            ends.send(1, stamp)
        assert aligned.try_receive() is None  # 10 is let go
        ends.send(0, 14, 16)
        assert given_now(aligned) == [(16, 20)]
        assert aligned.statistics().unmatched == 1


def test_what_waits_in_the_rings_is_not_let_go_while_sets_can_be_made_of_it():
    ends = Ends(capacity=64)
    with psyne.align(*ends.rx, by="stamp", hold=2) as aligned:
        ends.send(1, *range(64))
        ends.send(0, *range(0, 63, 7))
        assert given_now(aligned) == [(s, s) for s in range(0, 63, 7)]
        assert aligned.statistics().let_go[0] == 0


def test_hold_above_the_capacity_does_not_stop_a_sender():
    ends = Ends(capacity=4)
    with psyne.align(*ends.rx, by="stamp", hold=1000) as aligned:
        for stamp in range(20):
            ends.send(1, stamp)
            assert aligned.try_receive() is None
        assert aligned.statistics().held == (0, 3)


def test_arrays_of_the_user_that_fill_a_ring_are_a_lease_limit_not_a_dead_lock():
    tx, rx = psyne.channel(Seconds, capacity=4)
    ends = Ends()
    with psyne.align(rx, ends.rx[0], by=("at", "stamp")) as aligned:
        ends.send(0, *range(10))
        kept = []
        for at in range(4):
            tx.send(Seconds(at=at))
            kept.append(aligned.receive(timeout=0)[0].corners)
        with pytest.raises(psyne.LeaseLimit):
            aligned.receive(timeout=60)
        kept.clear()
        tx.send(Seconds(at=8))
        assert aligned.receive(timeout=0)[1].stamp == 8


# ---- leases and ends -----------------------------------------------------------------------------------------------


def test_the_next_set_ends_the_one_before_and_close_ends_all():
    ends = Ends(capacity=4)
    with psyne.align(*ends.rx, by="stamp") as aligned:
        ends.send(0, 10, 20)
        ends.send(1, 10, 20)
        frame, sample = aligned.receive(timeout=0)
        assert (ends.held(0), ends.held(1)) == (1, 1)
        assert aligned.receive(timeout=0)[0].stamp == 20
        for m in (frame, sample):
            with pytest.raises(psyne.MessageReleased):
                print(m.stamp)
    assert (ends.held(0), ends.held(1)) == (0, 0)
    with pytest.raises(psyne.ChannelClosed):
        aligned.receive()
    ends.send(0, 30)
    assert ends.rx[0].receive(timeout=0).stamp == 30  # the receivers stay open


def test_an_alignment_that_is_dropped_gives_everything_back():
    ends = Ends()
    aligned = psyne.align(*ends.rx, by="stamp", between=True)
    ends.send(0, 10)
    ends.send(1, 5, 20)
    found = aligned.receive(timeout=0)
    del aligned, found
    assert (ends.held(0), ends.held(1)) == (0, 0)


@pytest.mark.parametrize("between", [True, False])
def test_the_end_of_another_channel_means_that_no_more_comes_of_it(between: bool):
    ends = Ends()
    with psyne.align(*ends.rx, by="stamp", tolerance=None if between else 5, between=between) as aligned:
        ends.send(1, 9, 18)
        ends.tx[1].close()
        ends.send(0, 10, 20, 30)
        if between:
            assert given_now(aligned) == [(10, [9]), (20, [18]), (30, [])]
            ends.send(0, 40)
            assert given_now(aligned) == [(40, [])]
            ends.tx[0].close()
        assert all_given(aligned) == ([] if between else [(10, 9), (20, 18)])  # and ends: none can be matched any more


def test_the_end_of_the_reference_waits_for_what_can_still_be_matched():
    ends = Ends()
    with psyne.align(*ends.rx, by="stamp") as aligned:
        ends.send(0, 10)
        ends.tx[0].close()
        assert aligned.try_receive() is None
        ends.send(1, 7)
        assert aligned.try_receive() is None
        ends.send(1, 13)
        assert all_given(aligned) == [(10, 7)]
        with pytest.raises(psyne.EndOfChannel, match="all sets were given"):
            aligned.receive()


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("between", [True, False])
def test_a_lost_sender_is_told_after_all_sets_were_given(which: int, between: bool):
    ends = Ends()
    with psyne.align(*ends.rx, by="stamp", tolerance=None if between else 3, between=between) as aligned:
        ends.send(0, 10, 20, 99)
        ends.send(1, 9, 21)
        with pytest.raises(ZeroDivisionError), ends.tx[which]:
            _ = 1 / 0
        if which == 0:
            ends.send(1, 1000)
        sets = []
        with pytest.raises(psyne.SenderLost, match="all sets were given"):
            sets.extend(stamps_of(found) for found in iter(aligned.receive, None))
        assert sets[0] == (10, [9] if between else 9)
        assert (
            sets[1:]
            == {
                (0, True): [(20, []), (99, [21])],
                (1, True): [(20, []), (99, [21])],
                (0, False): [(20, 21)],
                (1, False): [(20, 21)],
            }[which, between]
        )


# ---- waiting -------------------------------------------------------------------------------------------------------


def test_a_wait_ends_with_what_is_missing():
    ends = Ends()
    with psyne.align(*ends.rx, by="stamp") as aligned:
        with pytest.raises(psyne.Empty, match=r"nothing of .* waits"):
            aligned.receive(timeout=0)
        ends.send(0, 123)
        with pytest.raises(psyne.Empty, match=r"the stamp 123.*nothing came"):
            aligned.receive(timeout=0.01)
        ends.send(1, 45)
        with pytest.raises(psyne.Empty, match=r"the stamp 123.*45"):
            aligned.receive(timeout=0.01)
        with pytest.raises(ValueError, match="timeout"):
            aligned.receive(timeout=-1)
        ends.send(1, 200)
        assert stamps_of(aligned.receive(timeout=0)) == (123, 200)


def test_receivers_may_come_before_their_channels():
    camera = psyne.receiver("ipc://camera", Frame)
    imu = psyne.receiver("ipc://imu")
    with psyne.align(camera, imu, by="stamp") as aligned:
        assert aligned.try_receive() is None
        with psyne.sender("ipc://camera", Frame) as frames, psyne.sender("ipc://imu", Imu) as samples:
            frames.send(Frame(stamp=10))
            samples.send(Imu(stamp=10))
            assert stamps_of(aligned.receive(timeout=60)) == (10, 10)


def test_another_process_sends_and_dies():
    with Child() as camera, Child() as imu:
        frames = psyne.receiver("ipc://camera", Frame)
        samples = psyne.receiver("ipc://imu", Imu)
        make = "class T(psyne.Struct):\n stamp = psyne.u64()\n n = psyne.u64()\n"
        camera.run(make + "T.__name__ = 'Frame'\nclass Frame(T): pass\ntx = psyne.sender('ipc://camera', Frame)")
        imu.run(make + "class Imu(T): pass\ntx = psyne.sender('ipc://imu', Imu, capacity=256)")
        camera.run("for k in range(1, 1001): tx.send(Frame(stamp=k * 167, n=k))")  # so there is no lack of frames
        imu.begin("for k in range(0, 20_000): tx.send(Imu(stamp=k * 10, n=k))\ntx.drain(60)")
        seen = 0
        with psyne.align(frames, samples, by="stamp", between=True, hold=2000) as aligned:
            for frame, batch in aligned:
                numbers = batch["n"].tolist()
                assert numbers == list(range(seen, frame.stamp // 10 + 1))
                seen = numbers[-1] + 1
                if frame.n == 1000:
                    break
            assert aligned.statistics().sets == 1000
            camera.kill()
            with pytest.raises(psyne.SenderLost, match="camera"):
                aligned.receive(timeout=60)


def test_a_waiting_alignment_is_woken_by_either_channel():
    ends = Ends()
    with psyne.align(*ends.rx, by="stamp") as aligned:
        got: list[tuple[int, int]] = []
        waiter = threading.Thread(target=lambda: got.extend(all_given(aligned)))
        waiter.start()
        for stamp in range(200):
            for i in (0, 1) if stamp % 2 else (1, 0):
                with ends.tx[i].loan(timeout=60) as m:
                    m.stamp = stamp
        for tx in ends.tx:
            tx.close()
        waiter.join(60)
        assert got == [(s, s) for s in range(200)]


def test_one_user_at_a_time():
    ends = Ends()
    with psyne.align(*ends.rx, by=("stamp", lambda m: inside())) as aligned:

        def inside() -> int:
            with pytest.raises(psyne.ConcurrentUse):
                aligned.try_receive()
            return 10

        ends.send(0, 10)
        ends.send(1, 10)
        assert aligned.receive(timeout=0)[0].stamp == 10


# ---- asyncio -------------------------------------------------------------------------------------------------------


def test_the_same_in_an_event_loop():
    async def main() -> None:
        frames, camera = psyne.aio.channel(Frame)
        samples, imu = psyne.aio.channel(Imu, capacity=32)

        async def send() -> None:
            for k in range(500):
                await samples.send(Imu(stamp=k * 10, n=k))
            samples.close()

        async def shoot() -> None:
            for k in range(1, 30):
                await frames.send(Frame(stamp=k * 167))
            frames.close()

        async with (
            psyne.aio.align(camera, imu, by="stamp", between=True, hold=31) as aligned,
            asyncio.TaskGroup() as tasks,
        ):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await aligned.receive()
            assert aligned.try_receive() is None
            tasks.create_task(send())
            tasks.create_task(shoot())
            seen = 0
            async for frame, batch in aligned:
                assert batch["n"].tolist() == list(range(seen, frame.stamp // 10 + 1))
                seen += len(batch)
            assert aligned.statistics().sets == 29
            imu.close()
        with pytest.raises(psyne.ChannelClosed):
            await aligned.receive()

    asyncio.run(main())


def test_other_tasks_get_their_turns():
    async def main() -> None:
        frames, camera = psyne.aio.channel(Frame, capacity=1024)
        samples, imu = psyne.aio.channel(Imu, capacity=1024)
        for k in range(1000):
            await frames.send(Frame(stamp=k))
            await samples.send(Imu(stamp=k))
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        counting = asyncio.create_task(count())
        async with psyne.aio.align(camera, imu, by="stamp") as aligned:
            for k in range(1000):
                assert (await aligned.receive())[1].stamp == k
        counting.cancel()
        assert turns >= 1000 // 64

    asyncio.run(main())


# ---- what cannot work ----------------------------------------------------------------------------------------------


def test_options_that_can_never_work_are_refused_at_once():
    ends = Ends()
    a, b = ends.rx
    refused: list[tuple[Callable[[], object], str]] = [
        (lambda: psyne.align(a, by="stamp"), "two or more different receivers"),
        (lambda: psyne.align(a, a, by="stamp"), "two or more different receivers"),
        (lambda: psyne.align(a, b, by=("stamp",)), "each of the 2 receivers"),
        (lambda: psyne.align(a, b, by=7), "by= is the name"),
        (lambda: psyne.align(a, b, by="stamp", tolerance=-1), "tolerance is a number"),
        (lambda: psyne.align(a, b, by="stamp", tolerance=float("nan")), "tolerance is a number"),
        (lambda: psyne.align(a, b, by="stamp", tolerance="5ms"), "tolerance is a number"),
        (lambda: psyne.align(a, b, by="stamp", tolerance=1, between=True), "leave tolerance= out"),
        (lambda: psyne.align(a, b, by="stamp", between="yes"), "between='yes'"),
        (lambda: psyne.align(a, b, by="stamp", hold=0), "hold is a number"),
        (lambda: psyne.align(a, b, by="stamp", hold=1.5), "hold is a number"),
        (lambda: psyne.align(a, b, by="time"), "Imu|Frame.*no field 'time'.*stamp, n.*function"),
    ]
    for call, says in refused:
        with pytest.raises(psyne.InvalidArgument, match=says):
            call()
    for no_receiver in (ends.tx[0], "ipc://camera", [a, b]):
        with pytest.raises(TypeError, match=r"psyne\.receiver\(\)"):
            psyne.align(a, no_receiver, by="stamp")
    with pytest.raises(TypeError, match=r"psyne\.aio\.receiver\(\).*aio\.Receiver"):
        psyne.aio.align(a, b, by="stamp")
    with pytest.raises(TypeError, match="function of a message, not 3"):
        psyne.align(a, b, by=("stamp", 3))


def test_types_without_a_stamp_are_refused_as_soon_as_they_are_known():
    ends = Ends()
    plane = psyne.channel(Array("f4", 3))[1]
    with pytest.raises(psyne.InvalidArgument, match="no fields"):
        psyne.align(ends.rx[0], plane, by="stamp")
    with pytest.raises(TypeError, match=r"Seconds\.corners .*float64\[2\]"):
        psyne.align(ends.rx[0], psyne.channel(Seconds)[1], by=("stamp", "corners"))
    with pytest.raises(psyne.InvalidArgument, match=r"no single batch"):
        psyne.align(ends.rx[0], psyne.channel(Imu, Frame)[1], by="stamp", between=True)
    later = psyne.receiver("ipc://later")
    with psyne.align(ends.rx[0], later, by="stamp") as aligned:
        ends.send(0, 1)
        assert aligned.try_receive() is None
        with psyne.sender("ipc://later", Seconds) as tx:
            tx.send(Seconds(at=1.0))
            with pytest.raises(psyne.InvalidArgument, match="Seconds of ipc://later has no field 'stamp'"):
                aligned.try_receive()
            assert later.receive(timeout=0).at == 1.0  # nothing was taken
    with psyne.align(*ends.rx, by=("stamp", lambda m: "noon")) as aligned:
        ends.send(0, 1)
        ends.send(1, 1)
        with pytest.raises(TypeError, match="made 'noon'"):
            aligned.receive(timeout=0)


def test_a_mutating_stage_writes_into_the_slots_of_a_batch():
    with (
        psyne.sender("ipc://imu", Imu, stages=[Stage("fuse", mutate=True), "log"]) as tx,
        psyne.receiver("ipc://imu", Imu, stage="fuse") as fuse,
        psyne.receiver("ipc://imu", Imu, stage="log") as log,
    ):
        ends = Ends(Frame)
        with psyne.align(ends.rx[0], fuse, by="stamp", between=True) as aligned:
            for stamp in (1, 2, 3):
                tx.send(Imu(stamp=stamp))
            ends.send(0, 2)
            aligned.receive(timeout=0)[1]["n"] = 77
        assert [log.receive(timeout=0).n for _ in range(3)] == [77, 77, 0]
