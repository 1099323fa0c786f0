"""Processes that have messages in memory of a GPU, which a stand-in for the driver makes up."""

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import psyne
from psyne import Array
from psyne.devices import resident_memory

from . import fakecuda
from .process import Child, until

__all__ = ["Peer", "Plane", "gpu"]

Plane = Array("f4", (64, 64))
BEGIN = """
import fakecuda
Plane = psyne.Array("f4", (64, 64))
gpu = psyne.device("cuda:0")
stream = fakecuda.new_stream(gpu)
"""


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """The device. The files of its memory, and of that of all `Peer`s, are in a directory of the test's own."""
    (tmp_path / "gpu").mkdir()
    monkeypatch.setenv("PSYNE_LIBCUDA", fakecuda.library())
    monkeypatch.setenv("FAKECUDA_DIR", str(tmp_path / "gpu"))
    monkeypatch.setattr(resident_memory, "_spare", [])
    monkeypatch.setattr(resident_memory, "_shared", shared := {})
    with psyne.device("cuda:0") as device:
        yield device
        gc.collect()
        for memory in shared.values():  # as the end of the process does
            for fence in memory.fences:
                device.forget("cuEventDestroy_v2", fence.event)
            device.forget("cuMemFree_v2", memory.pointer)
    until(lambda: gc.collect() or fakecuda.left()[0] == 0, "all that was opened to be closed")


class Peer(Child):
    """A process with the device ``gpu``, a ``stream``, and the layout ``Plane``."""

    def __init__(self) -> None:
        super().__init__()
        self.run(BEGIN)
