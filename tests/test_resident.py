"""Channels whose messages stay in memory of a GPU, against a stand-in for the driver. Nothing is said of a real GPU.

The stand-in's streams are threads, and a kernel of it can run until a file is there: a fence that is missing is seen.
"""

import gc
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import psyne
from psyne import Array, Matrix, Stage

from .helpers import fakecuda
from .helpers.capsules import flags, tensor
from .helpers.process import until
from .helpers.resident import Peer, Plane, gpu
from .test_cuda_kernel import SCALE

__all__ = ["gpu"]


@pytest.fixture
def stream(gpu: Any) -> int:
    return fakecuda.new_stream(gpu)


def test_a_message_goes_from_process_to_process_and_stays_on_the_gpu(gpu: Any) -> None:
    with psyne.sender("ipc://planes", Plane, device="cuda:0") as tx, Peer() as peer:
        peer.run("rx = psyne.receiver('ipc://planes', Plane, device='cuda:0'); m = rx.try_receive()")
        with tx.loan() as m:
            m.wait()
            fakecuda.add(gpu, m, 42)
            assert (m.shape, m.dtype, m.strides, m.nbytes) == ((64, 64), np.dtype("f4"), (256, 4), 16384)
            assert m.pointer % 256 == 0
            before = time.monotonic_ns()
        assert peer.run("m = rx.receive(); planes = m.numpy(); m.info.sequence, planes.shape") == (0, (64, 64))
        assert peer.run("float(planes.min()), float(planes.max())") == (42.0, 42.0)
        assert before <= peer.run("m.info.timestamp") <= time.monotonic_ns()
        peer.begin("ctypes.string_at(m.pointer, 1)")  # the CPU does not have it
        assert peer.process.wait() == -signal.SIGSEGV


@pytest.mark.parametrize(
    "ask",
    [
        "m.wait(stream)",
        "capsule = m.__dlpack__(stream=stream, max_version=(1, 0))",
        "stream = 1; told = m.__cuda_array_interface__",
        "stream = 1; capsule = m.__dlpack__(max_version=(1, 0))",
        "stream = 2; capsule = m.__dlpack__(stream=2, max_version=(1, 0))",
    ],
    ids=["wait", "dlpack", "interface", "default", "of the thread"],
)
def test_the_stream_of_a_receiver_waits_for_that_of_the_sender(ask: str, gpu: Any, stream: int, tmp_path: Path) -> None:
    with psyne.sender("ipc://planes", Plane, device="cuda:0") as tx, Peer() as peer:
        peer.run("rx = psyne.receiver('ipc://planes', device='cuda:0')")
        m = tx.loan()
        m.wait(stream)
        fakecuda.run_until(gpu, tmp_path / "go", stream)  # a kernel that is slow
        fakecuda.add(gpu, m, 40, stream)
        tx.send(m, stream=stream)  # and yet it is sent at once
        peer.run("m = rx.receive()")  # and received
        peer.run(f"{ask}; fakecuda.add(gpu, m, 2, stream); there = gpu.event(stream)")
        assert peer.run("there.wait(timeout=0.05), m.event.done()") == (False, False)
        (tmp_path / "go").touch()
        assert peer.run("there.wait(), m.event.done(), set(m.numpy().ravel().tolist())") == (True, True, {42.0})


def test_a_kernel_of_psyne_waits_for_the_fence_and_writes_into_loans_alone(
    gpu: Any, stream: int, tmp_path: Path
) -> None:
    with (
        psyne.sender("ipc://planes", Plane, device="cuda:0") as tx,
        psyne.receiver("ipc://planes", device="cuda:0") as rx,
    ):
        with tx.loan() as m:
            m.wait(stream)
            fakecuda.run_until(gpu, tmp_path / "go", stream)
            gpu.kernel(SCALE)(m, 4096, 2.0, stream=stream)
        with rx.receive() as m:
            with pytest.raises(psyne.ReadOnly, match="would write, and this message was received"):
                gpu.kernel(SCALE)(m, 4096, 2.0)
            event = gpu.kernel(SCALE, reads=[0])(m, 4096, 2.0, stream=fakecuda.new_stream(gpu))
            seen = event.wait(timeout=0.05)
            (tmp_path / "go").touch()
            assert (seen, event.wait()) == (False, True)
        del m, event


def test_a_stream_that_asks_for_no_fence_does_not_wait(gpu: Any, stream: int, tmp_path: Path) -> None:
    with psyne.sender("ipc://planes", Plane, device="cuda:0") as tx, Peer() as peer:
        peer.run("rx = psyne.receiver('ipc://planes', device='cuda:0')")
        m = tx.loan()
        fakecuda.run_until(gpu, tmp_path / "go", stream)
        tx.send(m, stream=stream)
        peer.run("m = rx.receive(); capsule = m.__dlpack__(stream=-1, max_version=(1, 0))")
        assert peer.run("fakecuda.add(gpu, m, 2, stream); gpu.event(stream).wait()")
        (tmp_path / "go").touch()


def test_the_hand_over_waits_for_nothing_on_the_cpu(gpu: Any, stream: int, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    driver = gpu.context.driver
    call = driver.call

    def seen(name: str, *rest: Any) -> None:
        if threading.current_thread() is threading.main_thread():  # not the keeper, whom nobody waits for
            calls.append(name)
        call(name, *rest)

    with (
        psyne.sender("ipc://planes", Plane, device="cuda:0", capacity=4) as tx,
        psyne.receiver("ipc://planes", device="cuda:0") as rx,
        monkeypatch.context() as patch,
    ):
        patch.setattr(driver, "call", seen)
        for _ in range(8):
            m = tx.loan(timeout=60)
            m.__dlpack__(stream=stream)
            tx.send(m, stream=stream)
            with rx.receive() as m:
                m.__dlpack__(stream=stream, max_version=(1, 0))
    assert {"cuStreamWaitEvent", "cuEventRecord"} <= set(calls)
    assert not [name for name in calls if "Synchronize" in name or "Mem" in name]


@pytest.mark.parametrize("end", ["m.release(stream)", "m.wait(stream); m.release()", "m.wait(stream); del m"])
def test_a_slot_is_not_lent_again_before_the_stream_of_a_receiver_has_read_it(
    end: str, gpu: Any, tmp_path: Path
) -> None:
    with psyne.sender("ipc://planes", Plane, device="cuda:0", capacity=1) as tx, Peer() as peer:
        peer.run("rx = psyne.receiver('ipc://planes', device='cuda:0')")
        tx.send(np.zeros((64, 64), "f4"))
        peer.run("m = rx.receive(); fakecuda.run_until(gpu, go, stream)", go=tmp_path / "go")
        peer.run(end)  # waits for nothing
        assert not peer.run("rx._keeper.join(timeout=0.05)")
        assert tx.try_loan() is None
        with pytest.raises(psyne.Full):
            tx.drain(timeout=0.05)
        (tmp_path / "go").touch()
        with tx.loan(timeout=60) as m:
            m.discard()


def test_a_tensor_keeps_its_message(gpu: Any) -> None:
    with psyne.sender("ipc://planes", Plane, device="cuda:0", capacity=1) as tx, Peer() as peer:
        peer.run("rx = psyne.receiver('ipc://planes', device='cuda:0')")
        for ask in ("m.__dlpack__(max_version=(1, 0))", "m.__cuda_array_interface__"):
            tx.send(np.zeros((64, 64), "f4"))
            peer.run(f"with rx.receive() as m: kept = {ask}")
            assert tx.try_loan() is None
            peer.run("del kept")
            if "interface" in ask:  # whoever takes that keeps the message itself
                assert tx.try_loan() is None
                peer.run("del m")
            until(tx.try_loan, "a free slot").discard()


def test_the_stream_of_a_thread_is_waited_for_by_whoever_ends_the_message(gpu: Any, tmp_path: Path) -> None:
    with (
        psyne.sender("ipc://planes", Plane, device="cuda:0", capacity=1) as tx,
        psyne.receiver("ipc://planes", device="cuda:0") as rx,
        ThreadPoolExecutor(1) as pool,
    ):
        tx.send(np.zeros((64, 64), "f4"))
        m = rx.receive()
        pool.submit(m.wait, 2).result()
        pool.submit(fakecuda.run_until, gpu, tmp_path / "go", 2).result()
        m.release()
        assert not rx._keeper.join(timeout=0.05)
        assert tx.try_loan() is None
        (tmp_path / "go").touch()
        with tx.loan(timeout=60) as m:
            m.discard()


def test_release_is_refused_while_tensors_live(gpu: Any) -> None:
    with (
        psyne.sender("ipc://planes", Plane, device="cuda:0") as tx,
        psyne.receiver("ipc://planes", device="cuda:0") as rx,
    ):
        tx.send(np.zeros((64, 64), "f4"))
        m = rx.receive()
        capsule = m.__dlpack__(max_version=(1, 0))
        with pytest.raises(psyne.ViewsAlive, match="tensors still use this message"):
            m.release()
        del capsule
        m.release()
        m.release()
        for use in (lambda: m.pointer, lambda: m.info, m.wait, m.numpy, m.__dlpack__):
            with pytest.raises(psyne.MessageReleased):
                use()


def test_a_tensor_of_a_loan_keeps_the_slot_after_it_was_sent(gpu: Any, stream: int, tmp_path: Path) -> None:
    with (
        psyne.sender("ipc://planes", Plane, device="cuda:0", capacity=1) as tx,
        psyne.receiver("ipc://planes", device="cuda:0") as rx,
    ):
        with tx.loan() as m:
            capsule = m.__dlpack__(stream=stream)
        rx.receive().release()
        with pytest.raises(psyne.LeaseLimit):
            tx.loan()
        fakecuda.run_until(gpu, tmp_path / "go", stream)  # reads what was sent
        del capsule
        assert tx.try_loan() is None
        with pytest.raises(psyne.Full, match="streams still use 1 messages"):
            tx.loan(timeout=0.05)
        (tmp_path / "go").touch()
        with tx.loan(timeout=60) as m:
            m.discard()


def test_a_fence_comes_after_all_streams_that_the_loan_was_told_of(gpu: Any, stream: int, tmp_path: Path) -> None:
    other = fakecuda.new_stream(gpu)
    with (
        psyne.sender("ipc://planes", Plane, device="cuda:0") as tx,
        psyne.receiver("ipc://planes", device="cuda:0") as rx,
    ):
        with tx.loan() as m:
            m.wait(other)
            fakecuda.run_until(gpu, tmp_path / "go", other)
            m.wait(stream)
        with rx.receive() as m:
            assert not m.event.wait(timeout=0.05)
            (tmp_path / "go").touch()
            assert m.event.wait()


def test_who_has_a_slot_after_a_loan_was_taken_back_waits_for_what_still_writes_there(
    gpu: Any, stream: int, tmp_path: Path
) -> None:
    other = fakecuda.new_stream(gpu)
    with psyne.sender("ipc://planes", Plane, device="cuda:0", capacity=1) as tx:
        with pytest.raises(ZeroDivisionError), tx.loan() as m:  # noqa: PT012
            m.wait(stream)
            fakecuda.run_until(gpu, tmp_path / "go", stream)
            raise ZeroDivisionError
        m = tx.loan(timeout=0)
        m.wait(other)
        assert not gpu.event(other).wait(timeout=0.05)
        (tmp_path / "go").touch()
        assert gpu.event(other).wait()
        m.discard()


def test_libraries_are_told_where_it_is_and_whether_they_may_write(gpu: Any, stream: int) -> None:
    with (
        psyne.sender("ipc://planes", Matrix(3, 5, "f8", order="F"), device="cuda:0") as tx,
        psyne.receiver("ipc://planes", device="cuda:0") as rx,
    ):
        with tx.loan() as m:
            assert m.__cuda_array_interface__ == {
                "shape": (3, 5), "typestr": "<f8", "data": (m.pointer, False), "strides": (8, 24), "stream": 1,
                "version": 3,
            }  # fmt: skip
            assert m.__dlpack_device__() == (2, 0)
            assert tensor(m.__dlpack__(stream=stream)) == (m.pointer, (2, 0), (3, 5), (1, 3), 0)
            with pytest.raises(psyne.InvalidArgument, match="stream=0; of CUDA it is None or 1"):
                m.__dlpack__(stream=0)
            with pytest.raises(psyne.InvalidArgument, match="stream=-1; a stream has a positive number"):
                m.wait(-1)
            with pytest.raises(psyne.CannotShare, match="makes no copies"):
                m.__dlpack__(copy=True)
        with rx.receive() as m:
            assert m.__cuda_array_interface__["data"] == (m.pointer, True)
            read_only = flags(m.__dlpack__(max_version=(1, 0))), flags(m.__dlpack__())
            assert read_only == (1, None)
            for use in (lambda: m.array, lambda: np.asarray(m), lambda: gpu.view(m)):
                with pytest.raises(psyne.CannotShare, match=r"m.numpy\(\) copies it"):
                    use()
            with pytest.raises(psyne.NotALoan):
                m.discard()


def test_what_is_no_loan_is_copied_from_the_cpu_or_on_the_gpu(gpu: Any, stream: int, tmp_path: Path) -> None:
    values = np.arange(15, dtype="f8").reshape(3, 5)
    kind = Matrix(3, 5, "f8", order="F")
    with (
        psyne.sender("ipc://first", kind, device="cuda:0") as first,
        psyne.receiver("ipc://first", device="cuda:0") as middle,
        psyne.sender("ipc://second", kind, device="cuda:0") as second,
        psyne.receiver("ipc://second", device="cuda:0") as last,
    ):
        fakecuda.run_until(gpu, tmp_path / "go", stream)
        assert first.send(values, stream=stream)
        with middle.receive() as m:
            second.send(m)  # from one channel to the next
        with last.receive() as m:
            assert not m.event.wait(timeout=0.05)
            (tmp_path / "go").touch()
            assert (m.numpy() == values).all()
        with pytest.raises(psyne.LayoutMismatch, match=r"carries float64\[3, 5\], and this is float32\[3, 5\]"):
            first.send(values.astype("f4"))
        rows = type("Rows", (), {"__cuda_array_interface__": {"typestr": "<f8", "shape": (3, 5), "data": (1, False)}})()
        with pytest.raises(psyne.LayoutMismatch, match=r"lie \(8, 24\) bytes apart, and these \(40, 8\)"):
            first.send(rows)
        with pytest.raises(psyne.InvalidArgument, match="has a fence of its own"):
            first.send(values, after=gpu.event(stream))
        gc.collect()


@pytest.mark.parametrize("capacity", [1, 3])
def test_iteration_ends_each_message_and_streams_order_the_reuse_of_all_slots(capacity: int, gpu: Any) -> None:
    with psyne.sender("ipc://planes", Plane, device="cuda:0", capacity=capacity) as tx, Peer() as peer:
        peer.begin(
            "seen = []\n"
            "for m in psyne.receiver('ipc://planes', device='cuda:0'):\n"
            "    with gpu.context() as driver:\n"
            "        m.wait(stream)\n"
            "        into = np.empty((64, 64), 'f4')\n"
            "        driver.call('cuMemcpyDtoHAsync_v2', into.ctypes.data, m.pointer, m.nbytes, stream)\n"
            "        seen.append(into)\n"
            "[set(a.ravel().tolist()) for a in seen] if gpu.event(stream).wait() else None"
        )
        own = fakecuda.new_stream(gpu)
        for n in range(200):
            m = tx.loan(timeout=60)
            m.wait(own)
            with gpu.context() as driver:
                driver.call("cuMemsetD8Async", m.pointer, 0, m.nbytes, own)
            fakecuda.add(gpu, m, n, own)
            tx.send(m, stream=own)
        tx.close()
        assert peer.result() == [{float(n)} for n in range(200)]


def test_handles_are_opened_once(gpu: Any) -> None:
    with psyne.sender("ipc://planes", Plane, device="cuda:0", capacity=2) as tx, Peer() as peer:
        peer.run(
            "names = []; driver = gpu.context.driver; call = driver.call\n"
            "driver.call = lambda name, *rest: [names.append(name), call(name, *rest)][1]\n"
            "rx = psyne.receiver('ipc://planes', device='cuda:0')"
        )
        for n in range(20):
            tx.send(np.full((64, 64), n, "f4"), timeout=60)
            assert peer.run("with rx.receive() as m: value = float(m.numpy()[5, 5])\nvalue") == n
        assert peer.run("[name for name in names if name.startswith('cuIpcOpen')]") == [
            "cuIpcOpenMemHandle_v2", "cuIpcOpenEventHandle", "cuIpcOpenEventHandle"
        ]  # fmt: skip
        peer.run("before = fakecuda.left()[0]; rx.close(); del m; gc.collect()")
        until(lambda: peer.run("before - fakecuda.left()[0]") == 1, "the sender's memory to be closed")


def test_stages_senders_and_members_are_those_of_every_channel(gpu: Any) -> None:
    stages = [Stage("first"), Stage("second")]
    with (
        psyne.sender("ipc://planes", Plane, device="cuda:0", stages=stages, pattern="mpmc", capacity=8) as tx,
        psyne.receiver("ipc://planes", Plane, device="cuda:0", stage="first") as one,
        psyne.receiver("ipc://planes", Plane, device="cuda:0", stage="first") as two,
        psyne.receiver("ipc://planes", Plane, device="cuda:0", stage="second") as late,
        Peer() as peer,
    ):
        peer.run("tx = psyne.sender('ipc://planes', device='cuda:0'); tx.send(np.full((64, 64), 3, 'f4'))")
        tx.send(np.full((64, 64), 1, "f4"))
        tx.send(np.full((64, 64), 2, "f4"))
        assert late.try_receive() is None
        held = [one.receive(timeout=60), two.receive(timeout=60), one.receive(timeout=60)]
        assert {float(m.numpy()[0, 0]) for m in held} == {1.0, 2.0, 3.0}
        assert late.try_receive() is None
        del held
        assert {float(late.receive(timeout=60).numpy()[0, 0]) for _ in range(3)} == {1.0, 2.0, 3.0}


def test_several_dtypes_and_shapes_of_one_element(gpu: Any) -> None:
    for kind, value in (
        (Array("u1"), 7),
        (Array("i8", (1,)), [-3]),
        (Array("c16", (2, 1, 3)), np.ones((2, 1, 3)) * 1j),
    ):
        with (
            psyne.sender("ipc://one", kind, device="cuda:0") as tx,
            psyne.receiver("ipc://one", device="cuda:0") as rx,
        ):
            tx.send(np.array(value, kind.__layout__.dtype))
            with rx.receive() as m:
                assert (m.numpy() == value).all()


def test_the_benchmark_runs_its_steps_without_a_gpu_and_gives_no_figures(gpu: Any) -> None:
    program = Path(__file__).parents[1] / "benchmarks" / "gpu.py"
    run = [sys.executable, str(program), "--stand-in"]
    said = subprocess.run(run, check=True, capture_output=True, text=True, timeout=60).stdout
    assert said == (
        "20 round trips through channels on a stand-in for a GPU: every answer was right. No figures: it is no GPU\n"
    )
