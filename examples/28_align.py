"""A camera at 60 Hz and an IMU at 1 kHz: what belongs together, by the stamps that the sensors gave."""

import threading

import psyne
from psyne import Struct, f32, u8, u64

MS = 1_000_000  # stamps are nanoseconds
FRAMES = 120  # two seconds


class Frame(Struct):
    stamp = u64()
    image = u8(48, 64)


class Imu(Struct):
    stamp = u64()
    gyro = f32(3)


def camera() -> None:
    """Simulated: frames carry the times of a camera, and are sent as fast as it goes."""
    with psyne.sender("ipc://camera", Frame) as out:
        for n in range(FRAMES):
            with out.loan() as m:
                m.stamp = n * 1000 * MS // 60
        out.drain()


def imu() -> None:
    with psyne.sender("ipc://imu", Imu, capacity=4096) as out:
        for n in range(FRAMES * 1000 // 60 + 1):
            with out.loan() as m:
                m.stamp = n * MS
                m.gyro = (0.0, 0.0, 0.5)  # radians per second
        out.drain()


def nearest() -> None:
    with psyne.receiver("ipc://camera", Frame) as frames, psyne.receiver("ipc://imu", Imu) as samples:
        with psyne.align(frames, samples, by="stamp", tolerance=2 * MS) as pairs:
            worst = max(abs(frame.stamp - sample.stamp) for frame, sample in pairs)
        count = pairs.statistics().sets
    assert count == FRAMES
    assert worst <= MS // 2
    print(f"nearest: {count} frames, each with a sample at most {worst / MS:.2f} ms away")


def between() -> None:
    angle, sizes = 0.0, set()
    with psyne.receiver("ipc://camera", Frame) as frames, psyne.receiver("ipc://imu", Imu) as samples:
        with psyne.align(frames, samples, by="stamp", between=True) as sets:
            for frame, batch in sets:  # all samples since the frame before, as one array over the slots
                angle += float(batch["gyro"][:, 2].sum()) * 0.001
                sizes.add(len(batch))
                last = frame.stamp
        copied = sets.statistics().copied[1]
    assert sizes == {1, 16, 17}  # 1 with the first frame
    assert copied == 0
    print(f"between: turned by {angle:.2f} rad in {last / MS / 1000:.2f} s, 16 or 17 samples a frame, {copied} copied")


def main() -> None:
    for fuse in (nearest, between):
        sensors = [threading.Thread(target=sensor) for sensor in (camera, imu)]
        for sensor in sensors:
            sensor.start()
        fuse()
        for sensor in sensors:
            sensor.join()


if __name__ == "__main__":
    main()
