"""Psyne: zero-copy message pipelines. A message is written once, in place, into memory that every stage shares."""

import importlib as _importlib
import typing as _typing

from . import interop
from ._native import DynamicSlabAllocator, Slab, SlabAllocator
from .align import Aligned, align
from .anonymous import channel
from .batch import Batch
from .devices import device, devices
from .ends import Receiver, Sender
from .errors import (
    AuthenticationFailed,
    CannotShare,
    ChannelBusy,
    ChannelClosed,
    ChannelNotFound,
    ConcurrentUse,
    DeviceUnavailable,
    Empty,
    EndOfChannel,
    EventFailed,
    ForkedError,
    Full,
    IncompatibleChannel,
    InsecureBind,
    InvalidArgument,
    LayoutMismatch,
    LeaseLimit,
    MessageReleased,
    NoSpace,
    NotALoan,
    PeerCorrupted,
    PipelineError,
    ProtocolError,
    PsyneError,
    ReadOnly,
    SenderLost,
    SessionReset,
    SystemFailure,
    TakenOut,
    ViewsAlive,
)
from .info import Info
from .inspect import inspect
from .listener import Listener
from .matching import AlignedStatistics
from .openers import receiver, sender, tap
from .queues import Queue
from .ring import DynamicRingBuffer, RingBuffer
from .stage import Stage
from .statistics import Statistics
from .taps import Tap
from .types import (
    Array,
    ArrowBatch,
    Bytes,
    Matrix,
    Message,
    Struct,
    Text,
    VariantHdr,
    bf16,
    bool_,
    c64,
    c128,
    f16,
    f32,
    f64,
    field,
    fp8_e4m3,
    fp8_e5m2,
    i4,
    i8,
    i16,
    i32,
    i64,
    u4,
    u8,
    u16,
    u32,
    u64,
)
from .waiting import select

if _typing.TYPE_CHECKING:
    from . import aio as aio
    from . import pipeline as pipeline
    from .bridges import bridge as bridge
    from .network.serve import serve as serve
    from .pipeline import Pipeline as Pipeline
    from .tls import Tls as Tls
else:

    def __getattr__(name: str) -> object:
        """psyne.aio, psyne.pipeline, psyne.bridges and psyne.network are imported when they are first used."""
        if name == "bridge":
            return _importlib.import_module(".bridges", __name__).bridge
        if name == "serve":
            return _importlib.import_module(".network.serve", __name__).serve
        if name in ("aio", "pipeline"):
            return _importlib.import_module(f".{name}", __name__)
        if name == "Pipeline":
            return _importlib.import_module(".pipeline", __name__).Pipeline
        if name == "Tls":
            return _importlib.import_module(".tls", __name__).Tls
        if name == "__version__":  # it takes longer to look up than many modules to import
            return _importlib.import_module("importlib.metadata").version("psyne")
        raise AttributeError(f"module 'psyne' has no attribute {name!r}")


__version__: str

__all__ = [
    "Aligned",
    "AlignedStatistics",
    "Array",
    "ArrowBatch",
    "AuthenticationFailed",
    "Batch",
    "Bytes",
    "CannotShare",
    "ChannelBusy",
    "ChannelClosed",
    "ChannelNotFound",
    "ConcurrentUse",
    "DeviceUnavailable",
    "DynamicRingBuffer",
    "DynamicSlabAllocator",
    "Empty",
    "EndOfChannel",
    "EventFailed",
    "ForkedError",
    "Full",
    "IncompatibleChannel",
    "Info",
    "InsecureBind",
    "InvalidArgument",
    "LayoutMismatch",
    "LeaseLimit",
    "Listener",
    "Matrix",
    "Message",
    "MessageReleased",
    "NoSpace",
    "NotALoan",
    "PeerCorrupted",
    "PipelineError",
    "ProtocolError",
    "PsyneError",
    "Queue",
    "ReadOnly",
    "Receiver",
    "RingBuffer",
    "Sender",
    "SenderLost",
    "SessionReset",
    "Slab",
    "SlabAllocator",
    "Stage",
    "Statistics",
    "Struct",
    "SystemFailure",
    "TakenOut",
    "Tap",
    "Text",
    "VariantHdr",
    "ViewsAlive",
    "__version__",
    "align",
    "bf16",
    "bool_",
    "c64",
    "c128",
    "channel",
    "device",
    "devices",
    "f16",
    "f32",
    "f64",
    "field",
    "fp8_e4m3",
    "fp8_e5m2",
    "i4",
    "i8",
    "i16",
    "i32",
    "i64",
    "inspect",
    "interop",
    "receiver",
    "select",
    "sender",
    "tap",
    "u4",
    "u8",
    "u16",
    "u32",
    "u64",
]
