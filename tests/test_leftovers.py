"""What killed processes leave behind never stops the next start, and does not stay."""

import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import psyne

from .helpers.layouts import Number, Picture
from .helpers.process import Child

OPEN = """
tx = psyne.sender('ipc://left', Number, capacity=8, pattern='mpmc', stages=['first', 'second'])
rx = psyne.receiver('ipc://left', stage='first')
for n in range(8): tx.send(Number(n=n), timeout=0)
held = rx.receive()
view = rx.receive().array
"""


def kill_all(children: list[Child]) -> None:
    for child in children:
        child.kill()


@pytest.mark.leaves_nothing
@pytest.mark.parametrize("kind", ["the same sender", "another type", "another pattern", "receiver"])
def test_a_group_that_was_killed_hinders_no_start_and_leaves_nothing_after_it(psyne_directory: Path, kind: str):
    with Child() as a, Child() as b:
        a.run(OPEN)
        b.run("tx = psyne.sender('ipc://left'); rx = psyne.receiver('ipc://left', stage='second'); m = tx.loan()")
        kill_all([a, b])
    assert list(psyne_directory.iterdir())
    if kind == "receiver":
        with psyne.receiver("ipc://left", Number) as rx, pytest.raises(psyne.Empty, match="no sender"):
            rx.receive(timeout=0)
    elif kind == "another type":
        with psyne.sender("ipc://left", Picture, capacity=8) as tx, psyne.receiver("ipc://left") as rx:
            tx.send(np.ones((4, 6), "u1"))
            assert rx.receive().array.sum() == 24
    else:
        pattern: Any = "mpmc" if kind == "the same sender" else "spsc"
        with psyne.sender("ipc://left", Number, capacity=8, pattern=pattern) as tx, psyne.receiver("ipc://left") as rx:
            tx.send(Number(n=1))
            with rx.receive() as m:
                assert (m.n, m.info.redelivered) == (1, False)


@pytest.mark.leaves_nothing
def test_the_last_one_out_removes_what_the_dead_left():
    with psyne.sender("ipc://left", Number, capacity=8, pattern="mpmc", stages=["first", "second"]), Child() as victim:
        victim.run(OPEN)
        victim.kill()


@pytest.mark.leaves_nothing
def test_leftovers_of_another_channel_are_its_own_business(psyne_directory: Path):
    with Child() as victim:
        victim.run(OPEN)
        victim.kill()
    left = sorted(psyne_directory.iterdir())
    with psyne.sender("ipc://left-alone", Number):
        pass
    assert sorted(psyne_directory.iterdir()) == left
    with psyne.receiver("ipc://left"):
        pass


@pytest.mark.leaves_nothing
@pytest.mark.parametrize("receives", [False, True])
def test_a_kill_at_any_moment_of_opening_or_closing_hinders_no_start(receives: bool):
    loop = """
while True:
    with psyne.sender('ipc://left', Number, capacity=8) as tx:
        if receives:
            with psyne.receiver('ipc://left') as rx: tx.send(Number(n=1))
"""
    chance = random.Random(11)
    for _ in range(6):
        with Child() as victim:
            victim.begin("import logging; logging.disable()" + loop, receives=receives)
            victim.begun()
            time.sleep(chance.uniform(0, 0.05))  # any moment
            victim.kill()
        with psyne.sender("ipc://left", Number, capacity=8) as tx, psyne.receiver("ipc://left") as rx:
            tx.send(Number(n=1))
            assert rx.receive(timeout=0).n == 1


def test_a_kill_while_others_stay_hinders_no_end():
    """Ends that open and close are killed at random moments beside one that stays."""
    chance = random.Random(12)
    loop = """
while True:
    with psyne.sender('ipc://busy') as tx:
        tx.send(Number(n=1))
        with psyne.receiver('ipc://busy', stage='second') as rx:
            rx.try_receive()
"""
    with (
        psyne.sender("ipc://busy", Number, capacity=8, pattern="mpmc", stages=["first", "second"]) as tx,
        psyne.receiver("ipc://busy", stage="first") as rx,
    ):
        for n in range(8):
            with Child() as victim:
                victim.begin(loop)
                victim.begun()
                for _ in range(chance.randrange(200)):
                    rx.receive().release()
                victim.kill()
            tx.send(Number(n=100 + n))
            while rx.receive().n != 100 + n:
                pass
            with psyne.receiver("ipc://busy", stage="second") as second:
                while second.receive().n != 100 + n:
                    pass
