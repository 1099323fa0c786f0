"""Everything that psyne raises.

PsyneError
├── Full (TimeoutError, queue.Full)            no slot in time
├── Empty (TimeoutError, queue.Empty)          no message in time
├── EndOfChannel (EOFError)                    the last sender closed; all was received
├── TakenOut (RuntimeError)                    a stage took out the message of a call()
├── SenderLost (ConnectionError)               a sender died or failed; all that it sent was received
│   └── SessionReset (SenderLost)              the far end was started again, and has forgotten this end
├── ChannelClosed (ValueError)                 this end was closed
├── MessageReleased (ValueError)               the message was sent or released
├── ViewsAlive (BufferError)                   release() while arrays use the message
├── LeaseLimit (BufferError)                   nothing can be sent: one end holds every slot
├── CannotShare (BufferError)                  a library cannot use the bytes as they are
├── ReadOnly (TypeError)                       writing to a received message
├── NotALoan (TypeError)                       discard() or truncate() of a received message
├── LayoutMismatch (TypeError)                 another dtype, shape, pattern or graph
├── ChannelNotFound (FileNotFoundError)        no such channel, and no type to make it
├── ChannelBusy (RuntimeError)                 the pattern's place is taken
├── ConcurrentUse (RuntimeError)               two threads use one end
├── ForkedError (RuntimeError)                 an end of the parent process
├── NoSpace (MemoryError)                      shared memory is full
├── IncompatibleChannel (OSError)              a foreign or damaged file, or another layout version
├── PeerCorrupted (OSError)                    a message contradicts its own header
├── ProtocolError (ConnectionError)            bytes from the network that are none of this protocol
├── AuthenticationFailed (PermissionError)     another token, or a certificate that is not trusted
├── InsecureBind (PermissionError)             an address that others reach, without TLS and without a token
├── InvalidArgument (ValueError)               an argument that can never work
├── DeviceUnavailable (RuntimeError)           no such device, or its driver is missing
├── EventFailed (RuntimeError)                 the work failed that a loan was to be sent after
├── PipelineError (RuntimeError)               a worker of a pipeline was lost for good
└── SystemFailure (OSError)                    a system call failed
"""

import queue

__all__ = [
    "AuthenticationFailed",
    "CannotShare",
    "ChannelBusy",
    "ChannelClosed",
    "ChannelNotFound",
    "ConcurrentUse",
    "DeviceUnavailable",
    "Empty",
    "EndOfChannel",
    "EventFailed",
    "ForkedError",
    "Full",
    "IncompatibleChannel",
    "InsecureBind",
    "InvalidArgument",
    "LayoutMismatch",
    "LeaseLimit",
    "MessageReleased",
    "NoSpace",
    "NotALoan",
    "PeerCorrupted",
    "PipelineError",
    "ProtocolError",
    "PsyneError",
    "ReadOnly",
    "SenderLost",
    "SessionReset",
    "SystemFailure",
    "TakenOut",
    "ViewsAlive",
]


class PsyneError(Exception):
    """The root of all errors of psyne."""


class Full(PsyneError, TimeoutError, queue.Full):
    """No slot became free in time. The message names who holds the ring up."""


class Empty(PsyneError, TimeoutError, queue.Empty):
    """No message came in time."""


class EndOfChannel(PsyneError, EOFError):
    """The last sender closed, and all that it sent was received."""


class TakenOut(PsyneError, RuntimeError):
    """A stage took the message of a ``call()`` out: a member died while it wrote to it, or three died on it."""


class SenderLost(PsyneError, ConnectionError):
    """A sender died, or left its ``with`` by an exception; all that it sent was received."""


class SessionReset(SenderLost):
    """The far end of a connection was started again, so what this end was in the middle of is over."""


class ChannelClosed(PsyneError, ValueError):
    """This end was closed."""


class MessageReleased(PsyneError, ValueError):
    """The message was sent, discarded or released; its bytes are another message's."""


class ViewsAlive(PsyneError, BufferError):
    """``release()`` while arrays, slices or memoryviews use the message."""


class LeaseLimit(PsyneError, BufferError):
    """Nothing can be sent any more, because this end holds every slot."""


class CannotShare(PsyneError, BufferError):
    """A library cannot use these bytes as they are: it would need a copy. The message says what stands in the way."""


class ReadOnly(PsyneError, TypeError):
    """A received message cannot be written to (its stage does not mutate), nor one over a read-only buffer."""


class NotALoan(PsyneError, TypeError):
    """Only a loan can be discarded or truncated."""


class LayoutMismatch(PsyneError, TypeError):
    """Another dtype, shape, pattern or graph of stages."""


class ChannelNotFound(PsyneError, FileNotFoundError):
    """No such channel, and no type to make it with."""


class ChannelBusy(PsyneError, RuntimeError):
    """The place that the channel's pattern allows is taken. The message names who is there."""


class ConcurrentUse(PsyneError, RuntimeError):
    """Two threads use one end at the same time."""


class ForkedError(PsyneError, RuntimeError):
    """This end belongs to the parent process."""


class NoSpace(PsyneError, MemoryError):
    """Shared memory is full. The message names the bytes that were asked for."""


class IncompatibleChannel(PsyneError, OSError):
    """A foreign or damaged file lies under the channel's name, or another layout version."""


class PeerCorrupted(PsyneError, OSError):
    """What another process wrote contradicts itself; nothing outside the slot was touched."""


class ProtocolError(PsyneError, ConnectionError):
    """What came over the network is not this protocol. That one connection was closed; nothing of it was delivered."""


class AuthenticationFailed(PsyneError, PermissionError):
    """The other side knows another token or none, or has a certificate that is not trusted."""


class InsecureBind(PsyneError, PermissionError):
    """An address that other hosts reach needs TLS or a token."""


class InvalidArgument(PsyneError, ValueError):
    """An argument that can never work: a name, a stage, an address."""


class DeviceUnavailable(PsyneError, RuntimeError):
    """There is no such device here. The message says which driver is missing, and what to install."""


class EventFailed(PsyneError, RuntimeError):
    """The work failed that a loan was to be sent after (``send(m, after=event)``): the message was taken back."""


class PipelineError(PsyneError, RuntimeError):
    """A worker of a pipeline was lost for good: killed, or its function raised. What could be worked off was."""

    def __init__(self, text: str, stage: str = "", pid: int = 0, reason: str = "") -> None:
        super().__init__(text)
        self.stage: str = stage
        """The name of its stage or source."""
        self.pid: int = pid
        self.reason: str = reason
        """What its function raised, with the traceback, or what killed it."""


class SystemFailure(PsyneError, OSError):
    """A system call failed."""
