"""Kernels in OpenCL C: what they take, what they refuse, and many threads."""

import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import psyne

from .helpers.opencl import ADD, SCALE
from .helpers.opencl_fixtures import ALIGN, cl, dev, out, scale
from .helpers.planes import MUTATES, Plane, change, ramp, show
from .helpers.process import Child

__all__ = ["dev", "out", "scale"]  # fixtures


def test_a_kernel_says_what_it_takes(dev: Any):
    kernel = dev.kernel("""
        typedef struct { int a, b; } pair;
        kernel void f(global const uint * restrict a, constant float *b, local char *c, global pair *d, unsigned int e,
                      float4 f, pair g) {}
    """)
    assert [tuple(it) for it in kernel.arguments] == [
        ("a", "uint*", "buffer", False),
        ("b", "float*", "buffer", False),
        ("c", "char*", "local", False),
        ("d", "pair*", "buffer", True),
        ("e", "uint", "scalar", False),
        ("f", "float4", "scalar", False),
        ("g", "pair", "scalar", False),
    ]
    assert repr(kernel) == "kernel f(uint* a, float* b, char* c, pair* d, uint e, float4 f, pair g)"


def test_a_kernel_that_does_not_compile_says_where(dev: Any):
    with pytest.raises(psyne.InvalidArgument, match=r"does not compile:(.|\n)*2:\d+: .*nonsense"):
        dev.kernel("kernel void f(global int *x) {\n  nonsense = 1;\n}\n")


def test_a_source_with_several_kernels_is_asked_for_one(dev: Any, out: Any):
    source = f"{SCALE}\n{ADD}\nkernel void set(global float *x) {{ x[get_global_id(0)] = VALUE; }}"
    kernel = dev.kernel(source, "set", options=["-DVALUE=6"])
    with out.loan() as m:
        kernel(dev.view(m)).wait()
        assert (m.array == 6).all()
    for name in (None, "sett"):
        with pytest.raises(psyne.InvalidArgument, match=r"has the kernels .*(scale|add|set), "):
            dev.kernel(source, name, options=["-DVALUE=6"])
    with pytest.raises(psyne.InvalidArgument, match=r"has the kernels \(none\)"):
        dev.kernel("float f(float x) { return x; }")


def test_numbers_are_what_the_kernel_declares(dev: Any, out: Any):
    source = """
        typedef struct { int a; float b; } pair;
        kernel void f(global double *x, char a, ushort b, long c, float d, double e, float2 f, pair g, local int *h) {
            h[0] = 1;
            x[0] = a; x[1] = b; x[2] = c; x[3] = d; x[4] = e; x[5] = f.y; x[6] = g.a + g.b; x[7] = h[0];
        }
    """
    kernel = dev.kernel(source)
    pair = np.array((3, 4), [("a", "i4"), ("b", "f4")])[()]
    good = [np.int64(-7), 60000, -(2**40), np.int32(5), 0.1, cl.cltypes.make_float2(1, 2), pair, cl.LocalMemory(4)]
    with out.loan() as m:
        view = dev.view(m.array.view("f8"))
        kernel(view, *good, size=1).wait()
        assert view.array[:8].tolist() == [-7, 60000, -(2**40), 5, 0.1, 2, 7, 1]
        for i, bad, text in [
            (0, 200, "char a of kernel f.* cannot be 200"),
            (0, np.int64(200), "cannot be 200|cannot be np.int64"),
            (1, 1.5, "ushort b .* cannot be 1.5"),
            (1, -1, "cannot be -1"),
            (2, float("nan"), "cannot be nan"),
            (3, "1", "float d .* takes a number"),
            (4, None, "double e .* takes a number"),
            (4, view, "takes a number"),
            (5, np.float32(1), "INVALID_ARG_SIZE"),
            (6, 7, "invalid kernel argument"),
            (7, 4, r"local|int\* h .* takes pyopencl.LocalMemory"),
        ]:
            with pytest.raises(psyne.InvalidArgument, match=text):
                kernel(view, *good[:i], bad, *good[i + 1 :], size=1)
        for arguments in ((), (view,), (view, *good, 1)):
            with pytest.raises(psyne.InvalidArgument, match=f"takes 9 arguments, and got {len(arguments)}"):
                kernel(*arguments)
        m.discard()


def test_a_kernel_has_one_work_item_for_each_element_or_as_many_as_it_is_told(dev: Any, out: Any):
    count = dev.kernel("""
        kernel void count(global uint *x) {
            x[get_global_id(0) + get_global_size(0) * (get_global_id(1) + get_global_size(1) * get_global_id(2))] =
                get_local_size(0);
        }
    """)

    def run(**how: Any) -> Any:
        m.array[:] = 0
        count(dev.view(m.array.view("u4")), **how).wait()
        return m.array.view("u4")

    with out.loan() as m:
        assert (run() > 0).all()
        assert (run(size=(4, 3, 2)) > 0).sum() == 24
        assert (run(size=128, group=32) == 32).sum() == 128
        assert (run(size=[np.int64(128)], group=np.int32(32)) == 32).sum() == 128
        for size in (0, -4, 1.5, "8", (), (1, 1, 1, 1), (1.5,), (4, None)):
            with pytest.raises(psyne.InvalidArgument, match="one to three whole numbers"):
                run(size=size)
        with pytest.raises(psyne.InvalidArgument, match=r"group=-1: one to three whole numbers"):
            run(size=4, group=-1)
        with pytest.raises(psyne.InvalidArgument, match="has no buffer to count work items by: say size="):
            dev.kernel("kernel void f(int n) {}")(3)
        with pytest.raises(
            psyne.InvalidArgument, match=r"size=\(100, 1, 1\), group=\(33, 1, 1\): .*INVALID_WORK_GROUP_SIZE"
        ):
            run(size=100, group=33)
        with pytest.raises(psyne.InvalidArgument, match="INVALID_WORK"):
            run(size=1 << 20, group=1 << 20)
        m.discard()


def test_a_read_only_message_goes_to_a_kernel_that_declares_it_const_and_to_no_other(dev: Any, scale: Any, out: Any):
    add = dev.kernel(ADD)
    assert [(it.name, it.type, it.kind, it.writes) for it in add.arguments] == [
        ("x", "float*", "buffer", False),
        ("y", "float*", "buffer", True),
    ]
    with change() as first, show() as last:
        out.send(ramp())
        first.receive().release()
        with last.receive() as m, out.loan() as total:
            total.array[:] = 1
            assert add(dev.view(m), dev.view(total)).wait()
            assert (total.array == ramp() + 1).all()
            for refused in (lambda: scale(dev.view(m), 2, 0), lambda: add(dev.view(total), dev.view(m))):
                with pytest.raises(
                    psyne.ReadOnly, match=r"[xy] of kernel (scale|add) \(not declared `const`\) would write"
                ):
                    refused()
            with pytest.raises(psyne.ReadOnly, match="an array of pyopencl would write"):
                dev.view(m).pyopencl()
            with pytest.raises(psyne.ReadOnly, match="writable=False"):
                scale(dev.view(total, writable=False), 2, 0)
            assert (m.array == ramp()).all()


def test_without_that_check_the_driver_ends_the_process(dev: Any):
    if "Portable Computing" not in dev.info.driver:
        pytest.skip("a GPU does not fault in this process")
    with psyne.sender("ipc://planes", Plane, align=ALIGN, stages=MUTATES) as out, Child() as child:
        out.send(ramp())
        child.run("first = psyne.receiver('ipc://planes', stage='change'); first.receive().release()")
        child.begin(
            "import opencl; dev = psyne.device('opencl'); kernel = dev.kernel(opencl.SCALE)\n"
            "m = psyne.receiver('ipc://planes', stage='show').receive(); view = dev.view(m)\n"
            "view.check_writable = lambda what: None\n"
            "kernel(view, 2, 0).wait()"
        )
        assert child.process.wait() == -signal.SIGSEGV


def test_work_is_done_in_the_order_of_its_calls(dev: Any, scale: Any, out: Any):
    with out.loan() as m:
        m.array[:] = 0
        view = dev.view(m)
        events = [scale(view, 0.5, n % 3) for n in range(50)]
        assert events[-1].wait()
        assert all(event.done() for event in events)
        expected = 0.0
        for n in range(50):
            expected = float(np.float32(expected * 0.5 + n % 3))
        assert m.array[0] == np.float32(expected)


@pytest.fixture
def switching() -> Iterator[None]:
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_many_threads_use_one_device_and_one_kernel(dev: Any, scale: Any, switching: None):
    faults = []

    def work(n: int) -> None:
        try:
            where = f"ipc://planes{n}"
            with psyne.sender(where, Plane, align=ALIGN) as out, psyne.receiver(where, Plane) as rx:
                for k in range(20):
                    with out.loan() as m:
                        m.array[:] = k
                        assert scale(dev.view(m), n, 1).wait()
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
