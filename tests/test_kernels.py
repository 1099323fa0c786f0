"""Kernels of the tools that people use, over a message in place: Vulkan, OpenCL, Warp, numba, torch, JAX and Arrow."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import psyne
from psyne import Array, Stage, interop
from psyne.devices import View
from psyne.testing import touch_test

from .helpers.maps import device_place, place
from .helpers.process import Child, run_program
from .helpers.writers import ON_GPU, WRITERS, Tool, needed, put, put_by_vulkan, put_by_warp, warp_kernel

Line = Array("f4", 4096)
EXAMPLES = Path(__file__).parents[1] / "examples"


def name_of(tool: Tool) -> str:
    return f"{tool.name}-gpu" if tool.sees else tool.name


@pytest.fixture(params=WRITERS, ids=name_of)
def tool(request: pytest.FixtureRequest) -> Tool:
    found: Tool = request.param
    needed(found.name, found.sees)
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


@pytest.mark.parametrize("tool", [*WRITERS, *ON_GPU], indirect=True, ids=name_of)
def test_another_process_sees_what_a_kernel_wrote_at_the_same_device_inode_and_offset(tool: Tool):
    stages = [Stage("change", mutate=True), "show"]
    with Child() as child, psyne.sender("ipc://lines", Line, stages=stages, align=256) as out:
        child.run("from maps import place; rx = psyne.receiver('ipc://lines', stage='show')")
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


# ---- the same source for a GPU --------------------------------------------------------------------------------------


def loaded(name: str) -> Any:
    """An example as a module."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(module := importlib.util.module_from_spec(spec))
    return module


def test_the_kernels_of_the_warp_example_compile_for_a_gpu(tmp_path: Path):
    needed("warp")
    import warp as wp

    module = loaded("35_warp")
    try:
        wp.compile_aot_module(module, arch=90, module_dir=tmp_path, use_ptx=True)
    except RuntimeError as error:
        pytest.skip(f"this Warp has no compiler for GPUs: {error}")
    (code,) = tmp_path.glob("*.ptx")
    assert all(f".entry {name}_" in code.read_text() for name in ("start", "move"))


def test_the_kernel_for_a_gpu_of_the_numba_example_computes_the_same_in_numbas_simulator(
    monkeypatch: pytest.MonkeyPatch,
):
    needed("numba")
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
