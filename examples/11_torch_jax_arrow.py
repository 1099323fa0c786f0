"""One message in torch, JAX, Arrow and SciPy: the same bytes, no copies. Libraries that are missing are skipped."""

import importlib.util

import numpy as np

import psyne
from psyne import Array, Stage, interop
from psyne.testing import assert_same_bytes

Plane = Array("f4", (256, 256))


def installed(library: str) -> bool:
    found = importlib.util.find_spec(library) is not None
    if not found:
        print(f"{library} is not installed: skipped")
    return found


def main() -> None:
    with (
        psyne.sender("ipc://planes", Plane, stages=[Stage("scale", mutate=True), "show"]) as out,
        psyne.receiver("ipc://planes", Plane, stage="scale") as scale,
        psyne.receiver("ipc://planes", Plane, stage="show") as show,
    ):
        out.send(np.ones((256, 256), np.float32))

        with scale.receive() as m:  # this stage may write in place
            if installed("torch"):
                interop.torch(m).mul_(3)
            else:
                m.array[:] *= 3

        with show.receive() as m:  # this one only reads
            if installed("jax"):
                x = interop.jax(m)
                assert_same_bytes(x, m)
                print("JAX: the sum is", float(x.sum()))
            if installed("pyarrow"):
                print("Arrow:", type(interop.arrow(m)).__name__, "of", interop.arrow(m.array[0]).type)
            try:
                interop.lapack(m.array.T)
            except psyne.ReadOnly as error:
                print("SciPy must not write here:", str(error).split(",")[0])
            own = interop.lapack((m.private().array + np.eye(256, dtype="f4") * 999).T)  # so it gets its own
            if installed("scipy"):
                from scipy.linalg import cholesky

                assert_same_bytes(cholesky(own, lower=True, overwrite_a=True), own)
            assert (m.array == 3).all()
    print("nothing was copied that was not meant to be")


if __name__ == "__main__":
    main()
