"""psyne.testing: its proofs pass what shares memory and fail what copies."""

import mmap
import os
import sys
from pathlib import Path

import numpy as np
import pytest

import psyne
from psyne import Array
from psyne.testing import assert_same_bytes, touch_test

from .helpers.layouts import Line, Record
from .helpers.process import descriptors, run_program


def test_an_array_of_the_message_passes_the_touch_test():
    touch_test(lambda m: m.array)
    touch_test(np.asarray)
    touch_test(memoryview)
    touch_test(np.from_dlpack)
    touch_test(lambda m: m.array, read=lambda a: a[0])


@pytest.mark.parametrize(
    "adapter",
    [lambda m: m.array.copy(), lambda m: m.copy().array, bytearray, lambda m: m.private().array],
    ids=["array.copy", "copy", "bytearray", "private"],
)
def test_an_adapter_that_copies_fails_the_touch_test(adapter):
    with pytest.raises(AssertionError, match="copied: what it made was written"):
        touch_test(adapter, nbytes=4 << 20)


def test_an_adapter_that_copies_what_it_reads_fails_the_touch_test():
    with pytest.raises(AssertionError, match=r"copied.*shows"):
        touch_test(lambda m: m.array.copy(), read=lambda a: a[0], nbytes=4 << 20)


def test_a_second_copy_beside_the_view_fails_the_touch_test_with_numbers():
    with pytest.raises(AssertionError, match=r"touched 4,194,304 of 4,194,304 bytes"):
        touch_test(lambda m: (m.array, m.array.copy()), write=lambda made: made[0].__setitem__(0, 1), nbytes=4 << 20)


def test_the_touch_test_leaves_no_descriptor():
    before = descriptors()
    touch_test(lambda m: m.array, nbytes=1 << 20)
    assert not descriptors() - before


def test_views_and_messages_are_the_same_bytes():
    line, record = Line(), Record()
    for view in (line, line.array, memoryview(line), np.from_dlpack(line), line.array.view("u1"), line.array[:]):
        assert_same_bytes(line, view)
        assert_same_bytes(view, line)
    assert_same_bytes(record, record.array)
    fortran = np.zeros((3, 4), order="F")
    assert_same_bytes(fortran, fortran.T)
    memory = bytearray(64)
    assert_same_bytes(memory, Line.from_buffer(memory))


def test_read_only_views_are_compared_by_writing_the_other_one():
    line = Line()
    view = line.array.view()
    view.flags.writeable = False
    line.array[-1] = 77
    assert_same_bytes(view, line)
    assert_same_bytes(view, view)
    assert line.array[-1] == 77


def test_other_bytes_are_not_the_same():
    line = Line()
    with pytest.raises(AssertionError, match="not the same memory"):
        assert_same_bytes(line, line.copy())
    with pytest.raises(AssertionError, match="32 bytes"):
        assert_same_bytes(line, line.array[:4])
    with pytest.raises(AssertionError, match="not contiguous"):
        assert_same_bytes(line, line.array[::2])


def test_two_mappings_of_one_file_are_not_the_same_address():
    fd = os.memfd_create("twice")
    os.ftruncate(fd, 4096)
    with pytest.raises(AssertionError, match="not the same memory"):
        assert_same_bytes(mmap.mmap(fd, 4096), mmap.mmap(fd, 4096))
    os.close(fd)


def test_the_fixture_gives_a_private_directory(psyne_directory: Path):
    assert os.environ["PSYNE_DIR"] == str(psyne_directory)
    assert psyne_directory.stat().st_mode & 0o777 == 0o700
    with psyne.sender("ipc://here", Array("u1", 4)):
        assert list(psyne_directory.iterdir())


def test_the_module_needs_pytest_for_its_fixture_only():
    program = "import sys; sys.modules['pytest'] = None\nimport psyne.testing\npsyne.testing.touch_test(memoryview)\n"
    run_program(program)
    done = run_program(program + "psyne.testing.psyne_directory", check=False)
    assert "needs pytest: pip install pytest" in done.stderr


def test_a_projects_own_tests_get_the_fixture(tmp_path: Path):
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["psyne.testing"]\n')
    (tmp_path / "test_it.py").write_text(
        "import os, psyne\nseen = set()\n"
        + "".join(
            f"def test_{n}(psyne_directory):\n"
            "    assert psyne_directory not in seen and not list(psyne_directory.iterdir())\n"
            "    seen.add(psyne_directory)\n"
            "    tx = psyne.sender('ipc://same', psyne.Array('u1', 4), pattern='spsc')\n"
            for n in "ab"
        )
    )
    run_program(f"import pytest, sys\nsys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', {str(tmp_path)!r}]))")
    assert sys.modules["psyne.testing"].psyne_directory
