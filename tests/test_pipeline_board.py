"""What workers count, in memory that they share with their supervisor."""

import numpy as np
import pytest

import psyne
from psyne.pipeline.board import BUCKETS, Board, Figures

from .helpers.layouts import Number

pytestmark = pytest.mark.leaves_nothing


def test_figures_are_seen_when_they_are_published_and_the_next_worker_counts_on() -> None:
    board = Board(3)
    with psyne.sender("ipc://n", Number, timestamps=True) as out, psyne.receiver("ipc://n", Number) as rx:
        for worker in (1, 2):
            figures = Figures(board.memory, 1)
            for _ in range(5):
                out.send(Number(n=1))
                with rx.receive():
                    figures.begin()
                    figures.end(1)
            assert board.sample(0.0).rows["messages"].tolist() == [0, 5 * (worker - 1), 0]
            figures.publish(rx)
            row = board.sample(0.0).rows[1]
            assert (row["messages"], row["calls"], row["since"]) == (5 * worker, 5 * worker, 0)
            assert row["busy"] > 0
        assert row["latency"].shape == (BUCKETS,)
        assert row["latency"].sum() == 5 + 10  # this receiver lived on, so its first five are counted twice
        assert row["at"] > 0


def test_a_sender_counts_what_it_sent_and_copied() -> None:
    board = Board(1)
    with psyne.sender("ipc://n", Number, stages=[], capacity=4) as out:
        figures = Figures(board.memory, 0)
        for n in range(7):
            out.send(Number(n=n))
        figures.publish(out)
        row = board.sample(0.0).rows[0]
        assert (row["messages"], row["copied_bytes"]) == (7, 7 * Number.__layout__.bytes)


def test_a_call_that_is_under_way_counts_as_busy() -> None:
    board = Board(1)
    with psyne.sender("ipc://n", Number, stages=[]) as out:
        figures = Figures(board.memory, 0)
        figures.begin()
        figures.publish(out)
        first = board.sample(0.0).rows[0]
        figures.publish(out)
        second = board.sample(1.0).rows[0]
        assert 0 < first["since"] == second["since"]
        assert 0 < first["busy"] < second["busy"]
        assert np.all(second["latency"] == 0)
