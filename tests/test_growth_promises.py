"""What holds in a ring holds across its changes: order, leases, stages, redelivery, batches, taps, waits, ends."""

import asyncio
import contextlib
import gc
import queue
import random
import re
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import psyne
from psyne import Array, Bytes, Stage, aio

from .helpers.layouts import Line, Number, Record, broken_lines, line_of, lines_of
from .helpers.process import Child, run_program, until
from .test_memory import small_tmpfs

Ends = tuple[psyne.Sender[Any], psyne.Receiver[Any]]
SOON = 0.005  # seconds of low load
EACH = [2, 4, 8, 16, 32]  # slots of the slabs of a ring that begins with two and is never read
ALL = sum(EACH)


def grows(kind: Any = Number, address: str = "ipc://g", **options: Any) -> psyne.Sender[Any]:
    return psyne.sender(address, kind, full="grow", **{"capacity": 2, **options})


def fill(tx: Any, n: int = ALL, start: int = 0) -> None:
    """Numbers that nobody reads yet: they come to lie in several slabs."""
    for number in range(start, start + n):
        tx.send(Number(n=number), timeout=30)


def slabs(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.slab"))


def blocks(directory: Path) -> int:
    """Bytes that files in the directory of the channels have memory for."""
    total = 0
    for path in directory.iterdir():
        with contextlib.suppress(FileNotFoundError):  # removed meanwhile: it has none
            total += path.stat().st_blocks * 512
    return total


def numbers(rx: Any) -> list[int]:
    """What is there now."""
    got = []
    while (m := rx.try_receive()) is not None:
        got.append(m.n)
        m.release()
    return got


@pytest.fixture
def ends() -> Iterator[Ends]:
    with grows() as tx, psyne.receiver("ipc://g", Number) as rx:
        yield tx, rx


# ---- views -----------------------------------------------------------------------------------------------------------


def hold_views(changes: int, chance: random.Random) -> None:
    """Arrays of sent and of received messages in many slabs, while the ring changes so often."""
    held: list[tuple[Any, bytes]] = []
    with (
        psyne.sender("ipc://g", Line, full="grow", capacity=4, shrink_after=0.0005) as tx,
        psyne.receiver("ipc://g", Line) as rx,
    ):
        sent = 0
        while (s := tx.statistics()).grown + s.shrunk < changes:
            n = chance.choice([1, 2, 5, 2 * s.capacity]) if s.capacity < 256 else 1
            with tx.loan_many(n) as out:
                out.array[:] = lines_of(1, sent, n)
                if chance.random() < 0.3:
                    held.append((out.array[-1], lines_of(1, sent, n)[-1].tobytes()))
            got = 0
            while got < n:
                with rx.receive_many(n, timeout=30) as batch:
                    assert (batch.array == lines_of(1, sent + got, len(batch))).all()
                    if chance.random() < 0.3:
                        held.append((batch.array, batch.array.tobytes()))
                    got += len(batch)
            sent += n
            del out, batch
            if s.capacity >= 256:
                until(lambda: tx.capacity < 256, "the ring becoming smaller")
            while len(held) > 16 or (held and chance.random() < 0.4):
                let_go(held.pop(chance.randrange(len(held))))
        while held:
            let_go(held.pop())
        until(lambda: tx.statistics().slabs == 1, "the older slabs going")


def let_go(view_and_bytes: tuple[Any, bytes]) -> None:
    view, data = view_and_bytes
    assert view.tobytes() == data


def test_no_view_changes_while_the_ring_changes_three_hundred_times():
    hold_views(300, random.Random(5))


@pytest.mark.long
@pytest.mark.watchdog(3600)
def test_no_view_changes_while_the_ring_changes_ten_thousand_times():
    hold_views(10_000, random.Random(5))


@pytest.mark.parametrize("of", ["the sender", "the receiver"])
def test_a_sender_whose_places_are_all_held_by_views_waits_is_full_and_goes_on(of: str):
    with grows(shrink_after=SOON) as tx, psyne.receiver("ipc://g", Number) as rx:
        held: list[Any] = []
        sent = 0
        for _ in range(100):
            try:
                with tx.loan_many(63, timeout=0.2) as batch:  # in a larger ring, of which one view holds the place
                    batch["n"] = np.arange(sent, sent + 63)
                with tx.loan(timeout=0.2) as m:
                    m.n = sent + 63
                    if of == "the sender":
                        held.append(memoryview(m))
            except (psyne.Full, psyne.LeaseLimit, ValueError) as error:
                says = str(error)
                break
            del batch
            for n in range(sent, sent + 64):
                with rx.receive(timeout=30) as m:
                    assert m.n == n
                    if of == "the receiver" and n == sent + 63:
                        held.append(memoryview(m))
            del m
            sent += 64
            until(lambda: tx.capacity == 2, "the ring becoming small again")
        else:
            raise AssertionError("there was always another place")
        assert "all 32 places of a lane of ipc://g" in says
        assert 28 <= len(held) <= 32
        assert [int(np.asarray(view)["n"].ravel()[0]) for view in held] == list(range(63, sent, 64))
        held.clear()
        with tx.loan_many(64, timeout=30) as batch:
            batch["n"] = np.arange(64)


def test_the_memory_of_a_slab_goes_back_with_its_last_view(psyne_directory: Path):
    block = Array("u1", 1 << 16)
    with grows(block, shrink_after=SOON) as tx, psyne.receiver("ipc://g", block) as rx:
        before, files = blocks(psyne_directory), len(slabs(psyne_directory))
        for n in range(30):
            tx.send(np.full(1 << 16, n, "u1"), timeout=30)
        kept = []
        for n in range(30):
            with rx.receive(timeout=30) as m:
                if n in (0, 3, 29):
                    kept.append((m.array, n))
        del m
        until(lambda: tx.capacity == 2, "the ring becoming small again")
        until(lambda: len(slabs(psyne_directory)) == files + 3, "three slabs of four being held")
        while kept:
            view, n = kept.pop()
            assert (view == n).all()
            left = blocks(psyne_directory)
            del view
            until(lambda: blocks(psyne_directory) < left - (1 << 16), "the memory of a slab")  # noqa: B023
        until(lambda: blocks(psyne_directory) == before, "the memory of the beginning")
        assert len(slabs(psyne_directory)) == files


def test_the_memory_of_a_slab_without_files_goes_back_with_its_last_view():
    block = Array("u1", 1 << 16)
    with grows(block, "memory://g", shrink_after=SOON) as tx, psyne.receiver("memory://g", block) as rx:
        before = tx.statistics()
        for n in range(31):
            tx.send(np.full(1 << 16, n, "u1"), timeout=30)
        held = [rx.receive(timeout=30).array for n in range(30)]
        rx.receive(timeout=30).release()
        until(lambda: tx.capacity == 2, "the ring becoming small again")
        assert tx.statistics().resident > before.resident + 20 * (1 << 16)
        assert [int(view[-1]) for view in held] == list(range(30))
        del held
        until(lambda: tx.statistics().resident == before.resident, "the memory of the beginning")
        assert (tx.statistics().reserved, tx.statistics().slabs) == (before.reserved, 1)


def test_release_with_views_is_a_buffererror_in_an_old_slab_too(ends: Ends):
    tx, rx = ends
    fill(tx)
    m = rx.receive()
    view = memoryview(m)
    assert tx.statistics().slabs == len(EACH)
    with pytest.raises(BufferError, match=r"drop them or copy\(\)"):
        m.release()
    del view
    m.release()
    assert numbers(rx) == list(range(1, ALL))


def test_views_of_old_slabs_stay_after_all_ends_have_closed():
    with grows(Line) as tx, psyne.receiver("ipc://g", Line) as rx:
        mine = []
        for n in range(ALL):
            with tx.loan(timeout=30) as m:
                m.array[:] = line_of(1, n)
                mine.append(m.array)
        theirs = [rx.receive(timeout=30).array for _ in range(ALL)]
        del m
        tx.close()
        lines = [[view.tolist() for view in views] for views in (mine, theirs)]
        with grows(Line, shrink_after=SOON) as other:  # perhaps in the same lane and places
            for n in range(ALL):
                other.send(line_of(2, n), timeout=30)
            assert numbers_of(rx, ALL) == list(range(ALL))
    del tx, rx, other
    gc.collect()
    assert [[view.tolist() for view in views] for views in (mine, theirs)] == lines
    assert [line[1] for line in lines[0]] == list(range(ALL))


def numbers_of(rx: Any, n: int) -> list[int]:
    """The counts of the next n lines."""
    return [int(rx.receive(timeout=30).array[1]) for _ in range(n)]


# ---- order, stages ---------------------------------------------------------------------------------------------------


def test_each_senders_messages_stay_in_order_across_hundreds_of_changes():
    count = 6000
    with ExitStack() as stack:
        children = [stack.enter_context(Child()) for _ in range(2)]
        for sender, child in enumerate(children, start=1):
            child.run(
                "import time, random; from layouts import lines_of\n"
                "tx = psyne.sender('ipc://g', Line, full='grow', capacity=2, shrink_after=soon)",
                soon=SOON,
            )
            child.begin(
                "done = 0\n"
                "while done < count:\n"
                "    n = min(random.choice([1, 3, 100, 600]), count - done)\n"
                "    [tx.send(line) for line in lines_of(sender, done, n)]\n"
                "    done += n\n"
                "    time.sleep(random.random() * 0.02)\n"
                "s = tx.statistics(); tx.close(); (s.grown, s.shrunk)",
                sender=sender, count=count,
            )  # fmt: skip
        rx = stack.enter_context(psyne.receiver("ipc://g", Line, follow=True))
        last = {1: 0, 2: 0}
        while min(last.values()) < count:
            with rx.receive_many(500, timeout=60) as batch:
                assert broken_lines(batch.array) == 0
                sender, first = batch.array[0, :2].tolist()
                assert (batch.array == lines_of(sender, first, len(batch))).all()
                assert first == last[sender]
                last[sender] += len(batch)
        for child in children:
            assert min(child.result()) > 0
        assert rx.statistics().late_wakes == 0


@pytest.mark.parametrize(
    "stages",
    [
        [Stage("a", mutate=True), Stage("b", mutate=True), "c"],
        [Stage("a", mutate=True), "b", Stage("d", after=["a"]), Stage("c", mutate=True, after=["b", "d"])],
    ],
    ids=["chain", "diamond"],
)
def test_stages_stand_in_different_slabs_and_each_sees_all_in_its_order(stages: list[Any]):
    names = [s if isinstance(s, str) else s.name for s in stages]
    writes = {s.name for s in stages if isinstance(s, Stage) and s.mutate}
    with ExitStack() as stack:
        tx = stack.enter_context(grows(Record, stages=stages, shrink_after=SOON))
        rxs = {s: stack.enter_context(psyne.receiver("ipc://g", Record, stage=s)) for s in names}
        chance, seen, sent = random.Random(3), dict.fromkeys(names, 0), 0
        before = {"a": "", "b": "a", "d": "a", "c": "b" if "d" not in names else "bd"}
        while min(seen.values()) < 1500:
            for _ in range(chance.choice([0, 1, 30])):
                if sent < 1500:
                    tx.send(Record(n=sent), timeout=30)
                    sent += 1
            for name in chance.sample(names, len(names)):
                for _ in range(chance.choice([0, 2, 40])):
                    m = rxs[name].try_receive()
                    if m is None:
                        break
                    with m:
                        assert m.n == seen[name]
                        assert all(seen[s] > m.n for s in before[name])
                        if name in writes:
                            m.seen += 1
                        seen[name] += 1
        assert tx.statistics().grown > 3
        assert [rx.try_receive() for rx in rxs.values()] == [None] * len(names)


def test_a_stage_added_while_old_slabs_are_unread_gets_exactly_what_is_sent_from_then_on(ends: Ends):
    tx, rx = ends
    fill(tx, 30)
    assert tx.statistics().slabs == 4
    with psyne.receiver("ipc://g", Number, stage="late", new_stage=True) as late:
        fill(tx, 100, start=30)
        assert late.try_receive() is None  # it runs after the others
        assert numbers(rx) == list(range(130))
        assert numbers(late) == list(range(30, 130))
        fill(tx, 200, start=130)
        assert numbers(rx) == numbers(late) == list(range(130, 330))
    fill(tx, 100)  # nobody waits for a stage that has gone
    assert numbers(rx) == list(range(100))


def test_a_member_that_joins_late_takes_from_the_oldest_slab():
    with grows(pattern="spmc") as tx, psyne.receiver("ipc://g", Number) as early:
        fill(tx)
        assert [early.receive().n for _ in range(3)] == [0, 1, 2]
        with psyne.receiver("ipc://g", Number) as late, Child() as child:
            assert [late.receive(timeout=30).n for _ in range(10)] == list(range(3, 13))
            child.run("rx = psyne.receiver('ipc://g', Number)")
            assert child.run("[rx.receive(timeout=30).n for _ in range(20)]") == list(range(13, 33))
            assert numbers(early) == list(range(33, ALL))


def test_leave_hands_on_what_it_holds_in_old_slabs():
    with grows(pattern="spmc") as tx, psyne.receiver("ipc://g", Number) as stays:
        leaves = psyne.receiver("ipc://g", Number)
        fill(tx)
        held = [leaves.receive() for _ in range(20)]
        kept = memoryview(held[5])
        assert stays.receive(timeout=30).n == 20  # it stands in another slab
        assert leaves.leave() == 19
        got = []
        while (m := stays.try_receive()) is not None:
            assert not m.info.redelivered
            got.append(m.n)
            m.release()
        assert sorted(got) == [n for n in range(ALL) if n not in (5, 20)]
        del kept, held
        until(lambda: tx.statistics().occupancy == 0, "the last one being let go")


def test_what_a_killed_member_held_in_old_slabs_comes_again_flagged():
    with grows(pattern="spmc") as tx, psyne.receiver("ipc://g", Number) as rx, Child() as victim:
        victim.run("rx = psyne.receiver('ipc://g', Number)")
        fill(tx)
        assert victim.run("held = [rx.receive() for _ in range(20)]; [m.n for m in held]") == list(range(20))
        assert [rx.receive(timeout=30).n for _ in range(20, 40)] == list(range(20, 40))
        victim.kill()
        again, first = [], []
        for _ in range(ALL - 20):
            with rx.receive(timeout=30) as m:
                (again if m.info.redelivered else first).append(m.n)
        assert sorted(again) == list(range(20))
        assert first == list(range(40, ALL))
        until(lambda: tx.statistics().occupancy == 0, "all being let go")


def test_what_a_killed_member_held_alone_comes_again_to_one_that_joins_then():
    with grows() as tx:
        with Child() as victim:
            victim.run("rx = psyne.receiver('ipc://g', Number)")
            fill(tx)
            victim.run("held = [rx.receive() for _ in range(ALL - 5)]", ALL=ALL)
            victim.kill()
        with psyne.receiver("ipc://g", Number) as rx:
            got = []
            for _ in range(ALL):
                with rx.receive(timeout=30) as m:
                    got.append((m.n, m.info.redelivered))
            assert sorted(got) == [(n, n < ALL - 5) for n in range(ALL)]


# ---- batches, calls --------------------------------------------------------------------------------------------------


def test_a_batch_ends_at_a_change_and_its_messages_are_one_array(ends: Ends):
    tx, rx = ends
    fill(tx)
    got = 0
    for size in EACH:
        with rx.receive_many(1000) as batch:
            assert len(batch) == size
            array = batch["n"]
            assert array.tolist() == list(range(got, got + size))
            assert array.strides == (batch.array.itemsize,)
            assert batch.info.sequence == got
            got += size


def test_a_batch_lingers_up_to_a_change_and_no_longer(ends: Ends):
    tx, rx = ends
    fill(tx, 3)
    with rx.receive_many(10, linger=3600, timeout=30) as batch:  # what follows lies in another slab
        assert batch["n"].tolist() == [0, 1]
    sender = threading.Thread(target=lambda: fill(tx, 7, start=3))
    sender.start()
    got = [2]
    rx.receive(timeout=30).release()
    while len(got) < 8:
        with rx.receive_many(1000, linger=0.001, timeout=30) as batch:
            got += batch["n"].tolist()
    sender.join()
    assert got == list(range(2, 10))


def test_all_senders_messages_are_copied_into_an_array_across_changes():
    with grows() as one, grows() as two, psyne.receiver("ipc://g", Number) as rx:
        fill(one)
        fill(two)
        out = np.zeros(3 * ALL, Number.__layout__.dtype)
        n = 0
        while n < 2 * ALL:
            n += rx.receive_into(out[n:], timeout=30)
        assert sorted(out["n"][:n].tolist()) == sorted([*range(ALL)] * 2)


def test_calls_come_back_across_changes():
    with grows(Record, stages=[Stage("work", mutate=True)], shrink_after=SOON) as tx, Child() as child:
        child.begin(
            "with psyne.receiver('ipc://g', Record) as rx:\n"
            "    for m in rx:\n"
            "        m.seen = m.n + 1\n"
        )  # fmt: skip
        kept = []
        for n in range(100):
            with tx.call(Record(n=n), timeout=30) as done:  # those that are kept fill the ring: it grows
                assert (done.n, done.seen) == (n, n + 1)
                kept.append(done.body)
                done_view = done.array
            del done_view
        assert tx.statistics().grown > 3
        del kept, done
        until(lambda: tx.capacity == 2, "the ring becoming small again")
        with tx.call(Record(n=5), timeout=30) as done:
            assert done.seen == 6
        tx.close()
        child.result()


# ---- taps ------------------------------------------------------------------------------------------------------------


def test_a_tap_counts_exactly_what_it_missed_while_slabs_come_and_go():
    with grows(shrink_after=SOON) as tx, psyne.receiver("ipc://g", Number) as rx, psyne.tap("ipc://g", Number) as tap:
        chance, sent, accounted = random.Random(2), 0, 0
        while tx.statistics().grown + tx.statistics().shrunk < 60:
            n = chance.choice([1, 5, 50, 200])
            for number in range(sent, sent + n):
                m = tx.loan(timeout=30)
                if chance.random() < 0.1:  # a position without a message
                    other = tx.loan(timeout=30)
                    m.discard()
                    m = other
                m.n = number
                tx.send(m)
                del m
            sent += n
            numbers(rx)
            if chance.random() < 0.3:
                until(lambda: tx.capacity == 2, "the ring becoming small again")
            for _ in range(chance.choice([0, 1, 20, 1000])):
                if (seen := tap.try_receive()) is None:
                    break
                assert seen.n == accounted + seen.info.missed
                accounted = seen.n + 1
        tx.send(Number(n=sent), timeout=30)  # what is gone with its slab is told with the next message
        while (seen := tap.try_receive()) is not None:
            assert seen.n == accounted + seen.info.missed
            accounted = seen.n + 1
        assert accounted == sent + 1
        assert tap.statistics().missed > 0


def test_history_of_a_tap_reaches_over_slabs(ends: Ends):
    tx, rx = ends
    fill(tx)
    for history in (1, 32, 33, 50, 60, ALL, 1000):
        with psyne.tap("ipc://g", Number, history=history) as tap:
            assert numbers(tap) == list(range(max(0, ALL - history), ALL))
    with psyne.tap("ipc://g", Number) as tap:
        assert tap.try_receive() is None
    with psyne.tap("ipc://g", Number, latest=True, history=1) as tap:
        assert numbers(tap) == [ALL - 1]
    assert numbers(rx) == list(range(ALL))


# ---- waits -----------------------------------------------------------------------------------------------------------


def test_drain_waits_for_what_lies_in_old_slabs():
    with grows() as tx, Child() as child:
        child.run("rx = psyne.receiver('ipc://g', Number)")
        fill(tx)
        with pytest.raises(psyne.Full, match=f"has {ALL} messages to pass"):
            tx.drain(timeout=0.01)
        child.run("[rx.receive().release() for _ in range(ALL - 1)]", ALL=ALL)
        with pytest.raises(psyne.Full, match="has 1 messages to pass"):
            tx.drain(timeout=0.01)
        child.begin("rx.receive().release()")
        tx.drain(timeout=30)
        child.result()


READERS = {
    "receive": "def step(): return [rx.receive().n]",
    "select": "def step(): assert psyne.select(rx) == [rx]; return [rx.try_receive().n]",
    "fileno": (
        "import selectors\n"
        "chooser = selectors.DefaultSelector(); chooser.register(rx.fileno(), selectors.EVENT_READ)\n"
        "def step():\n"
        "    while (m := rx.try_receive()) is None: chooser.select(60)\n"
        "    return [m.n]"
    ),
    "batches": "def step():\n    with rx.receive_many(7) as batch: return batch['n'].tolist()",
    "spin": "rx.close(); rx = psyne.receiver('ipc://g', Number, wait='spin')\ndef step(): return [rx.receive().n]",
}


@pytest.mark.parametrize("how", READERS)
def test_whoever_waits_follows_and_is_never_woken_late(how: str):
    with grows(shrink_after=SOON) as tx, Child() as child:
        child.run("rx = psyne.receiver('ipc://g', Number)")
        child.run(READERS[how])
        child.begin("got = []\nwhile len(got) < 2000: got += step()\ngot")
        child.begun()
        sent = 0
        chance = random.Random(7)
        while sent < 2000:
            n = min(chance.choice([1, 20, 150]), 2000 - sent)
            fill(tx, n, start=sent)
            sent += n
            if n == 1:
                tx.drain(timeout=60)  # it sleeps again
        assert child.result() == list(range(2000))
        s = tx.statistics()
        assert s.grown > 0
        assert s.late_wakes == 0


def test_a_task_that_receives_follows():
    async def main() -> None:
        async with aio.receiver("ipc://g", Number) as rx:
            with grows(shrink_after=SOON) as tx:
                for start in range(0, 500, 100):
                    await asyncio.to_thread(fill, tx, 100, start)
                    assert [(await rx.receive()).n for _ in range(100)] == list(range(start, start + 100))
                    task = asyncio.create_task(rx.receive())
                    await asyncio.sleep(0)
                    until(lambda: tx.capacity == 2, "the ring becoming small again")
                    tx.send(Number(n=7))
                    assert (await asyncio.wait_for(task, 60)).n == 7
                assert tx.statistics().late_wakes == 0

    asyncio.run(main())


def test_a_task_that_sends_is_woken_when_a_larger_ring_is_there():
    async def main() -> None:
        async with aio.sender("ipc://g", Number, full="grow", capacity=2, shrink_after=SOON) as tx:
            with psyne.receiver("ipc://g", Number) as rx:
                for _ in range(3):
                    for n in range(ALL):  # nobody reads: each wait ends with another ring
                        await asyncio.wait_for(tx.send(Number(n=n)), 60)
                    assert numbers(rx) == list(range(ALL))
                assert tx.statistics().grown >= 4
                assert tx.statistics().late_wakes == 0

    asyncio.run(main())


def test_a_task_that_cannot_grow_is_woken_when_there_is_room():
    async def main() -> None:
        with Child() as child:
            async with aio.sender("ipc://g", Line, full="grow", capacity=64, budget=1 << 18) as tx:
                child.run("rx = psyne.receiver('ipc://g', Line)")
                sent = 0
                while True:
                    try:
                        await asyncio.wait_for(tx.send(line_of(1, sent)), 0.3)
                    except TimeoutError:
                        break
                    sent += 1
                child.begin("[int(rx.receive().array[1]) for _ in range(n)]", n=sent + 500)
                for n in range(sent, sent + 500):
                    await asyncio.wait_for(tx.send(line_of(1, n)), 60)
                assert child.result() == list(range(sent + 500))
                assert tx.statistics().late_wakes == 0

    asyncio.run(main())


def test_ctrl_c_interrupts_a_growing_sender_and_nothing_is_lost():
    with Child() as child:
        child.run(
            "from layouts import line_of\n"
            "tx = psyne.sender('ipc://g', Line, full='grow', capacity=64, budget=1 << 18)\n"
            "def go_on():\n"  # what counts is what was sent: Ctrl-C may come before the next statement
            "    while True: tx.send(line_of(1, tx.statistics().sent))\n"
        )
        with psyne.receiver("ipc://g", Line) as rx:
            before = 0
            for _ in range(3):
                child.begin_waiting("go_on()")
                until(lambda: child.process.poll() is None and rx.statistics().occupancy > 100, "a ring that grew")
                child.interrupt()  # while it waits, or just before
                with pytest.raises(KeyboardInterrupt):
                    child.result()
                sent = child.run("tx.statistics().sent")
                assert numbers_of(rx, sent - before) == list(range(before, sent))
                before = sent
            assert rx.try_receive() is None


# ---- no space --------------------------------------------------------------------------------------------------------


def until_full(tx: Any, sent: int, make: Any) -> tuple[int, str]:
    """Sends message after message until there is no room: how many there are, and what it said."""
    while True:
        try:
            tx.send(make(sent), timeout=0.1)
        except psyne.Full as full:
            return sent, str(full)
        sent += 1


def test_a_full_file_system_lets_rings_wait_and_nothing_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    blob = Bytes(max_bytes=1 << 20)
    with small_tmpfs(tmp_path / "small", "3m") as small:
        monkeypatch.setenv("PSYNE_DIR", str(small))
        tx = grows(blob, capacity=8, shrink_after=SOON)
        rx = psyne.receiver("ipc://g", blob)
        sent = 0
        for size in (100, 4000, 60_000, 1 << 20, 100):  # until there is no room and no space
            sent, says = until_full(tx, sent, lambda n, size=size: bytes([n % 251]) * size)
            assert re.search(r"no space in shared memory for \d+ bytes", says), says
        assert sent > 300
        with pytest.raises(psyne.NoSpace):
            psyne.sender("ipc://others", Array("u1", 1 << 20))
        for n in range(sent):  # every page of these is there: no SIGBUS
            data = rx.receive(timeout=30).bytes
            assert data == bytes([n % 251]) * len(data)
        assert rx.try_receive() is None
        until(lambda: tx.statistics().slabs == 1 and tx.capacity == 8, "the ring of the beginning")
        tx.send(bytes([7]) * (1 << 20), timeout=30)  # there is space again
        assert rx.receive(timeout=30).bytes == bytes([7]) * (1 << 20)
        tx.close()
        rx.close()
        assert list(small.iterdir()) == []


def test_space_that_others_give_back_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with small_tmpfs(tmp_path / "small", "3m") as small:
        monkeypatch.setenv("PSYNE_DIR", str(small))
        with grows(Line, capacity=64) as tx, psyne.receiver("ipc://g", Line) as rx:
            (small / "rest").write_bytes(bytes(shutil.disk_usage(small).free))
            sent, says = until_full(tx, 0, lambda n: line_of(1, n))
            assert "it cannot grow" in says
            (small / "rest").unlink()
            tx.send(line_of(1, sent), timeout=30)  # it looks again by itself
            assert tx.statistics().grown == 1
            assert numbers_of(rx, sent + 1) == list(range(sent + 1))


# ---- ends ------------------------------------------------------------------------------------------------------------


@pytest.mark.leaves_nothing
def test_the_end_comes_behind_all_slabs():
    tx = grows()
    with psyne.receiver("ipc://g", Number) as rx:
        fill(tx)
        tx.close()
        assert [m.n for m in rx] == list(range(ALL))
        with pytest.raises(psyne.EndOfChannel):
            rx.receive()


@pytest.mark.leaves_nothing
@pytest.mark.parametrize("loans", [0, 3])
def test_the_loss_of_a_sender_comes_behind_all_slabs(loans: int):
    with Child() as child, ExitStack() as stack:
        child.run("tx = psyne.sender('ipc://g', Number, full='grow', capacity=2)")
        rx = stack.enter_context(psyne.receiver("ipc://g", Number))
        child.run("[tx.send(Number(n=n), timeout=30) for n in range(20)]")
        child.run("open = [tx.loan(timeout=30) for _ in range(loans)]", loans=loans)  # holes in old slabs
        child.run("[tx.send(Number(n=n), timeout=30) for n in range(20, ALL)]; tx.statistics().slabs", ALL=ALL)
        child.kill()
        assert [rx.receive(timeout=30).n for _ in range(ALL)] == list(range(ALL))
        with pytest.raises(psyne.SenderLost):
            rx.receive(timeout=30)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("lost", [False, True])
def test_the_end_waits_for_what_others_hold_in_old_slabs(late: bool, lost: bool):
    with Child() as sender, Child() as holder, ExitStack() as stack:
        sender.run("tx = psyne.sender('ipc://g', Number, full='grow', capacity=2, pattern='spmc')")
        holder.run("rx = psyne.receiver('ipc://g', Number)")
        if not late:
            rx = stack.enter_context(psyne.receiver("ipc://g", Number))
        sender.run("[tx.send(Number(n=n), timeout=30) for n in range(20)]")
        assert holder.run("held = [rx.receive() for _ in range(5)]; [m.n for m in held]") == list(range(5))
        sender.run("[tx.send(Number(n=n), timeout=30) for n in range(20, ALL)]", ALL=ALL)
        if lost:
            sender.kill()
        else:
            sender.run("tx.close()")
        if late:
            rx = stack.enter_context(psyne.receiver("ipc://g", Number))
        assert [rx.receive(timeout=30).n for _ in range(5, ALL)] == list(range(5, ALL))
        with pytest.raises(psyne.Empty):
            rx.receive(timeout=0.05)
        holder.kill()
        again = [rx.receive(timeout=30) for _ in range(5)]
        assert sorted((m.n, m.info.redelivered) for m in again) == [(n, True) for n in range(5)]
        del again
        with pytest.raises(psyne.SenderLost if lost else psyne.EndOfChannel):
            rx.receive(timeout=30)


def test_a_receiver_that_follows_goes_on_with_the_next_sender_behind_all_slabs():
    open_it = "tx = psyne.sender('ipc://g', Number, full='grow', capacity=2)"
    with ExitStack() as stack:
        child = stack.enter_context(Child())
        child.run(open_it)
        rx = stack.enter_context(psyne.receiver("ipc://g", Number, follow=True))
        for ends in ("closed", "killed", "closed"):
            child.run("[tx.send(Number(n=n), timeout=30) for n in range(ALL)]", ALL=ALL)
            if ends == "killed":
                child.kill()
            else:
                child.run("tx.close()")
            child = stack.enter_context(Child())
            child.run(open_it)  # before anything was read
            assert [rx.receive(timeout=30).n for _ in range(ALL)] == list(range(ALL))
        child.run("tx.send(Number(n=5))")
        assert rx.receive(timeout=30).n == 5


FORKS = """
import os, psyne
from layouts import Number
tx = psyne.sender('ipc://g', Number, full='grow', capacity=2, shrink_after=0.005)
rx = psyne.receiver('ipc://g', Number)
for n in range(100): tx.send(Number(n=n))
pid = os.fork()
if pid == 0:
    try: tx.send(Number(n=1))
    except psyne.ForkedError: pass
    else: os._exit(3)
    {child}
else:
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    for n in range(100, 300): tx.send(Number(n=n))
    assert [rx.receive().n for _ in range(300)] == list(range(300))
    assert tx.statistics().grown > 3
"""


@pytest.mark.leaves_nothing
@pytest.mark.parametrize("child", ["pass", "del tx, rx", "tx.close(); rx.close()"])
def test_a_forked_child_of_a_growing_sender_ends_and_its_parent_goes_on(child: str):
    run_program(FORKS.format(child=child))


@pytest.mark.leaves_nothing
def test_a_growing_sender_that_is_garbage_ends_its_lane():
    tx = grows(shrink_after=SOON)
    with psyne.receiver("ipc://g", Number) as rx:
        threads = threading.active_count()
        fill(tx)
        del tx
        gc.collect()
        assert threading.active_count() == threads
        assert [m.n for m in rx] == list(range(ALL))


@pytest.mark.leaves_nothing
@pytest.mark.parametrize(
    "at_exit",
    [
        "",
        "held = rx.receive(); view = memoryview(held)",
        "loan = tx.loan()",
        "threading.Thread(target=tx.drain, daemon=True).start()",
        "threading.Thread(target=lambda: [tx.send(Number(n=0)) for _ in range(10**9)], daemon=True).start()",
        "import sys; sys.exit(0)",
    ],
)
def test_an_interpreter_with_an_open_growing_sender_exits(at_exit: str):
    run_program(
        "import psyne, threading\n"
        "from layouts import Number\n"
        "tx = psyne.sender('ipc://g', Number, full='grow', capacity=2, shrink_after=0.005, budget=1 << 20)\n"
        "rx = psyne.receiver('ipc://g', Number)\n"
        "for n in range(200): tx.send(Number(n=n))\n" + at_exit
    )
    with grows():  # removes what a process leaves whose threads were in the midst of something
        pass


# ---- threads, pipelines ----------------------------------------------------------------------------------------------


def test_loans_may_be_sent_and_taken_back_by_other_threads_while_the_ring_changes():
    """A thread that ends loans is beside the one that lends, and beside the one that prepares rings."""
    with grows(Line, shrink_after=0.001) as tx, psyne.receiver("ipc://g", Line) as rx:
        lent: queue.Queue[Any] = queue.Queue(maxsize=50)
        sent: list[int] = []

        def end_them() -> None:
            chance = random.Random(1)
            hand: list[Any] = []
            while (m := lent.get()) is not None:
                hand.append(m)
                if len(hand) > chance.randrange(12):
                    m = hand.pop(chance.randrange(len(hand)))
                    if chance.random() < 0.4:
                        m.discard()
                    else:
                        sent.append(int(m.array[1]))
                        tx.send(m)
                del m
            for m in hand:
                m.discard()

        def lend() -> None:
            chance = random.Random(2)
            for n in range(4000):
                m = tx.loan(timeout=60)
                m.array[:] = line_of(1, n)
                lent.put(m)
                del m
                if chance.random() < 0.01:
                    time.sleep(0.005)
            lent.put(None)

        threads = [threading.Thread(target=f) for f in (end_them, lend)]
        for thread in threads:
            thread.start()
        got: list[int] = []
        while any(thread.is_alive() for thread in threads) or len(got) < len(sent):
            with contextlib.suppress(psyne.Empty), rx.receive(timeout=0.1) as m:
                assert (m.array == line_of(1, int(m.array[1]))).all()
                got.append(int(m.array[1]))
        for thread in threads:
            thread.join()
        assert sorted(got) == sorted(sent)
        s = tx.statistics()
        assert (s.grown > 1, s.late_wakes) == (True, 0)


def test_a_ring_that_nobody_reads_does_not_become_smaller():
    """A lane has 32 places: rings of two and of four messages would use them up."""
    with grows(shrink_after=0.0005) as tx, psyne.receiver("ipc://g", Number) as rx:
        for n in range(200):
            fill(tx, 1, n)
            time.sleep(0.0005)  # low load, as far as one looks at the rate alone
        fill(tx, 5000, 200)
        assert tx.statistics().shrunk == 0
        assert numbers(rx) == list(range(5200))
        until(lambda: tx.capacity == 2, "the ring becoming small again")


def test_statistics_of_growing_rings_may_be_asked_by_any_thread():
    with grows(shrink_after=0.001) as tx, psyne.receiver("ipc://g", Number) as rx:
        stop = threading.Event()
        broken: list[Exception] = []

        def ask() -> None:
            try:
                while not stop.is_set():
                    s = tx.statistics()
                    assert s.capacity >= 2
                    assert s.resident <= s.reserved + (1 << 20)
                    assert rx.statistics().capacity >= 0
                    assert tx.capacity >= 2
                    assert psyne.inspect("ipc://g").lanes
            except Exception as error:
                broken.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
        for n in range(20):
            fill(tx)
            assert numbers(rx) == list(range(ALL))
            if n % 5 == 0:
                until(lambda: tx.capacity == 2, "the ring becoming small again")
        stop.set()
        thread.join()
        assert broken == []


def test_a_source_of_a_pipeline_may_grow():
    def capture(out: Any) -> None:
        for n in range(500):
            out.send(Number(n=n))
        grown.append(out.statistics().grown)

    def look(m: Any) -> None:
        seen.append(m.n)

    grown: list[int] = []
    seen: list[int] = []
    pipe = psyne.Pipeline(workers="threads")
    pipe.source(capture, Number, full="grow", capacity=2, shrink_after=SOON).stage(look)
    assert pipe.run().stage("look").messages == 500
    assert seen == list(range(500))
    assert grown[0] > 0
