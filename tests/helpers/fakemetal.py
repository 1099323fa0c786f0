"""The stand-in for Metal, built once a session. On a Mac the tests run on its GPU instead."""

import gc
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from psyne.devices import metal_api

__all__ = ["REAL", "kernel", "left", "library", "of_the_stand_in"]

SOURCE = Path(__file__).with_suffix(".c")
KERNELS = Path(__file__).parent / "kernels" / "kernels.metal"
REAL = sys.platform == "darwin"

of_the_stand_in = pytest.mark.skipif(REAL, reason="on a Mac Metal itself is there, and does not do this when told")


@cache
def library() -> str:
    """The path of the library; the test is skipped where there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("the stand-in for Metal needs a C compiler")
    built = Path(tempfile.mkdtemp(prefix="psyne-fakemetal-")) / "libmetal.so"
    subprocess.run(
        [compiler, "-std=c11", "-O1", "-shared", "-fPIC", "-pthread", "-o", str(built), str(SOURCE)], check=True
    )
    return str(built)


def kernel(device: Any, name: str) -> Any:
    """A kernel of `KERNELS`."""
    return device.kernel(KERNELS.read_text(), name)


def left() -> int:
    """Objects of Objective-C that nobody has released; on a Mac nobody counts them."""
    gc.collect()
    if REAL:
        return 0
    (fake,) = metal_api.runtime().libraries
    return int(fake.fakeLiving())
