"""Shaders: GLSL compiled to SPIR-V by the tools that are there, and what a SPIR-V module says of its buffers.

A driver takes a shader's word for it. So what is handed to a shader is compared with this first: a buffer that nobody
bound, or a write into read-only pages, would end the process.
"""

from __future__ import annotations

import functools
import shutil
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import DeviceUnavailable, InvalidArgument

__all__ = ["Shader", "compiled", "read"]

SOURCE = "shader.comp"  # by its name a compiler knows what it is
MAGIC = 0x07230203
HEADER_WORDS = 5
GL_COMPUTE = 5  # execution model
LOCAL_SIZE = 17  # execution mode

ENTRY_POINT, EXECUTION_MODE, TYPE_STRUCT, TYPE_POINTER, VARIABLE, DECORATE, MEMBER_DECORATE = 15, 16, 30, 32, 59, 71, 72
BLOCK, BUFFER_BLOCK, NON_WRITABLE, BINDING, DESCRIPTOR_SET = 2, 3, 24, 33, 34  # decorations
UNIFORM_CONSTANT, UNIFORM, PUSH_CONSTANT, STORAGE_BUFFER = 0, 2, 9, 12  # storage classes


@dataclass(frozen=True)
class Shader:
    """A compute shader, and what it says of itself."""

    code: bytes
    entry: str
    local_size: tuple[int, int, int]
    """Threads in a group; (1, 1, 1) where a specialisation decides."""
    writes: dict[int, bool]
    """The bindings of its storage buffers, all in set 0; False: declared `readonly`."""
    pushes: bool
    """Has it push constants?"""


@functools.lru_cache(maxsize=256)
def compiled(text: str) -> bytes:
    """SPIR-V of a GLSL compute shader. Raises InvalidArgument, with what the compiler says; DeviceUnavailable."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, SOURCE).write_text(text, encoding="utf-8")
        if (compiler := shutil.which("glslangValidator")) is not None:
            command = [compiler, "-V", "--target-env", "vulkan1.1", "-o", "spv", SOURCE]
        elif (compiler := shutil.which("glslc")) is not None:
            command = [compiler, "--target-env=vulkan1.1", "-o", "spv", SOURCE]
        else:
            raise DeviceUnavailable(
                "no GLSL compiler is installed: apt install glslang-tools (or glslc), or hand over SPIR-V as bytes"
            )
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
        made = Path(directory, "spv")
        if done.returncode != 0 or not made.exists():
            said = "\n".join(line for line in (done.stdout + done.stderr).splitlines() if line not in ("", SOURCE))
            raise InvalidArgument(f"this GLSL does not compile:\n{said}")
        return made.read_bytes()


def read(code: bytes) -> Shader:
    """What a SPIR-V module with one compute shader says of itself. Raises InvalidArgument for everything else."""
    entries: dict[int, str] = {}
    sizes: dict[int, tuple[int, int, int]] = {}
    decorations: dict[int, dict[int, int]] = defaultdict(dict)
    read_only_members: dict[int, set[int]] = defaultdict(set)
    members: dict[int, int] = {}
    pointees: dict[int, int] = {}
    variables: list[tuple[int, int, int]] = []  # pointer type, id, storage class
    for operation, a in _instructions(code):
        if operation == ENTRY_POINT and a[0] == GL_COMPUTE:
            entries[a[1]] = _text(a[2:])
        elif operation == EXECUTION_MODE and a[1] == LOCAL_SIZE and len(a) == 5:
            sizes[a[0]] = (a[2], a[3], a[4])
        elif operation == DECORATE:
            decorations[a[0]][a[1]] = a[2] if len(a) > 2 else 1
        elif operation == MEMBER_DECORATE and a[2] == NON_WRITABLE:
            read_only_members[a[0]].add(a[1])
        elif operation == TYPE_STRUCT:
            members[a[0]] = len(a) - 1
        elif operation == TYPE_POINTER:
            pointees[a[0]] = a[2]
        elif operation == VARIABLE:
            variables.append((a[0], a[1], a[2]))
    if len(entries) != 1:
        raise InvalidArgument(f"a SPIR-V module with one compute shader is wanted; this one has {len(entries)}")
    [(main, name)] = entries.items()
    writes: dict[int, bool] = {}
    for pointer, variable, storage in variables:
        block = pointees.get(pointer, 0)
        if storage not in (UNIFORM, UNIFORM_CONSTANT, STORAGE_BUFFER):
            continue
        if storage == UNIFORM_CONSTANT or (storage == UNIFORM and BUFFER_BLOCK not in decorations[block]):
            raise InvalidArgument(
                "this shader has a uniform, an image or a sampler; a kernel gets storage buffers and push constants: "
                "`layout(std430, set = 0, binding = n) buffer`"
            )
        if block not in members:
            raise InvalidArgument(
                "this shader has an array of buffers; a kernel gets each buffer with a binding of its own"
            )
        if decorations[variable].get(DESCRIPTOR_SET, 0) != 0:
            raise InvalidArgument("this shader has a buffer outside of set 0, where kernels have theirs")
        read_only = NON_WRITABLE in decorations[variable] or len(read_only_members[block]) == members[block]
        binding = decorations[variable].get(BINDING, 0)
        writes[binding] = writes.get(binding, False) or not read_only
    pushes = any(storage == PUSH_CONSTANT for _, _, storage in variables)
    return Shader(code, name, sizes.get(main, (1, 1, 1)), writes, pushes)


def _instructions(code: bytes) -> Iterator[tuple[int, Sequence[int]]]:
    """The instructions of a module: operation and operands."""
    if len(code) % 4 != 0 or len(code) < HEADER_WORDS * 4:
        raise InvalidArgument(f"SPIR-V is words of 4 bytes with a header of 20 bytes; these are {len(code)} bytes")
    words = np.frombuffer(code, "u4").tolist()
    if words[0] != MAGIC:
        raise InvalidArgument(f"SPIR-V begins with {MAGIC:#010x}, not {words[0]:#010x}; GLSL is handed over as str")
    at = HEADER_WORDS
    while at < len(words):
        n, operation = words[at] >> 16, words[at] & 0xFFFF
        if n == 0 or at + n > len(words):
            raise InvalidArgument(f"this SPIR-V is cut off: an instruction of {n} words at word {at} of {len(words)}")
        operands = words[at + 1 : at + n]
        if len(operands) < LEAST.get(operation, 0):
            raise InvalidArgument(f"this SPIR-V is damaged: operation {operation} at word {at} has {n} words")
        yield operation, operands
        at += n


LEAST = {
    ENTRY_POINT: 3,
    EXECUTION_MODE: 2,
    TYPE_STRUCT: 1,
    TYPE_POINTER: 3,
    VARIABLE: 3,
    DECORATE: 2,
    MEMBER_DECORATE: 3,
}


def _text(words: Sequence[int]) -> str:
    return np.array(words, "u4").tobytes().partition(b"\0")[0].decode(errors="replace")
