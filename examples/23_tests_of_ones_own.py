"""Tests of a program that uses psyne: a directory for channels, fakes, and proof that nothing was copied. Needs pytest.

Run it with `pytest` like any file of tests, or as a program.
"""

import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import psyne
from psyne import Array, Receiver
from psyne.testing import assert_same_bytes, touch_test

pytest_plugins = ["psyne.testing"]  # in a conftest.py, as a rule: gives the fixture psyne_directory

Image = Array("f4", (32, 32))


# --- the program that is tested ---
def normalised(images: Receiver[Array[np.float32]]) -> Iterator[NDArray[np.float32]]:
    for m in images:
        yield m.array / m.array.max()


def halves(image: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    return image[: len(image) // 2], image[len(image) // 2 :]


# --- its tests ---
def test_a_function_gets_a_channel_without_a_name() -> None:
    tx, rx = psyne.channel(Image)  # no files, no processes
    with tx:
        tx.send(np.full((32, 32), 8, "f4"))
    assert [image.max() for image in normalised(rx)] == [1.0]


def test_a_program_gets_a_directory_of_its_own(psyne_directory: Path) -> None:
    assert os.environ["PSYNE_DIR"] == str(psyne_directory)  # programs that are started here inherit it
    with psyne.sender("ipc://images", Image):
        assert any(psyne_directory.iterdir())
    assert not list(psyne_directory.iterdir())


def test_halves_do_not_copy() -> None:
    touch_test(lambda m: halves(m.array)[0])  # one element of 256 MiB is written, and the pages are counted
    image = Image()
    assert_same_bytes(halves(image.array)[0], image.array[:16])


def test_the_test_would_see_a_copy() -> None:
    import pytest

    with pytest.raises(AssertionError, match="copied"):
        touch_test(lambda m: m.array.copy(), nbytes=1 << 20)


if __name__ == "__main__":
    if importlib.util.find_spec("pytest") is None:
        print("pytest is not installed: pip install pytest")
    else:
        import pytest

        sys.exit(pytest.main([__file__, "-q", "-p", "no:cacheprovider"]))
