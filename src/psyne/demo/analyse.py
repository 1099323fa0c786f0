"""Second program: writes how sharp each picture is, how much moved, and where the edges are, into the same message.

The edges are found by numpy, or by a kernel of a device (``psyne demo --device vulkan``), while the CPU does the rest.
"""

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

import psyne

from .edges import DeviceEdges, offset_of, write_edges
from .place import Place, place_at, place_of
from .program import report, run

COARSE = 4  # motion is measured on every fourth pixel of every fourth line


class Analysis:
    """What is found in one picture after the other. Keeps a small copy of the last one, to see what moved."""

    def __init__(self, edges: DeviceEdges | None = None) -> None:
        self._edges = edges
        self._before: NDArray[np.int16] | None = None
        self._grey = np.empty((0, 0), np.int16)

    def __call__(self, m: Any) -> Place | None:
        """Where the device has the picture, if one helps."""
        work = self._edges(m) if self._edges is not None else None
        if self._grey.shape != m.edges.shape:
            self._grey = np.empty(m.edges.shape, np.int16)
        np.copyto(self._grey, m.image[..., 1])  # green is most of what the eye sees as brightness
        m.sharpness = self._sharpness()
        m.motion = self._motion()
        if work is None:
            write_edges(self._grey, m.edges)
            return None
        view, event = work
        event.wait()
        return place_at(view.host_address + offset_of(view, "image"), m.image.nbytes)

    def _sharpness(self) -> float:
        """The variance of the Laplacian: how much a pixel differs from the mean of its neighbours."""
        g = self._grey
        if min(g.shape) < 3:
            return 0.0
        laplacian = g[:-2, 1:-1] + g[2:, 1:-1]
        laplacian += g[1:-1, :-2]
        laplacian += g[1:-1, 2:]
        laplacian -= 4 * g[1:-1, 1:-1]
        return float(laplacian.var(dtype=np.float32))

    def _motion(self) -> float:
        """The mean absolute difference to the picture before, in grey levels."""
        now = self._grey[::COARSE, ::COARSE].copy()
        moved = 0.0 if self._before is None else float(np.abs(now - self._before).mean())
        self._before = now
        return moved


def analyse(address: str, device: str) -> None:
    edges = DeviceEdges(device) if device else None
    analysis = Analysis(edges)
    with psyne.receiver(address, stage="analyse") as frames:
        if edges is not None:
            report(device=edges.device.name, product=edges.device.info.product)
        report(ready=True)
        for m in frames:
            there = analysis(m)
            report(index=m.index, place=place_of(m.image), **({} if there is None else {"on_device": there}))


if __name__ == "__main__":
    run(lambda: analyse(*sys.argv[1:]))
