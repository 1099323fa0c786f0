"""Kernels in PTX on CUDA devices, against the stand-in for the driver: it launches, and does not read PTX."""

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import psyne
from psyne import Array, Stage, Struct, u64
from psyne.devices import cuda_driver

from .helpers import fakecuda

N = 1024
Plane = Array("f4", N)


class Signal(Struct):
    word = u64()


SCALE = """
.version 7.5
.target sm_50
.address_size 64

.visible .entry scale(
    .param .u64 .ptr .global .align 4 scale_param_0,
    .param .u32 scale_param_1,
    .param .f32 scale_param_2
)
{
    ret;
}
"""
STRUCTS = ".version 7.5\n.visible .entry f(.param .align 8 .b8 f_param_0[16]) { ret; }\n.entry g { ret; }\n"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    monkeypatch.setenv("PSYNE_LIBCUDA", fakecuda.library())
    monkeypatch.setenv("FAKECUDA_DIR", str(tmp_path))
    with psyne.device("cuda:0") as device:
        yield device
    del device
    gc.collect()
    assert fakecuda.left()[0] == 0
    assert modules() == 0


@pytest.fixture
def out() -> Iterator[Any]:
    with psyne.sender("ipc://planes", Plane, capacity=8, stages=[Stage("change", mutate=True), "show"]) as out:
        yield out


def modules() -> int:
    """Those that the driver still has."""
    count: int = cuda_driver.driver().library.fakeModules()
    return count


def test_a_kernel_changes_a_message_in_place(gpu: Any, out: Any):
    kernel = gpu.kernel(SCALE)
    assert (kernel.name, kernel.parameters) == ("scale", ("u64", "u32", "f32"))
    assert repr(kernel) == "kernel scale(u64, u32, f32)"
    with out.loan() as m:
        m.array[:] = np.arange(N)
        assert kernel(gpu.view(m), N, 2.5).wait()
        assert (m.array == np.arange(N) * 2.5).all()
        assert kernel(gpu.view(m.array[16:32]), 16, 0.0, size=16, block=8).wait()
        assert (m.array[16:32] == 0).all()
        assert (m.array[32:] != 0).all()
        copy = gpu.upload(m)
        assert kernel(copy, N, 2).wait()
        assert (copy.numpy() == m.array * 2).all()
        del copy


def test_the_event_keeps_message_and_kernel_until_the_work_is_done(gpu: Any, out: Any):
    with (
        psyne.sender("ipc://signals", Signal) as signals,
        signals.loan() as signal,
        psyne.receiver("ipc://planes", Plane, stage="change") as change,
        psyne.receiver("ipc://planes", Plane, stage="show") as show,
    ):
        out.send(np.ones(N, "f4"))
        kernel = gpu.kernel(SCALE, "scale")
        gpu.wait_value(None, gpu.view(signal.array["word"]), 1)  # until the CPU says so
        with change.receive() as m:
            m.release(after=kernel(gpu.view(m), N, 7.0))
        del kernel
        gc.collect()
        assert modules() == 1
        assert show.try_receive() is None
        signal.word = 1
        with show.receive(timeout=30) as m:
            assert (m.array == 7).all()
    gc.collect()
    assert modules() == 0


def test_a_read_only_view_is_for_parameters_that_are_read(gpu: Any, out: Any):
    with (
        psyne.receiver("ipc://planes", Plane, stage="change") as change,
        psyne.receiver("ipc://planes", Plane, stage="show") as show,
    ):
        out.send(np.ones(N, "f4"))
        change.receive().release()
        with show.receive() as m:
            view = gpu.view(m)
            with pytest.raises(
                psyne.ReadOnly, match=r"kernel scale\(u64, u32, f32\), whose parameter 0 is not in reads="
            ):
                gpu.kernel(SCALE)(view, N, 2.0)
            with pytest.raises(cuda_driver.CudaError):  # it does write: only the stand-in asks
                gpu.kernel(SCALE, reads=[0])(view, N, 2.0)
            del view


def test_a_kernel_waits_for_an_upload_that_another_stream_makes(gpu: Any, out: Any, tmp_path: Path):
    one, other = fakecuda.new_stream(gpu), fakecuda.new_stream(gpu)
    with out.loan() as m:
        m.array[:] = 3
        fakecuda.run_until(gpu, tmp_path / "go", one)
        copy = gpu.upload(m, one)
        event = gpu.kernel(SCALE)(copy, N, 2.0, stream=other)
        assert not event.wait(timeout=0.05)
        (tmp_path / "go").touch()
        assert event.wait()
        assert (copy.numpy() == 6).all()
        m.discard()
    del copy, event


def test_a_kernel_is_called_as_it_was_declared(gpu: Any, out: Any):
    kernel = gpu.kernel(SCALE)
    with out.loan() as m, psyne.device("cpu") as cpu:
        view = gpu.view(m)
        for arguments, options, text in [
            ((view, N), {}, "takes 3 arguments, and got 2"),
            ((cpu.view(m), N, 1.0), {}, "parameter 0 of kernel scale.* takes what view"),
            ((m, N, 1.0), {}, "parameter 0 of kernel scale.* cannot be"),
            ((view, view, 1.0), {}, "parameter 1 of kernel scale.* is a number"),
            ((view, N, view), {}, "parameter 2 of kernel scale.* is a number"),
            ((view, -1, 1.0), {}, "parameter 1 of kernel scale.* cannot be -1, but 4294967295 could"),
            ((view, 1.5, 1.0), {}, "parameter 1 of kernel scale.* cannot be 1.5, but 1 could"),
            ((view, "x", 1.0), {}, "parameter 1 of kernel scale.* cannot be 'x'"),
            ((view, N, 1.0), {"size": 1 << 40}, "grid=.*from 1 to 4,294,967,295"),
            ((view, N, 1.0), {"size": 0}, "size=0: one to three whole numbers"),
            ((view, N, 1.0), {"block": (1, 1, 1, 1)}, "block=.*: one to three whole numbers"),
            ((0, N, 1.0), {}, "no buffer to count threads by: say size="),
        ]:
            with pytest.raises(psyne.InvalidArgument, match=text):
                kernel(*arguments, **options)
        with pytest.raises(psyne.SystemFailure, match="cuLaunchKernel: CUDA_ERROR_INVALID_VALUE"):
            kernel(view, N, 1.0, block=2048)
        m.discard()
        del view


def test_ptx_that_the_driver_does_not_take_is_refused_with_its_words(gpu: Any):
    for ptx, name, text in [
        ("", None, r"name=None: this PTX has the kernels \(none\)"),
        (SCALE, "add", "name='add': this PTX has the kernels scale"),
        (SCALE + SCALE.replace("scale", "other"), None, "name=None: this PTX has the kernels scale, other"),
        (SCALE.replace(".version", ""), None, "the driver does not take this PTX .*: ptxas fatal: no kernel in it"),
        (STRUCTS, "f", "kernel f has a parameter that is neither a number nor an address: .param .align 8"),
    ]:
        with pytest.raises(psyne.InvalidArgument, match=text):
            gpu.kernel(ptx, name)
    with pytest.raises(psyne.SystemFailure, match="cuModuleGetFunction"):
        gpu.kernel(STRUCTS, "g")  # which the stand-in does not know
    gpu.close()
    with pytest.raises(psyne.ChannelClosed):
        gpu.kernel(SCALE)
