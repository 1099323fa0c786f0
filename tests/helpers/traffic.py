"""Senders and receivers for tests of integrity and storms: in all the ways there are, and they keep a record."""

import os
import time
from typing import Any

import numpy as np
from layouts import CHANGED, broken_lines, line_of, lines_of

import psyne


def send_lines(tx: Any, sender: int, count: int) -> None:
    """Sends the lines 0 … count - 1 of a sender: copied, in place, in batches, between loans that are taken back."""
    chance = np.random.default_rng(sender)
    done = 0
    while done < count:
        n = min(int(chance.integers(1, tx.capacity // 2)), count - done)
        lines = lines_of(sender, done, n)
        match int(chance.integers(6)):
            case 0:
                for line in lines:
                    tx.send(line)
            case 1:
                for line in lines:
                    with tx.loan() as m:
                        m.array[:] = line
            case 2:
                tx.send_many(lines)
            case 3:
                with tx.loan_many(n) as batch:
                    batch.array[:] = lines
            case 4:
                n = int(chance.integers(0, n + 1))
                with tx.loan_many(len(lines)) as batch:
                    batch.array[:n] = lines[:n]
                    batch.truncate(n)
            case 5:
                n = min(n, 3)
                loans = [tx.loan() for _ in range(n + 1)]
                loans.pop(int(chance.integers(n + 1))).discard()
                for i in chance.permutation(n):
                    loans[i].array[:] = lines[i]
                    tx.send(loans[i])
        done += n


def receive_lines(rx: Any, seed: int) -> tuple[np.ndarray, int]:
    """Receives until the end, singly and in batches: (sender, count) of each message, and how many were torn."""
    chance = np.random.default_rng(seed)
    seen, torn = [np.empty((0, 2), "u8")], 0
    try:
        while True:
            n = int(chance.integers(1, 500))
            if chance.random() < 0.5:
                with rx.receive_many(n) as batch:
                    lines = batch.array
                    seen.append(lines[:, :2].copy())
                    torn += broken_lines(lines)
                    del lines
                continue
            lines = np.empty((n, 8), "u8")
            got = 0
            try:
                for m in rx:
                    lines[got] = m.array
                    got += 1
                    if got == n:
                        break
                else:
                    raise psyne.EndOfChannel
                m.release()
            finally:
                seen.append(lines[:got, :2].copy())
                torn += broken_lines(lines[:got])
    except psyne.EndOfChannel:
        return np.concatenate(seen), torn


class Log:
    """Rows of numbers in a file; what was written survives a kill."""

    def __init__(self, path: str) -> None:
        self.fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def write(self, *rows: tuple[int, ...]) -> None:
        os.write(self.fd, np.array(rows, "u8").tobytes())


def work(chance: np.random.Generator) -> None:
    """Takes its time now and then, so that kills hit what is in somebody's hand."""
    if chance.random() < 0.3:
        time.sleep(chance.random() * 0.005)


def storm_sender(tx: Any, sender: int, log_path: str, stop: str) -> None:
    """Sends lines until the file `stop` exists. Logs (1, start, n) before a commit and (2, start, n) after it."""
    log, chance = Log(log_path), np.random.default_rng()
    done = 0
    while not os.path.exists(stop):
        n = int(chance.integers(1, 20))
        log.write((1, done, n))
        lines = lines_of(sender, done, n)
        match int(chance.integers(4)):
            case 0:
                for i in range(n):
                    tx.send(lines[i])
                    log.write((2, done + i, 1))
            case 1:
                tx.send_many(lines)
                log.write((2, done, n))
            case 2:
                with tx.loan_many(n) as batch:
                    batch.array[: n // 2] = lines[: n // 2]
                    work(chance)
                    batch.array[n // 2 :] = lines[n // 2 :]
                log.write((2, done, n))
            case 3:
                n = min(n, 5)
                loans = [tx.loan() for _ in range(n + 1)]
                loans.pop(int(chance.integers(n + 1))).discard()
                for i in chance.permutation(n):
                    loans[i].array[:] = lines[i]
                    tx.send(loans[i])
                    log.write((2, done + int(i), 1))
                    work(chance)
        done += n
    tx.close()


def storm_worker(rx: Any, log_path: str, stop: str, mutates: bool) -> int:
    """Receives until the file `stop` exists. Logs (sender, count, redelivered) of each message before its end."""
    log, chance, torn = Log(log_path), np.random.default_rng(), 0
    while not os.path.exists(stop):
        try:
            batch = rx.receive_many(int(chance.integers(1, 20)), timeout=0.05)
        except psyne.Empty:
            continue
        with batch:
            work(chance)  # before the first byte is changed
            lines = batch.copy() if not mutates else batch.array
            redelivered = batch.info.redelivered
            torn += broken_lines(lines)
            rows = [(int(sender), int(count), redelivered) for sender, count in lines[:, :2] & np.uint64(CHANGED - 1)]
            if mutates:
                for i, (sender, count, _) in enumerate(rows):
                    lines[i] = line_of(sender + CHANGED, count)
            work(chance)
            log.write(*rows)
            work(chance)
            del lines
    return torn


def watch_lines(tap: Any, seed: int) -> tuple[dict[int, int], int, int]:
    """Looks on until the end, singly, in batches and with pauses: for each sender how many lines were seen or missed,
    how many were torn, and how many had another number than what was missed before them says."""
    chance = np.random.default_rng(seed)
    accounted: dict[int, int] = {}
    torn = wrong = 0
    try:
        while True:
            if chance.random() < 0.5:
                batch = tap.receive_many(int(chance.integers(1, 50)))
                lines, missed = batch.array, batch.info.missed
            else:
                message = tap.receive()
                lines, missed = message.array[None], message.info.missed
            torn += broken_lines(lines)
            sender, first = int(lines[0, 0]), int(lines[0, 1])
            wrong += first != accounted.get(sender, 0) + missed
            wrong += bool((lines[:, 1] != np.arange(first, first + len(lines))).any())
            accounted[sender] = first + len(lines)
            if chance.random() < 0.05:
                time.sleep(float(chance.random()) * 0.005)
    except psyne.EndOfChannel:
        return accounted, torn, wrong
