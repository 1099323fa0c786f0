"""Where bytes are copied, because one wants it: private(), copy(), receive_into(); and what m.info knows."""

import time

import numpy as np

import psyne
from psyne import Array, Struct, f32, u64

Plane = Array("f4", (256, 256))  # 256 KiB


class Point(Struct):
    stamp = u64()
    xyz = f32(3)


def one_message() -> None:
    with psyne.sender("ipc://planes", Plane, timestamps=True) as out, psyne.receiver("ipc://planes", Plane) as planes:
        before = time.monotonic_ns()
        out.send(np.ones((256, 256), "f4"))
        with planes.receive() as m:
            mine = m.private()  # writable; pages are copied as they are written
            mine.array[0, 0] = 7
            assert (m.array[0, 0], mine.array[0, 0], mine.array[255, 255]) == (1, 7, 1)
            kept = m.copy()  # all of it, in private memory: outlives the block
            assert before <= m.info.timestamp <= time.monotonic_ns()
            assert (m.info.sequence, m.info.missed, m.info.redelivered) == (0, 0, False)
            print("came", (time.monotonic_ns() - m.info.timestamp) // 1000, "µs ago,", m.info)
            del mine  # it has pages of the slot
        assert kept.array.sum() == 65536
        point = Point(stamp=1, xyz=(1, 2, 3))  # by itself a message is in private memory from the start
        assert point.xyz.flags.writeable


def many_senders() -> None:
    """A batch is of one sender, so many small senders make small batches: receive_into() copies them into one array."""
    outs = [psyne.sender("ipc://points", Point, timestamps=True) for _ in range(4)]
    with psyne.receiver("ipc://points", Point) as points:
        for n in range(40):
            outs[n % 4].send(Point(stamp=n))
        everything = np.zeros(64, Point().array.dtype)
        count = points.receive_into(everything, linger=0.001)  # waits for the first one, and 1 ms for more
        assert sorted(everything["stamp"][:count]) == list(range(40))
        seen = points.statistics()
        assert seen.received == 40
        assert seen.copied_bytes == 40 * everything.itemsize
        print(f"{count} points of 4 senders in one array, {seen.copied_bytes} bytes copied, and counted")
    for out in outs:
        out.close()


if __name__ == "__main__":
    one_message()
    many_senders()
