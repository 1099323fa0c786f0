"""The ends for asyncio, uvloop and trio (so under anyio): the same names as the blocking ones, every wait a coroutine.

There is no ``timeout=``: cancelling is the time-out, and loses nothing. A message that is there is returned without
going through the loop, which still gets a turn every 64 messages or millisecond.
"""

from .align import Aligned, align
from .ends import Loan, Receiver, Sender, Tap
from .openers import channel, receiver, sender, tap
from .waiting import select

__all__ = ["Aligned", "Loan", "Receiver", "Sender", "Tap", "align", "channel", "receiver", "select", "sender", "tap"]
