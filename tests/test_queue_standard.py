"""The standard library's own tests of queues run on psyne.Queue, where Python came with them. These do not apply:

- ``test_task_done``: it is about JoinableQueue.
- ``test_queue_feeder_donot_stop_onexc``, ``test_queue_feeder_on_queue_feeder_error``: an item is encoded by ``put``,
  so what cannot be pickled is an exception there and not one of a thread.
- Between threads: what is about ``task_done``, negative time-outs and a ``maxsize`` that changes.
"""

import multiprocessing
import queue as standard
import unittest.mock
from collections.abc import Iterator
from typing import Any

import pytest

import psyne

try:
    from test import _test_multiprocessing as standard_tests
except ImportError:
    standard_tests = None


@pytest.mark.skipif(standard_tests is None, reason="this Python came without the test package")
@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="these tests fork")
class TestStandardLibrary:
    @pytest.fixture(autouse=True)
    def in_place_of_its_queue(self) -> Iterator[None]:
        def make(maxsize: int = 0, **_: Any) -> psyne.Queue[Any]:
            return psyne.Queue(maxsize, pickle=True, max_bytes=4096)

        context = multiprocessing.get_context("fork")
        with (
            unittest.mock.patch.multiple(multiprocessing, Queue=make, JoinableQueue=make),
            unittest.mock.patch.multiple(
                standard_tests._TestQueue, create=True, TYPE="processes", Queue=staticmethod(make),
                Process=context.Process, Event=staticmethod(context.Event),
            ),
        ):  # fmt: skip
            yield

    @pytest.mark.parametrize(
        "name",
        ["test_put", "test_get", "test_fork", "test_qsize", "test_no_import_lock_contention", "test_timeout",
         "test_closed_queue_put_get_exceptions"],
    )  # fmt: skip
    def test_it_passes(self, name: str):
        class Case(standard_tests._TestQueue, unittest.TestCase):
            ALLOWED_TYPES = ("processes",)

        result = unittest.TestResult()
        Case(name).run(result)
        assert result.testsRun == 1
        assert not result.skipped, result.skipped
        assert result.wasSuccessful(), result.errors + result.failures


try:
    from test import test_queue as standard_thread_tests
except ImportError:
    standard_thread_tests = None


@pytest.mark.skipif(standard_thread_tests is None, reason="this Python came without the test package")
@pytest.mark.parametrize("name", ["test_basic", "test_nowait"])
def test_it_passes_what_the_standard_library_asks_of_queues_between_threads(name: str):
    class Case(standard_thread_tests.BaseQueueTestMixin, unittest.TestCase):
        queue = standard

        def type2test(self, maxsize: int) -> psyne.Queue[Any]:
            return psyne.Queue(maxsize, pickle=True, max_bytes=4096)

    result = unittest.TestResult()
    Case(name).run(result)
    assert result.testsRun == 1
    assert result.wasSuccessful(), result.errors + result.failures
