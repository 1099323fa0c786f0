"""Matrices in Fortran order: LAPACK factors them in the slot, one stage behind the other. Needs scipy."""

import numpy as np

import psyne
from psyne import Matrix, Stage, interop
from psyne.testing import assert_same_bytes

N = 64
Covariance = Matrix(N, N, "f8", order="F")  # the first index moves fastest, as LAPACK has it


def main() -> None:
    try:
        from scipy.linalg import cho_solve, cholesky
    except ImportError:
        print("scipy is not installed: pip install scipy")
        return
    samples = np.random.default_rng(2).standard_normal((400, N))
    covariance = samples.T @ samples / 400 + np.eye(N)
    with (
        psyne.sender("ipc://covariance", Covariance, stages=[Stage("factor", mutate=True), "solve"]) as out,
        psyne.receiver("ipc://covariance", Covariance, stage="factor") as factor,
        psyne.receiver("ipc://covariance", Covariance, stage="solve") as solve,
    ):
        with out.loan() as m:
            m.array[:] = covariance
            assert m.array.flags.f_contiguous

        with factor.receive() as m:  # a stage that mutates: in place
            a = interop.lapack(m)  # the slot, once it is sure that LAPACK may write it and will not copy
            assert_same_bytes(cholesky(a, lower=True, overwrite_a=True, check_finite=False), a)

        with solve.receive() as m:  # a stage that reads: cho_solve writes only b
            x = cho_solve((m.array, True), np.ones(N))
            assert np.allclose(covariance @ x, 1)
            try:
                interop.lapack(m)
            except psyne.ReadOnly as error:  # SciPy itself would not look, and the process would die
                print("not here:", str(error).split(":")[0])
            own = interop.lapack(m, private=True)  # copy-on-write pages of one's own
            own[:] = 0
            assert m.array[0, 0] != 0
    print(f"a {N} x {N} matrix was factored in its slot, and solved from there by another stage")


if __name__ == "__main__":
    main()
