"""Any bytes at a handshake: errors of psyne, right answers, bounded memory, and nothing else."""

import random
from pathlib import Path

import pytest

from .helpers.handshake_fuzz import SEEDS, mutated, try_input

CORPUS = Path(__file__).parent / "helpers" / "handshake_corpus"


def test_right_sessions_are_agreed_on_where_nobody_is_refused():
    agreed = [try_input(seed).done for seed in SEEDS]
    assert agreed.count(True) == 16  # of four sessions, in two cuts, as they are and mended


def test_what_fuzzing_found_worth_keeping_does_no_harm():
    files = sorted(CORPUS.iterdir())
    assert files
    for file in files:
        try_input(file.read_bytes())


@pytest.mark.parametrize("executions", [5_000, pytest.param(1_000_000, marks=pytest.mark.long)])
def test_changed_sessions_do_no_harm(executions: int):
    chance = random.Random(executions)
    inputs = [*SEEDS, *(file.read_bytes() for file in sorted(CORPUS.iterdir()))]
    for _ in range(executions):
        changed = mutated(chance, chance.choice(inputs), chance.choice(inputs))
        try:
            try_input(changed)
        except Exception:
            print("the input was", changed)
            raise
