"""Which dtypes torch and JAX take over the same memory, with the same values; those they would misread are refused."""

import numpy as np
import pytest

import psyne
from psyne import Array, Struct, f32, interop, u64
from psyne.testing import assert_same_bytes


class Frame(Struct):
    stamp = u64()
    small = f32(3)


PLAIN = ["?", "i1", "i2", "i4", "u1", "u2", "u4", "f2", "f4", "c8"]


@pytest.mark.parametrize("dtype", [*PLAIN, "i8", "u8", "f8", "c16"])
def test_torch_has_the_dtypes_of_numpy(dtype: str):
    pytest.importorskip("torch")
    m = Array(dtype, (3, 5))()
    m.array[:] = np.arange(15).reshape(3, 5).astype(dtype)
    tensor = interop.torch(m)
    assert_same_bytes(tensor, m)
    assert tensor.numpy().dtype == m.array.dtype
    assert tensor.numpy().tolist() == m.array.tolist()


@pytest.mark.parametrize("dtype", PLAIN)
def test_jax_has_the_dtypes_of_numpy(dtype: str):
    pytest.importorskip("jax")
    m = Array(dtype, (3, 5))()
    m.array[:] = np.arange(15).reshape(3, 5).astype(dtype)
    made = interop.jax(m)
    assert_same_bytes(made, m)
    assert made.dtype == m.array.dtype
    assert np.asarray(made).tolist() == m.array.tolist()


SMALL = ["bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"]


@pytest.mark.parametrize("name", SMALL)
def test_dtypes_that_numpy_lacks_arrive_with_their_values(name: str):
    ml_dtypes, torch = pytest.importorskip("ml_dtypes"), pytest.importorskip("torch")
    pytest.importorskip("jax")
    m = Array(getattr(ml_dtypes, name), 8)()
    m.array[:] = np.array([1, 2, 4, 8, 1, 0.5, 0.25, 2]).astype(m.array.dtype)
    tensor, made = interop.torch(m), interop.jax(m)
    assert tensor.dtype == getattr(torch, name)
    assert tensor.to(torch.float32).tolist() == [1, 2, 4, 8, 1, 0.5, 0.25, 2]
    assert made.dtype == m.array.dtype
    assert np.asarray(made).astype("f4").tolist() == [1, 2, 4, 8, 1, 0.5, 0.25, 2]
    assert_same_bytes(tensor, m)
    assert_same_bytes(made, m)


@pytest.mark.parametrize("name", ["int4", "uint4", "float4_e2m1fn"])
def test_parts_of_bytes_are_refused_and_go_as_bytes(name: str):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    pytest.importorskip("torch")
    pytest.importorskip("jax")
    m = Array(getattr(ml_dtypes, name), 64)()
    m.array[:] = np.ones(64).astype(m.array.dtype)
    with pytest.raises(psyne.CannotShare, match="one to a byte"):
        interop.torch(m)
    assert_same_bytes(interop.torch(m.array.view("u1")), m)
    with pytest.raises(psyne.CannotShare, match="stores it otherwise"):
        interop.jax(m)
    assert_same_bytes(interop.jax(m.array.view("u1")), m)


def test_records_are_refused_by_tensors_and_their_fields_are_named():
    pytest.importorskip("torch")
    pytest.importorskip("jax")
    with pytest.raises(psyne.CannotShare, match="stamp, small"):
        interop.torch(Frame())
    with pytest.raises((psyne.CannotShare, TypeError)):
        interop.jax(Frame())
