"""Readers of messages in memory of a GPU that are killed at any moment, against a stand-in for the driver."""

import random
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import psyne

from .helpers import fakecuda
from .helpers.process import until
from .helpers.resident import Peer, Plane, gpu

__all__ = ["gpu"]

READ = """
rx = psyne.receiver("ipc://planes", device="cuda:0")
log = open(path, "a", buffering=1)
for m in rx:
    values = set(m.numpy().ravel().tolist())
    log.write(f"{m.info.sequence} {values}\\n")  # before its end: whoever has it next reads it again
"""


@pytest.mark.parametrize(
    ("messages", "kills"), [(300, 4), pytest.param(10_000, 100, marks=[pytest.mark.long, pytest.mark.watchdog(1200)])]
)
def test_readers_that_are_killed_at_any_moment_lose_no_message_and_tear_none(
    messages: int, kills: int, gpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log"
    path.touch()
    stream = fakecuda.new_stream(gpu)
    tx = psyne.sender("ipc://planes", Plane, device="cuda:0", capacity=4)

    def send() -> None:
        for n in range(messages):
            m = tx.loan()
            m.wait(stream)
            with gpu.context() as driver:
                driver.call("cuMemsetD8Async", m.pointer, 0, m.nbytes, stream)
            fakecuda.add(gpu, m, n, stream)
            tx.send(m, stream=stream)
        tx.close()

    def read() -> dict[int, set[str]]:
        seen: dict[int, set[str]] = {}
        for line in path.read_text().splitlines():
            sequence, _, values = line.partition(" ")
            seen.setdefault(int(sequence), set()).add(values)
        return seen

    sender = threading.Thread(target=send)
    sender.start()
    rng = random.Random(7)
    for n in range(kills):
        with Peer() as peer:
            peer.begin(READ, path=str(path))
            until(lambda n=n: path.read_bytes().count(b"\n") > (n + 1) * messages // (kills + 2), "some messages")
            time.sleep(rng.random() * 0.01)  # the moment of the kill, not a wait for anything
            peer.kill()
    with Peer() as peer:
        peer.begin(READ, path=str(path))
        sender.join()
        peer.result()
    seen = read()
    assert {n: values for n, values in seen.items() if values != {f"{{{float(n)}}}"}} == {}
    assert sorted(seen) == list(range(messages))
