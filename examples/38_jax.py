"""JAX reads messages in place and gives new arrays: each result is copied once, into a slot. Needs jax."""

import importlib.util
import sys

import numpy as np

import psyne
from psyne import Array, Stage, interop

if importlib.util.find_spec("jax") is None:
    print("jax is not installed: skipped")
    sys.exit()

import jax
import jax.numpy as jnp

FRAMES = 5
Frame = Array("f4", (256, 256))
Profile = Array("f4", 256)


@jax.jit
def profile(frame: jax.Array) -> jax.Array:
    return jnp.sqrt((frame * frame).mean(axis=0))


def main() -> None:
    dev = psyne.device("cuda:0") if jax.default_backend() == "gpu" else psyne.device("cpu")
    print(f"{dev.name}: {dev.info.zero_copy}")
    with (
        # A GPU gives JAX only what may be written; on the CPU a stage that reads would do.
        psyne.sender("ipc://frames", Frame, stages=[Stage("measure", mutate=True)]) as camera,
        psyne.receiver("ipc://frames", Frame, stage="measure") as frames,
        psyne.sender("ipc://profiles", Profile) as out,
        psyne.receiver("ipc://profiles", Profile) as profiles,
    ):
        for n in range(FRAMES):
            camera.send(np.full((256, 256), n, "f4"))
            with frames.receive() as m:
                x = interop.jax(dev.view(m))  # the slot itself: CannotShare where JAX would copy it
                out.send(profile(x))  # waits for the result, which a GPU hands over first
                del x
            with profiles.receive() as m:
                assert np.allclose(m.array, n)

        copied = out.statistics().copied_bytes
        assert copied == FRAMES * 256 * 4  # the results, once
        print(f"{FRAMES} frames of {4 * 256 * 256} bytes were read in place, {copied} bytes copied")

        with camera.loan() as m:
            try:
                interop.jax(m.array[0, 1:])
            except psyne.CannotShare as refusal:  # JAX copies what does not begin at a multiple of 64 bytes
                print("not so:", str(refusal).split(",")[0])
            m.discard()


if __name__ == "__main__":
    main()
