"""Kernels of the tools that people use, over a message in place: Vulkan, OpenCL, Warp, numba, Triton, torch and JAX."""

import functools
import gc
import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import psyne
from psyne import Array, Stage, Struct, f32, interop, u64
from psyne.devices import unavailable
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

    @wp.kernel
    def put(x: wp.array(dtype=wp.float32), value: wp.float32):  # type: ignore[valid-type]
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
    Tool("cpu", lambda m: np.asarray(psyne.device("cpu").view(m)), put),
    Tool("vulkan", on("vulkan"), put_by_vulkan),
    Tool("opencl", on("opencl"), put_by_opencl),
    Tool("warp", interop.warp, put_by_warp),
    Tool("numba", interop.numba, put_by_numba),
    Tool("torch", interop.torch, put),
]


def needed(name: str) -> None:
    """Skips a test where a tool or a device is missing."""
    if name in ("vulkan", "opencl"):
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
    pytest.param("warp", interop.warp, lambda x: x[:1].numpy()[0], id="warp"),
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
                    if isinstance(made, psyne.devices.View):
                        assert device_place(made) == here  # by the mapping that its driver has
                    del made
                there, seen = child.run("with rx.receive() as m: it = place(m.array.ctypes.data), m.array.copy()\nit")
                assert there == here
                assert seen.tolist() == [n] + [7] * 4095
        child.run("rx.close()")
