"""What every test gets: a directory for channels of its own, and a watchdog."""

import faulthandler
import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest_plugins = ["psyne.testing"]
WATCHDOG_SECONDS = 120.0

terminal = pytest.StashKey[int]()


def pytest_configure(config: pytest.Config) -> None:
    # Standard error before pytest captures it: the trace must outlive the process.
    config.stash[terminal] = os.dup(2)
    # A shell that runs pytest in the background ignores Ctrl-C for it and for all its children; tests send some.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_unconfigure(config: pytest.Config) -> None:
    os.close(config.stash[terminal])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Shows where a test hangs, set-up and tear-down included, and ends the run."""
    marker = item.get_closest_marker("watchdog")
    seconds = float(marker.args[0]) if marker else WATCHDOG_SECONDS
    faulthandler.dump_traceback_later(seconds, exit=True, file=item.config.stash[terminal])
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


@pytest.fixture(autouse=True, scope="module")
def fast_collections() -> None:
    """Collections look at what this module makes, not at all that torch, JAX and the modules before it have made."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def leaves_nothing(request: pytest.FixtureRequest, psyne_directory: Path) -> Iterator[None]:
    """Every test has a PSYNE_DIR of its own; one marked `leaves_nothing` must empty it again."""
    yield
    if request.node.get_closest_marker("leaves_nothing"):
        gc.collect()
        assert sorted(path.name for path in psyne_directory.iterdir()) == []
