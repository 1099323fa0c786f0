"""The native core of psyne: ends, messages, layouts."""

from collections.abc import Iterator
from typing import Any

import numpy
import numpy.typing


LAYOUT_VERSION: int = 5

class Layout:
    """Dtype and shape of one message."""

    def __init__(self, dtype: numpy.dtype, shape: tuple[int, ...], zeroed: bool = False, fortran: bool = False, columns: bool = False, max_bytes: int = 0) -> None: ...

    @property
    def dtype(self) -> numpy.dtype: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __reduce__(self) -> tuple[Any, ...]: ...

    @property
    def bytes(self) -> int: ...

    @property
    def room(self) -> int:
        """Bytes of the elements; of a shaped message at most."""

    @property
    def alignment(self) -> int: ...

    @property
    def shaped(self) -> bool:
        """Each message brings its own dimensions."""

    @property
    def fortran(self) -> bool: ...

    @property
    def columns(self) -> bool: ...

    def __str__(self) -> str: ...

class Message:
    def __buffer__(self, flags: int, /) -> memoryview: ...

class Batch:
    def __buffer__(self, flags: int, /) -> memoryview: ...

class Lease:
    pass

def adopt(cls: type, /) -> None: ...

class Field:
    def __init__(self, dtype: numpy.dtype[Any], shape: tuple[int, ...], offset: int, type: type | None = None, /) -> None: ...
    def __get__(self, instance: object, owner: type | None = None, /) -> Any: ...
    def __set__(self, instance: object, value: Any, /) -> None: ...

def dlpack(array: numpy.typing.NDArray[numpy.generic], /, **keywords: object) -> object: ...

def dlpack_on(
    array: numpy.typing.NDArray[numpy.generic], device: tuple[int, int], address: int, max_version: object = None, dl_device: object = None, copy: object = None
) -> object: ...

def private_array(array: numpy.typing.NDArray[numpy.generic], align: int) -> numpy.typing.NDArray[numpy.generic]:
    """
    A writable array of the same shape and strides: copy-on-write pages, or a copy.
    """

class Mapping:
    """Pages of a channel's memory, mapped once more: for a device alone."""

    @property
    def address(self) -> int:
        """Of the first byte, a multiple of the page; 0 once it is closed."""

    @property
    def nbytes(self) -> int:
        """A multiple of the page."""

    @property
    def writable(self) -> bool: ...

    @property
    def fd(self) -> int:
        """Of the file; it stays the mapping's."""

    @property
    def offset(self) -> int:
        """Where it begins in that file."""

    @property
    def over(self) -> bool:
        """
        No other message will come here: the slab is unlinked, or nobody else in this process maps it.
        """

    def close(self) -> None:
        """Unmap it. The device must have let it go."""

class Region:
    """Which pages of which file have the bytes of an array of a message."""

    @property
    def key(self) -> tuple[int, int, int, int]:
        """(st_dev, st_ino, offset in the file, bytes) of the pages."""

    @property
    def offset(self) -> int:
        """Of the array's lowest byte in the pages."""

    @property
    def nbytes(self) -> int:
        """From the array's lowest byte to its last, gaps included."""

    @property
    def writable(self) -> bool:
        """May the array be written now?"""

    @property
    def end(self) -> object:
        """The end that has the message."""

    @property
    def lasting(self) -> bool:
        """
        The pages serve later messages too. Else they are given back when this message is let go.
        """

    def map(self, writable: bool) -> Mapping:
        """Map the pages once more. Raises ReadOnly."""

def array_at(like: numpy.typing.NDArray[Any], address: int, owner: object, writable: bool) -> numpy.typing.NDArray[Any]:
    """
    An array of the same dtype, shape and strides over bytes that the owner keeps.
    """

def region(array: numpy.typing.NDArray[Any]) -> Region:
    """
    Where the bytes of an array of a message lie. Raises CannotShare for memory that is no channel's, ForkedError.
    """

class Slab:
    """
    Memory for messages, all of whose pages are there: a writable uint8 array of (capacity, slot_bytes).

    It begins at a page. It is given back once it and the last array or memoryview over it are gone.
    """
    def __buffer__(self, flags: int, /) -> memoryview: ...
    @property
    def array(self) -> numpy.typing.NDArray[numpy.uint8]:
        """All of it as a numpy array. Raises MessageReleased after free()."""
    def free(self) -> None:
        """Give it back now. Raises ViewsAlive while arrays use it."""
    @property
    def bytes(self) -> int:
        """That it takes of the budget, with what the slab says of itself."""
    @property
    def slot_bytes(self) -> int: ...
    @property
    def capacity(self) -> int: ...

class SlabAllocator:
    """
    Has one slab of `capacity` slots: what a channel of a fixed ring is made of, by itself.

    Slots have `slot_bytes` bytes. Raises InvalidArgument.
    """

    def __init__(self, slot_bytes: int, capacity: int) -> None: ...

    def allocate(self) -> Slab:
        """The slab. Raises NoSpace, and ChannelBusy for a second one."""

    @property
    def reserved(self) -> int:
        """Bytes of memory that its slabs have."""

    @property
    def slabs(self) -> int:
        """Slabs that it has now."""

class DynamicSlabAllocator:
    """
    Has up to 32 slabs of any sizes, which come and go, within `budget` bytes: what a ring that grows is
    made of, by itself.

    Raises InvalidArgument.
    """

    def __init__(self, budget: int) -> None: ...

    def allocate(self, slot_bytes: int, capacity: int) -> Slab:
        """
        Another slab. Raises NoSpace beyond the budget, ChannelBusy for the 33rd, InvalidArgument.
        """

    @property
    def budget(self) -> int: ...

    @property
    def reserved(self) -> int:
        """Bytes of memory that its slabs have."""

    @property
    def slabs(self) -> int:
        """Slabs that it has now."""

class SenderEnd:
    """The native sending end."""

    def __init__(self) -> None: ...

    def _try_send(self, message: object, /) -> bool | None: ...

    def _send_some(self, array: object, type: object, start: int, /) -> int | None: ...

    def _close(self, failed: bool) -> None: ...

    def fileno(self) -> int:
        """
        A descriptor, readable while loan() would not wait; for select(), selectors and event loops.
        """

    @property
    def _drops(self) -> bool: ...

    @property
    def _most(self) -> int:
        """The longest batch."""

    def _enter(self) -> None:
        """Join now, not at the first use."""

    @property
    def closed(self) -> bool: ...

    @property
    def address(self) -> str: ...

    @property
    def capacity(self) -> int: ...

    @property
    def joined(self) -> bool: ...

class Later:
    """A loan that is published when its event is done."""

    @property
    def position(self) -> int:
        """In its lane."""

    @property
    def order(self) -> int:
        """In which events are waited for."""

    @property
    def address(self) -> str: ...

    def finish(self) -> bool:
        """From any thread; whether it was sent: else its end was closed before."""

    def fail(self, why: str) -> None:
        """
        From any thread: nothing is sent, and the next call of its end raises EventFailed, if it is to say why.
        """

class Held:
    """A received message that its stage passes on when its event is done."""

    @property
    def position(self) -> int:
        """In its lane."""

    @property
    def order(self) -> int:
        """In which events are waited for."""

    @property
    def end(self) -> ReceiverEnd | None:
        """The end that got it; None once it has gone on."""

    def finish(self) -> None:
        """From any thread: it goes on to the next stages."""

    def fail(self, why: str) -> None:
        """
        From any thread: it goes the way of a message whose owner died, and the next call of its end raises EventFailed, if it is to say why.
        """

def hold(message: object) -> Held | None:
    """
    End a received message that goes on later. None where it was over already.
    """

def hold_back(end: SenderEnd, message: object) -> Later | None:
    """End a loan that is published later. None where nothing will be sent."""

def check_events(end: SenderEnd | ReceiverEnd) -> None:
    """Raises EventFailed for one that failed."""

def begin_call(end: object, message: object) -> object:
    """Send a message that stays held; None while there is no room."""

def own_loan(end: object, message: object) -> bool:
    """Is this an open loan of this end?"""

def why_no_room(end: object) -> str:
    """Why a call finds no room, for people."""

def answered(end: object, messages: list[object]) -> list[int]:
    """Which of these calls every stage has passed: indices."""

def check_answer(end: object, message: object) -> None:
    """Raises TakenOut for one that a stage took out."""

class ReceiverEnd:
    """The native receiving end."""

    def __init__(self) -> None: ...

    def _close(self) -> None: ...

    def fileno(self) -> int:
        """
        A descriptor, readable while receive() would not wait; for select(), selectors and event loops.
        """

    def _enter(self) -> None:
        """Join now, not at the first use."""

    @property
    def closed(self) -> bool: ...

    @property
    def address(self) -> str: ...

    @property
    def joined(self) -> bool: ...

    def _give_back(self) -> int:
        """Hand what this end holds back to its stage; how many messages."""

class Iteration:
    def __iter__(self) -> Iterator[Any]: ...
    def __next__(self) -> Any: ...

def split(batch: Batch, n: int) -> Batch:
    """Cut the first n messages off a received batch: they end by themselves."""

def join(a: Batch, b: Batch) -> bool:
    """Append b to a, if it lies behind it in the same ring; whether it did."""

def gather(end: ReceiverEnd, batches: list[Batch]) -> Batch:
    """
    A copy of all messages of several batches, read-only; of none an empty batch.
    """

def smallest_ring(end: object) -> int:
    """Slots of the smallest ring of a receiver; 0: none yet."""

class TapEnd:
    """The native end that looks on."""

    def __init__(self) -> None: ...

    def _close(self) -> None: ...

    def fileno(self) -> int:
        """
        A descriptor, readable while receive() would not wait; for select(), selectors and event loops.
        """

    def _enter(self) -> None:
        """Join now, not at the first use."""

    @property
    def closed(self) -> bool: ...

    @property
    def address(self) -> str: ...

    @property
    def joined(self) -> bool: ...

def describe(place: str | int, name: str) -> dict[str, Any] | None:
    """Schema, pattern and stages of an open channel, or None."""

def open_sender(end: object, place: str | int, name: str, schema: str, pattern: int, stages: list[tuple[str, int, bool, bool]], capacity: int, align: int, drops: bool, growth: tuple[int, int] | None, stamps: bool | None, wait: str, program: str, types: list[tuple[type, Layout, int]], batch_type: object, remote: bool = False) -> None: ...

def open_receiver(end: object, place: str | int, name: str, stage: str, added: tuple[list[str] | None, bool, bool] | None, wait: str, program: str, follow: bool, oldest_first: bool) -> bool:
    """Join a channel; False when there is none."""

def open_tap(end: object, place: str | int, name: str, latest: bool, history: int, wait: str, program: str, follow: bool) -> bool:
    """Join a channel to look on; False when there is none."""

def give_types(end: object, types: list[tuple[type, Layout, int]], batch_type: object) -> None: ...

def leave(end: object) -> None: ...

def schema(end: object) -> str:
    """The schema text of the channel that an end has joined."""

def watch(place: str | int, deadline: int) -> bool: ...

def make_channel(schema: str, payload_bytes: int, pattern: int, stages: list[tuple[str, int, bool, bool]]) -> int:
    """
    Make an anonymous channel: a descriptor of its memory, for the caller to close.
    """

def prepare(end: object, name: str, types: list[tuple[type, Layout, int]], batch_type: object, capacity: int, align: int, growth: tuple[int, int] | None) -> None:
    """
    Name an end of an anonymous channel that has not joined yet, and give it its types.
    """

def unread(place: int) -> int:
    """Messages that no receiver of an anonymous channel has taken yet."""

def counters(end: object) -> dict[str, int] | None: ...

def now_ns() -> int:
    """The monotonic clock of deadlines."""

def statistics(end: object) -> dict[str, Any]: ...

def inspect(place: str | int, name: str) -> dict[str, Any] | None:
    """Members, lanes and stages of an open channel, or None. Joins nothing."""

def bell(end: object) -> int:
    """The descriptor that is readable once an armed end was woken."""

def arm(end: object) -> None:
    """From here on a wake rings the bell. Look again afterwards."""

def disarm(end: object, took: bool) -> None:
    """A wake that came and was not used goes to another member."""

def get_up(end: object, found: bool) -> None:
    """
    Disarm. A wake that came is kept for the call that follows if something was found, else another member gets it.
    """

def hush(end: object) -> None:
    """Take what was rung."""

def check_room(end: object, n: int) -> None:
    """Raises LeaseLimit if waiting for room is in vain."""

def room(end: object, n: int) -> bool:
    """Could n consecutive slots be lent now?"""

def passed(end: object) -> bool:
    """Has every stage passed all that was sent?"""

def ready(end: object) -> bool:
    """Would receive() or loan() return at once?"""

def slice(end: object) -> float:
    """
    Look after the others; seconds until the next time, 0: look for messages.
    """

def interrupt(end: object, on: bool) -> None:
    """End the wait of the thread inside with Empty."""

def there(end: object, limit: int) -> int:
    """How many messages a batch would have now."""

class Gateway:
    """What carries one channel over a network."""

    def __init__(self, pumps: bool) -> None:
        """
        `pumps`: the native thread drives its connections; else whoever watches `fileno`.
        """

    def fileno(self) -> int:
        """Readable: its connections must be driven."""

    def hush(self) -> None: ...

    def add(self, connection: Connection) -> None: ...

    def remove(self, connection: Connection) -> None: ...

    def wake(self) -> None:
        """Something became of the channel: whoever waits for it looks again."""

class Connection:
    """One connection: a link between a socket and an end of a local channel."""

    def __init__(self, end: object, checksum: bool, kicks: Gateway | None, max_frame: int) -> None: ...

    def connect(self, fd: int, next: int, capacity: int, rest: bytes) -> None:
        """
        Go on over a socket, which becomes its own; below 0: the caller moves the bytes. `rest`: bytes that came already.
        """

    def disconnect(self) -> None: ...

    def restart(self) -> None:
        """
        The far end has nothing: what it has not let go comes first, from 0 on.
        """

    def leave(self, keeps: bool = False) -> None:
        """
        Tell the sending side that nothing more is taken; `keeps`: it lets go of what has come, which stays here.
        """

    def finish(self) -> None:
        """Send no more than was sent, and say that this is the end."""

    def give_back(self) -> None:
        """Other members get what the far end has not let go."""

    def ping(self, word: int) -> None: ...

    def refuse(self, reason: str) -> None: ...

    @property
    def next(self) -> int:
        """
        The first sequence that the receiving side has not got, as far as this side knows.
        """

    @property
    def outstanding(self) -> int:
        """Messages that were sent and that the far end has not let go."""

    @property
    def over(self) -> str | None:
        """
        What became of it: closed, failed (the far senders), understood (our end, by the far one), left (the far receiver).
        """

    @property
    def parted(self) -> bool:
        """The peer never comes back for this link."""

    @property
    def finished(self) -> bool:
        """It is over, and nothing has to be said any more."""

    @property
    def failure(self) -> str | None: ...

    @property
    def violated(self) -> bool:
        """Did it fail because of what the peer sent?"""

    def take_violator(self) -> int:
        """
        The descriptor of the socket whose peer can be told what it did wrong; it is the caller's. -1: there is none.
        """

    @property
    def progress(self) -> tuple[int, bool, int, int]:
        """
        Bytes that came; is a frame not whole; bytes that were written; bytes that wait to be.
        """

    @property
    def refused(self) -> str:
        """The last words of the peer, JSON."""

    @property
    def silent(self) -> float:
        """Seconds since something came."""

    @property
    def wants(self) -> tuple[int, float]:
        """
        For who moves the bytes, when there is nothing to move: a descriptor that wakes it or -1, and in how many seconds it must look.
        """

    def drive(self) -> tuple[bool, bool, int, float]:
        """
        Move what can be moved: then it waits to read, to write, for a descriptor or -1, and in how many seconds it must look or -1.
        """

    def gather(self, bytes: int) -> list[memoryview]:
        """What is to be written now."""

    def written(self, n: int) -> None: ...

    def buffer(self) -> memoryview:
        """Where the next bytes that come belong; empty: there is no room now."""

    def arrived(self, n: int) -> None: ...

def network_news() -> int:
    """A descriptor that is readable when a connection has failed or is over."""

def attach(end: object, gateway: Gateway) -> None:
    """The calls of this end drive the connections of a gateway."""

def rename(end: object, address: str) -> None: ...

def show_as(address: str, shown: str) -> None:
    """
    Errors and warnings call the channel at this address inside the process by another one; "": no more.
    """

def sum_drops(end: object) -> None:
    """
    Each message that this end sends says how many its source missed in all.
    """

def signal(end: object, error: str, text: str, for_good: bool) -> None:
    """
    The wait of the thread inside, or the next call, raises this error of psyne.errors; for good: all calls from now on.
    """
