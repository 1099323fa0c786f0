"""Ends of anonymous channels reach other processes by every way that Python has of starting them."""

import asyncio
import gc
import multiprocessing
import os
import pickle
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
import pytest

import psyne
from psyne.handover import TypeReference

from .helpers.process import HELPERS, PATIENCE, descriptors, run_program, until

METHODS = ["spawn", "forkserver", "fork"]

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")


@pytest.fixture(scope="module", autouse=True)
def importable() -> Iterator[None]:
    """The workers are found by name, here and in started processes."""
    sys.path.insert(0, str(HELPERS))
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = str(HELPERS) + (os.pathsep + before if before else "")
    try:
        yield
    finally:
        sys.path.remove(str(HELPERS))
        os.environ.pop("PYTHONPATH")
        if before is not None:
            os.environ["PYTHONPATH"] = before


@pytest.fixture
def workers() -> Any:
    import workers

    return workers


@pytest.fixture
def number() -> Any:
    from layouts import Number

    return Number


@pytest.mark.parametrize("method", METHODS)
def test_ends_go_to_a_process_and_back_comes_what_it_sent(method: str, workers: Any, number: Any):
    context = multiprocessing.get_context(method)
    out, questions = psyne.channel(number)
    answers, back = psyne.channel(number)
    process = context.Process(target=workers.double, args=(questions, answers))
    process.start()
    with out:
        for n in range(100):
            out.send(number(n=n))
    assert [m.n for m in back] == [2 * n for n in range(100)]
    process.join()
    assert process.exitcode == 0
    assert not questions.joined  # this process only handed them on
    assert not answers.joined


@pytest.mark.parametrize("method", METHODS)
def test_several_processes_share_a_channel(method: str, workers: Any, number: Any):
    context = multiprocessing.get_context(method)
    tx, rx = psyne.channel(number)
    with tx:  # open until all have come
        senders = [context.Process(target=workers.send_numbers, args=(tx.clone(), 1000 * i, 50)) for i in range(3)]
        for process in senders:
            process.start()
        for process in senders:
            process.join()
    assert sorted(m.n for m in rx) == [1000 * i + n for i in range(3) for n in range(50)]


@pytest.mark.parametrize("method", METHODS)
def test_a_process_goes_on_when_the_maker_of_the_channel_has_exited(method: str):
    done = run_program(
        "import multiprocessing, os, sys\n"
        "import psyne, workers, layouts\n"
        f"context = multiprocessing.get_context({method!r})\n"
        "def maker(link):\n"
        "    tx, rx = psyne.channel(layouts.Number)\n"
        "    tx.send(layouts.Number(n=20)); tx.send(layouts.Number(n=22))\n"
        "    link.send(rx)\n"
        "    assert link.recv() == 'got it'\n"
        "    os._exit(0) if method == 'hard' else None\n"
        "    tx.close()\n"
        "if __name__ == '__main__':\n"
        "    method = 'soft'\n"
        "    ours, theirs = multiprocessing.Pipe()\n"
        "    import threading\n"
        "    process = multiprocessing.get_context('fork').Process(target=maker, args=(theirs,))\n"
        "    process.start()\n"
        "    rx = ours.recv()\n"
        "    ours.send('got it')\n"
        "    process.join()\n"
        "    print(sum(m.n for m in rx))\n"
    )
    assert done.stdout.strip() == "42"


def test_a_running_pool_gets_ends_as_arguments(workers: Any, number: Any):
    tx, rx = psyne.channel(number)
    answers, back = psyne.channel(number)
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool, tx:
        pids = set()
        for n in range(6):
            tx.send(number(n=n))
            pids.add(pool.submit(workers.forward, rx, answers).result(PATIENCE))
        assert os.getpid() not in pids
    assert sorted(back.receive().n for _ in range(6)) == [100 + n for n in range(6)]


def test_joblib_gets_ends_as_arguments(workers: Any, number: Any):
    joblib = pytest.importorskip("joblib")
    tx, rx = psyne.channel(number)
    with tx:
        joblib.Parallel(n_jobs=2)(joblib.delayed(workers.send_numbers)(tx, 10 * i, 10) for i in range(5))
    assert sorted(m.n for m in rx) == list(range(50))


@pytest.mark.parametrize("method", METHODS)
def test_a_worker_that_dies_gives_its_message_back(method: str, workers: Any, number: Any):
    context = multiprocessing.get_context(method)
    tx, rx = psyne.channel(number)
    tx.send(number(n=5))
    process = context.Process(target=workers.die_holding, args=(rx,))
    process.start()
    process.join()
    assert process.exitcode == 9
    with rx.receive() as m:
        assert (m.n, m.info.redelivered) == (5, True)


def test_a_sender_that_dies_is_lost(workers: Any, number: Any):
    done = run_program(
        "import multiprocessing, os, psyne, layouts\n"
        "def work(tx):\n"
        "    tx.send(layouts.Number(n=1))\n"
        "    os._exit(1)\n"
        "if __name__ == '__main__':\n"
        "    tx, rx = psyne.channel(layouts.Number)\n"
        "    process = multiprocessing.get_context('fork').Process(target=work, args=(tx,))\n"
        "    process.start()\n"
        "    process.join()\n"
        "    print(rx.receive().n)\n"
        "    try: rx.receive()\n"
        "    except psyne.SenderLost as error: print('anonymous://' in str(error))\n"
    )
    assert done.stdout.split() == ["1", "True"]


@pytest.mark.parametrize("method", METHODS)
def test_a_process_that_only_has_an_end_never_counts(method: str, workers: Any, number: Any):
    context = multiprocessing.get_context(method)
    tx, rx = psyne.channel(number, pattern="spsc")
    process = context.Process(target=workers.keep, args=(rx, tx), daemon=True)
    process.start()
    until(process.is_alive)
    with tx:
        tx.send(number(n=1))
    assert [m.n for m in rx] == [1]
    process.kill()
    process.join()


def test_a_forked_child_uses_ends_that_the_parent_has_not_used(number: Any):
    done = run_program(
        "import os, psyne, layouts\n"
        "tx, rx = psyne.channel(layouts.Number)\n"
        "used, _ = psyne.channel(layouts.Number)\n"
        "used.send(layouts.Number(n=0))\n"
        "if os.fork() == 0:\n"
        "    tx.send(layouts.Number(n=5))\n"
        "    tx.close()\n"
        "    try: used.send(layouts.Number(n=0))\n"
        "    except psyne.ForkedError: used.clone().send(layouts.Number(n=1))\n"
        "    else: os._exit(3)\n"
        "    os._exit(0)\n"
        "assert os.waitstatus_to_exitcode(os.wait()[1]) == 0\n"
        "print([m.n for m in rx])\n"
    )
    assert done.stdout.strip() == "[5]"


def test_a_class_that_can_be_imported_arrives_as_itself(workers: Any, number: Any):
    tx, rx = psyne.channel(number)
    tx.send(number(n=1))
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(workers.echo_type, rx).result(PATIENCE) == "layouts.Number True"


def test_a_class_that_cannot_be_imported_arrives_as_its_fields(workers: Any):
    class Local(psyne.Struct):
        n = psyne.u64()
        x = psyne.f32(3)

    tx, rx = psyne.channel(Local)
    tx.send(Local(n=1))
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert pool.submit(workers.echo_type, rx).result(PATIENCE).endswith("Local False")
    tx.send(Local(n=7))
    again = pickle.loads(pickle.dumps(rx))
    assert again.receive().n == 7


def test_a_class_of_a_main_program_that_spawned_processes_import_again_arrives_as_itself(tmp_path: Any):
    program = tmp_path / "program.py"
    program.write_text(
        "import multiprocessing, psyne\n"
        "class Own(psyne.Struct):\n"
        "    n = psyne.u64()\n"
        "def work(rx):\n"
        "    with rx.receive() as m: print(type(m) is Own, m.n, flush=True)\n"
        "if __name__ == '__main__':\n"
        "    tx, rx = psyne.channel(Own)\n"
        "    tx.send(Own(n=3))\n"
        "    process = multiprocessing.get_context('spawn').Process(target=work, args=(rx,))\n"
        "    process.start(); process.join()\n"
    )
    done = run_program(f"import subprocess, sys; subprocess.run([sys.executable, {str(program)!r}], check=True)")
    assert done.stdout.split() == ["True", "3"]


def test_arrays_and_options_travel_with_an_end():
    tx, rx = psyne.channel(psyne.Array("f4", (2, 3)), capacity=3, full="drop", pattern="spmc")
    again = pickle.loads(pickle.dumps(tx))
    assert (again.capacity, again.address, again.joined) == (4, tx.address, False)
    assert [again.send(np.full((2, 3), i, "f4")) for i in range(6)] == [True] * 4 + [False] * 2
    assert pickle.loads(pickle.dumps(rx)).receive().array.tolist() == [[0.0] * 3] * 2


def test_ends_that_are_pickled_together_share_one_descriptor(number: Any):
    before = descriptors()
    pair = psyne.channel(number)
    one = descriptors() - before
    again = pickle.loads(pickle.dumps(pair))
    assert again[0]._handover.memory is again[1]._handover.memory
    del again, pair
    assert len(one) == 1


def test_descriptors_are_closed_with_the_last_end(number: Any):
    gc.collect()
    psyne.channel(number)
    before = descriptors()
    for _ in range(5):
        tx, rx = psyne.channel(number)
        tx.send(number(n=1))
        assert rx.receive().n == 1
        del tx, rx
    assert not descriptors() - before


@pytest.mark.parametrize("address", ["ipc://named", "memory://named"])
def test_ends_with_an_address_refuse_and_say_what_to_do(address: str, number: Any):
    with psyne.sender(address, number) as tx, psyne.receiver(address) as rx:
        for end in (tx, rx):
            with pytest.raises(TypeError, match=rf"open {address} there.*psyne\.channel\(\)"):
                pickle.dumps(end)
            with pytest.raises(TypeError, match=r"psyne\.channel\(\)"):
                end.clone()


def test_a_closed_end_is_not_handed_on(number: Any):
    for end in psyne.channel(number):
        end.close()
        with pytest.raises(psyne.ChannelClosed):
            pickle.dumps(end)
        with pytest.raises(psyne.ChannelClosed):
            end.clone()


def test_another_layout_of_the_same_class_is_told(number: Any):
    reference = TypeReference.to(number)
    reference = TypeReference("layouts", "Number", reference.schema.replace('"n"', '"m"'))
    with pytest.raises(psyne.LayoutMismatch, match=r"layouts\.Number has another layout.*theirs"):
        reference.find()


def test_an_end_of_an_event_loop_goes_to_a_pool_while_the_loop_runs(workers: Any, number: Any):
    async def main() -> None:
        jobs, taken = psyne.aio.channel(number)
        answers, back = psyne.aio.channel(number)
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            worker = asyncio.get_running_loop().run_in_executor(pool, workers.answer, taken, answers)
            async with jobs:
                for n in range(3):
                    await jobs.send(number(n=n))
            assert [m.n async for m in back] == [100, 101, 102]
            assert await worker == 3
        back.close()

    asyncio.run(main())
