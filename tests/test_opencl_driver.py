"""Events of OpenCL devices, and which devices there are."""

import gc
import os
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import psyne
from psyne.devices import opencl

from .helpers.opencl import SET, SLOW
from .helpers.opencl_fixtures import Gate, aside, cl, dev, gate, words
from .helpers.process import run_program

__all__ = ["aside", "dev", "gate", "words"]  # fixtures


def test_an_event_says_when_the_work_is_done(dev: Any, words: Any, gate: Gate):
    with words[0].loan() as m:
        m.array[:] = 0
        event = dev.kernel(SET)(dev.view(m), size=1)
        assert not event.done()
        assert not event.wait(0)
        assert not event.wait(0.01)
        assert "under way" in repr(event)
        assert m.array[0] == 0
        gate.open()
        assert event.wait()
        assert event.done()
        assert event.wait(0)
        assert m.array[0] == 7


def test_an_event_keeps_the_message_until_the_work_is_done(dev: Any, words: Any, gate: Gate):
    out, rx = words
    m = out.loan()
    event = dev.kernel(SET)(dev.view(m), size=1)
    m.discard()
    del m
    rx.try_receive()  # passes over the loan that was taken back
    gc.collect()
    assert out.try_loan() is None
    gate.open()
    assert event.wait()
    out.loan(timeout=0).discard()


def test_an_event_that_is_dropped_is_waited_for(dev: Any, words: Any):
    slow = dev.kernel(SLOW)
    with words[0].loan() as m:
        m.array[:] = 0
        slow(dev.view(m), 50_000_000, size=1)
        assert m.array[0] == 7


def test_a_loan_is_sent_when_the_kernel_that_fills_it_is_done(dev: Any, words: Any, gate: Gate):
    out, rx = words
    m = out.loan()
    m.array[:] = 0
    out.send(m, after=dev.kernel(SET)(dev.view(m), size=1))
    with pytest.raises(psyne.MessageReleased):
        dev.view(m)
    assert rx.try_receive() is None
    gate.open()
    with rx.receive(timeout=60) as got:
        assert got.array[0] == 7


def test_a_loan_whose_work_failed_is_taken_back(dev: Any, words: Any):
    out, rx = words
    failing = cl.UserEvent(dev.context)
    m = out.loan()
    event = dev.event(failing, dev.view(m))
    out.send(m, after=event)
    failing.set_status(-5)
    with pytest.raises(psyne.EventFailed, match="error -5 of OpenCL"):
        out.drain()
    for ask in (event.done, event.wait, lambda: event.wait(1)):
        with pytest.raises(psyne.SystemFailure, match="error -5 of OpenCL") as refused:
            ask()
        assert refused.value.errno == -5
    assert rx.try_receive() is None


def test_an_event_of_ones_own_queue_keeps_the_message_too(dev: Any, words: Any, aside: Gate):
    out, rx = words
    m = out.loan()
    m.array[:] = 0
    cl.enqueue_fill_buffer(aside.queue, dev.view(m).region(), np.uint32(7), 0, 4096)
    out.send(m, after=dev.event(aside.queue, dev.view(m)))
    assert rx.try_receive() is None
    aside.open()
    with rx.receive(timeout=60) as got:
        assert (got.array == 7).all()


def test_gpus_come_before_cpus(monkeypatch: pytest.MonkeyPatch):
    def platform(*kinds: int, fails: bool = False) -> Any:
        def get_devices() -> Any:
            if fails:
                raise cl.RuntimeError("DEVICE_NOT_FOUND")
            return [SimpleNamespace(type=it, available=it, compiler_available=True) for it in kinds]

        return SimpleNamespace(get_devices=get_devices)

    kind = cl.device_type
    there = [platform(kind.CPU, kind.GPU), platform(fails=True), platform(kind.ACCELERATOR, 0, kind.CPU | kind.DEFAULT)]
    monkeypatch.setattr(cl, "get_platforms", lambda: there)
    assert [it.type for it in opencl.found()] == [kind.GPU, kind.ACCELERATOR, kind.CPU, kind.CPU | kind.DEFAULT]


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch):
    ask = "try: psyne.device('opencl')\nexcept psyne.DeviceUnavailable as error: print(error)\nassert psyne.devices()"
    done = run_program("import sys; sys.modules['pyopencl'] = None\nimport psyne\n" + ask)
    assert "pip install 'psyne[opencl]'" in done.stdout
    monkeypatch.setenv("OCL_ICD_VENDORS", os.devnull)
    done = run_program("import psyne\n" + ask)
    assert "apt install ocl-icd-libopencl1 pocl-opencl-icd" in done.stdout
