"""SIGKILLs while rings grow and shrink: nothing is lost after commit, torn, or twice without its flag; others go on.

Two senders whose rings change all the time, a stage that writes and one that reads, each with two members, are killed
and replaced; a watcher in the last stage is never killed and sees what came through.
"""

import contextlib
import os
import random
import signal
import sys
import time
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

import psyne
from psyne import Stage, _native

from .helpers.layouts import CHANGED
from .helpers.process import HELPERS, PATIENCE, Child, until
from .test_storm import Key, Storm, judge

sys.path.insert(0, str(HELPERS))
import growing  # type: ignore[import-not-found]

CAPACITY = 4
BUDGET = 8 << 20  # bytes of both senders: they come up against it


class Watcher:
    """Receives in the last stage and checks each message as it comes."""

    def __init__(self, children: Iterable[Child]) -> None:
        self.children = children
        self.rx = psyne.receiver("ipc://storm", growing.Words, stage="watch")
        self.seen: set[Key] = set()
        self.last: dict[int, int] = {}

    def watch(self, at_least: int) -> None:
        """Until so many messages came; one of the senders is always there."""
        while at_least > 0:
            for child in self.children:
                assert not child.answered(), child.result()
            at_least -= self.watch_some()

    def watch_some(self) -> int:
        with self.rx.receive_many(100, timeout=PATIENCE) as batch:
            self.check(batch)
            return len(batch)

    def watch_to_the_end(self) -> None:
        try:
            while True:
                self.watch_some()
        except (psyne.EndOfChannel, psyne.SenderLost):
            pass

    def check(self, batch: psyne.Batch) -> None:
        for m in batch:
            words = m.array
            assert growing.whole(words), f"torn: {words[:3]}"
            sender, count = int(words[0]) - CHANGED, int(words[1])
            assert count > self.last.get(sender, -1), f"message {count} of sender {sender} is twice, or out of order"
            self.last[sender] = count
            self.seen.add((sender, count))
            del words


class GrowingStorm(Storm):
    """Its roles: senders, and members of the stages `change` and `work`."""

    def __init__(self, stack: ExitStack, directory: Path) -> None:
        super().__init__(stack, directory, "mpmc", True)
        self.stages = [Stage("change", mutate=True), "work", "watch"]

    def start(self, role: str) -> None:
        number = self.lives[role]
        self.lives[role] += 1
        child = self.stack.enter_context(Child())
        child.run(
            "import growing",
            log=str(self.directory / f"{role}-{number}"), stop=str(self.directory / f"{role}-stop"), role=role,
        )  # fmt: skip
        if role == "sender":
            child.run(
                "tx = psyne.sender('ipc://storm', growing.Words, capacity=capacity, pattern='mpmc', stages=stages,"
                " full='grow', budget=budget, shrink_after=0.005)",
                capacity=CAPACITY, budget=BUDGET, stages=self.stages,
            )  # fmt: skip
            child.begin("growing.send_in_bursts(tx, number, log, stop)", number=number)
        else:
            child.run("rx = psyne.receiver('ipc://storm', growing.Words, stage=role, follow=True)")
            child.begin("growing.receive_in_storm(rx, log, stop, role == 'change')")
        child.begun()
        self.children[child] = role


def storm(directory: Path, kills: int, seed: int) -> tuple[dict[str, int], int, int]:
    """Runs one and judges it: the counters of its channel, and how often rings grew and shrank."""
    print(f"seed {seed}")
    chance = random.Random(seed)
    with ExitStack() as stack:
        s = GrowingStorm(stack, directory)
        for role in ("sender", "change", "work") * 2:
            s.start(role)
        watcher = Watcher(s.children)
        stack.callback(watcher.rx.close)
        for _ in range(kills):
            watcher.watch(chance.randrange(1, 100))
            role, others = s.kill_one(chance)
            assert others
            watcher.watch(50)  # the others go on by themselves
            s.start(role)
        watcher.watch(100)
        s.stop("sender")
        watcher.watch_to_the_end()
        s.results("sender")
        for role in ("change", "work"):
            s.stop(role)
            assert sum(s.results(role)) == 0, "torn, or a view changed"
        for child, role in s.children.items():
            if role != "sender":
                child.run("rx.close()")
        counters = _native.counters(watcher.rx)
        assert counters is not None
        sent = s.logs("sender")
        for role in ("change", "work"):
            judge(watcher.seen, [log[log[:, 0] != growing.CHANGES] for log in sent], s.logs(role), counters)
        changes = [log[log[:, 0] == growing.CHANGES][-1:, 1:] for log in sent]
        grown, shrunk = np.concatenate(changes).sum(axis=0).tolist()
        return counters, grown, shrunk


@pytest.mark.leaves_nothing
@pytest.mark.watchdog(300)
def test_a_dozen_kills_while_rings_grow_and_shrink_lose_tear_and_double_nothing(tmp_path: Path):
    _, grown, shrunk = storm(tmp_path, kills=12, seed=int.from_bytes(os.urandom(4), "big"))
    assert grown > 0
    assert shrunk > 0


@pytest.mark.long
@pytest.mark.leaves_nothing
@pytest.mark.watchdog(7200)
def test_five_hundred_kills_while_rings_grow_and_shrink_lose_tear_and_double_nothing(tmp_path: Path):
    counters, grown, shrunk = storm(tmp_path, kills=500, seed=int.from_bytes(os.urandom(4), "big"))
    assert min(grown, shrunk) > 500
    assert counters["redelivered"] + counters["dropped"] > 0, "no kill has hit a member with a message in its hand"


def kill_in_changes(directory: Path, kills: int) -> None:
    """One sender after the other is killed while its ring changes; a receiver and a tap see all that it committed."""
    board, chance = directory / "board", random.Random(seed := int.from_bytes(os.urandom(4), "big"))
    print(f"seed {seed}")
    np.zeros(3, "u8").tofile(board)
    notes, changes = np.memmap(board, "u8", "r+", shape=(3,)), np.zeros(2, "u8")
    with ExitStack() as stack:
        nest = stack.enter_context(Child())
        nest.run("import growing", board=str(board))
        rx = stack.enter_context(psyne.receiver("ipc://g", growing.Words))
        tap = stack.enter_context(psyne.tap("ipc://g", growing.Words))
        for sender in range(kills):
            notes[:] = 0
            pid = nest.run("growing.hatch(board, sender)", sender=sender)
            until(lambda: notes[0], "the first message")
            got, seen = check(rx.receive(timeout=PATIENCE), sender, 0), 0  # rx is in the channel when its sender dies
            reads, looks, end = chance.random() < 0.6, chance.random() < 0.5, time.monotonic() + chance.random() * 0.04
            while time.monotonic() < end:
                if reads and (m := rx.try_receive()) is not None:
                    got = check(m, sender, got)
                if looks and (m := tap.try_receive()) is not None:
                    seen = check(m, sender, seen + m.info.missed)
            os.kill(pid, signal.SIGKILL)
            nest.run("os.waitpid(pid, 0)[1]", pid=pid)
            with contextlib.suppress(psyne.SenderLost):
                while True:
                    got = check(rx.receive(timeout=PATIENCE), sender, got)
            assert notes[0] <= got <= notes[0] + 1, "what was committed, and perhaps what it was just about to note"
            with contextlib.suppress(psyne.SenderLost):
                while (m := tap.try_receive()) is not None:
                    seen = check(m, sender, seen + m.info.missed)
            assert seen <= got
            changes += notes[1:]
        rx.close()
        tap.close()
    assert changes.min() > kills // 4


def check(m: psyne.Message, sender: int, count: int) -> int:
    """It is this message, and whole; the number of the next one."""
    words = m.array
    assert growing.whole(words)
    assert words[:2].tolist() == [sender, count]
    return count + 1


@pytest.mark.leaves_nothing
def test_a_sender_killed_while_its_ring_changes_leaves_all_that_it_committed(tmp_path: Path):
    kill_in_changes(tmp_path, kills=30)


@pytest.mark.long
@pytest.mark.leaves_nothing
@pytest.mark.watchdog(3600)
def test_a_thousand_senders_killed_while_their_rings_change_leave_all_that_they_committed(tmp_path: Path):
    kill_in_changes(tmp_path, kills=1000)
