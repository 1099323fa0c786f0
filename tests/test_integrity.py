"""Between processes at full speed, in every pattern: no message lost, twice, torn, or out of its sender's order."""

from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest

import psyne
from psyne import Stage

from .helpers.layouts import Line, broken_lines
from .helpers.process import Child

SHORT = 100_000
LONG = pytest.param(10_000_000, marks=[pytest.mark.long, pytest.mark.watchdog(1800)])


def start_senders(stack: ExitStack, pattern: str, count: int, **options: Any) -> list[Child]:
    """As many senders as the pattern allows, up to two; they wait for `go`."""
    senders = [stack.enter_context(Child()) for _ in range(2 if pattern[0] == "m" else 1)]
    for number, child in enumerate(senders):
        child.run(
            "from traffic import send_lines; tx = psyne.sender('ipc://flow', Line, pattern=pattern, **options)",
            pattern=pattern,
            options={"capacity": 256, **options},
        )
        child.run("number, count = given", given=(number, count // len(senders)))
    return senders


def go(senders: list[Child]) -> None:
    for child in senders:
        child.begin("send_lines(tx, number, count); tx.close()")


def check(parts: list[np.ndarray], senders: int, count: int) -> None:
    """`parts` are what the members of one stage saw, (sender, count) in their order."""
    for part in parts:
        for sender in range(senders):
            counts = part[part[:, 0] == sender][:, 1].astype("i8")
            assert (np.diff(counts) > 0).all(), "out of order, or twice by one member"
    together = np.concatenate(parts)
    assert len(together) == count
    for sender in range(senders):
        counts = together[together[:, 0] == sender][:, 1]
        assert (np.sort(counts) == np.arange(count // senders)).all(), "lost or twice"


@pytest.mark.parametrize("count", [SHORT, LONG])
@pytest.mark.parametrize("pattern", ["spsc", "spmc", "mpsc", "mpmc"])
def test_every_message_arrives_once_whole_and_in_order(pattern: Any, count: int):
    with ExitStack() as stack:
        senders = start_senders(stack, pattern, count)
        members = [stack.enter_context(Child()) for _ in range(2 if pattern[2] == "m" else 1)]
        for seed, child in enumerate(members):
            child.run("from traffic import receive_lines; rx = psyne.receiver('ipc://flow')")
            child.begin("receive_lines(rx, seed)", seed=seed)
        go(senders)
        results = [child.result(patience=1800) for child in members]
        for child in senders:
            child.result()
        assert [torn for _, torn in results] == [0] * len(members)
        check([seen for seen, _ in results], len(senders), count)


@pytest.mark.parametrize("count", [SHORT, LONG])
@pytest.mark.parametrize("pattern", ["spsc", "mpmc"])
def test_a_chain_with_a_mutating_stage_keeps_every_message(pattern: Any, count: int):
    """What the first stage writes is what the last one reads: a message is torn if it is half of each."""
    with ExitStack() as stack:
        senders = start_senders(stack, pattern, count, stages=[Stage("change", mutate=True), "check"])
        changers = [stack.enter_context(Child()) for _ in range(2 if pattern[2] == "m" else 1)]
        for child in changers:
            child.run("from layouts import lines_of; rx = psyne.receiver('ipc://flow', stage='change')")
            child.begin(
                """
for batch in rx.batches(64):
    lines = batch.array
    lines[:, 0] += np.uint64(7)
    for i, (sender, n) in enumerate(lines[:, :2].tolist()): lines[i] = lines_of(sender, n, 1)[0]
    del lines
"""
            )
        with psyne.receiver("ipc://flow", Line, stage="check") as rx:
            go(senders)
            seen = []
            for batch in rx.batches(1000):
                assert broken_lines(batch.array) == 0
                seen.append(batch.array[:, :2] - np.array([7, 0], "u8"))
        for child in [*changers, *senders]:
            child.result(patience=1800)
        check([np.concatenate(seen)], len(senders), count)


@pytest.mark.parametrize("capacity", [1, 2, 4])
def test_the_smallest_rings_keep_every_message(capacity: int):
    with Child() as writer, psyne.receiver("ipc://flow", Line) as rx:
        writer.run("from layouts import lines_of; tx = psyne.sender('ipc://flow', Line, capacity=n)", n=capacity)
        writer.begin("for line in lines_of(0, 0, 20_000): tx.send(line)\ntx.close()")
        seen, torn = [], 0
        for m in rx:
            seen.append(int(m.array[1]))
            torn += broken_lines(m.array[None])
        assert torn == 0
        assert seen == list(range(20_000))
        writer.result()
