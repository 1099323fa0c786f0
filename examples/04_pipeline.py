"""Three processes over the same bytes: capture writes, rectify changes in place, draw reads the result."""

import multiprocessing

import numpy as np

import psyne
from psyne import Stage, Struct, f32, u8, u64

FRAMES = 50


class Frame(Struct):
    number = u64()
    image = u8(480, 640)
    mean = f32()  # filled in by rectify


def capture() -> None:
    # The stages are a chain: draw sees what rectify has let go.
    with psyne.sender("ipc://frames", Frame, stages=[Stage("rectify", mutate=True), "draw"]) as out:
        for number in range(FRAMES):
            with out.loan() as m:
                m.number = number
                m.image[:] = number
        out.drain()


def rectify() -> None:
    with psyne.receiver("ipc://frames", Frame, stage="rectify") as frames:
        for m in frames:
            np.subtract(255, m.image, out=m.image)  # in the slot itself
            m.mean = m.image.mean()


def draw() -> None:
    seen = []
    with psyne.receiver("ipc://frames", Frame, stage="draw") as frames:
        for m in frames:
            assert (m.image == 255 - m.number).all()
            assert m.mean == 255 - m.number
            seen.append(m.number)
    assert seen == list(range(FRAMES))
    print(f"{len(seen)} frames drawn as rectify left them, in order")


def main() -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=work) for work in (draw, rectify, capture)]  # any order will do
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]


if __name__ == "__main__":
    main()
