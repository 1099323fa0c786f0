"""A Warp kernel on messages in place: the same kernel and the same program on a CPU and on a GPU. Needs warp-lang."""

import importlib.util
import sys

import numpy as np

import psyne
from psyne import Stage, Struct, f32, interop, u64

if importlib.util.find_spec("warp") is None:
    print("warp is not installed: skipped")
    sys.exit()

import warp as wp

POINTS, STEPS, DT = 10_000, 5, 0.25


class Cloud(Struct):
    number = u64()
    position = f32(POINTS, 3)
    velocity = f32(POINTS, 3)


@wp.kernel
def start(position: wp.array[wp.vec3], velocity: wp.array[wp.vec3], speed: float) -> None:
    i = wp.tid()
    position[i] = wp.vec3(float(i), 0.0, 0.0)
    velocity[i] = wp.vec3(0.0, speed, float(i % 3))


@wp.kernel
def move(position: wp.array[wp.vec3], velocity: wp.array[wp.vec3], dt: float) -> None:
    i = wp.tid()
    position[i] = position[i] + velocity[i] * dt


def main() -> None:
    dev = psyne.device("cuda:0") if wp.is_cuda_available() else psyne.device("cpu")
    print(f"{dev.name}: {dev.info.zero_copy}")
    stream = wp.get_stream(dev.name) if dev.info.kind == "cuda" else None
    with (
        psyne.sender("ipc://clouds", Cloud, stages=[Stage("move", mutate=True), "draw"]) as out,
        psyne.receiver("ipc://clouds", Cloud, stage="move") as mover,
        psyne.receiver("ipc://clouds", Cloud, stage="draw") as draw,
    ):
        for number in range(3):
            with out.loan() as m:
                m.number = number
                views = dev.view(m.position), dev.view(m.velocity)  # the same bytes, on the device
                arrays = [interop.warp(view, wp.vec3) for view in views]  # and as Warp has them
                wp.launch(start, dim=POINTS, inputs=[*arrays, float(number)], device=dev.name)
                out.send(m, after=dev.event(stream, *views))  # when the kernel is done; nothing waits here

        for number in range(3):
            with mover.receive() as m:  # this stage may write in place
                arrays = [interop.warp(dev.view(it), wp.vec3) for it in (m.position, m.velocity)]
                for _ in range(STEPS):
                    wp.launch(move, dim=POINTS, inputs=[*arrays, DT], device=dev.name)
                wp.synchronize_device(dev.name)

            with draw.receive() as m:  # this one reads
                assert (m.position[:, 1] == number * STEPS * DT).all()
                assert np.array_equal(m.position[:, 2], np.arange(POINTS) % 3 * STEPS * DT)
                print(f"cloud {m.number}: the middle is at {m.position.mean(axis=0)}")
                try:
                    interop.warp(m.position, wp.vec3)
                except psyne.ReadOnly as refusal:  # Warp has no read-only arrays: private=True copies what is written
                    print("not here:", str(refusal).split(",")[0])


if __name__ == "__main__":
    main()
