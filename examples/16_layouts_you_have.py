"""Layouts that a program has already: a numpy dtype, a ctypes.Structure, a dataclass, a msgspec.Struct."""

import ctypes
import importlib.util
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

import psyne
from psyne import Struct, f64, field, u32


class CFix(ctypes.Structure):  # a driver's header, transcribed
    _fields_ = [("time", ctypes.c_double), ("satellites", ctypes.c_uint8), ("position", ctypes.c_double * 3)]


@dataclass
class Point:
    x: float
    y: float


@dataclass
class Track:
    number: int
    head: Point  # nested: a part of its message
    speeds: Annotated[NDArray[np.float32], (4,)]
    lost: bool = False


class Pose(Struct):  # the same with psyne's own words: one in another, and an array of them
    x = f64()
    y = f64()


class Plan(Struct):
    count = u32()
    start = field(Pose)
    way = field(Pose, 8)


def there_and_back(layout: Any, thing: object) -> Any:
    """One message through a channel; what arrives is a Struct with the fields of the layout."""
    with psyne.sender("ipc://layouts", layout) as out, psyne.receiver("ipc://layouts") as rx:
        out.send(thing)
        with rx.receive() as m:
            assert isinstance(m, Struct)
            return m.copy()


def main() -> None:
    fix = there_and_back(CFix, CFix(1.5, 9, (ctypes.c_double * 3)(48.1, 11.6, 519.0)))
    assert (fix.time, fix.satellites, fix.position[2]) == (1.5, 9, 519.0)

    track = there_and_back(Track, Track(3, Point(1.0, 2.0), np.arange(4, dtype=np.float32)))
    assert (track.number, track.head.y, track.speeds.sum(), track.lost) == (3, 2.0, 6.0, False)

    ticks = np.array([(1, 99.5), (2, 99.25)], dtype=[("id", "<u4"), ("price", "<f8")])
    tick = there_and_back(ticks.dtype, ticks[1])
    assert (tick.id, tick.price) == (2, 99.25)

    plan = Plan(count=2, start=Pose(x=1.0))
    plan.way["y"][:2] = (0.5, 0.75)  # an array of Structs is a structured numpy array
    plan.start.y = -1.0  # writes in place
    arrived = there_and_back(Plan, plan)
    assert (arrived.start.x, arrived.start.y, arrived.way["y"].sum()) == (1.0, -1.0, 1.25)
    print("a ctypes.Structure, a dataclass, a numpy record and nested Structs arrived with their fields")

    if importlib.util.find_spec("msgspec"):
        import msgspec

        Order = msgspec.defstruct("Order", [("id", int), ("price", float)])
        order = there_and_back(Order, Order(id=7, price=2.5))
        assert (order.id, order.price) == (7, 2.5)
        print("and so did a msgspec.Struct:", order)


if __name__ == "__main__":
    main()
