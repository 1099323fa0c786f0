"""The stand-in for the CUDA driver, built once a session."""

import ctypes
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import pytest

from psyne.devices import cuda_driver

__all__ = ["add", "left", "library", "new_stream", "run_until"]

SOURCE = Path(__file__).with_suffix(".c")


@cache
def library() -> str:
    """The path of the library; the test is skipped where there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("the stand-in for the CUDA driver needs a C compiler")
    built = Path(tempfile.mkdtemp(prefix="psyne-fakecuda-")) / "libcuda.so"
    subprocess.run(
        [compiler, "-std=c11", "-O1", "-shared", "-fPIC", "-pthread", "-o", str(built), str(SOURCE)], check=True
    )
    return str(built)


def add(device: object, view: object, number: float, stream: int = 0) -> None:
    """A kernel that adds a number to all float32 of a view or a copy."""
    with device.context() as driver:  # type: ignore[attr-defined]
        launch = driver.library.fakeAdd
        launch.argtypes = [ctypes.c_void_p, ctypes.c_uint64, ctypes.c_size_t, ctypes.c_float]
        assert launch(stream, view.pointer, view.nbytes // 4, number) == 0  # type: ignore[attr-defined]


def run_until(device: object, file: object, stream: int = 0) -> None:
    """A kernel that runs until a file is there."""
    with device.context() as driver:  # type: ignore[attr-defined]
        launch = driver.library.fakeWaitForFile
        launch.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
        assert launch(stream, str(file).encode()) == 0


def new_stream(device: object) -> int:
    """A stream that lives as long as the process."""
    made = ctypes.c_void_p()
    with device.context() as driver:  # type: ignore[attr-defined]
        driver.call("cuStreamCreate", ctypes.byref(made), 1)
    assert made.value is not None
    return made.value


def left() -> tuple[int, int]:
    """Ranges that are registered or allocated, and how often the context is retained."""
    fake = cuda_driver.driver().library
    return fake.fakeLeft(), fake.fakeRetained()
