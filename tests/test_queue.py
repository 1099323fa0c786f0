"""psyne.Queue is what programs know from multiprocessing.Queue, and its arrays lie in slots."""

import contextlib
import gc
import multiprocessing
import os
import pickle
import queue as standard
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import psyne
from psyne import items

from .helpers.layouts import Number, Sample
from .helpers.process import PATIENCE, descriptors, run_program, until

METHODS = ["spawn", "forkserver", "fork"]

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")


# ---- what goes in comes out ------------------------------------------------------------------------------------------

ARRAYS = [
    np.arange(12.0).reshape(3, 4),
    np.asfortranarray(np.arange(12, dtype="i2").reshape(3, 4)),
    np.arange(10)[::-2],
    np.array(2.5),
    np.zeros((0, 3), "u1"),
    np.array([True, False]),
    np.array([1 + 2j], "c16"),
    np.arange(3, dtype=">u4"),
    np.array(["2026-01-01"], "M8[D]"),
    np.array([b"ab", b"c"]),
    np.array(["ä", "bc"]),
    np.array([(1, (2.0, 3.0))], [("a", "i4"), ("b", "f8", 2)]),
    np.zeros(2, np.dtype({"names": ["x"], "formats": ["u1"], "offsets": [4], "itemsize": 8})),
]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda a: f"{a.dtype}{a.shape}")
@pytest.mark.parametrize("copy", [True, False])
def test_an_array_comes_out_as_it_was(array: np.ndarray, copy: bool):
    q: psyne.Queue[np.ndarray] = psyne.Queue(max_bytes=4096)
    q.put(array)
    got = q.get(copy=copy)
    assert type(got) is np.ndarray
    assert (got.dtype, got.shape) == (array.dtype, array.shape)
    np.testing.assert_array_equal(got, array)
    assert got.flags.writeable == copy
    assert got.flags.f_contiguous == array.flags.f_contiguous or not array.flags.contiguous


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(
    array=hnp.arrays(hnp.scalar_dtypes(), hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)),
    copy=st.booleans(),
)
def test_any_array_comes_out_as_it_was(array: np.ndarray, copy: bool):
    item = items.encode(array, False)
    slot = np.empty(item.bytes + 64, "u1")
    item.write(slot)
    got = items.decode(slot, copy, False)
    assert (got.dtype, got.shape, got.tobytes()) == (array.dtype, array.shape, array.tobytes())


@pytest.mark.parametrize("thing", [b"", b"abc", bytearray(b"xyz"), "", "häl\udc80lo", "x" * 4000], ids=repr)
def test_bytes_and_text_come_out_as_they_were(thing: Any):
    q: psyne.Queue[Any] = psyne.Queue(max_bytes=4096)
    q.put(thing)
    assert q.get() == thing
    q.put(thing)
    assert q.get(copy=False) == thing


def test_a_struct_comes_out_as_itself():
    q: psyne.Queue[Sample] = psyne.Queue(max_bytes=4096)
    q.put(Sample(stamp=7, kind=2, values=(1, 2, 3)))
    got = q.get()
    assert isinstance(got, psyne.Struct)
    assert (got.stamp, got.kind, got.values.tolist()) == (7, 2, [1, 2, 3])
    got.stamp = 8
    assert got.stamp == 8


def test_what_came_out_is_the_callers_own():
    q: psyne.Queue[np.ndarray] = psyne.Queue(maxsize=1, max_bytes=4096)
    q.put(np.full(8, 1))
    first = q.get()
    q.put(np.full(8, 2))  # the same slot
    assert first.tolist() == [1] * 8
    first[:] = 3
    assert q.get().tolist() == [2] * 8


def test_a_view_keeps_its_slot():
    q: psyne.Queue[np.ndarray] = psyne.Queue(maxsize=1, max_bytes=4096, copy=False)
    q.put(np.full(8, 1))
    view = q.get()
    with pytest.raises(ValueError, match="read-only"):
        view[0] = 1
    with pytest.raises(standard.Full):
        q.put_nowait(np.full(8, 2))
    assert view.tolist() == [1] * 8
    assert view.ctypes.data % 64 == 0
    del view
    gc.collect()
    q.put_nowait(np.full(8, 2))
    assert q.get(copy=True).flags.writeable


@pytest.mark.parametrize("thing", [1, None, [1], {"a": 1}, np.array([None]), np.float64(1)], ids=repr)
def test_what_needs_a_pickle_says_so(thing: Any):
    q: psyne.Queue[Any] = psyne.Queue(max_bytes=4096)
    with pytest.raises(TypeError, match=r"psyne\.Queue\(pickle=True\)"):
        q.put(thing)
    assert q.empty()
    yes: psyne.Queue[Any] = psyne.Queue(max_bytes=4096, pickle=True)
    yes.put(thing)
    assert yes.get() == thing


def test_the_buffers_of_a_pickle_lie_in_the_slot():
    q: psyne.Queue[Any] = psyne.Queue(max_bytes=1 << 16, pickle=True)
    thing = {"a": np.arange(1000), "b": [np.ones((2, 3)), "text"], "c": np.arange(20)[::2]}
    q.put(thing)
    got = q.get()
    np.testing.assert_equal(got, thing)
    got["a"][0] = 5
    q.put(thing)
    view = q.get(copy=False)["a"]
    assert not view.flags.writeable
    assert view.ctypes.data % 64 == 0
    item = items.encode(thing, True)
    assert len(item.parts) == 3
    assert len(item.parts[0]) < 1000  # the stream itself holds none of their bytes


def test_an_item_that_is_too_large_names_the_option():
    q: psyne.Queue[Any] = psyne.Queue(max_bytes=1000)
    q.put(np.zeros(1000, "u1"))
    with pytest.raises(ValueError, match=r"max_bytes=\d+ or more \(it has max_bytes=1000\)"):
        q.put(np.zeros(10_000, "u1"))
    with pytest.raises(ValueError, match="max_bytes"):
        q.put("x" * 10_000)


def test_what_cannot_be_pickled_is_an_error_of_put_and_harms_nothing():
    q: psyne.Queue[Any] = psyne.Queue(pickle=True, max_bytes=4096)
    with pytest.raises((AttributeError, pickle.PicklingError)):
        q.put(lambda: 1)
    q.put(2)
    assert q.get() == 2


@pytest.mark.parametrize(
    "wrong", [{"max_bytes": 0}, {"max_bytes": 1 << 40}, {"max_bytes": "1"}, {"wait": "often"}], ids=str
)
def test_options_that_can_never_work_are_refused(wrong: dict[str, Any]):
    with pytest.raises(psyne.InvalidArgument):
        psyne.Queue(**wrong)


# ---- foreign bytes ---------------------------------------------------------------------------------------------------

HOSTILE: list[Callable[[np.ndarray], Any]] = [
    lambda slot: slot[:2].view("<u2").__setitem__(0, 0),
    lambda slot: slot[:2].view("<u2").__setitem__(0, 65472),
    lambda slot: slot[:2].view("<u2").__setitem__(0, 65),
    lambda slot: slot.__setitem__(2, 0),
    lambda slot: slot.__setitem__(2, 77),
    lambda slot: slot.__setitem__(2, items.PICKLE),
    lambda slot: slot.__setitem__(2, items.STRUCT),
    lambda slot: slot[4:8].view("<u4").__setitem__(0, 1 << 31),
    lambda slot: slot[4:8].view("<u4").__setitem__(0, 0),
    lambda slot: slot[8:12].view("<u4").__setitem__(0, 1 << 31),
    lambda slot: slot[12:20].view("<u8").__setitem__(0, 1 << 63),
    lambda slot: slot[12:28].view("<u8").__setitem__(slice(2), 1 << 62),
    lambda slot: slot[28:31].__setitem__(slice(3), list(b"|O8")),
    lambda slot: slot[28:31].__setitem__(slice(3), list(b"[[[")),
    lambda slot: slot[28:31].__setitem__(slice(3), list(b"\xff\xfe\xfd")),
]


@pytest.mark.parametrize("change", HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_head_is_an_error(change: Callable[[np.ndarray], Any]):
    item = items.encode(np.zeros((2, 3), "<f4"), False)
    slot = np.zeros(4096, "u1")
    item.write(slot)
    change(slot)
    with pytest.raises(psyne.PeerCorrupted):
        items.decode(slot, True, False)


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=200))
def test_any_bytes_give_an_item_or_an_error(bytes_there: bytes):
    slot = np.frombuffer(bytearray(bytes_there), "u1")
    with contextlib.suppress(psyne.PeerCorrupted):
        items.decode(slot, True, False)


# ---- as multiprocessing.Queue ----------------------------------------------------------------------------------------


def test_a_full_queue_says_so_and_an_empty_one_too():
    q: psyne.Queue[bytes] = psyne.Queue(maxsize=3, max_bytes=100)
    assert q.empty()
    for n in range(3):
        assert not q.full()
        q.put(b"%d" % n)
    assert q.full()
    for attempt in (lambda: q.put(b"x", False), lambda: q.put_nowait(b"x"), lambda: q.put(b"x", timeout=0.01)):
        with pytest.raises(standard.Full):
            attempt()
    assert [q.get(), q.get(timeout=PATIENCE), q.get_nowait()] == [b"0", b"1", b"2"]
    for attempt in (
        lambda: q.get(False),
        lambda: q.get_nowait(),
        lambda: q.get(timeout=0.01),
        lambda: q.get(timeout=-1),
    ):
        with pytest.raises(standard.Empty):
            attempt()


def test_maxsize_beyond_the_ring_is_kept_by_the_producer():
    q: psyne.Queue[np.ndarray] = psyne.Queue(maxsize=20, max_bytes=8 << 20)  # eight slots
    for n in range(20):
        q.put(np.array([n]), False)
    assert q.qsize() == 20
    with pytest.raises(standard.Full):
        q.put(np.array([20]), timeout=0.01)
    assert [int(q.get()[0]) for _ in range(20)] == list(range(20))


def test_a_queue_without_maxsize_takes_any_number_and_keeps_their_order():
    q: psyne.Queue[int] = psyne.Queue(pickle=True)
    for n in range(3000):
        q.put(n)
    assert q.qsize() == 3000
    assert [q.get() for _ in range(3000)] == list(range(3000))
    assert q.qsize() == 0
    q.put(5)
    assert q.get() == 5


def test_what_waits_for_a_slot_is_what_was_put():
    q: psyne.Queue[np.ndarray] = psyne.Queue(max_bytes=8 << 20)
    array = np.zeros(4)
    for n in range(12):
        array[:] = n
        q.put(array)
    assert [q.get()[0] for _ in range(12)] == list(range(12))


@pytest.mark.parametrize("method", METHODS)
def test_a_queue_goes_to_processes_and_back(method: str):
    done = run_program(
        "import multiprocessing, numpy as np, psyne\n"
        f"context = multiprocessing.get_context({method!r})\n"
        "import workers\n"
        "if __name__ == '__main__':\n"
        "    jobs, answers = psyne.Queue(max_bytes=1 << 16), psyne.Queue(pickle=True, max_bytes=1 << 16)\n"
        "    processes = [context.Process(target=workers.square, args=(jobs, answers)) for _ in range(3)]\n"
        "    for process in processes: process.start()\n"
        "    for n in range(60): jobs.put(np.full(100, n))\n"
        "    for _ in processes: jobs.put('stop')\n"
        "    got = [answers.get() for _ in range(60)]\n"
        "    for process in processes: process.join()\n"
        "    assert sorted(n for n, _ in got) == [n * n * 100 for n in range(60)], got\n"
        "    print(len({pid for _, pid in got}) <= 3, [p.exitcode for p in processes])\n"
    )
    assert done.stdout.strip() == "True [0, 0, 0]"
    assert "died" not in done.stderr


def test_a_running_pool_gets_a_queue_as_an_argument():
    q: psyne.Queue[np.ndarray] = psyne.Queue(max_bytes=4096)
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        for n in range(4):
            pool.submit(psyne.Queue.put, q, np.array([n])).result(PATIENCE)
    assert sorted(int(q.get()[0]) for _ in range(4)) == [0, 1, 2, 3]


def test_a_forked_child_uses_a_queue_that_the_parent_has_used():
    done = run_program(
        "import os, psyne\n"
        "q = psyne.Queue(pickle=True)\n"
        "for n in range(40): q.put(n)\n"  # more than slots: a thread of the parent has the rest
        "assert q.get() == 0\n"
        "if os.fork() == 0:\n"
        "    assert q.qsize() >= 30\n"
        "    q.put('child')\n"
        "    q.close(); q.join_thread()\n"
        "    os._exit(0)\n"
        "assert os.waitstatus_to_exitcode(os.wait()[1]) == 0\n"
        "got = [q.get() for _ in range(40)]\n"
        "print(sorted(map(str, got)) == sorted(map(str, [*range(1, 40), 'child'])))\n"
    )
    assert done.stdout.strip() == "True"


def test_a_producer_that_exits_delivers_all_that_it_put():
    done = run_program(
        "import multiprocessing, psyne, workers\n"
        "if __name__ == '__main__':\n"
        "    context = multiprocessing.get_context('fork')\n"
        "    q = psyne.Queue(pickle=True)\n"
        "    process = context.Process(target=workers.put_numbers, args=(q, 500))\n"
        "    process.start()\n"
        "    print([q.get() for _ in range(500)] == list(range(500)))\n"
        "    process.join()\n"
        "    print(process.exitcode, q.empty())\n"
    )
    assert done.stdout.split() == ["True", "0", "True"]
    assert "died" not in done.stderr


def test_items_of_several_producers_come_in_the_order_in_which_they_were_put():
    done = run_program(
        "import multiprocessing, psyne, workers\n"
        "if __name__ == '__main__':\n"
        "    context = multiprocessing.get_context('fork')\n"
        "    q = psyne.Queue(pickle=True)\n"
        "    put = []\n"
        "    for n in range(4):\n"
        "        for i in range(n * 100, n * 100 + 5):\n"
        "            q.put(i)\n"
        "            put.append(i)\n"
        "        process = context.Process(target=workers.put_numbers, args=(q, 3))\n"
        "        process.start()\n"
        "        process.join()\n"
        "        put += range(3)\n"
        "    print([q.get() for _ in put] == put, q.empty())\n"
    )
    assert done.stdout.split() == ["True", "True"]


def test_a_program_ends_with_items_that_nobody_takes_when_it_is_allowed_to():
    done = run_program(
        "import psyne\n"
        "q = psyne.Queue(pickle=True)\n"
        "for n in range(200): q.put(n)\n"
        "q.close()\n"
        "q.cancel_join_thread()\n"
        "print('done')\n"
    )
    assert done.stdout.strip() == "done"


def test_what_a_dead_consumer_held_is_given_to_another():
    done = run_program(
        "import multiprocessing, psyne, workers\n"
        "if __name__ == '__main__':\n"
        "    q = psyne.Queue(copy=False)\n"
        "    q.put(b'precious')\n"
        "    process = multiprocessing.get_context('fork').Process(target=workers.get_and_die, args=(q,))\n"
        "    process.start(); process.join()\n"
        "    print(process.exitcode, q.get(copy=True))\n"
    )
    assert done.stdout.split() == ["9", "b'precious'"]


def test_threads_share_one_queue():
    q: psyne.Queue[int] = psyne.Queue(maxsize=8, pickle=True, max_bytes=1000)
    got: list[int] = []

    def put(start: int) -> None:
        for n in range(200):
            q.put(start + n)

    def get() -> None:
        while (n := q.get()) >= 0:
            got.append(n)

    putting = [threading.Thread(target=put, args=(1000 * i,)) for i in range(3)]
    getting = [threading.Thread(target=get) for _ in range(3)]
    for thread in putting + getting:
        thread.start()
    for thread in putting:
        thread.join()
    for _ in getting:
        q.put(-1)
    for thread in getting:
        thread.join()
    assert sorted(got) == [1000 * i + n for i in range(3) for n in range(200)]


def test_a_closed_queue_refuses_everything():
    q: psyne.Queue[Any] = psyne.Queue(pickle=True)
    q.put(1)
    with pytest.raises(ValueError, match="still open"):
        q.join_thread()
    q.close()
    q.close()
    q.join_thread()
    for attempt in (lambda: q.put(1), lambda: q.get(), lambda: q.qsize(), lambda: pickle.dumps(q)):
        with pytest.raises(psyne.ChannelClosed, match="is closed"):
            attempt()
    assert "closed" in repr(q)


@pytest.mark.parametrize("wait", ["put", "get"])
def test_close_ends_the_waits_of_other_threads(wait: str):
    q: psyne.Queue[Any] = psyne.Queue(maxsize=1, pickle=True)
    if wait == "put":
        q.put(1)
    errors: list[BaseException] = []

    def run() -> None:
        try:
            q.put(2) if wait == "put" else q.get()
        except psyne.ChannelClosed as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    until(lambda: q._tx.joined if wait == "put" else q._rx.joined)
    q.close()
    thread.join()
    assert len(errors) == 1


def test_close_delivers_what_waits_for_a_slot():
    q: psyne.Queue[Any] = psyne.Queue(pickle=True)
    other = pickle.loads(pickle.dumps(q))
    for n in range(100):
        q.put(n)
    q.close()
    assert [other.get() for _ in range(100)] == list(range(100))
    q.join_thread()


def test_a_queue_needs_no_file_and_gives_all_back():
    before = descriptors()
    q: psyne.Queue[Any] = psyne.Queue(pickle=True)
    for n in range(40):
        q.put(n)
    for _ in range(40):
        q.get()
    if (feeder := q._feeder) is not None:
        feeder.join()
    del feeder
    assert os.listdir(os.environ["PSYNE_DIR"]) == []
    q.close()
    del q
    gc.collect()
    assert not descriptors() - before


def test_numbers_of_a_layout_travel_too():
    q: psyne.Queue[Number] = psyne.Queue(max_bytes=4096)
    for n in range(5):
        q.put(Number(n=n))
    assert [q.get().n for _ in range(5)] == list(range(5))
