"""Members of a graph's stages: each checks what a message went through before, says that it saw it, and may write.

A board in a file, mapped by all, has for each stage and message two cells: how often it came, and how often flagged as
redelivered. What a killed member wrote there stays.
"""

import random
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

WORD = (1 << 64) - 1


def stepped(path: Any, stage: int) -> Any:
    """The path behind one more mutating stage; of a number or an array."""
    if isinstance(path, int):
        return (path * 31 + stage + 1) & WORD
    return path * np.uint64(31) + np.uint64(stage + 1)


def walked(path: Any, stages: tuple[int, ...]) -> Any:
    """The path behind these mutating stages, in their order."""
    for stage in stages:
        path = stepped(path, stage)
    return path


class Board:
    """seen[stage][message], flagged[stage][message]; message n of sender s is cell s * each + n."""

    def __init__(self, path: str, stages: int, senders: int, each: int) -> None:
        if not Path(path).exists():
            np.zeros((2, stages, senders * each), "u1").tofile(path)
        self.seen, self.flagged = np.asarray(np.memmap(path, "u1", "r+", shape=(2, stages, senders * each)))
        self.senders, self.each = senders, each


@dataclass
class Place:
    """Where a member stands, worked out by the test."""

    stage: int
    mutates: bool
    redelivers: bool
    before: tuple[int, ...]  # all stages that end a message before this one begins
    behind: tuple[int, ...]  # all that begin after this one has ended it
    writers: tuple[int, ...]  # those before that mutate, in the order that they do
    again: tuple[int, ...]  # those before that may have changed a message twice


class Member:
    """Checks and changes messages, until the end of the channel; AssertionError says what is wrong."""

    def __init__(self, board: Board, place: Place, pause: float) -> None:
        self.board, self.place, self.pause = board, place, pause
        self.last = np.full(board.senders, -1)
        self.writers = len(place.writers)

    def rest(self) -> None:
        """Takes its time now and then, so that kills hit what is in somebody's hand."""
        if self.pause and random.random() < self.pause:
            time.sleep(random.random() * 0.01)

    def singles(self, rx: Any) -> None:
        seen, flagged = map(memoryview, (self.board.seen[self.place.stage], self.board.flagged[self.place.stage]))
        before = [memoryview(self.board.seen[s]) for s in self.place.before]
        behind = [memoryview(self.board.seen[s]) for s in self.place.behind]
        again = [memoryview(self.board.flagged[s]) for s in self.place.again]
        stage, each, last = self.place.stage, self.board.each, self.last.tolist()
        for m in rx:
            self.rest()
            sender, number, redelivered = m.sender, m.number, m.info.redelivered
            cell = sender * each + number
            if not redelivered:
                assert number > last[sender], f"{number} of sender {sender} came after {last[sender]}"
                assert seen[cell] == 0, f"{number} of sender {sender} came twice without its flag"
                last[sender] = number
            assert all(cells[cell] for cells in before), f"{number} of sender {sender} came before a stage saw it"
            assert not any(cells[cell] for cells in behind), f"{number} of sender {sender} was further already"
            flagged[cell] += redelivered
            seen[cell] += 1
            self.check(cell, redelivered, m.path, m.begun, m.count, m.done, sum(cells[cell] for cells in again))
            self.rest()
            if self.place.mutates:
                path = stepped(walked(cell + 1, self.place.writers), stage) if redelivered else stepped(m.path, stage)
                m.begun = self.writers + 1 if redelivered else m.begun + 1
                self.rest()
                m.path = path
                m.count += 1
                self.rest()
                m.done = self.writers + 1 if redelivered else m.done + 1
            self.rest()
            assert not any(cells[cell] for cells in behind), f"{number} of sender {sender} did not wait"

    def batches(self, rx: Any, most: int) -> None:
        for batch in rx.batches(most):
            self.rest()
            self.batch(batch, batch.info.redelivered)

    def batch(self, batch: Any, redelivered: bool) -> None:
        place, seen, flagged = self.place, self.board.seen, self.board.flagged
        sender, numbers = int(batch["sender"][0]), batch["number"]
        cells = sender * self.board.each + numbers.astype("i8")
        if redelivered:
            assert len(numbers) == 1, "what is redelivered comes alone"
        else:
            assert numbers[0] > self.last[sender], f"{numbers[0]} of sender {sender} came after {self.last[sender]}"
            assert (numbers[1:] > numbers[:-1]).all(), f"a batch of sender {sender} has the numbers {numbers}"
            assert not seen[place.stage, cells].any(), f"{numbers} of sender {sender} came twice without their flag"
            self.last[sender] = numbers[-1]
        assert (batch["sender"] == sender).all(), "a batch of two senders"
        assert all(seen[s, cells].all() for s in place.before), f"{numbers} of {sender} came before a stage saw them"
        assert not any(seen[s, cells].any() for s in place.behind), f"{numbers} of {sender} were further already"
        flagged[place.stage, cells] += redelivered
        seen[place.stage, cells] += 1
        path, begun, count, done = (batch[field] for field in ("path", "begun", "count", "done"))
        extra = sum(flagged[s, cells].astype("i8") for s in place.again)
        self.check(cells, redelivered, path, begun, count, done, extra)
        self.rest()
        if place.mutates:
            after = stepped(walked((cells + 1).astype("u8"), place.writers) if redelivered else path, place.stage)
            begun[:] = self.writers + 1 if redelivered else begun + 1
            self.rest()
            path[:] = after
            count += 1
            self.rest()
            done[:] = self.writers + 1 if redelivered else done + 1
        self.rest()
        assert not any(seen[s, cells].any() for s in place.behind), f"{numbers} of sender {sender} did not wait"

    def check(self, cell: Any, redelivered: bool, path: Any, begun: Any, count: Any, done: Any, extra: Any) -> None:
        """Of one message or many: exactly the stages before have changed it, each once and wholly.

        What this stage itself may have begun counts as well, if it is handed on flagged. Who repairs such a message
        does not repair its `count`: it may be too high by as many as the message was flagged.
        """
        right = walked(cell + 1 if isinstance(cell, int) else (cell + 1).astype("u8"), self.place.writers)
        if redelivered and self.place.mutates and self.place.redelivers:  # alone, also as a batch
            changed = stepped(right, self.place.stage)
            steps = [(b, _int(p), d) for b, p, d in ((0, right, 0), (1, right, 0), (1, changed, 0), (1, changed, 1))]
            now = (_int(begun) - self.writers, _int(path), _int(done) - self.writers)
            assert now in steps, f"a redelivered message {cell} is {now}, none of {steps}"
            extra = extra + self.board.seen[self.place.stage, cell] - 1
        else:
            whole = (path == right) & (begun == self.writers) & (done == self.writers)
            assert np.all(whole), f"half changed, or by the wrong stages: {cell} is {path, begun, done}, not {right}"
        too_many = np.asarray(count, "i8") - self.writers
        assert np.all((too_many >= 0) & (too_many <= extra)), f"{cell} was changed {count} times, {extra} flagged"


def _int(number: Any) -> int:
    return int(np.asarray(number).item())


def send(tx: Any, board: Board, sender: int, start: int, n: int, most: int) -> None:
    """The messages start … start + n - 1 of a sender: singly (most = 1), or in batches of up to `most`."""
    first = sender * board.each
    if most == 1:
        for number in range(start, start + n):
            with tx.loan() as m:
                m.sender, m.number, m.path = sender, number, first + number + 1
        return
    while n:
        k = min(n, most)
        with tx.loan_many(k) as batch:
            sent = np.arange(start, start + k, dtype="u8")
            batch["sender"], batch["number"], batch["path"] = sender, sent, sent + np.uint64(first + 1)
            batch["begun"] = batch["count"] = batch["done"] = 0  # batches do not start zeroed
        start, n = start + k, n - k
