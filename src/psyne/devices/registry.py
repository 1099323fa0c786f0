"""Which pages a device has registered: the 64 that were used last, and those that views keep."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from .. import _native

__all__ = ["MOST", "Registration", "Registry"]

MOST = 64  # registrations that are kept without a view

Key = tuple[int, int, int, int, bool]


class Registration:
    """Pages that a driver knows. Views keep it; when nothing does, the driver forgets them."""

    __slots__ = ("__weakref__", "_let_go", "handle", "mapping")

    def __init__(self, let_go: Callable[[Registration], None], mapping: _native.Mapping, handle: Any) -> None:
        self._let_go = let_go
        self.mapping: _native.Mapping = mapping
        self.handle: Any = handle
        """What the device made of it."""

    def __del__(self) -> None:
        self._let_go(self)


class Registry:
    """Of one device, whose lock is held in `find`, `add` and `clear`."""

    def __init__(self) -> None:
        self._all: weakref.WeakValueDictionary[Key, Registration] = weakref.WeakValueDictionary()
        self._kept: dict[Key, Registration] = {}  # the one used last comes last
        self._ends: dict[Key, weakref.ref[Any]] = {}

    def find(self, region: _native.Region, writable: bool) -> Registration | None:
        """The registration of these pages, and from now on one that was used."""
        key = (*region.key, writable)
        if (found := self._kept.pop(key, None)) is not None:
            self._kept[key] = found
            return found
        return self._all.get(key)

    def add(self, region: _native.Region, registration: Registration) -> None:
        """One that was not there. Pages of a single message last as long as its views."""
        self._prune()
        key = (*region.key, registration.mapping.writable)
        self._all[key] = registration
        if not region.lasting:
            return
        self._kept[key] = registration
        self._ends[key] = weakref.ref(region.end, lambda _: self._drop(key))
        while len(self._kept) > MOST:
            self._drop(next(iter(self._kept)))

    def clear(self) -> None:
        for key in list(self._kept):
            self._drop(key)

    def _prune(self) -> None:
        """Pages to which no other message will come are not kept."""
        for key, registration in list(self._kept.items()):
            if registration.mapping.over:
                self._drop(key)

    def _drop(self, key: Key) -> None:  # when an end is collected: in any thread, without the lock
        self._ends.pop(key, None)
        self._kept.pop(key, None)
