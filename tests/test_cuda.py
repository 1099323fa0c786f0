"""CUDA devices, against a stand-in for the driver that refuses what it refuses. Nothing is said of a real GPU."""

import ctypes
import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import psyne
from psyne import Array, Stage, Struct, f32, u64

from .helpers import fakecuda
from .helpers.capsules import tensor
from .helpers.process import Child, until

Plane = Array("f4", (64, 64))


class Signal(Struct):
    word = u64()
    other = f32()


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    monkeypatch.setenv("PSYNE_LIBCUDA", fakecuda.library())
    monkeypatch.setenv("FAKECUDA_DIR", str(tmp_path))
    with psyne.device("cuda:0") as device:
        yield device
    del device
    gc.collect()
    assert fakecuda.left()[0] == 0
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def stream(gpu: Any) -> Iterator[int]:
    made = ctypes.c_void_p()
    with gpu.context() as driver:
        driver.call("cuStreamCreate", ctypes.byref(made), 1)
    assert made.value is not None
    yield made.value
    with gpu.context() as driver:
        driver.call("cuStreamDestroy_v2", made)


def test_a_gpu_is_listed_and_the_same_for_each_call(gpu: Any) -> None:
    (info,) = [it for it in psyne.devices() if it.kind == "cuda"]
    assert (info.name, info.product, info.driver, info.unified) == ("cuda:0", "stand-in 0", "CUDA 13.0", False)
    assert psyne.device("cuda") is gpu
    with pytest.raises(psyne.DeviceUnavailable, match=r"no device 'cuda:7' here; there are cuda:0"):
        psyne.device("cuda:7")


@pytest.mark.parametrize(
    ("environment", "text"),
    [
        ({"PSYNE_LIBCUDA": "/nowhere/libcuda.so.1"}, "no NVIDIA driver here"),
        ({"FAKECUDA_DEVICES": "0"}, "finds no GPU: CUDA_ERROR_NO_DEVICE"),
        ({"FAKECUDA_ATTRIBUTE_99": "0"}, "finds no GPU that can register"),
    ],
)
def test_without_a_driver_or_a_gpu_the_error_says_what_is_missing(environment: dict[str, str], text: str) -> None:
    with Child() as child:
        child.run(
            "import os; os.environ.update(environment)", environment={"PSYNE_LIBCUDA": fakecuda.library()} | environment
        )
        with pytest.raises(psyne.DeviceUnavailable, match=text):
            child.run("psyne.device('cuda')")
        assert child.run("[it.kind for it in psyne.devices() if it.kind == 'cuda']") == []


@pytest.mark.parametrize("alias", [False, True], ids=["same address", "another address"])
def test_a_kernel_changes_a_message_in_place_and_another_process_sees_it(
    alias: bool, monkeypatch: pytest.MonkeyPatch, gpu: Any, stream: int
) -> None:
    monkeypatch.setenv("FAKECUDA_ALIAS", str(int(alias)))
    monkeypatch.setenv("FAKECUDA_DELAY", "20000")
    with psyne.sender("ipc://planes", Plane) as tx, Child() as child:
        child.run("rx = psyne.receiver('ipc://planes')")
        with tx.loan() as m:
            m.array[:] = 1
            view = gpu.view(m)
            assert (view.pointer == view._registration.mapping.address + view.offset) != alias
            fakecuda.add(gpu, view, 41, stream)
            assert not gpu.event(stream).done()
            assert gpu.event(stream).wait()
            assert (m.array == 42).all()
        assert child.run("m = rx.receive(); float(m.array.min()), float(m.array.max())") == (42.0, 42.0)
        del m, view


def test_pages_are_registered_once_and_the_driver_forgets_them_before_they_are_unmapped(gpu: Any) -> None:
    with psyne.sender("ipc://planes", Plane, capacity=4) as tx, psyne.receiver("ipc://planes", Plane) as rx:
        for n in range(10):
            with tx.loan() as m:
                m.array[:] = n
                gpu.view(m)
            with rx.receive() as m:
                assert not gpu.view(m).writable
            del m
            assert fakecuda.left() == (2, 1)  # to write, and to read
    gc.collect()
    gpu.close()
    assert fakecuda.left()[0] == 0


def test_what_libraries_are_told_is_the_slot(gpu: Any) -> None:
    with psyne.sender("ipc://planes", Plane) as tx, psyne.receiver("ipc://planes", Plane) as rx:
        with tx.loan() as m:
            view = gpu.view(m.array[8:, ::2])
            told = view.__cuda_array_interface__
            assert told == {
                "shape": (56, 32), "typestr": "<f4", "data": (view.pointer, False), "strides": (256, 8), "stream": None,
                "version": 3,
            }  # fmt: skip
            assert view.pointer == gpu.view(m).pointer + 8 * 256
            assert view.__dlpack_device__() == (2, 0)
            assert tensor(view.__dlpack__())[:2] == (view.pointer, (2, 0))
            assert tensor(view.__dlpack__(stream=7, max_version=(1, 0))) == (view.pointer, (2, 0), (56, 32), (64, 2), 0)
            with pytest.raises(psyne.CannotShare, match="makes no copies"):
                view.__dlpack__(copy=True)
            with pytest.raises(psyne.CannotShare, match=r"is on its device, device \(2, 0\)"):
                view.__dlpack__(dl_device=(1, 0))
            del told, view
        with rx.receive() as m:
            view = gpu.view(m)
            assert view.__cuda_array_interface__["data"] == (view.pointer, True)
            with pytest.raises(psyne.CannotShare, match="read-only"):
                view.__dlpack__()
            assert tensor(view.__dlpack__(max_version=(1, 0))).data == view.pointer
            del view


def test_records_have_no_type_and_their_fields_have(gpu: Any) -> None:
    with psyne.sender("ipc://signals", Signal) as tx, tx.loan() as m:
        with pytest.raises(psyne.CannotShare, match="hand over a field"):
            _ = gpu.view(m).__cuda_array_interface__
        assert gpu.view(m.array["other"]).__cuda_array_interface__["typestr"] == "<f4"
        m.discard()


def test_a_tensor_keeps_the_message(gpu: Any) -> None:
    with (
        psyne.sender("ipc://planes", Plane, capacity=1, stages=[Stage("gpu", mutate=True)]) as tx,
        psyne.receiver("ipc://planes", Plane, stage="gpu") as rx,
    ):
        tx.send(np.zeros((64, 64), "f4"))
        m = rx.receive()
        capsule = gpu.view(m).__dlpack__(max_version=(1, 0))
        with pytest.raises(BufferError):
            m.release()
        del m
        assert tx.try_loan() is None
        del capsule
        gc.collect()
        with tx.loan(timeout=10) as m:
            m.discard()


def test_a_stream_writes_and_waits_for_words_of_a_message(gpu: Any, stream: int) -> None:
    stages = [Stage("gpu", mutate=True)]
    with psyne.sender("ipc://signals", Signal, stages=stages) as tx, Child() as child:
        child.run("rx = psyne.receiver('ipc://signals', stage='gpu')")
        with tx.loan() as m:
            word, other = gpu.view(m.array["word"]), gpu.view(m.array["other"])
            gpu.write_value(stream, word, 2**64 - 1)
            until(lambda m=m: m.word == 2**64 - 1, "the word")
            gpu.wait_value(stream, word, 2**64 + 5)  # they go round, as counters do
            fakecuda.add(gpu, other, 3, stream)
            event = gpu.event(stream)
            assert not event.wait(timeout=0.05)
            assert (event.done(), m.other) == (False, 0)
            m.word = 5
            assert event.wait(timeout=60)
            assert m.other == 3
            del word, other
        assert child.run("m = rx.receive(); m.word, m.other") == (5, 3)


@pytest.mark.parametrize("part", ["other", "whole"])
def test_only_a_word_is_written_or_waited_for(gpu: Any, part: str) -> None:
    with psyne.sender("ipc://signals", Signal) as tx, tx.loan() as m:
        view = gpu.view(m if part == "whole" else m.array["other"])
        for call in (gpu.write_value, gpu.wait_value):
            with pytest.raises(psyne.InvalidArgument, match="one 64-bit integer"):
                call(None, view, 1)
        m.discard()


def test_a_stream_writes_nothing_read_only(gpu: Any) -> None:
    with psyne.sender("ipc://signals", Signal) as tx, psyne.receiver("ipc://signals", Signal) as rx:
        tx.send(Signal(word=7))
        with rx.receive() as m:
            view = gpu.view(m.array["word"])
            with pytest.raises(psyne.ReadOnly):
                gpu.write_value(None, view, 1)
            assert m.word == 7
            del view


def test_a_gpu_that_takes_no_read_only_pages_says_so(gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKECUDA_ATTRIBUTE_113", "0")
    with psyne.sender("ipc://planes", Plane) as tx, psyne.receiver("ipc://planes", Plane) as rx:
        tx.send(np.zeros((64, 64), "f4"))
        with rx.receive() as m, pytest.raises(psyne.CannotShare, match="read-only pages"):
            gpu.view(m)


def test_an_upload_is_a_copy_that_holds_the_message_until_it_is_made(
    gpu: Any, stream: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with psyne.sender("ipc://planes", Plane, capacity=1) as tx, psyne.receiver("ipc://planes", Plane) as rx:
        tx.send(np.arange(4096, dtype="f4").reshape(64, 64))
        monkeypatch.setenv("FAKECUDA_DELAY", "200000")
        m = rx.receive()
        copy = gpu.upload(m.array[1:], stream)
        del m
        assert tx.try_loan() is None  # the copy is being made
        monkeypatch.delenv("FAKECUDA_DELAY")
        assert copy.event.wait()
        fakecuda.add(gpu, copy, 1)
        assert (copy.numpy() == np.arange(64, 4096, dtype="f4").reshape(63, 64) + 1).all()
        assert (copy.shape, copy.dtype, copy.__dlpack_device__()) == ((63, 64), np.dtype("f4"), (2, 0))
        with tx.loan(timeout=10) as m:
            m.discard()
        del copy


def test_the_stream_of_a_library_waits_for_the_copy_that_it_is_given(gpu: Any, stream: int, tmp_path: Path) -> None:
    other = fakecuda.new_stream(gpu)
    with psyne.sender("ipc://planes", Plane) as tx, tx.loan() as m:
        m.array[:] = 1
        fakecuda.run_until(gpu, tmp_path / "go", stream)
        copy = gpu.upload(m, stream)
        assert copy.__cuda_array_interface__["stream"] == stream
        for nobody in (-1, other):
            capsule = copy.__dlpack__(stream=nobody)
            assert gpu.event(other).wait(timeout=0.05) == (nobody == -1)
        with pytest.raises(psyne.InvalidArgument, match="stream=0; of CUDA it is None or 1"):
            copy.__dlpack__(stream=0)
        (tmp_path / "go").touch()
        assert gpu.event(other).wait()
        (tmp_path / "go").unlink()
        last = gpu.upload(m)
        assert last.__cuda_array_interface__["stream"] == 1
        assert last.event.wait()
        assert copy.event.wait()
        m.discard()
        del copy, capsule, last


def test_a_forked_child_is_refused(gpu: Any) -> None:
    with Child() as child:
        child.run("import os; os.environ['PSYNE_LIBCUDA'] = path", path=fakecuda.library())
        child.run("gpu = psyne.device('cuda')")
        error = child.run("forked(lambda: psyne.device('cuda'))")
        assert isinstance(error, psyne.ForkedError)
        for ask in ("done", "wait"):
            error = child.run(f"event = gpu.event(); forked(lambda: event.{ask}())")
            assert isinstance(error, psyne.ForkedError)
    assert os.getpid() != child.pid
