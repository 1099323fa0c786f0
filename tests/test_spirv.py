"""Shaders as psyne reads them: GLSL that is compiled, and SPIR-V that says what a kernel binds."""

from typing import Any

import numpy as np
import pytest

import psyne
from psyne.devices import spirv

from .helpers.vulkan import KERNELS, SCALE
from .helpers.vulkan_fixtures import GLSL, dev

__all__ = ["dev"]  # fixtures


@GLSL
@pytest.mark.parametrize("name", ["scale", "add"])
def test_a_compiled_kernel_is_what_its_source_says(name: str):
    kept, made = (KERNELS / f"{name}.spv").read_bytes(), spirv.compiled((KERNELS / f"{name}.comp").read_text())
    if kept[8:12] == made[8:12]:  # the compiler and its version
        assert kept == made
    a, b = spirv.read(kept), spirv.read(made)
    assert (a.entry, a.local_size, a.writes, a.pushes) == (b.entry, b.local_size, b.writes, b.pushes)


@GLSL
def test_a_shader_that_does_not_compile_says_where(dev: Any):
    with pytest.raises(psyne.InvalidArgument, match=r"does not compile:(.|\n)*:3: .*nonsense"):
        dev.kernel("#version 450\nlayout(local_size_x = 1) in;\nvoid main() { nonsense = 1; }\n")


def test_without_a_compiler_glsl_is_refused_and_says_what_to_install(dev: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(psyne.DeviceUnavailable, match="apt install glslang-tools"):
        dev.kernel("#version 450\nvoid main() {} // never seen before\n")
    dev.kernel(SCALE, push=8)


BLOCK = "layout(std430, set = 0, binding = 0) buffer B { uint x[]; } b"


@GLSL
@pytest.mark.parametrize(
    ("declaration", "use", "text"),
    [
        ("layout(set = 0, binding = 0) uniform U { uint x; } u", "u.x", "a uniform, an image or a sampler"),
        (
            "layout(set = 0, binding = 0, r32ui) uniform uimage2D i",
            "imageSize(i).x",
            "a uniform, an image or a sampler",
        ),
        (BLOCK + "[2]", "b[1].x[0]", "array of buffers"),
        (BLOCK.replace("set = 0", "set = 1"), "b.x[0]", "outside of set 0"),
        (BLOCK.replace("binding = 0", "binding = 3"), "b.x[0]", "uses binding 3, so it takes 4 buffers, not 1"),
        ("layout(push_constant) uniform P { uint x; }", "x", "say with push="),
    ],
)
def test_a_shader_with_what_kernels_do_not_bind_is_refused(dev: Any, declaration: str, use: str, text: str):
    source = f"#version 450\n{declaration};\nshared uint seen;\nvoid main() {{ seen = {use}; }}\n"
    with pytest.raises(psyne.InvalidArgument, match=text):
        dev.kernel(source, buffers=1)


@GLSL
def test_a_buffer_that_is_written_by_one_of_its_names_is_written():
    names = ("buffer A { uint a[]; }", "readonly buffer B { uint b[]; }")
    for one, other in (names, names[::-1]):
        blocks = "".join(f"layout(std430, set = 0, binding = 0) {it};\n" for it in (one, other))
        code = spirv.compiled(f"#version 450\n{blocks}void main() {{ a[0] = b[0]; }}\n")
        assert spirv.read(code).writes == {0: True}


def test_bytes_that_are_no_shader_are_refused(dev: Any):
    words = np.frombuffer(SCALE, "u4")
    empty = words[:5].tobytes()
    cut = empty + np.uint32(900 << 16 | 71).tobytes()
    zero = empty + bytes(4)
    short = empty + np.uint32(1 << 16 | 59).tobytes()
    for data, text in [
        (b"", "words of 4 bytes"),
        (SCALE[:-1], "words of 4 bytes"),
        (b"#version 450 ... 20 bytes at least ...  ", "handed over as str"),
        (empty, "one compute shader is wanted; this one has 0"),
        (cut, "cut off"),
        (zero, "cut off"),
        (short, "damaged"),
    ]:
        with pytest.raises(psyne.InvalidArgument, match=text):
            dev.kernel(data)
