"""Second program: writes how sharp each picture is, how much moved, and where the edges are, into the same message."""

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

import psyne

from .place import place_of
from .program import report, run

COARSE = 4  # motion is measured on every fourth pixel of every fourth line
GAIN = 3  # so that soft edges show


class Analysis:
    """What is found in one picture after the other. Keeps a small copy of the last one, to see what moved."""

    def __init__(self) -> None:
        self._before: NDArray[np.int16] | None = None
        self._grey = np.empty((0, 0), np.int16)

    def __call__(self, m: Any) -> None:
        if self._grey.shape != m.edges.shape:
            self._grey = np.empty(m.edges.shape, np.int16)
        np.copyto(self._grey, m.image[..., 1])  # green is most of what the eye sees as brightness
        m.sharpness = self._sharpness()
        m.motion = self._motion()
        self._write_edges(m.edges)

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

    def _write_edges(self, edges: NDArray[np.uint8]) -> None:
        """How steep the brightness is, |across| + |down|. Every byte is written: the slot held another message."""
        g = self._grey
        edges[:, :1] = edges[:, -1:] = edges[:1] = edges[-1:] = 0
        steep = np.abs(g[1:-1, 2:] - g[1:-1, :-2])
        steep += np.abs(g[2:, 1:-1] - g[:-2, 1:-1])
        steep *= GAIN
        np.minimum(steep, 255, out=edges[1:-1, 1:-1], casting="unsafe")


def analyse(address: str) -> None:
    analysis = Analysis()
    with psyne.receiver(address, stage="analyse") as frames:
        report(ready=True)
        for m in frames:
            analysis(m)
            report(index=m.index, place=place_of(m.image))


if __name__ == "__main__":
    run(lambda: analyse(*sys.argv[1:]))
