"""What an end has done and sees, as numbers."""

from dataclasses import dataclass

from . import _native

__all__ = ["Statistics", "statistics_of"]


@dataclass(frozen=True)
class Statistics:
    """A snapshot of one end; ``end.statistics()`` takes it. All counters begin at 0 when the end is opened."""

    sent: int
    """Messages that this sender has sent."""
    received: int
    """Messages that this receiver has taken, or this tap has copied."""
    missed: int
    """Messages lost by ``full="drop"``: by this sender, or told to this receiver. Of a tap, and those that it did not
    see."""
    blocked: int
    """Calls that had to wait: of a sender for room, of a receiver for a message. Counted when the wait is over."""
    held: int
    """Messages that this receiver has not let go; slots sent that arrays of this sender still use."""
    held_while_waiting: int
    """Waits of this receiver during which it held messages: it may be waiting for itself."""
    late_wakes: int
    """Of the whole channel: sleeps that a time slice ended although a message was there. 0 unless a process died."""
    redelivered: int
    """Of the whole channel: messages handed on because their receiver died."""
    poisoned: int
    """Of the whole channel: messages taken out because three receivers died on them."""
    dropped: int
    """Of the whole channel: half-changed messages taken out because their mutating receiver died."""
    copied_bytes: int
    """Bytes that send(), send_many() and receive_into() of this end copied, or this tap; loans and views copy none."""
    occupancy: int
    """Now: slots of this sender that somebody has still to read or holds; messages that this receiver could take."""
    capacity: int
    """Slots: of this sender's ring, the newest where it grows; of all rings that this receiver reads."""
    slabs: int
    """Rings that this sender has now: 1, and of one that grows those before it that are still read or held."""
    reserved: int
    """Bytes of shared memory that are reserved for the rings of this sender, and count in ``budget``."""
    resident: int
    """Bytes of them that have memory now."""
    grown: int
    """How often the ring of this sender became larger."""
    shrunk: int
    """How often it became smaller."""
    why: str
    """Of a ring that grows: the last change and its cause, or what hinders it from growing."""
    wait_ns: tuple[int, ...]
    """Histogram of waits: entry b counts those of 2**(b-1) up to 2**b nanoseconds, entry 0 those of 0."""
    latency_ns: tuple[int, ...]
    """Histogram of the time from send to receive, as ``wait_ns``; only of senders that keep timestamps. Of a batch
    the first message counts."""

    def latency(self, quantile: float = 0.5) -> int:
        """Nanoseconds that this part of the latencies does not exceed, to a factor of two; 0 without any."""
        return _quantile(self.latency_ns, quantile)

    def wait(self, quantile: float = 0.5) -> int:
        """Nanoseconds that this part of the waits does not exceed, to a factor of two; 0 without any."""
        return _quantile(self.wait_ns, quantile)


def _quantile(histogram: tuple[int, ...], quantile: float) -> int:
    if not 0 <= quantile <= 1:
        raise ValueError(f"a quantile lies between 0 and 1; got {quantile}")
    left = quantile * sum(histogram)
    for bucket, count in enumerate(histogram):
        left -= count
        if count and left <= 0:
            return 1 << bucket if bucket else 0
    return 0


def statistics_of(end: object) -> Statistics:
    """The statistics of a sender or receiver."""
    return Statistics(**_native.statistics(end))
