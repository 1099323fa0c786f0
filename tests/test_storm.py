"""SIGKILLs at random moments: nothing lost after commit, nothing torn, nothing twice without its flag, others go on.

Senders and workers log what they do; a watcher in the stage after them is never killed and sees what came through.
"""

import os
import random
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import psyne
from psyne import Stage, _native

from .helpers.layouts import CHANGED, Line, broken_lines
from .helpers.process import PATIENCE, Child

CAPACITY = 64
Key = tuple[int, int]  # (sender, count) of a message


class Watcher:
    """Receives in the last stage and checks each message as it comes."""

    def __init__(self, mutated: bool) -> None:
        self.rx = psyne.receiver("ipc://storm", Line, stage="watch")
        self.mark = CHANGED if mutated else 0
        self.seen: set[Key] = set()
        self.last: dict[int, int] = {}

    def watch(self, at_least: int) -> None:
        """Until so many messages came; the end of all senders for now is no end."""
        while at_least > 0:
            try:
                with self.rx.receive_many(100, timeout=PATIENCE) as batch:
                    at_least -= len(batch)
                    self.check(batch.array.copy())
            except (psyne.EndOfChannel, psyne.SenderLost):
                time.sleep(0.001)  # a new one is on its way

    def watch_to_the_end(self) -> None:
        try:
            while True:
                with self.rx.receive_many(100, timeout=PATIENCE) as batch:
                    self.check(batch.array.copy())
        except (psyne.EndOfChannel, psyne.SenderLost):
            pass

    def check(self, lines: np.ndarray) -> None:
        assert broken_lines(lines) == 0
        for sender, count in (lines[:, :2] - np.array([self.mark, 0], "u8")).tolist():
            assert count > self.last.get(sender, -1), f"message {count} of sender {sender} is twice, or out of order"
            self.last[sender] = count
            self.seen.add((sender, count))


class Storm:
    """Processes of two roles that are killed and started again."""

    def __init__(self, stack: ExitStack, directory: Path, pattern: Any, mutates: bool) -> None:
        self.stack, self.directory, self.pattern, self.mutates = stack, directory, pattern, mutates
        self.stages = [Stage("work", mutate=mutates), "watch"]
        self.children: dict[Child, str] = {}
        self.lives: Counter[str] = Counter()

    def start(self, role: str) -> None:
        """One more sender or worker, with a log of its own."""
        number = self.lives[role]
        self.lives[role] += 1
        child = self.stack.enter_context(Child())
        child.run(
            "import traffic", log=str(self.directory / f"{role}-{number}"), stop=str(self.directory / f"{role}-stop")
        )
        if role == "sender":
            child.run(
                "tx = psyne.sender('ipc://storm', Line, capacity=capacity, pattern=pattern, stages=stages)",
                capacity=CAPACITY, pattern=self.pattern, stages=self.stages,
            )  # fmt: skip
            child.begin("traffic.storm_sender(tx, number, log, stop)", number=number)
        else:
            child.run("rx = psyne.receiver('ipc://storm', Line, stage='work', follow=True)")
            child.begin("traffic.storm_worker(rx, log, stop, mutates)", mutates=self.mutates)
        child.begun()
        self.children[child] = role

    def kill_one(self, chance: random.Random) -> tuple[str, bool]:
        """Kills a random process at a random moment: its role, and whether another one of that role lives."""
        victim = chance.choice(list(self.children))
        bystander = chance.choice(list(self.children))
        stopped = bystander is not victim and chance.random() < 0.3
        if stopped:  # must not hinder the burial
            bystander.stop()
        time.sleep(chance.random() * 0.01)
        assert not victim.answered(), victim.result()
        victim.kill(reap=chance.random() < 0.5)
        if stopped:
            bystander.go_on()
        role = self.children.pop(victim)
        return role, role in self.children.values()

    def stop(self, role: str) -> None:
        (self.directory / f"{role}-stop").touch()

    def results(self, role: str) -> list[Any]:
        return [child.result() for child, r in self.children.items() if r == role]

    def logs(self, role: str) -> list[np.ndarray]:
        paths = [self.directory / f"{role}-{n}" for n in range(self.lives[role])]
        return [np.fromfile(path, "u8").reshape(-1, 3) if path.exists() else np.empty((0, 3), "u8") for path in paths]


def storm(directory: Path, pattern: str, mutates: bool, kills: int, seed: int) -> dict[str, int]:
    """Runs one and judges it; the counters of its channel."""
    chance = random.Random(seed)
    with ExitStack() as stack:
        s = Storm(stack, directory, pattern, mutates)
        for role, letter in [("sender", pattern[0]), ("worker", pattern[2])]:
            for _ in range(2 if letter == "m" else 1):
                s.start(role)
        watcher = Watcher(mutates)
        stack.callback(watcher.rx.close)
        for _ in range(kills):
            watcher.watch(chance.randrange(1, 1000))
            role, others = s.kill_one(chance)
            if others:  # they go on by themselves, past all that was in the rings
                watcher.watch(4 * CAPACITY)
            s.start(role)
        watcher.watch(4 * CAPACITY)
        s.stop("sender")
        watcher.watch_to_the_end()
        s.results("sender")
        s.stop("worker")
        assert sum(s.results("worker")) == 0, "torn"
        counters = _native.counters(watcher.rx)
        assert counters is not None
        judge(watcher.seen, s.logs("sender"), s.logs("worker"), counters)
        return counters


def judge(seen: set[Key], sent: list[np.ndarray], worked: list[np.ndarray], counters: dict[str, int]) -> None:
    """Compares what was sent, worked on and seen in the end."""
    begun: set[Key] = set()
    committed: set[Key] = set()
    for sender, log in enumerate(sent):
        for kind, start, n in log.tolist():
            (begun if kind == 1 else committed).update((sender, count) for count in range(start, start + n))
    deliveries = [(sender, count, bool(again)) for log in worked for sender, count, again in log.tolist()]
    first_times = Counter((sender, count) for sender, count, again in deliveries if not again)
    times = Counter((sender, count) for sender, count, _ in deliveries)
    assert seen <= begun, "never sent"
    assert seen <= times.keys(), "not worked on"
    # A message is missing only if it is counted: three owners died on it, or one while it changed it.
    missing = committed - seen
    assert len(missing) <= counters["poisoned"] + counters["dropped"], f"lost: {sorted(missing)[:5]}"
    unflagged = [key for key, n in first_times.items() if n > 1]
    assert not unflagged, f"twice without the flag: {unflagged[:5]}"
    assert sum(times.values()) - sum(first_times.values()) <= counters["redelivered"]


@pytest.mark.watchdog(300)
@pytest.mark.parametrize(("pattern", "mutates"), [("spsc", True), ("spmc", False), ("mpsc", False), ("mpmc", True)])
def test_a_dozen_kills_lose_tear_and_double_nothing(tmp_path: Path, pattern: str, mutates: bool):
    storm(tmp_path, pattern, mutates, kills=3, seed=int.from_bytes(os.urandom(4), "big"))


@pytest.mark.long
@pytest.mark.watchdog(3600)
@pytest.mark.parametrize("mutates", [False, True])
@pytest.mark.parametrize("pattern", ["spsc", "spmc", "mpsc", "mpmc"])
def test_two_hundred_kills_lose_tear_and_double_nothing(tmp_path: Path, pattern: str, mutates: bool):
    counters = storm(tmp_path, pattern, mutates, kills=25, seed=int.from_bytes(os.urandom(4), "big"))
    assert counters["redelivered"] + counters["dropped"] > 0, "no kill has hit a worker with a message in its hand"
