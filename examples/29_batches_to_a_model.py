"""Batches to a model: k frames are one tensor over the slots, and the answers are written beside them. Needs torch."""

import importlib.util
import threading

import numpy as np

import psyne
from psyne import Stage, Struct, f32, interop, u8, u64

FRAMES, MOST = 64, 8


class Frame(Struct, layout="columns"):  # a column for each field: the images of k frames are one contiguous array
    image = u8(3, 64, 64)
    brightness = f32(3)  # the answer, of each colour
    number = u64()


def camera() -> None:
    with psyne.sender("ipc://frames", Frame, stages=[Stage("infer", mutate=True), "show"], capacity=32) as out:
        for number in range(FRAMES):
            with out.loan() as m:
                m.number = number
                m.image[:] = number
        out.drain()


def infer() -> None:
    import torch

    model = torch.nn.Sequential(torch.nn.AvgPool2d(64), torch.nn.Flatten())  # the mean of each colour
    sizes = []
    with psyne.receiver("ipc://frames", Frame, stage="infer") as frames, torch.inference_mode():
        for batch in frames.batches(MOST, linger=0.005):  # after the first waits 5 ms for more
            images = interop.torch(batch["image"])
            assert images.shape == (len(batch), 3, 64, 64)
            assert images.is_contiguous()
            assert images.data_ptr() == batch[0].image.ctypes.data  # the slots themselves
            interop.torch(batch["brightness"])[:] = model(images.float())
            sizes.append(len(batch))
    assert sum(sizes) == FRAMES
    print(
        f"{FRAMES} frames in {len(sizes)} batches of at most {max(sizes)}; no frame was copied on its way to the model"
    )


def show() -> None:
    with psyne.receiver("ipc://frames", Frame, stage="show") as frames:
        for m in frames:
            np.testing.assert_allclose(m.brightness, m.number, rtol=1e-6)
    print("every frame has its answer")


def main() -> None:
    if importlib.util.find_spec("torch") is None:
        print("torch is not installed: skipped")
        return
    steps = [threading.Thread(target=step) for step in (camera, infer, show)]
    for step in steps:
        step.start()
    for step in steps:
        step.join()


if __name__ == "__main__":
    main()
