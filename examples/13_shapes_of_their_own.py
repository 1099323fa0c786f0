"""Messages that differ in size: arrays that bring their shape, bytes, text; and the smallest one, a number."""

import multiprocessing
import zlib

import numpy as np

import psyne
from psyne import Array, Bytes, Text

Spectrogram = Array("f4", ndim=2, max_bytes=128 << 10)  # 2 dimensions, at most 128 KiB
Packet = Bytes(max_bytes=1500)
Level = Array("f8")  # one number


def microphone() -> None:
    rng = np.random.default_rng(1)
    with psyne.sender("ipc://sound", Spectrogram, Packet, Text, Level) as out:
        for seconds in (1, 3, 2):
            with out.loan(Spectrogram, shape=(seconds * 50, 129)) as m:  # rows as they are needed
                rng.standard_normal(out=m.array, dtype=np.float32)
        with out.loan(Spectrogram, shape=(100, 129)) as m:
            m.array[:] = 1
            m.truncate(37)  # room was lent for 100 rows, and 37 came
        with out.loan(Packet, size=1500) as packet:
            packet.bytes = zlib.compress(b"silence " * 500)  # sets the length as well
        out.send("the end of the tape ♪")
        out.send(-23.5)
        out.drain()


def main() -> None:
    process = multiprocessing.get_context("spawn").Process(target=microphone)
    process.start()
    shapes = []
    with psyne.receiver("ipc://sound", Spectrogram, Packet, Text, Level) as sound:
        for m in sound:
            match m:
                case Bytes():
                    assert zlib.decompress(m) == b"silence " * 500  # a message is a buffer: nothing is copied
                case Text():
                    assert m.text.endswith("♪")
                case Level():
                    assert m.item() == -23.5
                case _:
                    assert m.array.flags.c_contiguous
                    shapes.append(m.array.shape)
    process.join()
    assert process.exitcode == 0
    assert shapes == [(50, 129), (150, 129), (100, 129), (37, 129)]
    try:
        Text("x" * 5000)
    except ValueError as error:
        print("too long:", error)
    print(f"arrays of {shapes}, a packet, a text and a number came in the same slots")


if __name__ == "__main__":
    main()
