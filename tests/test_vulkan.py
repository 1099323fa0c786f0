"""Vulkan devices on a real driver, Mesa's lavapipe where there is no GPU: messages in place, from first to last."""

import gc
import os
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import psyne
from psyne.devices import vulkan_api
from psyne.devices.vulkan_driver import api as driver_api
from psyne.devices.vulkan_driver import preferred

from .helpers.maps import device_place, place
from .helpers.planes import MUTATES, Frame, N, Plane, change, ramp, show
from .helpers.process import HELPERS, Child, run_program
from .helpers.vulkan import ADD, SCALE, scaled
from .helpers.vulkan_fixtures import GLSL, dev, out, scale

__all__ = ["dev", "out", "scale"]  # fixtures


# ---- the same bytes -------------------------------------------------------------------------------------------------


def test_a_kernel_changes_a_message_in_place_and_another_process_sees_it_in_its_own_mapping(
    dev: Any, scale: Any, out: Any
):
    with Child() as child:
        child.run("import maps; rx = psyne.receiver('ipc://planes', stage='show')")
        with change() as rx:
            out.send(ramp())
            with rx.receive() as m:
                view = dev.view(m)
                ours, devices = place(m.array.ctypes.data), device_place(view)
                assert scaled(scale, view, 2, 1).wait()
                assert (m.array == ramp() * 2 + 1).all()
        theirs, seen = child.run("m = rx.receive(); (maps.place(m.array.ctypes.data), m.array.copy())")
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


def test_anonymous_channels_and_their_handed_over_ends_work_too(dev: Any, scale: Any):
    tx, rx = psyne.channel(Plane)
    with tx, rx:
        with tx.loan() as m:
            m.array[:] = 1
            assert scaled(scale, dev.view(m), 4, 0).wait()
        with rx.receive() as m:
            assert (m.array == 4).all()


def test_a_pipeline_has_a_stage_on_the_device(monkeypatch: pytest.MonkeyPatch):
    # Processes that are spawned import both by these names.
    monkeypatch.setenv("PYTHONPATH", str(HELPERS) + os.pathsep + os.environ.get("PYTHONPATH", ""))
    monkeypatch.syspath_prepend(str(HELPERS))
    import vulkan as help  # type: ignore[import-not-found]
    import vulkan_stages  # type: ignore[import-not-found]

    pipe = psyne.Pipeline()
    camera = pipe.source(vulkan_stages.capture, vulkan_stages.Image, name="camera")
    camera.stage(help.ScaleStage, mutate=True)
    camera.stage(vulkan_stages.check)
    report = pipe.run()
    assert [stage.messages for stage in report.source("camera").stages] == [vulkan_stages.COUNT] * 2


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


# ---- what is refused, before a driver sees it -----------------------------------------------------------------------


def test_what_lies_where_the_device_cannot_begin_is_refused_and_can_be_uploaded(dev: Any, scale: Any, out: Any):
    with out.loan() as m:
        m.array[:] = ramp()
        with pytest.raises(psyne.CannotShare, match=r"needs an address that \d+ divides.*\(rest 4\).*align="):
            dev.view(m.array[1:])
        assert (dev.upload(m.array[1:]).numpy() == ramp()[1:]).all()


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


# ---- life and death -------------------------------------------------------------------------------------------------


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
