"""Kernels of the tools that people use, over a message in place: Vulkan, OpenCL, Warp, numba, Triton, torch and JAX."""

import functools
import gc
import importlib.util
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest

import psyne
from psyne import Array, Stage, Struct, f32, interop, u64
from psyne.devices import View
from psyne.testing import assert_same_bytes, touch_test

from .helpers import fakecuda
from .helpers.process import HELPERS, Child, run_program

sys.path.insert(0, str(HELPERS))
from vulkan import SCALE, device_place, place, scaled  # type: ignore[import-not-found]

Line = Array("f4", 4096)
EXAMPLES = Path(__file__).parents[1] / "examples"


# ---- a kernel of each tool that sets the first element of a message --------------------------------------------------


def put_by_vulkan(view: Any, value: float) -> None:
    scaled(view.device.kernel(SCALE, push=8), view, 0, value).wait()


def put_by_opencl(view: Any, value: float) -> None:
    source = "__kernel void put(__global float *x, float value) { x[0] = value; }"
    view.device.kernel(source)(view, value, size=1).wait()


@functools.cache
def warp_kernel() -> tuple[Any, Any]:
    import warp as wp

    wp.config.quiet = True

    @wp.kernel  # type: ignore[untyped-decorator]
    def put(x: wp.array[float], value: float) -> None:
        x[wp.tid()] = value

    return wp, put


def put_by_warp(x: Any, value: float) -> None:
    wp, put = warp_kernel()
    wp.launch(put, dim=1, inputs=[x, value], device=x.device)


@functools.cache
def numba_kernel() -> Any:
    import numba

    @numba.njit  # type: ignore[untyped-decorator]
    def put(x: Any, value: float) -> None:
        x[0] = value

    return put


def put_by_numba(x: Any, value: float) -> None:
    numba_kernel()(x, np.float32(value))


def put(x: Any, value: float) -> None:
    x[0] = value


class Tool(NamedTuple):
    """What a tool has of the first element of a message (or of all of it), and how it writes there."""

    name: str
    take: Callable[[Any], Any]
    put: Callable[[Any, float], None]


def on(name: str) -> Callable[[Any], Any]:
    return lambda m: psyne.device(name).view(m.array[:1])


WRITERS = [
    Tool("cpu", on("cpu"), lambda view, value: put(np.asarray(view), value)),
    Tool("vulkan", on("vulkan"), put_by_vulkan),
    Tool("opencl", on("opencl"), put_by_opencl),
    Tool("warp", interop.warp, put_by_warp),
    Tool("numba", interop.numba, put_by_numba),
    Tool("torch", interop.torch, put),
]


def needed(name: str) -> None:
    """Skips a test where a tool or a device is missing."""
    if name in ("vulkan", "opencl"):  # are devices of psyne
        try:
            psyne.device(name)
        except psyne.DeviceUnavailable as error:
            pytest.skip(str(error))
    elif name != "cpu" and importlib.util.find_spec(name) is None:
        pytest.skip(f"not installed: {name}")


@pytest.fixture(params=WRITERS, ids=lambda tool: tool.name)
def tool(request: pytest.FixtureRequest) -> Tool:
    found: Tool = request.param
    needed(found.name)
    return found


# ---- nothing is copied ----------------------------------------------------------------------------------------------


def test_a_kernel_that_writes_one_element_of_256_mib_touches_a_page(tool: Tool):
    touch_test(tool.take, write=lambda made: tool.put(made, 1))


READERS = [
    pytest.param("jax", interop.jax, lambda x: float(x[0]), id="jax"),
    pytest.param("pyarrow", interop.arrow, lambda x: x[0].as_py(), id="arrow"),
]


@pytest.mark.parametrize(("name", "take", "read"), READERS)
def test_a_tool_that_reads_one_element_of_256_mib_touches_a_page(name: str, take: Any, read: Any):
    needed(name)
    touch_test(take, read=read)


def warp_copy(m: Any) -> Any:
    wp, _ = warp_kernel()
    return wp.from_numpy(m.array, device="cpu")


def jax_copy(m: Any) -> Any:
    import jax.numpy as jnp

    return jnp.array(m.array)


def upload(name: str) -> Callable[[Any], Any]:
    return lambda m: psyne.device(name).upload(m)


COPIES = [
    pytest.param("cpu", lambda m: np.copy(m.array), put, None, id="np.copy"),
    pytest.param("torch", lambda m: interop.torch(m).clone(), put, None, id="torch.clone"),
    pytest.param("warp", warp_copy, put_by_warp, None, id="wp.from_numpy"),
    pytest.param("jax", jax_copy, None, lambda x: float(x[0]), id="jnp.array"),
    pytest.param("cpu", upload("cpu"), None, lambda it: it.numpy()[0], id="cpu.upload"),
    pytest.param("vulkan", upload("vulkan"), put_by_vulkan, None, id="vulkan.upload"),
    pytest.param("opencl", upload("opencl"), None, lambda it: it.numpy()[0], id="opencl.upload"),
]


@pytest.mark.parametrize(("name", "take", "write", "read"), COPIES)
def test_what_copies_fails_the_touch_test(name: str, take: Any, write: Any, read: Any):
    needed(name)
    with pytest.raises(AssertionError, match="copied"):
        touch_test(take, write=lambda made: write(made, 1), read=read, nbytes=1 << 20)


def test_a_kernel_that_copies_back_shows_in_the_pages(tool: Tool):
    def copies(m: Any) -> Any:
        return tool.take(m), m.array.copy()

    with pytest.raises(AssertionError, match=r"touched 4,194,304 of 4,194,304 bytes"):
        touch_test(copies, write=lambda made: tool.put(made[0], 1), nbytes=4 << 20)


# ---- another process ------------------------------------------------------------------------------------------------


def test_another_process_sees_what_a_kernel_wrote_at_the_same_device_inode_and_offset(tool: Tool):
    stages = [Stage("change", mutate=True), "show"]
    with Child() as child, psyne.sender("ipc://lines", Line, stages=stages, align=256) as out:
        child.run("from vulkan import place; rx = psyne.receiver('ipc://lines', stage='show')")
        with psyne.receiver("ipc://lines", Line, stage="change") as rx:
            for n in range(1, 4):
                out.send(np.full(4096, 7, "f4"))
                with rx.receive() as m:
                    made = tool.take(m)
                    tool.put(made, n)
                    here = place(m.array.ctypes.data)
                    if isinstance(made, View):
                        assert device_place(made) == here  # by the mapping that its driver has
                    del made
                there, seen = child.run("with rx.receive() as m: it = place(m.array.ctypes.data), m.array.copy()\nit")
                assert there == here
                assert seen.tolist() == [n] + [7] * 4095
        child.run("rx.close()")


# ---- what Warp would do in silence ----------------------------------------------------------------------------------

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


def loaded(name: str) -> Any:
    """An example as a module."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(module := importlib.util.module_from_spec(spec))
    return module


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


# ---- the same source for a GPU --------------------------------------------------------------------------------------


@WARP
def test_the_kernels_of_the_warp_example_compile_for_a_gpu(tmp_path: Path):
    import warp as wp

    module = loaded("35_warp")
    try:
        wp.compile_aot_module(module, arch=90, module_dir=tmp_path, use_ptx=True)
    except RuntimeError as error:
        pytest.skip(f"this Warp has no compiler for GPUs: {error}")
    (code,) = tmp_path.glob("*.ptx")
    assert all(f".entry {name}_" in code.read_text() for name in ("start", "move"))


@NUMBA
def test_the_kernel_for_a_gpu_of_the_numba_example_computes_the_same_in_numbas_simulator(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("NUMBA_ENABLE_CUDASIM", "1")
    run_program(
        f"import sys; sys.path.insert(0, {str(EXAMPLES)!r})\n"
        "import importlib, psyne; it = importlib.import_module('36_numba')\n"
        "from numba.cuda.simulator.cudadrv.devicearray import FakeCUDAArray as Fake\n"
        "tx, rx = psyne.channel(it.Frame)\n"
        "with tx.loan() as m:\n"
        "    m.image[:] = 60\n"
        "    it.on_gpu[3, it.THREADS](Fake(m.image[:300]), Fake(m.light[:300]), 2.0)\n"
        "with rx.receive() as m: assert (m.light[:300] == 120).all() and m.light[300] == 0\n"
    )
