"""What is known of a message besides its bytes."""

from typing import NamedTuple

__all__ = ["Info"]


class Info(NamedTuple):
    """About one message, or the first of a batch."""

    sequence: int
    """Position in its sender's lane. Grows; a gap may be a loan that was taken back."""
    sender: int
    """Number of its sender in this channel; never used again for another one."""
    missed: int
    """Messages that ``full="drop"`` lost just before this one."""
    redelivered: bool
    """A receiver died while it held this message."""
