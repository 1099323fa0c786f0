"""Senders whose rings keep growing and shrinking, and those who read them; all keep a record that outlives them."""

import ctypes
import os
import signal
import time
from typing import Any

import numpy as np
from layouts import CHANGED
from traffic import Log, work

import psyne
from psyne import Array

Words = Array("u8", ndim=1, max_bytes=1 << 20)
LENGTHS = [8, 8, 8, 8, 20, 400, 700, 900, 12_000]  # words: in a slot, in a longer one, beside it
SENT, COMMITTED, CHANGES = 1, 2, 3  # what a line of a sender's log says


def words_of(sender: int, count: int, length: int) -> np.ndarray:
    """Message `count` of a sender: both, and words that belong to them."""
    words = np.arange(length, dtype="u8") * np.uint64(0x9E3779B97F4A7C15) + np.uint64((sender << 40) + count)
    words[:2] = sender, count
    return words


def whole(words: np.ndarray) -> bool:
    """Is it one of them, and not torn?"""
    return len(words) in LENGTHS and bool((words == words_of(int(words[0]), int(words[1]), len(words))).all())


def send_in_bursts(tx: Any, sender: int, log_path: str, stop: str) -> None:
    """Sends until the file `stop` exists. Logs (SENT, start, n) before a commit and (COMMITTED, start, n) after it, and
    after each burst (CHANGES, grown, shrunk)."""
    log, chance = Log(log_path), np.random.default_rng()
    done = 0
    while not os.path.exists(stop):
        for _ in range(int(chance.integers(1, 30))):
            n = int(chance.integers(1, 6))
            log.write((SENT, done, n))
            if chance.random() < 0.3:  # some at a time, one is taken back, sent out of order
                loans = [tx.loan(size=int(chance.choice(LENGTHS))) for _ in range(n + 1)]
                loans.pop(int(chance.integers(n + 1))).discard()
                for i in chance.permutation(n):
                    loans[i].array[:] = words_of(sender, done + int(i), loans[i].array.size)
                    work(chance)
                    tx.send(loans[i])
                    log.write((COMMITTED, done + int(i), 1))
                del loans
            else:
                for i in range(n):
                    tx.send(words_of(sender, done + i, int(chance.choice(LENGTHS))))
                    log.write((COMMITTED, done + i, 1))
            done += n
        s = tx.statistics()
        log.write((CHANGES, s.grown, s.shrunk))
        time.sleep(chance.random() * 0.03)
    tx.close()


def receive_in_storm(rx: Any, log_path: str, stop: str, mutates: bool) -> int:
    """Receives until the file `stop` exists, keeps some. Logs (sender, count, redelivered) before the end of each."""
    log, chance, torn = Log(log_path), np.random.default_rng(), 0
    kept: list[tuple[Any, bytes]] = []
    while not os.path.exists(stop):
        try:
            batch = rx.receive_many(int(chance.integers(1, 8)), timeout=0.05)
        except psyne.Empty:
            torn += check_and_drop(kept, 0, chance)  # perhaps a sender that cannot grow waits for them
            continue
        with batch:
            work(chance)  # before the first byte is changed
            rows = []
            for m in batch:
                words = m.array
                torn += not whole(words)
                sender, count = int(words[0]) & (CHANGED - 1), int(words[1])
                rows.append((sender, count, batch.info.redelivered))
                if mutates:
                    words[:] = words_of(sender + CHANGED, count, len(words))
                    work(chance)
                elif chance.random() < 0.05:
                    kept.append((words, words.tobytes()))
                del words
            log.write(*rows)
            work(chance)
        del batch, m
        torn += check_and_drop(kept, 4, chance)
    return torn


def check_and_drop(kept: list[tuple[Any, bytes]], most: int, chance: np.random.Generator) -> int:
    """Leaves that many views; how many of the others have changed."""
    changed = 0
    while len(kept) > most:
        view, data = kept.pop(int(chance.integers(len(kept))))
        changed += view.tobytes() != data
    return changed


def hatch(board: str, sender: int) -> int:
    """Forks a process that sends until it is killed, in a ring that hardly ever stays the same; its pid.

    It notes on the board, a file of three words: messages committed, changes to larger rings, to smaller ones.
    """
    pid = os.fork()
    if pid == 0:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # when its parent dies
        notes, chance = np.memmap(board, "u8", "r+", shape=(3,)), np.random.default_rng()
        tx = psyne.sender(
            "ipc://g", Words, full="grow", capacity=2, budget=4 << 20, shrink_after=0.0003, pattern="mpsc"
        )
        done = 0
        while True:
            for _ in range(int(chance.integers(1, 12))):
                tx.send(words_of(sender, done, int(chance.choice(LENGTHS))))
                done += 1
                notes[0] = done
            s = tx.statistics()
            notes[1:] = s.grown, s.shrunk
            time.sleep(chance.random() * 0.002)
    return pid
