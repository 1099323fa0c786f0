"""What only an NVIDIA GPU can show: ``python -m pytest -m gpu tests/test_gpu_hardware.py``. Skipped without one.

A library that is not installed skips its tests: torch, CuPy, numba-cuda, Triton, JAX. Figures are printed, not judged.
"""

import importlib
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import psyne
from psyne import Array, Stage, Struct, f32, u64
from psyne.devices import cuda_driver as cu

from .helpers.process import Child

N = 1 << 20
Floats = Array("f4", (N,))
BIG = 256 << 20  # bytes
ATTRIBUTES = {
    "unified addressing": 41, "atomics of the CPU": 86, "pageable memory (HMM)": 88, "addresses of the CPU": 91,
    "register": 99, "page tables of the CPU": 100, "read-only": 113, "words of streams": 122, "integrated": 18,
    "events between processes": 125,
}  # fmt: skip


class Signal(Struct):
    word = u64()
    values = f32(N)


SENDS_A_SIGNAL = """
class Signal(psyne.Struct):
    word = psyne.u64()
    values = psyne.f32(1 << 20)
tx = psyne.sender("ipc://signal", Signal, stages=[psyne.Stage("gpu", mutate=True)], capacity=2)
m = tx.loan()
seen = m.array
tx.send(m)
"""


def _why_not() -> str:
    if os.environ.get("PSYNE_LIBCUDA"):
        return "$PSYNE_LIBCUDA names a stand-in"
    try:
        cu.driver()
    except psyne.DeviceUnavailable as error:
        return str(error)
    return ""


pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]  # the latter for the libraries


@pytest.fixture
def gpu() -> Iterator[Any]:
    if why := _why_not():
        pytest.skip(why)
    with psyne.device("cuda:0") as device:
        yield device


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    def say(text: str) -> None:
        with capsys.disabled():
            print(f"\n    {text}", end="", flush=True)

    return say


def library(name: str) -> Any:
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    return pytest.importorskip(name)


def test_what_the_gpu_says_of_itself(gpu: Any, tell: Callable[[str], None]) -> None:
    driver = cu.driver()
    said = {}
    for name, number in ATTRIBUTES.items():
        try:
            said[name] = driver.attribute(number, gpu.ordinal)
        except cu.CudaError as error:
            said[name] = error.strerror
    tell(f"{gpu.info.product}, {gpu.info.driver}, {gpu.uuid.hex()}: {said}")
    assert said["register"] == 1


def test_a_device_address_is_that_of_the_cpu_where_the_gpu_says_so(gpu: Any) -> None:
    with psyne.sender("ipc://floats", Floats, capacity=2) as tx, tx.loan() as m:
        view = gpu.view(m)
        same = view.pointer == view._registration.mapping.address + view.offset
        assert same or not cu.driver().attribute(91, gpu.ordinal)
        m.discard()


@pytest.mark.parametrize("where", ["named", "anonymous"])
def test_what_registering_costs(where: str, gpu: Any, tell: Callable[[str], None]) -> None:
    big = Array("u1", (BIG,))
    tx = psyne.sender("ipc://big", big, capacity=1) if where == "named" else psyne.channel(big, capacity=1)[0]
    with tx, tx.loan() as m:
        m.array[::4096] = 1
        begin = time.perf_counter()
        view = gpu.view(m)
        registered = time.perf_counter() - begin
        begin = time.perf_counter()
        for _ in range(100):
            gpu.view(m)
        again = (time.perf_counter() - begin) / 100
        del view
        tell(f"{where}: {registered * 1e3:.1f} ms to register {BIG >> 20} MiB, {again * 1e6:.1f} us for a view")
        m.discard()


def test_read_only_pages_are_taken_or_refused_clearly(gpu: Any, tell: Callable[[str], None]) -> None:
    torch = library("torch")
    with psyne.sender("ipc://floats", Floats, capacity=2) as tx, psyne.receiver("ipc://floats", Floats) as rx:
        tx.send(np.arange(N, dtype="f4"))
        with rx.receive() as m:
            if not cu.driver().attribute(cu.READ_ONLY_HOST_REGISTER_SUPPORTED, gpu.ordinal):
                with pytest.raises(psyne.CannotShare, match="read-only pages"):
                    gpu.view(m)
                tell("this GPU takes no read-only pages")
                return
            view = gpu.view(m)
            assert not view.writable
            total = torch.from_dlpack(view).double().sum().item()
            assert total == N * (N - 1) / 2
            del view


def by_torch(view: Any) -> int:
    torch = library("torch")
    x = torch.from_dlpack(view)
    assert x.is_cuda
    x.mul_(2).add_(1)
    torch.cuda.synchronize()
    return int(x.data_ptr())


def by_torch_interface(view: Any) -> int:
    torch = library("torch")
    x = torch.as_tensor(view, device="cuda")
    x.mul_(2).add_(1)
    torch.cuda.synchronize()
    return int(x.data_ptr())


def by_cupy(view: Any) -> int:
    cupy = library("cupy")
    x = cupy.asarray(view)
    x *= 2
    x += 1
    cupy.cuda.Device().synchronize()
    return int(x.data.ptr)


def by_cupy_dlpack(view: Any) -> int:
    cupy = library("cupy")
    x = cupy.from_dlpack(view)
    x *= 2
    x += 1
    cupy.cuda.Device().synchronize()
    return int(x.data.ptr)


def by_numba(view: Any) -> int:
    cuda = library("numba.cuda")

    @cuda.jit
    def kernel(x: Any) -> None:
        i = cuda.grid(1)
        if i < x.size:
            x[i] = x[i] * 2 + 1

    x = cuda.as_cuda_array(view)
    kernel[(N + 255) // 256, 256](x)
    cuda.synchronize()
    return int(x.device_ctypes_pointer.value)


def by_triton(view: Any) -> int:
    global tl  # where Triton looks for it
    torch, triton = library("torch"), library("triton")
    tl = importlib.import_module("triton.language")

    @triton.jit
    def kernel(x, n, block: tl.constexpr):  # type: ignore[name-defined, no-untyped-def]
        at = tl.program_id(0) * block + tl.arange(0, block)
        tl.store(x + at, tl.load(x + at, at < n) * 2 + 1, at < n)

    x = torch.from_dlpack(view)
    kernel[(N // 1024,)](x, N, 1024)
    torch.cuda.synchronize()
    return int(x.data_ptr())


@pytest.mark.parametrize("add", [by_torch, by_torch_interface, by_cupy, by_cupy_dlpack, by_numba, by_triton])
def test_libraries_change_a_message_in_place_and_another_process_sees_it(add: Callable[[Any], int], gpu: Any) -> None:
    with psyne.sender("ipc://floats", Floats, capacity=2) as tx, Child() as child:
        child.run("rx = psyne.receiver('ipc://floats')")
        with tx.loan() as m:
            m.array[:] = np.arange(N) % 1000
            view = gpu.view(m)
            assert add(view) == view.pointer
            assert (m.array == np.arange(N) % 1000 * 2 + 1).all()
            del view
        assert child.run("m = rx.receive(); bool((m.array == np.arange(1 << 20) % 1000 * 2 + 1).all())")


def test_jax_reads_a_message_in_place(gpu: Any) -> None:
    jax = library("jax")
    with psyne.sender("ipc://floats", Floats, capacity=2) as tx, tx.loan() as m:
        m.array[:] = 3
        view = gpu.view(m)
        x = jax.dlpack.from_dlpack(view)
        assert x.unsafe_buffer_pointer() == view.pointer
        assert float(jax.numpy.sum(x)) == 3 * N
        del x, view
        m.discard()


def test_a_loan_is_sent_when_its_kernel_is_done(gpu: Any) -> None:
    torch = library("torch")
    with psyne.sender("ipc://floats", Floats, capacity=2) as tx, Child() as child:
        child.run("rx = psyne.receiver('ipc://floats')")
        stream = torch.cuda.Stream()
        m = tx.loan()
        view = gpu.view(m)
        with torch.cuda.stream(stream):
            torch.cuda._sleep(50_000_000)
            torch.from_dlpack(view).fill_(5)
        tx.send(m, after=gpu.event(stream, view))
        assert child.run("m = rx.receive(timeout=60); bool((m.array == 5).all())")


def test_a_stream_publishes_a_word_that_another_process_polls(gpu: Any) -> None:
    torch = library("torch")
    with Child() as child:
        child.run(SENDS_A_SIGNAL)
        with psyne.receiver("ipc://signal", Signal, stage="gpu") as rx, rx.receive(timeout=60) as m:
            word, values = gpu.view(m.array["word"]), gpu.view(m.array["values"])
            stream = torch.cuda.Stream()
            with torch.cuda.stream(stream):
                torch.cuda._sleep(50_000_000)
                torch.from_dlpack(values).fill_(9)
            gpu.write_value(stream, word, 1)
            child.run("while seen['word'] != 1: pass")
            assert child.run("bool((seen['values'] == 9).all())")
            stream.synchronize()
            del word, values


def test_a_stream_waits_for_a_word_of_another_process(gpu: Any) -> None:
    torch = library("torch")
    with psyne.sender("ipc://signal", Signal, stages=[Stage("gpu", mutate=True)], capacity=2) as tx, Child() as child:
        child.run("rx = psyne.receiver('ipc://signal', stage='gpu')")
        with tx.loan() as m:
            m.values[:] = 1
            word, values = gpu.view(m.array["word"]), torch.from_dlpack(gpu.view(m.array["values"]))
        child.run("m = rx.receive()")
        stream, there = torch.cuda.Stream(), torch.zeros(N, device="cuda")
        torch.cuda.synchronize()
        gpu.wait_value(stream, word, 7)
        with torch.cuda.stream(stream):
            there.copy_(values)
        event = gpu.event(stream)
        assert not event.wait(timeout=0.2)
        child.run("m.values[:] = 4; m.word = 7")
        assert event.wait(timeout=60)
        assert bool((there == 4).all())
        child.run("m.release()")
        del word, values


def test_pages_that_nobody_registered_are_read_where_the_gpu_can(gpu: Any, tell: Callable[[str], None]) -> None:
    cupy = library("cupy")
    if not cu.driver().attribute(cu.PAGEABLE_MEMORY_ACCESS, gpu.ordinal):
        pytest.skip("this GPU reads no pages that nobody registered (HMM)")
    with psyne.sender("ipc://floats", Floats, capacity=2) as tx, tx.loan() as m:
        m.array[:] = 2
        memory = cupy.cuda.UnownedMemory(m.array.ctypes.data, m.array.nbytes, m, 0)
        x = cupy.ndarray((N,), cupy.float32, cupy.cuda.MemoryPointer(memory, 0))
        x += 1
        cupy.cuda.Device().synchronize()
        assert (m.array == 3).all()
        tell("kernels read and write messages that were not registered")
        m.discard()


def test_a_device_that_was_closed_registers_anew(gpu: Any) -> None:
    with psyne.sender("ipc://floats", Floats, capacity=2) as tx, tx.loan() as m:
        view = gpu.view(m)
        del view
        gpu.close()
        with psyne.device("cuda:0") as anew:
            assert anew is not gpu
            assert by_torch(anew.view(m))
        m.discard()


def test_an_upload_is_a_copy_of_a_message(gpu: Any) -> None:
    torch = library("torch")
    with psyne.sender("ipc://floats", Floats, capacity=2) as tx, tx.loan() as m:
        m.array[:] = np.arange(N)
        copy = gpu.upload(m)
        assert copy.event.wait(timeout=60)
        torch.from_dlpack(copy).add_(1)
        torch.cuda.synchronize()
        assert (copy.numpy() == np.arange(N) + 1).all()
        m.discard()


# ---- messages that stay in memory of the GPU -----------------------------------------------------------------------

READER = """
import torch
rx = psyne.receiver("ipc://resident", device="cuda:0")
rx.try_receive()
stream = torch.cuda.Stream()
def read(n=1):
    seen = []
    for _ in range(n):
        with rx.receive(timeout=60) as m, torch.cuda.stream(stream):
            x = torch.from_dlpack(m)
            seen.append((x.min(), x.max()))
            del x
    return [(a.item(), b.item()) for a, b in seen]
"""


def test_a_message_that_stays_on_the_gpu_is_read_by_another_process_after_the_kernel_that_writes_it(gpu: Any) -> None:
    torch = library("torch")
    stream = torch.cuda.Stream()
    with psyne.sender("ipc://resident", Floats, device="cuda:0", capacity=2) as tx, Child() as child:
        child.run(READER)
        child.begin("read(50)")
        for n in range(50):
            m = tx.loan(timeout=60)
            with torch.cuda.stream(stream):
                x = torch.from_dlpack(m)
                assert x.data_ptr() == m.pointer
                x.fill_(-1)
                torch.cuda._sleep(5_000_000)  # a fence that is missing is seen
                x.fill_(n)
                del x
            tx.send(m, stream=stream)
        assert child.result() == [(float(n), float(n)) for n in range(50)]
        tx.drain(timeout=60)


def test_a_slot_waits_for_the_kernel_of_a_reader(gpu: Any) -> None:
    torch = library("torch")
    with psyne.sender("ipc://resident", Floats, device="cuda:0", capacity=1) as tx, Child() as child:
        child.run(READER)
        tx.send(np.full(N, 7, "f4"))
        child.run(
            "with torch.cuda.stream(stream):\n"
            "    m = rx.receive(timeout=60); x = torch.from_dlpack(m)\n"
            "    torch.cuda._sleep(500_000_000); kept = x.clone(); del x; m.release()"
        )
        assert tx.try_loan() is None
        with tx.loan(timeout=60) as m:
            torch.from_dlpack(m).fill_(0)
        assert child.run("stream.synchronize(); bool((kept == 7).all())")


@pytest.mark.parametrize(
    "take", ["cupy.asarray", "cupy.from_dlpack", "numba.cuda.as_cuda_array", "jax.dlpack.from_dlpack"]
)
def test_other_libraries_take_what_stays_on_the_gpu(take: str, gpu: Any) -> None:
    name, _, function = take.rpartition(".")
    library(name.partition(".")[0])
    module = library(name)
    with (
        psyne.sender("ipc://resident", Floats, device="cuda:0", capacity=1) as tx,
        psyne.receiver("ipc://resident", device="cuda:0") as rx,
    ):
        tx.send(np.arange(N, dtype="f4"))
        m = rx.receive()
        x = getattr(module, function)(m)
        to_the_cpu = getattr(x, "get", None) or getattr(x, "copy_to_host", None) or x.__array__
        assert (to_the_cpu() == np.arange(N)).all()
        del x, m, to_the_cpu


def test_the_message_of_a_reader_that_was_killed_goes_to_the_next_one(gpu: Any) -> None:
    library("torch")
    with psyne.sender("ipc://resident", Floats, device="cuda:0", capacity=2) as tx:
        with Child() as child:
            child.run(READER)
            tx.send(np.full(N, 1, "f4"))
            child.run("m = rx.receive(timeout=60); x = torch.from_dlpack(m)")
            child.kill()
        with Child() as child:
            child.run(READER.replace("rx.try_receive()", ""))
            assert child.run("read()") == [(1.0, 1.0)]


def test_what_is_left_of_messages_whose_sender_was_killed(gpu: Any, tell: Callable[[str], None]) -> None:
    library("torch")
    with Child() as child, Child() as reader:  # a driver that takes it ill ends one of these
        child.run("tx = psyne.sender('ipc://resident', psyne.Array('f4', (1 << 20,)), device='cuda:0', capacity=2)")
        reader.run(READER)
        child.run("tx.send(np.full(1 << 20, 3, 'f4')); psyne.device('cuda:0').event().wait()")
        reader.run("m = rx.receive(timeout=60); m.event.wait()")
        child.kill()
        try:
            left = reader.run("set(m.numpy()[:8].tolist())")
        except psyne.PsyneError as error:
            left = error
        tell(f"after its sender was killed a message with 3.0 reads {left}")
        with pytest.raises(psyne.SenderLost):
            reader.run("m.release(); rx.receive(timeout=60)")
