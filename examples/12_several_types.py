"""Several types on one channel: `match` tells them apart, and 8 bytes beside each slot say what lies in it."""

from typing import assert_never

import numpy as np

import psyne
from psyne import Array, Struct, Text, VariantHdr, f32, u16, u64


class Imu(Struct):
    stamp = u64()
    accel = f32(3)


class Alarm(Struct):
    code = u16()


Plane = Array("f4", ndim=2, max_bytes=1 << 16)  # each message brings its own shape


def main() -> None:
    with (
        psyne.sender("ipc://rover", Imu, Alarm, Plane, Text) as out,
        psyne.receiver("ipc://rover", Imu, Alarm, Plane, Text) as rover,
    ):
        out.send(Imu(stamp=7, accel=(0, 0, 9.81)))
        out.send("wheels are free")  # the one type that takes a str
        with out.loan(Array, shape=(3, 4)) as plane:  # a base of one of the types says which
            plane.array[:] = np.eye(3, 4)
        out.send(Alarm(code=3))

        told: list[str] = []
        for _ in range(4):
            m = rover.receive()
            match m:
                case Imu():
                    told.append(f"{m.accel[2]:.2f} m/s² at {m.stamp}")
                case Alarm():
                    told.append(f"alarm {m.code}")
                case Text():
                    told.append(m.text)
                case Array():
                    told.append(f"a plane of {m.array.shape}")
                case _:
                    assert_never(m)  # mypy and pyright know that nothing is left
    print(", ".join(told))
    assert told == ["9.81 m/s² at 7", "wheels are free", "a plane of (3, 4)", "alarm 3"]

    # Who wants some of the types names those; psyne.Message takes all others.
    with (
        psyne.sender("ipc://rover", Imu, Alarm, Text) as out,
        psyne.receiver("ipc://rover", Alarm, psyne.Message) as rx,
    ):
        out.send_many(np.zeros(3, Imu().array.dtype), Imu)  # which of the types
        out.send(Alarm(code=5))
        alarms = [m.code for m in (rx.receive() for _ in range(4)) if isinstance(m, Alarm)]
        assert alarms == [5]
        try:
            out.send(Plane(np.zeros((2, 2))))
        except psyne.LayoutMismatch as error:
            print("refused:", error)
    print("a header of a Text is", VariantHdr.of_type(2, Text), "and nothing else lies beside a slot")


if __name__ == "__main__":
    main()
