"""A Triton kernel on messages in place: on a GPU, or in Triton's interpreter. Needs triton and torch."""

import gc
import importlib.util
import os
import sys

import numpy as np

import psyne
from psyne import Array, Stage, interop

if importlib.util.find_spec("triton") is None or importlib.util.find_spec("torch") is None:
    print("triton or torch is not installed: skipped")
    sys.exit()

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before triton is imported

import triton
import triton.language as tl

SIDE, BLOCK = 128, 1024
Plane = Array("f4", (SIDE, SIDE))


@triton.jit
def relu(x, n, gain, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(x + i, mask=i < n)
    tl.store(x + i, tl.maximum(value * gain, 0.0), mask=i < n)


def main() -> None:
    dev = psyne.device("cuda:0") if torch.cuda.is_available() else psyne.device("cpu")
    print(f"{dev.name}: {dev.info.zero_copy}")
    with (
        psyne.sender("ipc://planes", Plane, stages=[Stage("relu", mutate=True), "show"]) as out,
        psyne.receiver("ipc://planes", Plane, stage="relu") as change,
        psyne.receiver("ipc://planes", Plane, stage="show") as show,
    ):
        plane = np.linspace(-1, 1, SIDE * SIDE, dtype=np.float32).reshape(SIDE, SIDE)
        for gain in (1, 2, 3):
            out.send(plane)
            with change.receive() as m:
                view = dev.view(m)
                tensor = interop.torch(view)  # the same bytes, on the device
                relu[(triton.cdiv(tensor.numel(), BLOCK),)](tensor, tensor.numel(), float(gain), BLOCK=BLOCK)
                dev.event(None, view).wait()
            with show.receive() as m:
                assert np.allclose(m.array, np.maximum(plane * gain, 0))
                print(f"gain {gain}: the largest is {m.array.max():.1f}, the smallest {m.array.min():.1f}")
        gc.collect()  # Triton's interpreter keeps its arguments, and so their slots, in a cycle


if __name__ == "__main__":
    main()
