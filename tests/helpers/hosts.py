"""Hosts of a network for tests: a Python child on each of them, and a relay between that delays, loses and cuts."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from .process import Child
from .tools import tool

__all__ = ["Host", "network", "relay"]

relay = tool("relay")


def network(*hosts: str, **options: Any) -> Any:
    """A `relay.Network` of these hosts; skips the test where there can be none."""
    try:
        return relay.Network(hosts, **options)
    except relay.Unavailable as error:
        pytest.skip(f"no network namespaces with TUN devices here: {error}")


class Host(Child):
    """A Child that runs on a host of a network, with a PSYNE_DIR of its own, as on a machine of its own."""

    def __init__(self, net: Any, host: str) -> None:
        self.address = net.address(host)
        self.directory = Path(os.environ["PSYNE_DIR"]) / host
        self.directory.mkdir(mode=0o700, exist_ok=True)
        super().__init__(*net.inside(host), "env", f"PSYNE_DIR={self.directory}")

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        with suppress(OSError):  # what is left in it stays to be seen; another child may use it
            self.directory.rmdir()
