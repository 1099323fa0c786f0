"""Metal devices: on a Mac its GPU, elsewhere a stand-in that refuses what Metal refuses and says nothing of a GPU."""

import ctypes
import platform
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from mmap import PAGESIZE
from typing import Any

import numpy as np
import pytest

import psyne
from psyne import Array, Stage, Struct, f32, u64
from psyne.devices import metal_api

from .helpers import fakemetal
from .helpers.capsules import tensor
from .helpers.fakemetal import kernel, left, of_the_stand_in
from .helpers.process import HELPERS, Child

Plane = Array("f4", (64, 64))
FLOATS = 4096  # of a plane


class Signal(Struct):
    word = u64()
    other = f32()


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    if not fakemetal.REAL:
        monkeypatch.setenv("PSYNE_LIBMETAL", fakemetal.library())


@pytest.fixture
def gpu() -> Iterator[Any]:
    try:
        device = psyne.device("metal")
    except psyne.DeviceUnavailable as error:
        pytest.skip(str(error))
    with device:
        yield device
    del device
    assert left() == 0


@pytest.fixture
def ends() -> Iterator[tuple[psyne.Sender[Any], psyne.Receiver[Any]]]:
    with (
        psyne.sender("ipc://planes", Plane, capacity=2) as tx,
        psyne.receiver("ipc://planes", Plane) as rx,
    ):
        yield tx, rx


# ---- devices --------------------------------------------------------------------------------------------------------


def test_a_gpu_is_listed_and_says_that_nobody_saw_it_work(gpu: Any):
    info = next(it for it in psyne.devices() if it.kind == "metal")
    assert (info.name, info.alignment) == ("metal:0", 16)
    assert "not verified on hardware" in info.zero_copy
    assert psyne.device("metal:0") is gpu
    if fakemetal.REAL:
        assert info.driver == f"Metal of macOS {platform.mac_ver()[0]}"
    else:
        assert (info.product, info.driver, info.unified) == ("stand-in 0", "Metal of libmetal.so", True)


@of_the_stand_in
def test_the_default_gpu_is_the_first_and_all_have_numbers(monkeypatch: pytest.MonkeyPatch, gpu: Any):
    monkeypatch.setenv("FAKEMETAL_DEVICES", "2")
    assert [(it.name, it.product) for it in psyne.devices() if it.kind == "metal"] == [
        ("metal:0", "stand-in 0"), ("metal:1", "stand-in 1"),
    ]  # fmt: skip
    with psyne.device("metal:1") as other, psyne.sender("ipc://planes", Plane) as tx, tx.loan() as m:
        assert other.view(m).__dlpack_device__() == (8, 1)
        with pytest.raises(psyne.InvalidArgument, match="of its device give"):
            kernel(gpu, "add_one")(other.view(m))
        m.discard()
    del other


@of_the_stand_in
@pytest.mark.parametrize(
    ("environment", "text"),
    [
        ({"PSYNE_LIBMETAL": "/nowhere/libmetal.so"}, "no Metal here that psyne can use.*nowhere"),
        ({"PSYNE_LIBMETAL": "libc.so.6"}, "no Metal here that psyne can use.*objc_getClass is missing"),
        ({"FAKEMETAL_DEVICES": "0"}, "finds no GPU"),
        (None, "on macOS only"),
    ],
)
def test_without_a_library_or_a_gpu_the_error_says_what_is_missing(environment: dict[str, str] | None, text: str):
    with Child() as child:
        child.run(
            "import os\nos.environ.pop('PSYNE_LIBMETAL') if environment is None else os.environ.update(environment)",
            environment=environment,
        )
        with pytest.raises(psyne.DeviceUnavailable, match=text):
            child.run("psyne.device('metal')")
        assert child.run("[it.kind for it in psyne.devices() if it.kind == 'metal']") == []


def test_a_forked_child_neither_opens_it_nor_says_a_word_to_the_driver(gpu: Any):
    with Child() as child:
        error, there, unraisable = child.run(
            "import gc, sys\n"
            "dev = psyne.device('metal'); tx = psyne.sender('ipc://n', Number); m = tx.loan(); view = dev.view(m)\n"
            "def ask():\n"
            " global view, dev\n"
            " sys.unraisablehook = seen.append\n"
            " del view, dev; gc.collect()\n"
            " there = [it.kind for it in psyne.devices()]\n"
            " try: psyne.device('metal')\n"
            " except psyne.ForkedError as error: return error, there, len(seen)\n"
            "seen = []; says = forked(ask); m.discard(); says"
        )
        assert isinstance(error, psyne.ForkedError)
        assert "cpu" in there
        assert "metal" not in there
        assert unraisable == 0
        assert child.finish() == 0


# ---- memory ---------------------------------------------------------------------------------------------------------


def test_a_buffer_has_the_pages_of_the_channel_and_a_message_is_an_offset_in_it(gpu: Any, ends: Any):
    tx, _ = ends
    seen = []
    for n in range(2):
        with tx.loan() as m:
            m.array[:] = n
            view = gpu.view(m)
            runtime = gpu.queue.runtime
            assert runtime.send(view.buffer, "contents") == view._registration.mapping.address
            assert runtime.send(view.buffer, "length") == view._registration.mapping.nbytes
            address = runtime.send(view.buffer, "contents") + view.offset
            assert ctypes.c_float.from_address(address).value == n
            seen.append((view.buffer, view.offset))
    assert seen[0][0] == seen[1][0]
    assert seen[1][1] - seen[0][1] == 64 * 64 * 4


def test_a_kernel_changes_a_message_in_place_and_another_process_sees_it(gpu: Any):
    with psyne.sender("ipc://planes", Plane) as tx, Child() as child:
        child.run("rx = psyne.receiver('ipc://planes')")
        with tx.loan() as m:
            m.array[:] = 1
            event = kernel(gpu, "scale")(
                gpu.view(m), groups=FLOATS // 64, threads=64, push=np.array([40, 2], "f4").tobytes()
            )
            assert event.wait()
            assert (m.array == 42).all()
        assert child.run("m = rx.receive(); float(m.array.min()), float(m.array.max())") == (42.0, 42.0)
        child.run("m.release(); rx.close()")


@of_the_stand_in
@pytest.mark.parametrize(
    ("environment", "text"),
    [
        ({"FAKEMETAL_REFUSES": "1"}, r"does not take [\d,]+ bytes of a channel at 0x\w+; upload"),
        ({"FAKEMETAL_REFUSES": "2"}, r"as they lie: its buffer has 0 bytes at 0x0"),
        ({"FAKEMETAL_MOST": "32768"}, r"at most 32,768 bytes in a buffer; this slab has"),
    ],
)
def test_memory_that_metal_does_not_take_is_refused_and_never_copied(
    environment: dict[str, str], text: str, monkeypatch: pytest.MonkeyPatch
):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with psyne.device("metal") as gpu, psyne.sender("ipc://planes", Plane) as tx, tx.loan() as m:
        with pytest.raises(psyne.CannotShare, match=text):
            gpu.view(m)
        assert gpu._alive == 0
        m.array[:] = 5
        assert (gpu.upload(m).numpy() == 5).all()
        m.discard()


def test_an_upload_is_a_copy_of_anything_that_kernels_take_as_a_view(gpu: Any, ends: Any):
    tx, rx = ends
    tx.send(np.arange(FLOATS, dtype="f4").reshape(64, 64))
    with rx.receive() as m:
        copy = gpu.upload(m.array[1:, 1::2])  # at no place where a view may begin
        assert (copy.shape, copy.nbytes, copy.offset, copy.event.done()) == ((63, 32), 63 * 32 * 4, 0, True)
        kernel(gpu, "add_one")(copy, groups=63, threads=32).wait()
        assert (copy.numpy() == m.array[1:, 1::2] + 1).all()
        out = gpu.upload(np.zeros((64, 64), "f4"))
        view = gpu.view(m)
        kernel(gpu, "sum")(out, view, view, groups=64, threads=64).wait()
        assert (out.numpy() == 2 * m.array).all()
        assert tensor(copy.__dlpack__()) == (copy.buffer, (8, 0), (63, 32), (32, 1), 0)
        del view
    with pytest.raises(psyne.NoSpace, match="no buffer of"):
        gpu.allocated(1 << 50)


# ---- kernels --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("groups", "threads"), [(3, 5), ((3, 4), (5, 6)), ((2, 3, 4), (5, 3, 2)), ((1, 1, 7), (2, 1, 1))], ids=str
)
def test_groups_and_threads_arrive_in_all_three_dimensions(groups: Any, threads: Any, gpu: Any):
    count = np.ones(3, int)
    count[: np.size(groups)] = groups
    each = np.ones(3, int)
    each[: np.size(threads)] = threads
    x, y, z = (int(n) for n in count * each)
    grid = Array("u4", (z, y, x))
    with psyne.sender("ipc://grid", grid) as tx, tx.loan() as m:
        kernel(gpu, "place")(gpu.view(m), groups=groups, threads=threads).wait()
        at = np.indices((z, y, x))
        group = [at[i] // each[2 - i] for i in range(3)]
        assert (m.array == 1000 * group[0] + 100 * group[1] + 10 * group[2] + at[0]).all()
        m.discard()


def test_a_group_is_as_wide_as_the_gpu_unless_said_otherwise(gpu: Any, ends: Any):
    tx, _ = ends
    with tx.loan() as m:
        m.array[:] = 0
        add_one = kernel(gpu, "add_one")
        add_one(gpu.view(m)).wait()
        assert m.array.sum() == add_one.width
        assert m.array.flat[add_one.width] == 0
        m.discard()


def test_a_kernel_reads_what_is_read_only_where_it_says_const(gpu: Any, ends: Any):
    tx, rx = ends
    tx.send(np.ones((64, 64), "f4"))
    with rx.receive() as got, tx.loan() as m:
        a, out = gpu.view(got), gpu.view(m)
        assert [it.writes for it in kernel(gpu, "sum").buffers] == [True, False, False]
        kernel(gpu, "sum")(out, a, a, groups=64, threads=64).wait()
        assert (m.array == 2).all()
        with pytest.raises(psyne.ReadOnly, match=r"buffer 0 of kernel 'sum' \(not declared `const`\) would write"):
            kernel(gpu, "sum")(a, a, a, groups=64, threads=64)
        assert (got.array == 1).all()
        m.discard()


def test_a_kernel_is_refused_with_what_metal_says_of_it(gpu: Any):
    with pytest.raises(psyne.InvalidArgument, match=r"(?s)does not compile this: .*no such machine"):
        gpu.kernel("#error no such machine", "add_one")
    with pytest.raises(psyne.InvalidArgument, match=r"no kernel 'add_two' in this source; there are .*scale"):
        kernel(gpu, "add_two")
    with pytest.raises(psyne.InvalidArgument, match=r"are \[0, 2\], not 0, 1, 2"):
        kernel(gpu, "gap")
    with pytest.raises(psyne.InvalidArgument, match="has a texture"):
        kernel(gpu, "paint")


def test_a_launch_that_cannot_be_right_is_refused(gpu: Any, ends: Any):
    tx, _ = ends
    add_one, scale = kernel(gpu, "add_one"), kernel(gpu, "scale")
    with tx.loan() as m:
        view = gpu.view(m)
        with pytest.raises(psyne.InvalidArgument, match=r"takes 1 buffers, and got 2 views$"):
            add_one(view, view)
        with pytest.raises(psyne.InvalidArgument, match=r"takes 2 buffers, and got 1 views$"):
            scale(view)
        with pytest.raises(psyne.InvalidArgument, match="a kernel takes what view"):
            add_one(m.array)
        for push in (b"1234", bytes(12), bytes(4104)):
            with pytest.raises(psyne.InvalidArgument, match=f"a multiple of 8; it has {len(push)}"):
                scale(view, push=push)
        with pytest.raises(psyne.InvalidArgument, match="writes its last buffer"):
            add_one(push=bytes(4))
        for groups in (0, -1, (1, 0), (1, 1, 1, 1), 1 << 32):
            with pytest.raises(psyne.InvalidArgument, match="groups="):
                add_one(view, groups=groups)
        with pytest.raises(psyne.InvalidArgument, match=rf"at most {add_one.most} threads, not {add_one.most * 2}"):
            add_one(view, threads=(add_one.most, 2))
        m.discard()
    gpu.close()
    with pytest.raises(psyne.ChannelClosed):
        add_one(view)
    with pytest.raises(psyne.ChannelClosed):
        kernel(gpu, "add_one")


def test_a_kernel_from_threads_runs_as_often_as_it_is_called(gpu: Any, ends: Any):
    tx, _ = ends
    with tx.loan() as m, ThreadPoolExecutor(8) as threads:
        m.array[:] = 0
        add_one = kernel(gpu, "add_one")
        views = [gpu.view(m.array[8 * i : 8 * i + 8]) for i in range(8)]

        def work(view: Any) -> None:
            for _ in range(50):
                add_one(view, groups=8, threads=64).wait()

        for done in [threads.submit(work, view) for view in views]:
            done.result()
        assert (m.array == 50).all()
        views.clear()
        m.discard()


# ---- events ---------------------------------------------------------------------------------------------------------


@of_the_stand_in
def test_an_event_is_done_when_the_work_is(gpu: Any, ends: Any, monkeypatch: pytest.MonkeyPatch):
    tx, _ = ends
    monkeypatch.setenv("FAKEMETAL_DELAY", "200000")
    with tx.loan() as m:
        m.array[:] = 0
        event = kernel(gpu, "add_one")(gpu.view(m), groups=64, threads=64)
        assert "under way" in repr(event)
        assert not event.done()
        assert not event.wait(timeout=0.001)
        assert event.wait(timeout=60)
        assert (m.array == 1).all()
        assert "done" in repr(event)
        m.discard()


@of_the_stand_in
def test_an_event_keeps_its_messages_and_who_drops_it_waits(gpu: Any, ends: Any, monkeypatch: pytest.MonkeyPatch):
    tx, rx = ends
    tx.send(np.zeros((64, 64), "f4"))
    tx.send(np.zeros((64, 64), "f4"))
    out = gpu.upload(np.zeros((64, 64), "f4"))
    with rx.receive() as m:
        monkeypatch.setenv("FAKEMETAL_DELAY", "100000")
        view = gpu.view(m)
        event = kernel(gpu, "sum")(out, view, view, groups=64, threads=64)
        del view
    assert tx.try_loan() is None  # the slot is the kernel's
    del event
    tx.try_loan().discard()
    rx.receive().release()


def test_a_loan_is_sent_when_the_kernel_is_done(gpu: Any, ends: Any, monkeypatch: pytest.MonkeyPatch):
    tx, rx = ends
    monkeypatch.setenv("FAKEMETAL_DELAY", "50000")
    m = tx.loan()
    m.array[:] = 6
    tx.send(m, after=kernel(gpu, "add_one")(gpu.view(m), groups=64, threads=64))
    with rx.receive() as got:
        assert (got.array == 7).all()


@of_the_stand_in
def test_work_that_fails_says_why_and_its_loan_is_taken_back(gpu: Any, ends: Any, monkeypatch: pytest.MonkeyPatch):
    tx, rx = ends
    monkeypatch.setenv("FAKEMETAL_FAILS", "1")
    with tx.loan() as m:
        event = kernel(gpu, "add_one")(gpu.view(m), groups=64, threads=64)
        for _ in range(2):
            with pytest.raises(metal_api.MetalError, match="work of Metal failed: the stand-in was told to fail"):
                event.wait()
        with pytest.raises(metal_api.MetalError):
            event.done()
        m.discard()
    m = tx.loan()
    event = kernel(gpu, "add_one")(gpu.view(m), groups=64, threads=64)
    with suppress(metal_api.MetalError):
        event.wait()
    with pytest.raises(psyne.EventFailed, match="told to fail"):
        tx.send(m, after=event)
    assert rx.try_receive() is None


@pytest.mark.parametrize("call", ["setBuffer:offset:atIndex:", "commit"])
def test_ctrl_c_in_a_launch_leaves_nothing_that_is_waited_for(
    call: str, gpu: Any, ends: Any, monkeypatch: pytest.MonkeyPatch
):
    tx, _ = ends
    runtime = gpu.queue.runtime
    send = runtime.send

    def interrupted(receiver: Any, selector: str, *arguments: Any) -> Any:
        if selector == call:
            raise KeyboardInterrupt
        return send(receiver, selector, *arguments)

    with tx.loan() as m:
        add_one = kernel(gpu, "add_one")
        m.array[:] = 0
        view = gpu.view(m)
        with monkeypatch.context() as patch:
            patch.setattr(runtime, "send", interrupted)
            with pytest.raises(KeyboardInterrupt):
                add_one(view, groups=64, threads=64)
        add_one(view, groups=64, threads=64).wait()
        assert (m.array == 1).all()
        del view
        m.discard()


# ---- other libraries ------------------------------------------------------------------------------------------------


def test_what_libraries_are_told_is_the_buffer_and_the_place_in_it(gpu: Any, ends: Any):
    tx, rx = ends
    with tx.loan() as m:
        view = gpu.view(m.array[8:, ::2])
        assert view.__dlpack_device__() == (8, 0)
        assert view.offset == gpu.view(m).offset + 8 * 256
        for version in ({}, {"max_version": (1, 0)}):
            capsule = view.__dlpack__(**version)
            assert tensor(capsule) == (view.buffer, (8, 0), (56, 32), (64, 2), view.offset)
        with pytest.raises(psyne.CannotShare, match="makes no copies"):
            view.__dlpack__(copy=True)
        with pytest.raises(psyne.CannotShare, match=r"is on its device, device \(8, 0\)"):
            view.__dlpack__(dl_device=(1, 0))
    with pytest.raises(psyne.ReadOnly, match="may write it"):
        view.__dlpack__(max_version=(1, 0))  # it was sent
    with rx.receive() as m, pytest.raises(psyne.ReadOnly, match="upload"):
        gpu.view(m).__dlpack__(max_version=(1, 0))
    del view, capsule


def test_records_have_no_type_and_their_fields_have(gpu: Any):
    with psyne.sender("ipc://signals", Signal) as tx, tx.loan() as m:
        with pytest.raises(psyne.CannotShare, match="hand over a field"):
            gpu.view(m).__dlpack__()
        assert tensor(gpu.view(m.array["word"]).__dlpack__()).shape == ()
        with pytest.raises(psyne.CannotShare, match=r"needs an address that 16 divides.*\(rest 8\)"):
            gpu.view(m.array["other"])
        m.discard()


def test_a_tensor_keeps_the_message_and_its_buffer(gpu: Any):
    with (
        psyne.sender("ipc://planes", Plane, capacity=1, stages=[Stage("gpu", mutate=True)]) as tx,
        psyne.receiver("ipc://planes", Plane, stage="gpu") as rx,
    ):
        tx.send(np.zeros((64, 64), "f4"))
        m = rx.receive()
        capsule = gpu.view(m).__dlpack__(max_version=(1, 0))
        with pytest.raises(BufferError):
            m.release()
        del m
        gpu.close()
        assert gpu._alive == 1
        assert tx.try_loan() is None
        del capsule
        with tx.loan(timeout=10) as m:
            m.discard()
    assert gpu._alive == 0


# ---- the stand-in ---------------------------------------------------------------------------------------------------


@of_the_stand_in
def test_the_stand_in_takes_whole_pages_only(gpu: Any):
    runtime, call = gpu.queue.runtime, "newBufferWithBytesNoCopy:length:options:deallocator:"
    pages = np.zeros(3 * PAGESIZE, "u1")
    address = -(-pages.ctypes.data // PAGESIZE) * PAGESIZE
    with runtime.pool():
        good = runtime.owned(runtime.send(gpu.handle, call, address, PAGESIZE, 0, None))
        assert good is not None
        assert runtime.send(good, "contents") == address
        for place, size in ((address + 64, PAGESIZE), (address, PAGESIZE - 1), (address, 0), (PAGESIZE, PAGESIZE)):
            assert runtime.send(gpu.handle, call, place, size, 0, None) is None
    del good


@of_the_stand_in
@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("runtime.send(dev.handle, 'endEncoding')", r"-\[MTLDevice endEncoding\]: unrecognized selector"),
        (
            "it = view.memory; n = it.id; it.release(); runtime.send(n, 'length')",
            "length of a MTLBuffer that was released",
        ),
        ("view._registration.mapping.close(); view.memory.release()", "unmapped before its buffer was released"),
        ("runtime.send(dev.handle, 'name')", "a NSString is autoreleased without a pool"),
        (
            "queue = dev.queue._queue\n"
            "with runtime.pool(): runtime.send(runtime.send(queue, 'commandBuffer'), 'computeCommandEncoder')",
            "an encoder was released before endEncoding",
        ),
    ],
)
def test_the_stand_in_ends_the_process_where_metal_would(code: str, text: str):
    program = (
        "import psyne\n"
        "dev = psyne.device('metal'); runtime = dev.queue.runtime\n"
        "tx = psyne.sender('ipc://n', psyne.Array('f4', 16)); m = tx.loan(); view = dev.view(m)\n"
        f"{code}\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=HELPERS, capture_output=True, text=True, timeout=60)
    assert done.returncode < 0
    assert text.replace("\\", "") in done.stderr
