"""The sending end of a channel whose messages are in memory of a GPU. Its receivers are those of every channel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Never, TypeVar

from .. import ends
from ..devices import resident
from ..devices.resident_message import ResidentMessage
from ..errors import LeaseLimit
from .ends import Loan, Sender
from .loops import sleep

__all__ = ["ResidentSender"]

T = TypeVar("T")
SLICE = 0.001  # seconds between looks whether streams have read


class ResidentSender(Sender[Any]):
    """`psyne.aio.sender` with ``device=`` opens one."""

    def __init__(self, end: ends.Sender[Any]) -> None:
        super().__init__(end)
        assert isinstance(end, resident.ResidentSender)
        self._resident = end

    def loan(self) -> Loan[Any]:  # type: ignore[override]
        """Memory on the device to write in place; waits for room. Raises ChannelClosed, LeaseLimit."""
        return Loan(self._room(1, self._resident.try_loan))

    async def send(self, message: object, *, after: object = None, stream: Any = None) -> bool:
        """Send one's own loan, or copy one message in, as `psyne.devices.resident.ResidentSender.send` says."""
        tx = self._resident
        if isinstance(message, ResidentMessage) and message._sender is tx:  # needs no room
            return tx.send(message, after=after, stream=stream)
        tx._check_after(after)
        return await self._room(1, lambda: tx._try_send(message, stream=stream))

    async def _room(self, n: int, attempt: Callable[[], T | None]) -> T:
        while True:
            try:
                return await super()._room(n, attempt)
            except LeaseLimit:
                if not self._resident._keeper.kept():  # streams still read what this end keeps
                    raise
            await sleep(SLICE)

    async def call(self, message: object) -> Never:
        """Raises InvalidArgument."""
        self._resident.call(message)
