"""Two more ways to wait: functions that are called with messages, and one wait for many ends and a pipe."""

import os
import threading

import psyne
from psyne import Struct, f64, u64


class Imu(Struct):
    stamp = u64()
    speed = f64(3)


class Alarm(Struct):
    code = u64()


def callbacks() -> None:
    seen = threading.Event()
    speeds: list[float] = []
    with (
        psyne.sender("ipc://events", Imu, Alarm) as out,
        psyne.receiver("ipc://events", Imu, Alarm) as events,
        events.listen({Imu: lambda m: speeds.append(m.speed[0]), Alarm: lambda m: seen.set()}),
    ):
        for n in range(5):
            out.send(Imu(stamp=n, speed=(n, 0, 0)))
        out.send(Alarm(code=7))
        seen.wait()
    print(f"the listener's thread saw speeds {speeds} and the alarm")


def many_ends() -> None:
    stop, stopper = os.pipe()
    received = 0
    with (
        psyne.sender("ipc://front", Imu) as front, psyne.receiver("ipc://front", Imu) as front_rx,
        psyne.sender("ipc://back", Imu) as back, psyne.receiver("ipc://back", Imu) as back_rx,
    ):  # fmt: skip
        for n in range(6):
            (front if n % 3 else back).send(Imu(stamp=n))
        while stop not in (ready := psyne.select(front_rx, back_rx, stop, timeout=5.0)):
            for end in ready:
                if isinstance(end, psyne.Receiver):
                    end.receive().release()
                    received += 1
            if received == 6:
                os.write(stopper, b"x")
    print(f"select: {received} messages of two channels, then a byte of a pipe")


if __name__ == "__main__":
    callbacks()
    many_ends()
