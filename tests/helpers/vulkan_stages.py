"""Source and last stage of a pipeline with a stage on a device; importable by name."""

from typing import Any

from psyne import Struct, f32, u64

COUNT = 50


class Image(Struct):
    image = f32(16, 64)  # first, so that a device can begin there
    n = u64()


def capture(out: Any) -> None:
    for n in range(COUNT):
        with out.loan() as m:
            m.n = n
            m.image[:] = n


def check(m: Any) -> None:
    assert (m.image == m.n * 2 + 1).all()
