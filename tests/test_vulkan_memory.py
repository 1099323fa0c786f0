"""Buffers of Vulkan over the pages of messages: what is imported, for how long, and without a copy."""

import gc
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import psyne
from psyne import Array
from psyne.devices import vulkan_api, vulkan_memory
from psyne.testing import touch_test

from .helpers.maps import inode_of, mappings
from .helpers.planes import MUTATES, N, Plane, Words, change
from .helpers.process import HELPERS, Child
from .helpers.vulkan import scaled
from .helpers.vulkan_fixtures import HEADERS, INCLUDE, Imports, dev, imports, out, scale

__all__ = ["dev", "imports", "out", "scale"]  # fixtures


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


@pytest.mark.leaves_nothing
def test_imports_do_not_leak(dev: Any, scale: Any, imports: Imports):
    inodes = []
    for n in range(100):
        with psyne.sender(f"ipc://leaky{n}", Words, capacity=8) as out:
            with out.loan() as m:
                m.array[:] = 0
                scaled(scale, dev.view(m), 0, 1)
                inodes.append(inode_of(m))
            with out.loan() as m:
                dev.view(m, writable=False)
    assert imports.made >= 100
    assert imports.live <= 2  # a slab is forgotten when the next one is seen
    del out, m
    with psyne.sender("ipc://last", Words) as out, out.loan() as m:
        dev.view(m)
        m.discard()
    assert mappings(*inodes) == 0


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
            "import maps, udmabuf, vulkan; udmabuf.install(); dev = psyne.device('vulkan')\n"
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
            "inode = maps.inode_of(m); mapped = maps.mappings(inode)\n"
            "m = view = copy = None; rx.close(); tx.close(); dev.close(); del rx, tx"
        )
        assert child.run("maps.mappings(inode)") == 0 < child.run("mapped")


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
