"""SciPy computes in the slot, and no process dies of a read-only matrix."""

import numpy as np
import pytest

import psyne
from psyne import Array, interop
from psyne.testing import assert_same_bytes

from .helpers.process import Child

Square = Array("f8", (64, 64))  # eight pages
POSITIVE = np.eye(64) * 4 + 0.5


def test_scipy_computes_in_the_slot_of_a_fortran_ordered_matrix():
    linalg = pytest.importorskip("scipy.linalg")
    m = Square()
    m.array[:] = POSITIVE
    factor = linalg.cholesky(interop.lapack(m.array.T), overwrite_a=True, lower=True)
    assert_same_bytes(factor, m)
    assert np.allclose(np.tril(m.array.T) @ np.tril(m.array.T).T, POSITIVE)


def test_scipy_computes_in_the_slot_of_a_matrix_declared_in_fortran_order():
    linalg = pytest.importorskip("scipy.linalg")
    matrix = psyne.Matrix(64, 64, "f8", order="F")
    with psyne.sender("ipc://matrices", matrix) as tx, psyne.receiver("ipc://matrices", matrix) as rx:
        with tx.loan() as m:
            m.array[:] = POSITIVE
            assert_same_bytes(linalg.inv(interop.lapack(m), overwrite_a=True), m)
        with rx.receive() as m:
            assert np.allclose(m.array @ POSITIVE, np.eye(64))
            with pytest.raises(psyne.ReadOnly):
                interop.lapack(m)


def test_scipy_on_a_private_message_leaves_the_slot_alone():
    linalg = pytest.importorskip("scipy.linalg")
    with psyne.sender("ipc://squares", Square) as tx, psyne.receiver("ipc://squares") as rx:
        tx.send(POSITIVE)
        with rx.receive() as m:
            own = interop.lapack(m.array.T, private=True)
            inverse = linalg.inv(own, overwrite_a=True)
            assert np.allclose(inverse @ POSITIVE, np.eye(64))
            assert (m.array == POSITIVE).all()


def test_lapack_is_given_only_what_it_can_compute_on_in_place():
    with pytest.raises(psyne.CannotShare, match=r"Fortran.*m\.array\.T"):
        interop.lapack(Square())
    for dtype in ("i4", "f2", "?", ">f8"):
        with pytest.raises(psyne.CannotShare, match="float32, float64"):
            interop.lapack(Array(dtype, (2, 2))().array.T)
    assert interop.lapack(Array("f8", 5)()).shape == (5,)


IN_CHILD = """
import scipy.linalg, psyne.interop as interop
rx = psyne.receiver('ipc://squares'); m = rx.receive()
def guarded(call, **keywords):
    try:
        return call(interop.lapack(m.array.T, **keywords))
    except psyne.ReadOnly:
        return 'refused'
"""


@pytest.mark.parametrize(
    "call",
    [
        "scipy.linalg.cholesky(a, overwrite_a=True)",
        "scipy.linalg.inv(a, overwrite_a=True)",
        "scipy.linalg.lu_factor(a, overwrite_a=True)",
        "scipy.linalg.eigh(a, overwrite_a=True)",
        "scipy.linalg.lapack.dpotrf(a, overwrite_a=1)",
        "scipy.linalg.blas.dscal(2.0, a[0])",
    ],
)
def test_no_process_dies_of_a_read_only_matrix(call: str):
    with psyne.sender("ipc://squares", Square) as tx, Child() as child:
        tx.send(POSITIVE)
        child.run(IN_CHILD)
        assert child.run(f"guarded(lambda a: {call})") == "refused"
        child.run(f"guarded(lambda a: {call}, private=True); None")
        assert child.run("bool((m.array == np.eye(64) * 4 + 0.5).all())")
