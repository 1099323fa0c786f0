"""Slots go round and round while views of them live on both sides: no byte changes under a view."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import psyne
from psyne import Struct, u64

from .helpers.process import Child


class Sheet(Struct):
    sender = u64()
    body = u64(7)


KEPT: list[Callable[[Any], Any]] = [
    lambda m: m.array,
    lambda m: m.body,
    lambda m: m.body[2:5],
    lambda m: m.body[::-2],
    lambda m: np.asarray(m)["body"],
    lambda m: memoryview(m.body),
    lambda m: memoryview(m.body)[1:4],
    lambda m: np.from_dlpack(m.body),
    lambda m: np.frombuffer(m.body, "u1")[8:16],
    lambda m: m.private(),
    lambda m: m.copy(),
]
KEPT_OF_BATCH: list[Callable[[Any], Any]] = [
    lambda b: b.array,
    lambda b: b["body"],
    lambda b: b["body"][-1],
    lambda b: b.array[:1],
    lambda b: memoryview(b["sender"]),
    lambda b: b.private(),
]


def body_of(n: int) -> np.ndarray:
    return np.arange(7, dtype="u8") + np.uint64(n * 0x9E3779B97F4A7C15 % (1 << 63))


def bytes_of(view: Any) -> bytes:
    return bytes(view.array.tobytes() if isinstance(view, psyne.Message) else view.tobytes())


class Shelf:
    """Views that are kept for a random time, with the bytes that they had."""

    def __init__(self, chance: random.Random, most: int) -> None:
        self.chance, self.most = chance, most
        self.kept: list[tuple[Any, bytes]] = []
        self.seen = self.changed = 0

    def keep(self, view: Any) -> None:
        self.kept.append((view, bytes_of(view)))
        self.seen += 1
        while len(self.kept) > self.most:
            self.let_go(self.chance.randrange(len(self.kept)))

    def let_go(self, i: int) -> None:
        view, before = self.kept.pop(i)
        self.changed += bytes_of(view) != before

    def some(self) -> None:
        while self.kept and self.chance.random() < 0.3:
            self.let_go(self.chance.randrange(len(self.kept)))

    def clear(self) -> None:
        while self.kept:
            self.let_go(0)


def send_one(tx: Any, n: int, shelf: Shelf) -> bool:
    """Sends message n, perhaps keeping an array of it."""
    m = tx.try_loan()
    if m is None:
        return False
    with m:
        m.sender = n
        m.body = body_of(n)
        view = shelf.chance.choice(KEPT)(m) if shelf.chance.random() < 0.05 else None
    if view is not None:
        shelf.keep(view)  # from here on nobody may write
    return True


def receive_one(rx: Any, shelf: Shelf) -> int:
    """Takes a message or a batch, checks it and perhaps keeps a view; how many there were."""
    if shelf.chance.random() < 0.5:
        m = rx.try_receive()
        if m is None:
            return 0
        with m:
            assert (m.body == body_of(m.sender)).all()
            if shelf.chance.random() < 0.2:
                shelf.keep(shelf.chance.choice(KEPT)(m))
        return 1
    batch = rx.try_receive_many(4)
    if batch is None:
        return 0
    with batch:
        for sender, body in zip(batch["sender"], batch["body"], strict=True):
            assert (body == body_of(int(sender))).all()
        if shelf.chance.random() < 0.2:
            shelf.keep(shelf.chance.choice(KEPT_OF_BATCH)(batch))
    return len(batch)


def go_round(count: int, pattern: Any, members: int, seed: int = 1) -> None:
    """One sender and the members of one stage in this process, in a random order of steps."""
    chance = random.Random(seed)
    mine = Shelf(chance, 4)
    shelves = [Shelf(chance, 3) for _ in range(members)]
    with psyne.sender("ipc://sheets", Sheet, capacity=64, pattern=pattern) as tx:
        ends = [psyne.receiver("ipc://sheets", Sheet) for _ in range(members)]
        sent = received = 0
        while received < count:
            for _ in range(chance.randrange(8)):
                if sent == count or not send_one(tx, sent, mine):
                    break
                sent += 1
            for rx, shelf in zip(ends, shelves, strict=True):
                if chance.random() < 0.7:
                    received += receive_one(rx, shelf)
                shelf.some()
            mine.some()
        for shelf in (mine, *shelves):
            shelf.clear()
            assert shelf.seen > count // 50
            assert shelf.changed == 0
        assert tx.statistics().held == 0
        assert tx.statistics().occupancy == 0
        for rx in ends:
            assert rx.statistics().held == 0
            rx.close()


def with_another_process(count: int) -> None:
    """The sender is another process, which keeps arrays of what it sent."""
    with Child() as other, psyne.receiver("ipc://sheets", Sheet) as rx:
        other.run("import sys, random; sys.path.insert(0, tests)", tests=__file__.rsplit("/", 2)[0])
        other.run("from tests.test_recycling import Sheet, Shelf, send_one, bytes_of")
        other.run("tx = psyne.sender('ipc://sheets', Sheet, capacity=64, pattern='spsc')")
        other.run("shelf = Shelf(random.Random(2), 4)")
        other.begin(
            "n = 0\nwhile n < count:\n  n += send_one(tx, n, shelf)\n  shelf.some()\n"
            "shelf.clear(); tx.close(); (shelf.seen, shelf.changed)",
            count=count,
        )
        shelf = Shelf(random.Random(3), 6)
        got = 0
        while got < count:
            got += receive_one(rx, shelf)
            shelf.some()
        shelf.clear()
        seen, changed = other.result()
        assert (shelf.changed, changed) == (0, 0)
        assert min(seen, shelf.seen) > count // 100


@pytest.mark.parametrize(("pattern", "members"), [("spsc", 1), ("mpmc", 2)])
def test_no_byte_changes_under_views_of_either_side(pattern: str, members: int):
    go_round(20_000, pattern, members)


def test_no_byte_changes_under_views_of_two_processes():
    with_another_process(20_000)


@pytest.mark.long
@pytest.mark.watchdog(1800)
@pytest.mark.parametrize(("pattern", "members"), [("spsc", 1), ("mpmc", 2)])
def test_no_byte_changes_under_views_of_either_side_in_a_million_recycles(pattern: str, members: int):
    go_round(1_000_000, pattern, members)


@pytest.mark.long
@pytest.mark.watchdog(1800)
def test_no_byte_changes_under_views_of_two_processes_in_a_million_recycles():
    with_another_process(1_000_000)


def test_a_view_that_changes_would_be_seen():
    """The check itself."""
    shelf = Shelf(random.Random(1), 4)
    array = np.zeros(4, "u1")
    shelf.keep(array)
    array[2] = 1
    shelf.clear()
    assert shelf.changed == 1
