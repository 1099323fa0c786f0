"""Images from one process to another: the sender writes each one into a slot, the receiver looks at it there."""

import multiprocessing

import numpy as np

import psyne
from psyne import Array

FRAMES = 100
Image = Array("u1", (720, 1280, 3))


def camera() -> None:
    with psyne.sender("ipc://camera", Image) as out:
        for i in range(FRAMES):
            with out.loan() as m:
                m.array[...] = i  # whatever takes out=, or a decoder, would write here
        out.drain()  # whoever leaves last takes unread messages along: wait until they are read


def main() -> None:
    process = multiprocessing.get_context("spawn").Process(target=camera)
    process.start()
    seen, kept = 0, np.empty((0, 0, 3), np.uint8)
    with psyne.receiver("ipc://camera", Image) as frames:  # no sender yet? The first receive waits for it
        for m in frames:
            image = m.array  # an array over the slot itself, read-only
            assert not image.flags.writeable
            assert (image[::90, ::160] == m.info.sequence).all()
            kept = image[::2, ::2]  # a slice is a view too: its slot stays as it is while it lives
            seen += 1
        assert (kept == FRAMES - 1).all()
    process.join()
    assert (seen, process.exitcode) == (FRAMES, 0)
    print(f"{seen} images seen where they were written, none was copied")


if __name__ == "__main__":
    main()
