"""Vulkan devices on a real driver, Mesa's lavapipe where there is no GPU: kernels on messages in place."""

import gc
import os
import shutil
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import psyne
from psyne import Array, Stage, Struct, f32, u64
from psyne.devices import spirv, vulkan_api, vulkan_memory
from psyne.devices.vulkan_driver import api as driver_api
from psyne.devices.vulkan_driver import preferred
from psyne.testing import touch_test

from .helpers.process import HELPERS, Child, run_program, until

sys.path.insert(0, str(HELPERS))
import vulkan as help  # type: ignore[import-not-found]
from vulkan import ADD, KERNELS, SCALE, SLOW, device_place, mappings, place, scaled

try:
    psyne.device("vulkan")
except psyne.DeviceUnavailable as error:
    pytestmark = pytest.mark.skip(reason=f"no Vulkan: {error}")

GLSL = pytest.mark.skipif(
    not (shutil.which("glslangValidator") or shutil.which("glslc")), reason="no GLSL compiler is installed"
)
INCLUDE = Path(os.environ.get("VULKAN_HEADERS", "/usr/include"))
HEADERS = pytest.mark.skipif(
    not Path(INCLUDE, "vulkan", "vulkan_core.h").exists() or shutil.which("gcc") is None,
    reason="no gcc, or no vulkan/vulkan_core.h: apt install gcc libvulkan-dev",
)
N = 4096
Plane = Array("f4", N)
Words = Array("u4", 1024)
MUTATES = [Stage("change", mutate=True), "show"]


class Frame(Struct, layout="columns"):
    stamp = u64()
    image = f32(16, 64)


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


def change() -> Any:
    return psyne.receiver("ipc://planes", Plane, stage="change")


def show() -> Any:
    return psyne.receiver("ipc://planes", Plane, stage="show")


def ramp() -> Any:
    return np.arange(N, dtype="f4")


# ---- the same bytes -------------------------------------------------------------------------------------------------


def test_a_kernel_changes_a_message_in_place_and_another_process_sees_it_in_its_own_mapping(
    dev: Any, scale: Any, out: Any
):
    with Child() as child:
        child.run("import vulkan; rx = psyne.receiver('ipc://planes', stage='show')")
        with change() as rx:
            out.send(ramp())
            with rx.receive() as m:
                view = dev.view(m)
                ours, devices = place(m.array.ctypes.data), device_place(view)
                assert scaled(scale, view, 2, 1).wait()
                assert (m.array == ramp() * 2 + 1).all()
        theirs, seen = child.run("m = rx.receive(); (vulkan.place(m.array.ctypes.data), m.array.copy())")
        assert ours == devices == theirs
        assert (seen == ramp() * 2 + 1).all()


def test_a_kernel_sees_what_another_process_wrote_after_the_slab_was_imported(dev: Any, scale: Any, out: Any):
    add = dev.kernel(ADD)
    with Child() as child, show() as rx, psyne.sender("ipc://sums", Plane) as sums:
        child.run("rx = psyne.receiver('ipc://planes', stage='change')")
        with out.loan() as m:
            assert scaled(scale, dev.view(m), 0, 3).wait()  # the slab is imported here
        child.run("with rx.receive() as m: m.array[:] = np.arange(4096)")
        with rx.receive() as m, sums.loan() as total:
            total.array[:] = 5
            assert add(dev.view(m), dev.view(total), groups=N // 64).wait()
            assert (total.array == ramp() + 5).all()


def operand(dev: Any, memory: Any, nbytes: int) -> Any:
    """What kernels take, over memory of the test's own."""
    return SimpleNamespace(
        device=dev, memory=memory, buffer=memory.handle, offset=0, nbytes=nbytes, check_writable=lambda what: None
    )


def test_an_import_does_not_copy(dev: Any, scale: Any):
    def adapter(m: Any) -> Any:
        pages = SimpleNamespace(address=m.array.ctypes.data, nbytes=m.array.nbytes)
        return operand(dev, vulkan_memory.imported(dev.vulkan, pages, True), 4)

    touch_test(adapter, write=lambda it: scaled(scale, it, 0, 1).wait())  # a sparse 256 MiB, one element written


def test_the_touch_test_catches_an_adapter_that_copies(dev: Any, scale: Any):
    def copies_in(m: Any) -> Any:
        memory = vulkan_memory.allocated(dev.vulkan, m.array.nbytes, visible=True)
        address = vulkan_memory.address_of(dev.vulkan, memory)
        copy = np.frombuffer((vulkan_api.c_char * m.array.nbytes).from_address(address), "f4")
        copy[:] = m.array
        return m, copy, operand(dev, memory, 4)

    def write(made: Any) -> None:
        scaled(scale, made[2], 0, 1).wait()

    def write_and_copy_back(made: Any) -> None:
        write(made)
        made[0].array[:] = made[1]

    for how in (write, write_and_copy_back):
        with pytest.raises(AssertionError, match="copied"):
            touch_test(copies_in, write=how, nbytes=1 << 20)


def test_a_slab_is_imported_once_and_a_message_is_an_offset_in_it(dev: Any, scale: Any, imports: Any, out: Any):
    views = []
    for n in range(8):
        m = out.loan()
        m.array[:] = n
        views.append(dev.view(m))
        out.send(m) if n % 2 else m.discard()
    assert len({view.buffer for view in views}) == 1
    assert len({view.offset for view in views}) > 4
    assert imports.made == 1


def test_parts_batches_and_columns_are_seen_where_they_lie(dev: Any, scale: Any):
    with (
        psyne.sender("ipc://frames", Frame, capacity=16, stages=MUTATES) as out,
        psyne.receiver("ipc://frames", Frame, stage="change") as rx,
    ):
        for n in range(8):
            out.send(Frame(stamp=n, image=np.full((16, 64), n)))
        with rx.receive_many(5) as batch:
            assert scaled(scale, dev.view(batch["image"]), 10, 0).wait()
            assert scaled(scale, dev.view(batch["image"][2]), 1, 5).wait()
            assert scaled(scale, dev.view(batch[3].image[4:6, :]), 1, 7).wait()
            expected = np.zeros((5, 16, 64), "f4") + np.arange(0, 50, 10, dtype="f4")[:, None, None]
            expected[2] += 5
            expected[3, 4:6] += 7
            assert (batch["image"] == expected).all()
            assert (batch["stamp"] == np.arange(5)).all()
        with rx.receive() as m:
            assert (m.image == 5).all()  # the neighbour


@GLSL
def test_a_kernel_that_writes_past_its_message_does_not_reach_the_next(dev: Any, out: Any):
    beyond = dev.kernel("""
        #version 450
        layout(local_size_x = 64) in;
        layout(std430, set = 0, binding = 0) buffer Message { float x[]; } message;
        void main() { message.x[gl_GlobalInvocationID.x + 64] = 9; }
    """)
    with out.loan_many(2) as batch:
        batch.array[:] = 1
        assert beyond(dev.view(batch[0].array[:64]), groups=4).wait()
        assert beyond(dev.view(batch[0]), groups=N // 64).wait()
        assert (batch[0].array[:64] == 1).all()
        assert (batch[0].array[64:] == 9).all()
        assert (batch[1].array == 1).all()


def test_rings_that_grow_are_imported_slab_by_slab(dev: Any, scale: Any, imports: Any):
    with (
        psyne.sender("ipc://planes", Plane, full="grow", capacity=2, stages=MUTATES) as out,
        change() as rx,
    ):
        for n in range(40):
            out.send(np.full(N, n, "f4"))
        slabs = set()
        for n in range(40):
            with rx.receive() as m:
                view = dev.view(m)
                slabs.add(psyne._native.region(m.array).key)
                assert scaled(scale, view, 1, 0.5).wait()
                assert (m.array == n + 0.5).all()
    assert len(slabs) > 1
    assert imports.made == len(slabs)


def test_a_message_in_an_extent_is_imported_as_long_as_it_lives(dev: Any, scale: Any, imports: Any):
    Blob = Array("f4", ndim=1, max_bytes=1 << 22)
    with (
        psyne.sender("ipc://blobs", Blob, full="grow", stages=MUTATES) as out,
        psyne.receiver("ipc://blobs", Blob, stage="change") as rx,
    ):
        for n in (10, 300_000, 500_000):
            out.send(np.full(n, 3, "f4"))
        for n in (10, 300_000, 500_000):
            with rx.receive() as m:
                assert scaled(scale, dev.view(m), 2, 1).wait()
                assert (m.array == np.full(n, 7)).all()
        gc.collect()
        assert imports.made - imports.live >= 2  # those of the two extents are gone


def test_anonymous_channels_and_their_handed_over_ends_work_too(dev: Any, scale: Any):
    tx, rx = psyne.channel(Plane)
    with tx, rx:
        with tx.loan() as m:
            m.array[:] = 1
            assert scaled(scale, dev.view(m), 4, 0).wait()
        with rx.receive() as m:
            assert (m.array == 4).all()


def test_a_pipeline_has_a_stage_on_the_device(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYTHONPATH", str(HELPERS) + os.pathsep + os.environ.get("PYTHONPATH", ""))

    import vulkan_stages  # type: ignore[import-not-found]

    pipe = psyne.Pipeline()
    camera = pipe.source(vulkan_stages.capture, vulkan_stages.Image, name="camera")
    camera.stage(help.ScaleStage, mutate=True)
    camera.stage(vulkan_stages.check)
    report = pipe.run()
    assert [stage.messages for stage in report.source("camera").stages] == [vulkan_stages.COUNT] * 2


# ---- what is refused, before a driver sees it -----------------------------------------------------------------------


def test_what_lies_where_the_device_cannot_begin_is_refused_and_can_be_uploaded(dev: Any, scale: Any, out: Any):
    with out.loan() as m:
        m.array[:] = ramp()
        with pytest.raises(psyne.CannotShare, match=r"needs an address that \d+ divides.*\(rest 4\).*align="):
            dev.view(m.array[1:])
        assert (dev.upload(m.array[1:]).numpy() == ramp()[1:]).all()


def test_a_read_only_message_goes_to_a_kernel_that_reads_it_and_to_no_other(dev: Any, scale: Any, out: Any):
    add = dev.kernel(ADD)
    assert add.shader.writes == {0: False, 1: True}
    with change() as first, show() as last:
        out.send(ramp())
        first.receive().release()
        with last.receive() as m, out.loan() as total:
            total.array[:] = 1
            assert add(dev.view(m), dev.view(total), groups=N // 64).wait()
            assert (total.array == ramp() + 1).all()
            for refused in (lambda: scaled(scale, dev.view(m), 2, 0), lambda: add(dev.view(total), dev.view(m))):
                with pytest.raises(psyne.ReadOnly, match=r"buffer \d of this kernel"):
                    refused()
            with pytest.raises(psyne.ReadOnly, match="cannot be written"):
                dev.view(m, writable=True)
            with pytest.raises(psyne.ReadOnly, match="writable=False"):
                scaled(scale, dev.view(total, writable=False), 2, 0)
            assert (m.array == ramp()).all()


def test_without_that_check_the_driver_ends_the_process(dev: Any):
    if "llvmpipe" not in dev.info.product:
        pytest.skip("a GPU does not fault in this process")
    with psyne.sender("ipc://planes", Plane, stages=MUTATES) as out, Child() as child:
        out.send(ramp())
        child.run("first = psyne.receiver('ipc://planes', stage='change'); first.receive().release()")
        child.begin(
            "import vulkan; dev = psyne.device('vulkan'); kernel = dev.kernel(vulkan.SCALE, push=8)\n"
            "m = psyne.receiver('ipc://planes', stage='show').receive(); view = dev.view(m)\n"
            "view.check_writable = lambda what: None\n"
            "vulkan.scaled(kernel, view, 2, 0).wait()"
        )
        assert child.process.wait() == -signal.SIGSEGV


def test_a_message_that_was_sent_is_not_written_by_a_view_of_its_loan(dev: Any, scale: Any, out: Any):
    m = out.loan()
    m.array[:] = 1
    view = dev.view(m)
    out.send(m)
    with pytest.raises(psyne.ReadOnly):
        scaled(scale, view, 2, 0)
    del view
    with pytest.raises(psyne.MessageReleased):
        dev.view(m)


def test_memory_that_is_no_channels_is_refused(dev: Any, scale: Any, out: Any):
    with out.loan() as m:
        foreign = [ramp(), m.array.copy(), Plane(), np.frombuffer(bytearray(64), "f4")]
        for it in foreign:
            with pytest.raises(psyne.CannotShare):
                dev.view(it)
        for it in (m.array[:0], m.array[::-1]):
            with pytest.raises(psyne.CannotShare):
                dev.view(it)
        with pytest.raises(TypeError, match="a message, a batch or an array"):
            dev.view(7)
        for it in (m, m.array, None):
            with pytest.raises(psyne.InvalidArgument, match="a kernel takes what view"):
                scale(it, push=bytes(8))
        m.discard()


def test_pages_that_the_driver_could_not_take_are_refused_with_the_rest(dev: Any, monkeypatch: pytest.MonkeyPatch):
    pages = SimpleNamespace(address=1 << 20, nbytes=3 << 16)
    monkeypatch.setattr(dev.vulkan.physical, "pointer_alignment", 1 << 17)
    with pytest.raises(psyne.CannotShare, match=r"as a pointer: address and size .* 131,072 .* 0 and 65,536"):
        vulkan_memory.imported(dev.vulkan, pages, True)
    monkeypatch.setattr(dev.vulkan.physical, "pointer_alignment", 1 << 12)
    monkeypatch.setattr(dev.vulkan.physical, "max_allocation", 1 << 16)
    with pytest.raises(psyne.CannotShare, match="at most 65,536 bytes there: a smaller capacity="):
        vulkan_memory.imported(dev.vulkan, pages, True)
    monkeypatch.setattr(dev.vulkan, "extensions", [])
    with pytest.raises(psyne.CannotShare, match="has neither VK_EXT_external_memory_host nor"):
        vulkan_memory.imported(dev.vulkan, pages, True)


def test_a_kernel_is_called_as_it_was_declared(dev: Any, scale: Any, out: Any, monkeypatch: pytest.MonkeyPatch):
    with out.loan() as m:
        view = dev.view(m)
        for arguments, options, text in [
            ((), {}, "takes 1 buffers, and got 0"),
            ((view, view), {}, "takes 1 buffers, and got 2"),
            ((view,), {"push": b"1234"}, "has 8 bytes of push constants, and got 4"),
            ((view,), {"push": bytes(8), "groups": 0}, "groups=0"),
            ((view,), {"push": bytes(8), "groups": (1, -1)}, "groups="),
            ((view,), {"push": bytes(8), "groups": (1, 1, 1, 1)}, "groups="),
            ((view,), {"push": bytes(8), "groups": 1 << 40}, "numbers from 1 to"),
        ]:
            with pytest.raises(psyne.InvalidArgument, match=text):
                scale(*arguments, **options)
        limits = SimpleNamespace(maxStorageBufferRange=1024, maxComputeWorkGroupCount=(1, 1, 1))
        monkeypatch.setattr(dev.vulkan.physical, "limits", limits)
        with pytest.raises(psyne.CannotShare, match=r"at most 1,024 of one: hand over parts"):
            scale(view, push=bytes(8))
        m.discard()


# ---- shaders --------------------------------------------------------------------------------------------------------


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


def test_limits_of_the_device_are_checked(dev: Any, monkeypatch: pytest.MonkeyPatch):
    limits = dev.vulkan.physical.limits
    with pytest.raises(psyne.InvalidArgument, match=r"at most \d+ buffers, not 10000"):
        dev.kernel(SCALE, buffers=10_000, push=8)
    for push in (6, -4, limits.maxPushConstantsSize + 4):
        with pytest.raises(psyne.InvalidArgument, match=f"a multiple of 4 .* not {push}"):
            dev.kernel(SCALE, push=push)
    large = SCALE.replace(struct.pack("<III", 64, 1, 1), struct.pack("<III", 1 << 20, 1, 1))
    assert large != SCALE
    with pytest.raises(psyne.InvalidArgument, match=r"1048576 × 1 × 1 threads"):
        dev.kernel(large, push=8)


@HEADERS
def test_the_structures_are_those_of_the_header(tmp_path: Path):
    lines, expected = [], []
    for name, it in vars(vulkan_api).items():
        if not isinstance(it, type) or not issubclass(it, vulkan_api.ctypes.Structure) or name == "Structure":
            continue
        lines.append(f'printf("{name} %zu\\n", sizeof(Vk{name}));')
        expected.append(f"{name} {vulkan_api.ctypes.sizeof(it)}")
        for field, _ in it._fields_:
            inner = "" if field in ("sType", "pNext") else INNER.get(name, "")
            if field.startswith("_") or (field == "features" and "Vulkan1" in name):
                continue
            lines.append(f'printf("{name}.{field} %zu\\n", offsetof(Vk{name}, {inner}{field}));')
            expected.append(f"{name}.{field} {getattr(it, field).offset}")
        if issubclass(it, vulkan_api.Structure):
            enum = STRUCTURE_TYPES.get(name) or "".join(f"_{c}" if c.isupper() else c.upper() for c in name)
            lines.append(f'printf("{name} type %d\\n", VK_STRUCTURE_TYPE{enum});')
            expected.append(f"{name} type {it.TYPE}")
    source = tmp_path / "offsets.c"
    source.write_text(
        "#include <stddef.h>\n#include <stdio.h>\n#include <vulkan/vulkan_core.h>\nint main(void) {\n"
        + "\n".join(lines)
        + "\n}\n"
    )
    program = tmp_path / "offsets"
    subprocess.run(["gcc", f"-I{INCLUDE}", str(source), "-o", str(program)], check=True)
    told = subprocess.run([str(program)], check=True, capture_output=True, text=True).stdout.splitlines()
    assert told == expected


INNER = {
    "PhysicalDeviceProperties2": "properties.",
    "ExternalBufferProperties": "externalMemoryProperties.",
}
STRUCTURE_TYPES = {  # whose names have numbers, or letters of a vendor
    "PhysicalDeviceProperties2": "_PHYSICAL_DEVICE_PROPERTIES_2",
    "PhysicalDeviceFeatures2": "_PHYSICAL_DEVICE_FEATURES_2",
    "PhysicalDeviceMaintenance3Properties": "_PHYSICAL_DEVICE_MAINTENANCE_3_PROPERTIES",
    "PhysicalDeviceVulkan11Features": "_PHYSICAL_DEVICE_VULKAN_1_1_FEATURES",
    "PhysicalDeviceVulkan12Features": "_PHYSICAL_DEVICE_VULKAN_1_2_FEATURES",
    "PhysicalDeviceExternalMemoryHostPropertiesEXT": "_PHYSICAL_DEVICE_EXTERNAL_MEMORY_HOST_PROPERTIES_EXT",
    "MemoryHostPointerPropertiesEXT": "_MEMORY_HOST_POINTER_PROPERTIES_EXT",
    "MemoryFdPropertiesKHR": "_MEMORY_FD_PROPERTIES_KHR",
    "ImportMemoryHostPointerInfoEXT": "_IMPORT_MEMORY_HOST_POINTER_INFO_EXT",
    "ImportMemoryFdInfoKHR": "_IMPORT_MEMORY_FD_INFO_KHR",
}


# ---- events, leases, copies -----------------------------------------------------------------------------------------


@pytest.fixture
def words() -> Iterator[Any]:
    with (
        psyne.sender("ipc://words", Words, capacity=1) as out,
        psyne.receiver("ipc://words", Words) as rx,
    ):
        yield out, rx


def slowly(kernel: Any, view: Any, steps: int = 50_000_000) -> Any:
    return kernel(view, push=struct.pack("I", steps))


@GLSL
def test_an_event_says_when_the_work_is_done(dev: Any, words: Any):
    slow = dev.kernel(SLOW, push=4)
    with words[0].loan() as m:
        m.array[:] = 0
        event = slowly(slow, dev.view(m))
        assert m.array[0] == (7 if event.done() else 0) or event.done()
        until(event.done, "the kernel")
        assert m.array[0] == 7
        assert event.wait(0)
        assert event.wait()


def test_an_event_keeps_the_message_until_the_work_is_done(
    dev: Any, scale: Any, words: Any, monkeypatch: pytest.MonkeyPatch
):
    out, rx = words
    m = out.loan()
    view = dev.view(m)
    with monkeypatch.context() as patch:
        patch.setattr(dev.vulkan.api, "vkWaitForFences", lambda *_: vulkan_api.TIMEOUT)  # it takes its time
        event = scaled(scale, view, 1, 1)
        m.discard()
        del m, view
        assert not event.done()
        rx.try_receive()  # passes over the loan that was taken back
        gc.collect()
        assert out.try_loan() is None
        assert not event.wait(0.01)
    assert event.wait()
    out.loan(timeout=0).discard()


def test_what_was_recorded_once_is_used_again(dev: Any, scale: Any, out: Any):
    with out.loan() as m:
        view = dev.view(m)
        for _ in range(20):
            assert scaled(scale, view, 0, 1).wait()
        assert len(scale.idle) == 1
        events = [scaled(scale, view, 0, 1) for _ in range(5)]
        assert scale.idle == []
        del events
        assert len(scale.idle) == 5


@GLSL
def test_an_event_that_is_dropped_is_waited_for(dev: Any, words: Any):
    slow = dev.kernel(SLOW, push=4)
    with words[0].loan() as m:
        m.array[:] = 0
        slowly(slow, dev.view(m))
        assert m.array[0] == 7


@GLSL
def test_a_loan_is_sent_when_the_kernel_that_fills_it_is_done(dev: Any, words: Any):
    out, rx = words
    slow = dev.kernel(SLOW, push=4)
    m = out.loan()
    m.array[:] = 0
    out.send(m, after=slowly(slow, dev.view(m)))
    with pytest.raises(psyne.MessageReleased):
        dev.view(m)
    with rx.receive(timeout=60) as got:
        assert got.array[0] == 7


def test_work_is_done_in_the_order_of_its_calls(dev: Any, scale: Any, out: Any):
    with out.loan() as m:
        m.array[:] = 0
        view = dev.view(m)
        events = [scaled(scale, view, 0.5, n % 3) for n in range(200)]
        assert events[-1].wait()
        assert all(event.done() for event in events)
        expected = 0.0
        for n in range(200):
            expected = float(np.float32(expected * 0.5 + n % 3))
        assert m.array[0] == np.float32(expected)


@GLSL
def test_ctrl_c_ends_a_wait(dev: Any):
    with Child() as child:
        child.run(
            "import vulkan; dev = psyne.device('vulkan'); slow = dev.kernel(vulkan.SLOW, push=4)\n"
            "out = psyne.sender('ipc://words', psyne.Array('u4', 1024)); m = out.loan(); view = dev.view(m)"
        )
        child.begin_waiting("event = slow(view, push=(1 << 31).to_bytes(4, 'little')); event.wait()")
        child.interrupt()
        with pytest.raises(KeyboardInterrupt):
            child.result()
        assert not child.run("event.wait(0.001)") or child.run("int(m.array[0])") == 7
        child.kill()


def test_many_threads_use_one_device_and_one_kernel(dev: Any, scale: Any):
    faults = []

    def work(n: int) -> None:
        try:
            with psyne.sender(f"ipc://planes{n}", Plane) as out, psyne.receiver(f"ipc://planes{n}", Plane) as rx:
                for k in range(50):
                    with out.loan() as m:
                        m.array[:] = k
                        event = scaled(scale, dev.view(m), n, 1)
                        assert event.wait()
                    with rx.receive() as m:
                        assert (m.array == k * n + 1).all()
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []


def test_many_threads_wait_for_one_event(dev: Any, scale: Any, out: Any):
    with out.loan() as m:
        m.array[:] = 1
        view = dev.view(m)
        for _ in range(50):
            event = scaled(scale, view, 1, 1)
            seen: list[bool] = []
            threads = [threading.Thread(target=lambda: seen.append(event.wait())) for _ in range(3)]  # noqa: B023
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert seen == [True] * 3
        assert (m.array == 51).all()


def test_an_upload_is_a_copy_that_kernels_take(dev: Any, scale: Any, out: Any):
    with change() as rx, show() as last:
        out.send(ramp())
        rx.receive().release()
        with last.receive() as m:
            copy = dev.upload(m)
            assert copy.event.wait()
            scaled(scale, copy, 2, 1)
            assert (copy.numpy() == ramp() * 2 + 1).all()
            assert (m.array == ramp()).all()
            square = m.array.reshape(64, 64)
            for part in (square[3:9], square[::2, 1::3], square.T, m.array[5:6], square[:, 7]):
                again = dev.upload(part)
                assert (again.shape, again.dtype) == (part.shape, part.dtype)
                assert (again.numpy() == part).all()
        out.send(ramp() * 2)  # the slot was let go: `copy` keeps nothing
        assert (copy.numpy() == ramp() * 2 + 1).all()


# ---- life and death -------------------------------------------------------------------------------------------------


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


@pytest.mark.leaves_nothing
def test_imports_do_not_leak(dev: Any, scale: Any, imports: Imports):
    for n in range(100):
        with psyne.sender(f"ipc://leaky{n}", Words, capacity=8) as out:
            with out.loan() as m:
                m.array[:] = 0
                scaled(scale, dev.view(m), 0, 1)
            with out.loan() as m:
                dev.view(m, writable=False)
    assert imports.made >= 100
    assert imports.live <= 2  # a slab is forgotten when the next one is seen
    with psyne.sender("ipc://last", Words) as out, out.loan() as m:
        dev.view(m)
        m.discard()
    assert mappings("leaky") == 0


def test_a_device_that_is_closed_lets_go_and_opens_again(scale: Any, out: Any):
    old = psyne.device("vulkan")
    m = out.loan()
    view = old.view(m)
    event = scaled(scale, view, 0, 3)
    old.close()
    assert old.closed
    assert event.wait()
    assert (m.array == 3).all()
    for refused in (lambda: old.view(m), lambda: scaled(scale, view, 1, 1), lambda: old.kernel(SCALE, push=8)):
        with pytest.raises(psyne.ChannelClosed, match=r"psyne.device\('vulkan:0'\) opens it again"):
            refused()
    new = psyne.device("vulkan")
    assert new is not old
    scaled(new.kernel(SCALE, push=8), new.view(m), 2, 0)
    assert (m.array == 6).all()
    m.discard()


def test_what_a_closed_device_had_of_the_driver_goes_with_the_last_who_uses_it(
    monkeypatch: pytest.MonkeyPatch, out: Any
):
    psyne.device("vulkan").close()
    api, gone = driver_api(), []
    monkeypatch.setattr(api, "vkDestroyDevice", counted(api.vkDestroyDevice, gone))
    dev = psyne.device("vulkan")
    kernel = dev.kernel(SCALE, push=8)
    with out.loan() as m:
        view = dev.view(m)
        scaled(kernel, view, 0, 1)
        dev.close()
        gc.collect()
        assert gone == []
        del view
        gc.collect()
        assert gone == []  # the kernel is left
        del kernel
        gc.collect()
        assert len(gone) == 1


def counted(call: Any, calls: list[Any]) -> Any:
    def counting(*arguments: Any) -> Any:
        calls.append(arguments)
        return call(*arguments)

    return counting


PROGRAM = """
import psyne, vulkan, threading, numpy as np
dev = psyne.device("vulkan")
kernel = dev.kernel(vulkan.{kernel}, push={push})
out = psyne.sender("ipc://exit", psyne.Array("u4", 1024))
m = out.loan()
view = dev.view(m)
copy = dev.upload(m)
"""


@GLSL
@pytest.mark.parametrize(
    "end",
    [
        "event = kernel(view, push=(100_000_000).to_bytes(4, 'little'))",
        "event = kernel(view, push=(100_000_000).to_bytes(4, 'little')); dev.close()",
        "keep = [view, kernel, copy]; keep.append(keep)",
        "dev.close()",
        "dev.close(); del dev, view, kernel, copy",
        "del dev, kernel, copy, m, out",
        "raise SystemExit(0)",
        "class Late:\n def __del__(self): view.nbytes, kernel(view, push=bytes(4))\nlate = Late(); psyne.late = late",
        "threading.Thread(target=lambda: [kernel(view, push=bytes(4)) for _ in iter(int, 1)], daemon=True).start()",
    ],
)
def test_a_program_ends_well_with_whatever_it_still_has(end: str):
    done = run_program(PROGRAM.format(kernel="SLOW", push=4) + end)
    if "Late" not in end:
        assert done.stderr == ""


def test_what_comes_after_the_end_of_the_interpreter_does_not_call_the_driver():
    done = run_program(
        "import atexit; atexit.register(lambda: print(dev.vulkan.ours, event.wait(0)))\n"  # runs after all of psyne's
        "import psyne, vulkan; dev = psyne.device('vulkan'); kernel = dev.kernel(vulkan.SCALE, push=8)\n"
        "out = psyne.sender('ipc://exit', psyne.Array('f4', 64)); m = out.loan(); view = dev.view(m)\n"
        "event = vulkan.scaled(kernel, view, 0, 1); print(dev.vulkan.ours)"
    )
    assert done.stdout.split() == ["True", "False", "True"]


def test_a_forked_child_is_refused_and_ends_well(dev: Any):
    with Child() as child:
        told = child.run(
            "import vulkan; dev = psyne.device('vulkan'); kernel = dev.kernel(vulkan.SCALE, push=8)\n"
            "out = psyne.sender('ipc://planes', psyne.Array('f4', 4096)); m = out.loan(); view = dev.view(m)\n"
            "event = vulkan.scaled(kernel, view, 0, 5)\n"
            "def tried():\n"
            "    said = []\n"
            "    for use in (lambda: dev.view(m), lambda: vulkan.scaled(kernel, view, 1, 1),\n"
            "                lambda: psyne.device('vulkan'), event.wait,\n"
            "                lambda: dev.kernel(vulkan.SCALE, push=8), lambda: dev.close()):\n"
            "        try: said.append(use())\n"
            "        except psyne.ForkedError as error: said.append('ForkedError')\n"
            "    return said\n"
            "forked(tried)"
        )
        assert told == ["ForkedError"] * 5 + [None]
        assert child.run("event.wait(), float(m.array[0])") == (True, 5.0)
        assert child.run("vulkan.scaled(kernel, view, 2, 0).wait(), float(m.array[0])") == (True, 10.0)


# ---- which device, and none -----------------------------------------------------------------------------------------


def test_a_device_is_chosen_by_name(dev: Any):
    assert psyne.device("vulkan") is psyne.device("vulkan:0") is psyne.device(dev.name)
    with pytest.raises(psyne.DeviceUnavailable, match="vulkan:0"):
        psyne.device("vulkan:99")
    handles = dev.handles
    assert all(handles[:4])
    assert dev.info.alignment >= 16
    assert "in place" in dev.info.zero_copy


def test_gpus_come_before_software():
    kinds = [
        vulkan_api.CPU,
        vulkan_api.OTHER,
        vulkan_api.INTEGRATED_GPU,
        vulkan_api.DISCRETE_GPU,
        vulkan_api.VIRTUAL_GPU,
    ]
    there = [SimpleNamespace(type=kind, usable=True, n=n) for n, kind in enumerate(kinds * 2)]
    there.append(SimpleNamespace(type=vulkan_api.DISCRETE_GPU, usable=False, n=10))
    assert [it.n for it in preferred(there)] == [3, 8, 2, 7, 4, 9, 1, 6, 0, 5]


@pytest.mark.parametrize(
    ("environment", "text"),
    [
        ({"PSYNE_LIBVULKAN": "libnone.so.1"}, "libvulkan1, with mesa-vulkan-drivers"),
        ({"PSYNE_LIBVULKAN": "libc.so.6"}, "no Vulkan 1.1"),
        ({"VK_DRIVER_FILES": "/nowhere", "VK_ICD_FILENAMES": "/nowhere"}, "mesa-vulkan-drivers"),
    ],
)
def test_what_is_missing_is_named(environment: dict[str, str], text: str, monkeypatch: pytest.MonkeyPatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    done = run_program(
        "import psyne\ntry: psyne.device('vulkan')\nexcept psyne.DeviceUnavailable as error: print(error)\n"
        "assert [it.kind for it in psyne.devices()].count('vulkan') == 0"
    )
    assert text in done.stdout


# ---- a driver that takes no pages of files, as AMD's: a stand-in, since there is none here --------------------------


LINKED = ["-Wl,--no-as-needed", "-l:libvulkan.so.1", "-ldl"]  # whose calls it has too


@pytest.fixture
def dma_buf_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Child processes find a driver that refuses pointers and imports dma-bufs."""
    library = tmp_path / "libdmabuf.so"
    source = HELPERS / "dma_buf_driver.c"
    command = ["gcc", "-shared", "-fPIC", f"-I{INCLUDE}", str(source), "-o", str(library), *LINKED]
    subprocess.run(command, check=True)
    monkeypatch.setenv("PSYNE_LIBVULKAN", str(library))


@HEADERS
def test_where_pointers_are_refused_sealed_memory_goes_in_as_a_dma_buf(dma_buf_driver: None):
    with Child() as child:
        child.run(
            "import udmabuf, vulkan; udmabuf.install(); dev = psyne.device('vulkan')\n"
            "scale = dev.kernel(vulkan.SCALE, push=8); Plane = psyne.Array('f4', 4096)\n"
            "fds = lambda: len(os.listdir('/proc/self/fd'))"
        )
        assert child.run(
            "tx, rx = psyne.channel(Plane, stages=[psyne.Stage('a', mutate=True)])\n"
            "tx.send(np.arange(4096, dtype='f4')); m = rx.receive()\n"
            "before = fds(); view = dev.view(m); after = fds()\n"
            "vulkan.scaled(scale, view, 2, 1).wait()\n"
            "bool((m.array == np.arange(4096) * 2 + 1).all()), after - before"
        ) == (True, 1)  # the mapping's own descriptor; that of the dma-buf is the driver's
        assert child.run("copy = dev.upload(m); bool((copy.numpy() == m.array).all())")
        child.run(
            "mapped = vulkan.mappings('memfd'); m = view = copy = None; rx.close(); tx.close(); dev.close(); del rx, tx"
        )
        assert child.run("vulkan.mappings('memfd')") == 0 < child.run("mapped")


@HEADERS
def test_where_nothing_goes_in_the_error_says_why_each_way_failed(
    dma_buf_driver: None, monkeypatch: pytest.MonkeyPatch
):
    pointer = r"as a pointer: .*invalid external handle.*; as a dma-buf: "
    with Child() as child:
        child.run("import vulkan, udmabuf; dev = psyne.device('vulkan'); Plane = psyne.Array('f4', 4096)")
        child.run("out = psyne.sender('ipc://planes', Plane); named = out.loan()")
        with pytest.raises(psyne.CannotShare, match=pointer + r".*psyne.channel\(\) is sealed"):
            child.run("dev.view(named)")
        child.run("tx, rx = psyne.channel(Plane); m = tx.loan(); fds = len(os.listdir('/proc/self/fd'))")
        if not os.path.exists(vulkan_memory.UDMABUF):
            with pytest.raises(psyne.CannotShare, match=pointer + "No such file.*modprobe udmabuf"):
                child.run("dev.view(m)")
        child.run("udmabuf.install(); udmabuf.LIMIT = 4096")
        with pytest.raises(psyne.CannotShare, match=pointer + "/.* refuses .* its limit is"):
            child.run("dev.view(m)")
        child.run("udmabuf.LIMIT = 1 << 30; os.environ['DMA_BUF_DRIVER_REFUSES'] = '1'")
        with pytest.raises(psyne.CannotShare, match=pointer + ".*vkAllocateMemory: invalid external handle"):
            child.run("dev.view(m)")
        assert child.run("gc.collect(); len(os.listdir('/proc/self/fd')) - fds") == 0
