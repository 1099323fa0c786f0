"""A kernel of each tool that sets the first element of a message."""

import functools
import importlib
import importlib.util
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

import psyne
from psyne import interop
from psyne.devices import unavailable

from .process import HELPERS

sys.path.insert(0, str(HELPERS))
from vulkan import SCALE, scaled  # type: ignore[import-not-found]

__all__ = ["ON_GPU", "WRITERS", "Tool", "needed", "put", "put_by_numba", "put_by_vulkan", "put_by_warp", "warp_kernel"]


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


@functools.cache
def numba_kernel_of_gpu() -> Any:
    from numba import cuda

    @cuda.jit  # type: ignore[untyped-decorator]
    def put(x: Any, value: float) -> None:
        x[0] = value

    return put


class Tool(NamedTuple):
    """What a tool has of the first element of a message (or of all of it), and how it writes there."""

    name: str
    take: Callable[[Any], Any]
    put: Callable[[Any, float], None]
    sees: Callable[[], bool] | None = None
    """Does it see a GPU, which it then needs?"""


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


def on_gpu(name: str, put: Callable[[Any, float], None], sees: Callable[[], bool]) -> Tool:
    """The same on a real GPU: by the array that the library has of a view there."""

    def take(m: Any) -> Any:
        return getattr(interop, name)(psyne.device("cuda:0").view(m.array[:1]))

    def put_and_wait(x: Any, value: float) -> None:
        put(x, value)
        psyne.device("cuda:0").event().wait()

    return Tool(name, take, put_and_wait, sees)


ON_GPU = [
    on_gpu("warp", put_by_warp, lambda: bool(warp_kernel()[0].is_cuda_available())),
    on_gpu(
        "numba",
        lambda x, value: numba_kernel_of_gpu()[1, 1](x, np.float32(value)),
        lambda: bool(importlib.import_module("numba.cuda").is_available()),
    ),
    on_gpu("torch", put, lambda: bool(importlib.import_module("torch").cuda.is_available())),
]


def needed(name: str, sees: Callable[[], bool] | None = None) -> None:
    """Skips a test where a tool, a device or the GPU that it needs is missing."""
    if sees is not None and (why := unavailable().get("cuda")) is not None:
        pytest.skip(f"for a real GPU: {why}")
    if name in ("vulkan", "opencl"):  # are devices of psyne
        try:
            psyne.device(name)
        except psyne.DeviceUnavailable as error:
            pytest.skip(str(error))
    elif name != "cpu" and importlib.util.find_spec(name) is None:
        pytest.skip(f"not installed: {name}")
    elif sees is not None and not sees():
        pytest.skip(f"{name} sees no GPU")
