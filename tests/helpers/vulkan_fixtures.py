"""A Vulkan device, a kernel and channels for its tests, which are skipped where there is none."""

import gc
import os
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import psyne

from .planes import MUTATES, Plane, Words
from .vulkan import SCALE

__all__ = ["GLSL", "HEADERS", "INCLUDE", "Imports", "dev", "imports", "out", "scale", "slowly", "words"]

try:
    psyne.device("vulkan")
except psyne.DeviceUnavailable as error:
    pytest.skip(f"no Vulkan: {error}", allow_module_level=True)

GLSL = pytest.mark.skipif(
    not (shutil.which("glslangValidator") or shutil.which("glslc")), reason="no GLSL compiler is installed"
)
INCLUDE = Path(os.environ.get("VULKAN_HEADERS", "/usr/include"))
HEADERS = pytest.mark.skipif(
    not Path(INCLUDE, "vulkan", "vulkan_core.h").exists() or shutil.which("gcc") is None,
    reason="no gcc, or no vulkan/vulkan_core.h: apt install gcc libvulkan-dev",
)


@pytest.fixture
def dev() -> Any:
    return psyne.device("vulkan")


@pytest.fixture
def scale(dev: Any) -> Any:
    return dev.kernel(SCALE, push=8)


@pytest.fixture
def out() -> Iterator[Any]:
    with psyne.sender("ipc://planes", Plane, capacity=8, stages=MUTATES) as out:
        yield out


@pytest.fixture
def words() -> Iterator[Any]:
    with (
        psyne.sender("ipc://words", Words, capacity=1) as out,
        psyne.receiver("ipc://words", Words) as rx,
    ):
        yield out, rx


def slowly(kernel: Any, view: Any, steps: int = 50_000_000) -> Any:
    return kernel(view, push=struct.pack("I", steps))


class Imports:
    """Counts what the driver has been given, and what it has given back."""

    def __init__(self, api: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made = self.freed = 0
        allocate, free = api.vkAllocateMemory, api.vkFreeMemory

        def allocated(*arguments: Any) -> int:
            result = allocate(*arguments)
            self.made += 1
            return int(result)

        def given_back(*arguments: Any) -> None:
            self.freed += 1
            free(*arguments)

        monkeypatch.setattr(api, "vkAllocateMemory", allocated)
        monkeypatch.setattr(api, "vkFreeMemory", given_back)

    @property
    def live(self) -> int:
        gc.collect()
        return self.made - self.freed


@pytest.fixture
def imports(dev: Any, monkeypatch: pytest.MonkeyPatch) -> Imports:
    return Imports(dev.vulkan.api, monkeypatch)
