"""Warp, numba and JAX over messages; and views of devices in all libraries, of a GPU by a stand-in for its driver."""

import gc
import importlib
import importlib.util
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import psyne
from psyne import Array, Struct, f32, interop, u64
from psyne.testing import assert_same_bytes

from .helpers import fakecuda
from .helpers.process import run_program
from .helpers.writers import needed, put_by_numba, put_by_warp, warp_kernel

Line = Array("f4", 4096)
WARP, NUMBA = (pytest.mark.skipif(importlib.util.find_spec(it) is None, reason=f"no {it}") for it in ("warp", "numba"))


class Cloud(Struct):
    number = u64()
    position = f32(64, 3)
    pose = f32(4, 4)


@pytest.fixture
def lines() -> Iterator[tuple[psyne.Sender[Any], psyne.Receiver[Any]]]:
    with psyne.sender("ipc://lines", Line, capacity=1) as tx, psyne.receiver("ipc://lines", Line) as rx:
        yield tx, rx


@WARP
def test_warp_would_copy_what_it_converts_and_is_not_given_it():
    wp, _ = warp_kernel()
    m = Array("f4", (8, 8))()
    rows = m.array[:, ::2]  # of 4, with gaps
    for array, dtype in ((m.array, wp.float64), (m.array, wp.int32), (rows, wp.vec4)):
        assert wp.array(array, dtype=dtype, copy=False, device="cpu").ptr != array.ctypes.data  # though it was asked
        with pytest.raises(psyne.CannotShare, match=r"Warp would convert float32\[8, "):
            interop.warp(array, dtype)
    assert interop.warp(rows).strides == rows.strides


@WARP
@pytest.mark.parametrize(
    ("dtype", "shape", "text"),
    [
        ("c8", 4, "complex64"),
        (">f4", 4, ">f4"),
        ("S4", 4, "S4"),
        ("f4", (2, 2, 2, 2, 2), "4 dimensions"),
        ("f4", (4, 2), "vec"),
    ],
)
def test_what_warp_lacks_is_refused(dtype: str, shape: Any, text: str):
    wp, _ = warp_kernel()
    with pytest.raises(psyne.CannotShare, match=text):
        interop.warp(Array(dtype, shape)(), wp.vec3 if text == "vec" else None)


@WARP
def test_warp_itself_writes_what_is_read_only(lines: Any):
    """Why interop.warp refuses: nothing else saves the process."""
    tx, rx = lines
    tx.send(np.ones(4096, "f4"))
    with rx.receive() as m, pytest.raises(psyne.ReadOnly, match=r"Warp writes without asking.*private=True"):
        interop.warp(m)
    program = (
        "import mmap, os, numpy as np, warp as wp\n"
        "fd = os.memfd_create('x'); os.ftruncate(fd, 4096)\n"
        "a = np.frombuffer(mmap.mmap(fd, 4096, mmap.MAP_SHARED, mmap.PROT_READ), 'f4')\n"
        "wp.array(a, copy=False, device='cpu').fill_(1)\n"
    )
    assert run_program(program, check=False).returncode == -signal.SIGSEGV


@WARP
def test_vectors_matrices_and_fields_of_warp_are_those_of_the_message():
    wp, _ = warp_kernel()

    @wp.kernel  # type: ignore[untyped-decorator]
    def turn(position: wp.array[wp.vec3], pose: wp.array[wp.mat44]) -> None:
        i = wp.tid()
        position[i] = wp.vec3(float(i), 1.0, 2.0)
        if i == 0:
            pose[0] = wp.identity(n=4, dtype=float) * 2.0

    with psyne.sender("ipc://clouds", Cloud) as tx, psyne.receiver("ipc://clouds", Cloud) as rx:
        with tx.loan() as m:
            position, pose = interop.warp(m.position, wp.vec3), interop.warp(m.pose, wp.mat44)
            assert (position.shape, pose.shape) == ((64,), (1,))
            wp.launch(turn, dim=64, inputs=[position, pose], device="cpu")
        with rx.receive() as m:
            assert m.position.tolist() == [[i, 1, 2] for i in range(64)]
            assert (m.pose == np.eye(4) * 2).all()
            assert m.number == 0


@WARP
def test_a_struct_of_warp_is_a_record_of_the_same_layout():
    wp, _ = warp_kernel()

    @wp.struct  # type: ignore[untyped-decorator]
    class Body:
        number: wp.uint64
        position: wp.vec3

    class Same(Struct):
        number = u64()
        position = f32(3)

    class Other(Struct):
        position = f32(3)
        number = u64()

    @wp.kernel  # type: ignore[untyped-decorator]
    def fill(bodies: wp.array[Body]) -> None:
        i = wp.tid()
        bodies[i].number = wp.uint64(i)
        bodies[i].position = wp.vec3(1.0, 2.0, float(i))

    with psyne.sender("ipc://bodies", Same) as tx, psyne.receiver("ipc://bodies", Same) as rx:
        with tx.loan_many(4) as batch:
            wp.launch(fill, dim=4, inputs=[interop.warp(batch, Body)], device="cpu")
        with rx.receive_many(4) as batch:
            assert batch["number"].tolist() == [0, 1, 2, 3]
            assert batch["position"].tolist() == [[1, 2, i] for i in range(4)]
    with pytest.raises(psyne.CannotShare, match="Warp cannot use records of position, number"):
        interop.warp(Other().array.reshape(1), Body)


@WARP
def test_a_warp_array_and_its_slices_keep_the_slot(lines: Any):
    tx, rx = lines
    with tx.loan() as m:
        part = interop.warp(m)[8:16]
        put_by_warp(part, 3)
        assert_same_bytes(part, m.array[8:16])
    with rx.receive() as m:
        assert m.array[8:10].tolist() == [3, 0]
    gc.collect()
    assert tx.try_loan() is None
    del part
    gc.collect()
    tx.try_loan().discard()


# ---- numba ----------------------------------------------------------------------------------------------------------


@NUMBA
def test_numba_compiles_no_write_into_what_was_received(lines: Any):
    import numba

    tx, rx = lines
    tx.send(np.ones(4096, "f4"))
    with rx.receive() as m:
        with pytest.raises(numba.TypingError, match="annot modify readonly array"):
            put_by_numba(interop.numba(m), 2)
        assert (m.array == 1).all()
        put_by_numba(interop.numba(m, private=True), 2)


@NUMBA
def test_numba_writes_the_fields_of_a_record_in_place():
    import numba

    @numba.njit  # type: ignore[untyped-decorator]
    def fill(records: Any) -> None:
        for i in range(records.size):
            records[i].number = i
            records[i].position[1, 2] = 5

    with psyne.sender("ipc://clouds", Cloud) as tx, psyne.receiver("ipc://clouds", Cloud) as rx:
        with tx.loan_many(3) as batch:
            batch.array[:] = 0
            fill(interop.numba(batch))
        with rx.receive_many(3) as batch:
            assert batch["number"].tolist() == [0, 1, 2]
            assert (batch["position"][:, 1, 2] == 5).all()


# ---- JAX ------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="no jax")
def test_a_result_of_jax_takes_one_counted_copy(lines: Any):
    import jax.numpy as jnp

    tx, rx = lines
    with psyne.sender("ipc://input", Line, capacity=1) as source, psyne.receiver("ipc://input", Line) as sink:
        with source.loan() as m:
            m.array[:] = 3
        with sink.receive() as m:
            result = jnp.square(interop.jax(m))
            assert np.asarray(result).ctypes.data == result.unsafe_buffer_pointer()  # no copy on its way to numpy
            tx.send(result)
        assert source.statistics().copied_bytes == sink.statistics().copied_bytes == 0
    with rx.receive() as m:
        assert (m.array == 9).all()
    assert tx.statistics().copied_bytes == 4 * 4096


# ---- views of devices -----------------------------------------------------------------------------------------------

TAKEN = [pytest.param(name, getattr(interop, name), id=name) for name in ("torch", "warp", "numba", "jax")]


@pytest.mark.parametrize(("name", "take"), TAKEN)
def test_a_view_of_the_cpu_is_the_message(name: str, take: Any, lines: Any):
    needed(name)
    tx, _ = lines
    with psyne.device("cpu") as dev, tx.loan() as m:
        assert_same_bytes(take(dev.view(m)), m)
        if name in ("torch", "warp"):
            with pytest.raises(psyne.ReadOnly):
                take(dev.view(m, writable=False))
        m.discard()


@pytest.mark.parametrize(("name", "take"), TAKEN)
def test_arrays_of_other_libraries_are_no_messages(name: str, take: Any):
    needed(name)
    needed("torch")
    import torch

    with pytest.raises(TypeError, match="a message, a batch or an array of one is wanted, not Tensor"):
        take(torch.zeros(4))


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """By a stand-in for its driver, which no library knows."""
    monkeypatch.setenv("PSYNE_LIBCUDA", fakecuda.library())
    monkeypatch.setenv("FAKECUDA_DIR", str(tmp_path))
    with psyne.device("cuda:0") as dev:
        yield dev


@pytest.mark.parametrize(("name", "take"), TAKEN)
def test_a_library_without_the_gpu_of_a_view_says_so(name: str, take: Any, gpu: Any, lines: Any):
    needed(name)
    tx, rx = lines
    with tx.loan() as m:
        view = gpu.view(m)
        assert len(view) == 4096
        with pytest.raises(psyne.CannotShare, match=r"cannot use .*float32\[4096\] on cuda:0.* as it is: "):
            take(view)
        with pytest.raises(psyne.CannotShare, match=r"upload\(\) gives a copy there"):
            take(view, private=True)
        del view
    with rx.receive() as m:
        refusal = psyne.CannotShare if name == "jax" else psyne.ReadOnly
        with pytest.raises(refusal, match="cannot use" if name == "jax" else "does not ask, would write"):
            take(gpu.view(m))
        assert not (m.array != 0).any()


HANDED = {
    "torch": ("torch", "from_dlpack"),
    "warp": ("warp", "array"),
    "numba": ("numba.cuda", "as_cuda_array"),
    "jax": ("jax.dlpack", "from_dlpack"),
}


@pytest.mark.parametrize(("name", "take"), TAKEN)
def test_a_library_is_handed_the_view_and_its_pointer_is_checked(
    name: str, take: Any, gpu: Any, lines: Any, monkeypatch: pytest.MonkeyPatch
):
    needed(name)
    module, function = HANDED[name]
    made, asked = SimpleNamespace(ndim=1, dtype=float), []

    def record(view: Any, **keywords: Any) -> Any:
        asked.append((view, keywords))
        return made

    monkeypatch.setattr(importlib.import_module(module), function, record)
    tx, _ = lines
    with tx.loan() as m:
        view = gpu.view(m)
        made.ptr, made.__cuda_array_interface__ = view.pointer, {"typestr": "<f4"}
        made.unsafe_buffer_pointer = lambda: made.ptr
        assert take(view) is made
        ((handed, keywords),) = asked
        assert handed is view
        assert keywords == {"warp": {"device": "cuda:0", "copy": False}, "jax": {"copy": False}}.get(name, {})
        if name in ("warp", "jax"):
            made.ptr += 64
            with pytest.raises(psyne.CannotShare, match=r"(copied|would convert) <psyne\.devices\.View"):
                take(view)
        if name == "warp":
            made.ptr, made.__cuda_array_interface__ = view.pointer, {"typestr": "<f8"}
            with pytest.raises(psyne.CannotShare, match="would convert"):
                take(view)
        asked.clear()
        del view, handed
        m.discard()
