"""Carries a channel to other machines and back; finding, routing and fan-out are Eclipse Zenoh's.

    ipc://camera ─▶ Outward ─▶ zenoh://robot1/camera ─▶ Inward ─▶ ipc://camera of another machine

``psyne bridge`` is the program around it. envelope.py has what travels beside the payload, network.py all that is
asked of Zenoh before the first message.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..address import channel_place
from ..errors import InvalidArgument
from ..options import Full
from .inward import Inward
from .network import open_session
from .outward import Outward
from .running import Bridge, Bridged

__all__ = ["Bridge", "Bridged", "bridge"]

SCHEME = "zenoh://"
MAX_BYTES = 64 << 20


def bridge(
    source: str,
    target: str,
    *,
    stage: str | None = None,
    new_stage: bool = False,
    full: Full = "block",
    follow: bool = False,
    max_bytes: int | None = None,
    connect: Sequence[str] = (),
    listen: Sequence[str] = (),
    config: str | None = None,
) -> Bridge:
    """Carry the messages of ``source`` to ``target`` on a thread of its own: one is ``ipc://``, one ``zenoh://key``.

    From ``ipc://`` as a tap, which holds nobody up and may miss messages, or as a member of ``stage`` (``new_stage``
    adds it), which waits for Zenoh, and while nobody subscribes. To ``ipc://`` with the sources' types, of at most
    ``max_bytes`` a message (default 64 MiB); ``full`` says what happens when its ring is full: "block" or "drop". The
    key may have wildcards there: then it carries all sources of the same types. Ends with its source, unless
    ``follow``. ``connect`` and ``listen`` name endpoints, ``config`` is a file of Zenoh's (default $ZENOH_CONFIG).

    Ends by `Bridge.close`, or with the program. Raises InvalidArgument, ChannelBusy, SystemFailure, and ImportError
    without ``psyne[zenoh]``.
    """
    if source.startswith(SCHEME) == target.startswith(SCHEME):
        raise InvalidArgument(f"a bridge has one end zenoh://… and one ipc://…; got {source!r} and {target!r}")
    if full not in ("block", "drop"):
        raise InvalidArgument(f"full={full!r}; it is one of 'block', 'drop'")
    outward = target.startswith(SCHEME)
    if not outward and (stage is not None or new_stage):
        raise InvalidArgument(f"stage={stage!r} is for bridges from ipc://; this one sends to {target}")
    if new_stage and stage is None:
        raise InvalidArgument("a new stage needs a name: stage='log'")
    if outward and full != "block":
        raise InvalidArgument("full= is for bridges to ipc://; one from ipc:// is a tap, or a member of stage=")
    if outward and max_bytes is not None:
        raise InvalidArgument("max_bytes= is for bridges to ipc://; one from ipc:// carries what its channel does")
    if max_bytes is not None and max_bytes < 1:
        raise InvalidArgument(f"max_bytes is a number of bytes, 1 or more; got {max_bytes!r}")
    key = (target if outward else source)[len(SCHEME) :]
    channel_place(source if outward else target)  # raises for what is no address of a channel
    session = open_session(key, wild=not outward, connect=connect, listen=listen, config=config)
    try:
        carrier = (
            Outward(session, source, key, stage, new_stage, follow)
            if outward
            else Inward(session, key, target, full, follow, MAX_BYTES if max_bytes is None else max_bytes)
        )
    except BaseException:
        session.close()
        raise
    return Bridge(source, target, session, carrier)
