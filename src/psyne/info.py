"""What is known of a message besides its bytes."""

from typing import NamedTuple

from .errors import InvalidArgument

__all__ = ["Info"]


class Info(NamedTuple):
    """About one message, or the first of a batch; of a message in private memory all is 0, unless a tap copied it."""

    sequence: int
    """Position in its sender's lane. Grows; a gap may be a loan that was taken back."""
    sender: int
    """Number of its sender in this channel; never used again for another one."""
    missed: int
    """Messages that ``full="drop"`` lost just before this one; of a tap also those of its sender that it missed."""
    redelivered: bool
    """A receiver died while it held this message."""
    stamp: int = 0
    """`timestamp`, or 0 where its sender keeps no time."""
    remote_stamp: int = 0
    """`remote_timestamp`, or 0 where it came over no network, or its sender there keeps no time."""

    @property
    def timestamp(self) -> int:
        """When it was sent, in nanoseconds of ``time.monotonic_ns()``. Raises where its sender keeps no time."""
        if self.stamp == 0:
            raise InvalidArgument("the sender of this message keeps no timestamps; open it with timestamps=True")
        return self.stamp

    @property
    def remote_timestamp(self) -> int:
        """When it was sent on another host, in nanoseconds of ``time.monotonic_ns()`` there; `timestamp`: when it came.

        Raises InvalidArgument where it came over no network, or its sender there keeps no time.
        """
        if self.remote_stamp == 0:
            raise InvalidArgument("this message did not come over a network, or its sender keeps no timestamps")
        return self.remote_stamp
