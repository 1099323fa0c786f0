"""A function of numba on messages in place: compiled for the CPU, or for a GPU where there is one. Needs numba."""

import importlib.util
import sys
from typing import Any

import psyne
from psyne import Struct, f32, interop, u8, u64

if importlib.util.find_spec("numba") is None:
    print("numba is not installed: skipped")
    sys.exit()

import numba
from numba import cuda

PIXELS = 240 * 320
THREADS = 128  # of a block


class Frame(Struct):
    number = u64()
    image = u8(PIXELS, 3)
    light = f32(PIXELS)


def pixel(image: Any, light: Any, i: int, gain: float) -> None:
    """What happens to one pixel, wherever it is computed."""
    light[i] = gain * (0.25 * image[i, 0] + 0.5 * image[i, 1] + 0.25 * image[i, 2])


pixel_of_cpu, pixel_of_gpu = numba.njit(pixel), cuda.jit(device=True)(pixel)


@numba.njit
def on_cpu(image, light, gain):
    for i in range(light.size):
        pixel_of_cpu(image, light, i, gain)


@cuda.jit
def on_gpu(image, light, gain):
    i = cuda.grid(1)
    if i < light.size:
        pixel_of_gpu(image, light, i, gain)


def main() -> None:
    dev = psyne.device("cuda:0") if cuda.is_available() else psyne.device("cpu")
    print(f"{dev.name}: {dev.info.zero_copy}")
    measure = on_gpu[-(-PIXELS // THREADS), THREADS] if dev.info.kind == "cuda" else on_cpu
    with psyne.sender("ipc://frames", Frame) as out, psyne.receiver("ipc://frames", Frame) as rx:
        for number in range(3):
            with out.loan() as m:
                m.number, m.image[:] = number, 60 * number
                views = dev.view(m.image), dev.view(m.light)  # the same bytes, on the device
                measure(interop.numba(views[0]), interop.numba(views[1]), 2.0)
                out.send(m, after=dev.event(None, *views))  # when the default stream has done it

            with rx.receive() as m:
                assert (m.light == 120 * number).all()
                print(f"frame {m.number}: light {m.light.mean():.1f}")
                try:
                    on_cpu(m.image, m.light, 2.0)
                except numba.TypingError:
                    print("numba compiles no write into what was received")


if __name__ == "__main__":
    main()
