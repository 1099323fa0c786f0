"""MLX over the same memory: where there is no Mac, against a stand-in for the module that refuses what MLX refuses."""

import gc
import importlib.util
import sys
from collections.abc import Callable, Iterator
from mmap import PAGESIZE
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import psyne
from psyne import Array, Stage, Struct, f32, interop, u8

from .helpers import fakemetal

Ends = tuple[psyne.Sender[Any], psyne.Receiver[Any]]
Plane = Array("f4", (128, 128))  # 64 KiB
REAL = importlib.util.find_spec("mlx") is not None and fakemetal.REAL


class Frame(Struct):
    stamp = f32()
    image = u8(4, 64)


def from_dlpack(x: Any, *, copy: bool | None = None) -> Any:
    """As that of MLX on a Mac, for CPU memory, with numpy's arrays."""
    made = np.from_dlpack(x)
    if copy is False and (made.ctypes.data % PAGESIZE or made.dtype == "f8"):
        raise ValueError("[convert] Cannot import a CPU array without a copy.")
    return made


@pytest.fixture
def mlx(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """psyne.interop.mlx, with MLX itself on a Mac."""
    if not REAL:
        monkeypatch.setitem(sys.modules, "mlx", SimpleNamespace())
        monkeypatch.setitem(sys.modules, "mlx.core", SimpleNamespace(from_dlpack=from_dlpack))
    return interop.mlx


@pytest.fixture
def ends() -> Iterator[Ends]:
    with (
        psyne.sender("ipc://planes", Plane, capacity=1, align=PAGESIZE, stages=[Stage("change", mutate=True)]) as tx,
        psyne.receiver("ipc://planes", Plane) as rx,
    ):
        yield tx, rx


def test_an_array_has_the_bytes_of_the_message_and_keeps_the_slot(mlx: Callable[..., Any], ends: Ends):
    tx, rx = ends
    tx.send(np.arange(1 << 14, dtype="f4").reshape(128, 128))
    m = rx.receive()
    x = mlx(m)
    assert x.shape == (128, 128)
    assert float(x[1, 2]) == 130
    m.array[1, 2] = 5
    assert float(x[1, 2]) == 5
    with pytest.raises(BufferError):
        m.release()
    del m
    gc.collect()
    assert tx.try_loan() is None
    del x
    gc.collect()
    with tx.loan(timeout=10) as m:
        m.discard()


def test_a_read_only_message_is_refused_because_mlx_writes_results_into_arrays(mlx: Callable[..., Any]):
    with (
        psyne.sender("ipc://planes", Plane, align=PAGESIZE) as tx,
        psyne.receiver("ipc://planes", Plane) as rx,
    ):
        tx.send(np.ones((128, 128), "f4"))
        with rx.receive() as m:
            with pytest.raises(psyne.ReadOnly, match="MLX writes without asking"):
                mlx(m)
            own = mlx(m, private=True)
            own += 1
            assert float(own[0, 0]) == 2
            assert (m.array == 1).all()
            del own


def test_what_mlx_would_copy_is_refused_with_the_numbers(mlx: Callable[..., Any], ends: Ends):
    tx, _ = ends
    with tx.loan() as m:
        with pytest.raises(psyne.CannotShare, match=rf"that {PAGESIZE} divides.*\(rest 512\).*align={PAGESIZE}"):
            mlx(m.array[1:])
        with pytest.raises(psyne.CannotShare, match="no negative strides"):
            mlx(m.array[:, ::-1])
        with pytest.raises(psyne.CannotShare, match="would convert float64"):
            mlx(m.array.view("f8"))
        part = mlx(m.array[1:], private=True)  # at an address of its own
        assert part.shape == (127, 128)
        del part
        m.discard()
    with pytest.raises(TypeError, match="a message, a batch or an array of one is wanted, not list"):
        mlx([1.0])


def test_records_have_no_type_in_mlx(mlx: Callable[..., Any]):
    with psyne.sender("ipc://frames", Frame, align=PAGESIZE) as tx, tx.loan() as m:
        with pytest.raises(psyne.CannotShare, match="hand over a field"):
            mlx(m)
        m.discard()


@pytest.mark.skipif(REAL, reason="MLX is there")
def test_an_mlx_that_takes_no_memory_of_others_is_named(monkeypatch: pytest.MonkeyPatch, ends: Ends):
    monkeypatch.setitem(sys.modules, "mlx", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "mlx.core", SimpleNamespace(__version__="0.31.0"))
    tx, _ = ends
    with tx.loan() as m:
        with pytest.raises(ImportError, match=r"from version 0\.32\.1 on; this is 0\.31\.0"):
            interop.mlx(m)
        monkeypatch.setitem(sys.modules, "mlx.core", None)
        with pytest.raises(ImportError, match="pip install mlx"):
            interop.mlx(m)
        m.discard()


@pytest.mark.skipif(fakemetal.REAL, reason="a Mac has Metal")
def test_an_mlx_without_metal_says_that_it_would_copy(monkeypatch: pytest.MonkeyPatch, ends: Ends):
    module = pytest.importorskip("mlx.core")
    tx, _ = ends
    with tx.loan() as m:
        with pytest.raises(psyne.CannotShare, match=r"MLX cannot use float32.* without a copy"):
            interop.mlx(m)
        monkeypatch.setenv("PSYNE_LIBMETAL", fakemetal.library())
        with psyne.device("metal") as gpu, pytest.raises(ValueError, match="Metal DLPack import is not available"):
            module.from_dlpack(gpu.view(m), copy=False)  # it sees what it is
        m.discard()


@pytest.mark.skipif(not REAL, reason="needs MLX on a Mac")
def test_mlx_takes_views_of_the_metal_device_at_any_offset(ends: Ends):
    module = pytest.importorskip("mlx.core")
    tx, _ = ends
    with psyne.device("metal") as gpu, tx.loan() as m:
        m.array[:] = 1
        x = module.from_dlpack(gpu.view(m.array[1:]), copy=False)
        m.array[1, 0] = 7
        assert float(x[0, 0]) == 7
        x += 1  # in place: nobody else has the array
        module.eval(x)
        assert m.array[1, 0] == 8
        del x
        m.discard()
