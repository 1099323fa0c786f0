"""A channel without a name: its ends are arguments of processes, and join when they are first used."""

import multiprocessing
import os

import numpy as np

import psyne
from psyne import Array, Receiver, Sender, Struct, f32, u64

FRAMES, WORKERS = 60, 3
Frame = Array("u1", (48, 64))


class Mean(Struct):
    frame = u64()
    worker = u64()
    value = f32()


def work(frames: Receiver[Array[np.uint8]], means: Sender[Mean]) -> None:
    with means:
        for frame in frames:  # the workers share the frames out
            with means.loan() as m:
                m.frame = int(frame.array[0, 0])
                m.worker = os.getpid()
                m.value = float(frame.array.mean())


def main() -> None:
    context = multiprocessing.get_context("spawn")
    out, frames = psyne.channel(Frame)
    means, results = psyne.channel(Mean)
    workers = [context.Process(target=work, args=(frames, means)) for _ in range(WORKERS)]
    for process in workers:
        process.start()
    with out:
        for n in range(FRAMES):
            with out.loan() as frame:
                frame.array[...] = n  # written once, into memory that all these processes share
    for process in workers:
        process.join()
        assert process.exitcode == 0
    # What the workers sent is still there. This process only handed `frames` and `means` on: those ends never counted.
    got = sorted((m.frame, m.value) for m in results)
    assert got == [(n, float(n)) for n in range(FRAMES)]
    print(f"{FRAMES} frames to {WORKERS} processes and their means back, without a name or a file")

    tx, rx = psyne.channel(Mean)  # in one thread: a fake for a test
    tx.send(Mean(frame=1, value=0.5))
    with rx.receive() as m:
        print(f"a channel of {tx.capacity} slots inside one thread: {m}")


if __name__ == "__main__":
    main()
