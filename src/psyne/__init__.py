"""Psyne: zero-copy message pipelines. A message is written once, in place, into memory that every stage shares."""

from importlib.metadata import version as _version

from .ends import Batch, Receiver, Sender, receiver, sender
from .errors import (
    ChannelBusy,
    ChannelClosed,
    ChannelNotFound,
    ConcurrentUse,
    Empty,
    EndOfChannel,
    ForkedError,
    Full,
    IncompatibleChannel,
    InvalidArgument,
    LayoutMismatch,
    LeaseLimit,
    MessageReleased,
    NoSpace,
    NotALoan,
    PsyneError,
    ReadOnly,
    SenderLost,
    SystemFailure,
    ViewsAlive,
)
from .info import Info
from .stage import Stage
from .types import (
    Array,
    Message,
    Struct,
    bool_,
    c64,
    c128,
    f16,
    f32,
    f64,
    i8,
    i16,
    i32,
    i64,
    u8,
    u16,
    u32,
    u64,
)

__version__ = _version("psyne")

__all__ = [
    "Array", "Batch", "ChannelBusy", "ChannelClosed", "ChannelNotFound", "ConcurrentUse", "Empty", "EndOfChannel",
    "ForkedError", "Full", "IncompatibleChannel", "Info", "InvalidArgument", "LayoutMismatch", "LeaseLimit", "Message",
    "MessageReleased", "NoSpace", "NotALoan", "PsyneError", "ReadOnly", "Receiver", "Sender", "SenderLost", "Stage",
    "Struct", "SystemFailure", "ViewsAlive", "__version__", "bool_", "c64", "c128", "f16", "f32", "f64", "i8", "i16",
    "i32", "i64", "receiver", "sender", "u8", "u16", "u32", "u64",
]  # fmt: skip
