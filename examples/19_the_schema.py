"""A channel describes itself: to a receiver without classes, to one that wants some fields, to one that is wrong."""

import json

import numpy as np

import psyne
from psyne import Struct, Text, f32, f64, u8, u64


class Scan(Struct):
    stamp = u64()
    angle = f32()
    ranges = f32(360)
    valid = u8(360)


def recorder() -> None:
    """Knows no class: it makes them from what the channel says."""
    with psyne.receiver("ipc://lidar") as anything, anything.receive() as m:
        assert type(m).__name__ == "Scan"
        assert m.array.dtype == Scan().array.dtype
        line = {name: np.asarray(m.array[name]).sum().item() for name in m.array.dtype.names}
        print("recorded:", json.dumps(line))


def display() -> None:
    """Wants two of the fields."""

    class Scan(Struct):
        angle = f32()
        ranges = f32(360)

    with psyne.receiver("ipc://lidar", Scan, subset=True) as scans, scans.receive() as m:
        assert m.angle == 0.5
        assert m.ranges.mean() == 2.0
        assert not hasattr(m, "stamp")


def wrong() -> None:
    """Has another layout, and is told which fields differ: their dtype, shape and offset."""

    class Scan(Struct):
        stamp = f64()
        angle = f32()
        ranges = f32(720)

    said = []
    for other in (Scan, Text):
        try:
            psyne.receiver("ipc://lidar", other)
        except psyne.LayoutMismatch as error:
            said.append(str(error))
            print(f"LayoutMismatch: {error}")
    assert "stamp: theirs <u8 at byte 0, yours <f8 at byte 0" in said[0]
    assert "ranges: theirs <f4[360] at byte 12, yours <f4[720] at byte 12" in said[0]
    assert "Struct Scan" in said[1]


if __name__ == "__main__":
    with psyne.sender("ipc://lidar", Scan) as out:
        wrong()
        for use in (recorder, display):
            with out.loan() as m:
                m.stamp, m.angle, m.ranges, m.valid = 12, 0.5, 2.0, 1
            use()
    print("one text in the channel said all that")
