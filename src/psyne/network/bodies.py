"""What stands in the frames of the handshake: JSON, of which every field is checked before it is used."""

from __future__ import annotations

import json
import re
import reprlib
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self, cast, get_args

from .. import errors
from ..address import check_name
from ..errors import ProtocolError, PsyneError
from .frames import LIMITS, Frame, Type, frame

__all__ = [
    "Challenge",
    "Hello",
    "Reply",
    "Request",
    "Role",
    "decode_refusal",
    "decode_welcome",
    "printable",
    "refusal",
    "refusal_body",
]

Role = Literal["sender", "receiver", "tap"]
Added = tuple[list[str] | None, bool, bool]  # directly before (None: all), mutates, redelivers; as in psyne.stage
MOST = 1 << 63  # every number is below
NAME_BYTES = 128
STAGE_BYTES = 47
MAX_STAGES = 32
TEXT = 5000  # characters of a refusal; each may become 12 bytes, as in \\ud83d\\ude00
HEX = {64: re.compile("[0-9a-f]{64}"), 32: re.compile("[0-9a-f]{32}")}
# What one side may make the other raise; anything else arrives as PsyneError.
TRAVELLING = (
    "AuthenticationFailed",
    "ChannelBusy",
    "ChannelClosed",
    "ChannelNotFound",
    "IncompatibleChannel",
    "InvalidArgument",
    "LayoutMismatch",
    "NoSpace",
    "ProtocolError",
    "SessionReset",
)


@dataclass(frozen=True)
class Hello:
    """The first words of who connects."""

    byteorder: str
    word: int
    """Bytes of a pointer."""
    nonce: str
    """32 random bytes as hexadecimal digits."""
    psyne: str
    """The version of the package."""

    def encode(self) -> bytes:
        return _written(Type.HELLO, asdict(self))

    @classmethod
    def decode(cls, whole: Frame) -> Self:
        fields = _Fields(whole)
        return cls(
            fields.text("byteorder", 16), fields.number("word"), fields.hex("nonce", 64), fields.text("psyne", 64)
        )


@dataclass(frozen=True)
class Challenge:
    """The answer of who is bound."""

    byteorder: str
    word: int
    nonce: str
    token: bool
    """Must who connects know a token?"""

    def encode(self) -> bytes:
        return _written(Type.CHALLENGE, asdict(self))

    @classmethod
    def decode(cls, whole: Frame) -> Self:
        fields = _Fields(whole)
        return cls(fields.text("byteorder", 16), fields.number("word"), fields.hex("nonce", 64), fields.truth("token"))


@dataclass(frozen=True)
class Request:
    """What who connects wants: the frame OPEN."""

    role: Role
    channel: str = ""
    """A channel of the host; "": the one that the bound end is."""
    stage: str = ""
    added: Added | None = None
    """What else must be known of a stage that is to be added."""
    latest: bool = False
    history: int = 0
    schema: str | None = None
    """A sender's; receivers and taps take that of the channel."""
    session: str = ""
    """The one to go on with; "": a new one."""
    next: int = 0
    """Receivers and taps: the first sequence that they have not got."""
    capacity: int = 0
    """Receivers and taps: messages that their ring holds."""
    checksum: bool = False
    program: str = ""

    def encode(self) -> bytes:
        return _written(Type.OPEN, {**asdict(self), "program": printable(self.program)[:60]})

    @classmethod
    def decode(cls, whole: Frame) -> Self:
        """Raises ProtocolError for fields of wrong types, InvalidArgument for a name that no channel can have."""
        fields = _Fields(whole)
        role = fields.text("role", 16)
        sends = role == "sender"
        if role not in get_args(Role):
            raise ProtocolError(f"OPEN has the role {role!r}; it is one of {', '.join(get_args(Role))}")
        request = cls(
            role=cast("Role", role),
            channel=fields.text("channel", NAME_BYTES),
            stage=fields.text("stage", STAGE_BYTES),
            added=fields.added("added"),
            latest=fields.truth("latest"),
            history=fields.number("history"),
            schema=fields.text("schema") if sends or fields.given("schema") else None,
            session=fields.hex("session", 32, empty=True),
            next=fields.number("next"),
            capacity=fields.number("capacity", 0 if sends else 1),
            checksum=fields.truth("checksum"),
            program=fields.text("program", 255),
        )
        if request.channel:
            check_name(request.channel, request.channel)
        if request.next and not request.session:
            raise ProtocolError(f"OPEN goes on at {request.next} and names no session")
        return request


@dataclass(frozen=True)
class Reply:
    """What was opened: the frame WELCOME, but for the proof in it."""

    schema: str
    session: str
    """32 hexadecimal digits, by which who connects goes on after a lost connection."""
    resumed: bool = False
    """Is it the session that was asked for?"""
    next: int = 0
    """Where who connects is a sender: the first sequence that the bound side has not got."""
    capacity: int = 0
    """Where who connects is a sender: messages that the ring of the bound side holds."""
    checksum: bool = False

    def encode(self, proof: str) -> bytes:
        return _written(Type.WELCOME, {"proof": proof, **asdict(self)})


def decode_welcome(whole: Frame, request: Request) -> tuple[str, Reply]:
    """The proof, and what was opened. Raises ProtocolError where that is no answer to the request."""
    fields = _Fields(whole)
    proof = fields.hex("proof", 64, empty=True)
    sends = request.role == "sender"
    reply = Reply(
        schema=fields.text("schema"),
        session=fields.hex("session", 32),
        resumed=fields.truth("resumed"),
        next=fields.number("next"),
        capacity=fields.number("capacity", 1 if sends else 0),
        checksum=fields.truth("checksum"),
    )
    if reply.resumed != (reply.session == request.session):
        raise ProtocolError(
            f"session {request.session or '(none)'} was asked for and {reply.session} came, "
            f"which is said to be {'the same' if reply.resumed else 'another'}"
        )
    if reply.next and not reply.resumed:
        raise ProtocolError(f"a session that is not resumed begins at 0, not at {reply.next}")
    if request.checksum and not reply.checksum:
        raise ProtocolError("checksums were asked for and not granted")
    return proof, reply


def refusal(error: PsyneError) -> bytes:
    """The frame REFUSE that makes the other side raise this error."""
    return frame(Type.REFUSE, refusal_body(error))


def refusal_body(error: PsyneError) -> bytes:
    """The body of that frame, for a link that makes its frames itself."""
    name = type(error).__name__ if type(error).__name__ in TRAVELLING else "PsyneError"
    return _json({"error": name, "message": printable(str(error))[:TEXT]})


def decode_refusal(whole: Frame, peer: str) -> PsyneError:
    """What a frame REFUSE wants to have raised."""
    fields = _Fields(whole)
    name, text = fields.text("error", 64), printable(fields.text("message"))
    cls = getattr(errors, name) if name in TRAVELLING else PsyneError
    return cast("PsyneError", cls(f"{peer} refused: {text}"))


def printable(text: str) -> str:
    """A stranger's text without what could move the cursor of a terminal or begin a line in a log."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _written(kind: Type, fields: dict[str, Any]) -> bytes:
    body = _json(fields)
    if len(body) > LIMITS[kind]:
        raise errors.InvalidArgument(f"{kind.name} would have {len(body)} bytes; it has at most {LIMITS[kind]}")
    return frame(kind, body)


def _json(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode()


class _Fields:
    """The fields of a JSON object that a stranger wrote. Unknown ones are passed over."""

    def __init__(self, whole: Frame) -> None:
        self._name = whole.type.name
        try:
            self._found = json.loads(whole.body.decode())
        except (ValueError, RecursionError) as error:
            raise ProtocolError(f"{self._name} is no JSON: {printable(str(error))}") from None
        if type(self._found) is not dict:
            raise ProtocolError(f"{self._name} is no JSON object")

    def given(self, name: str) -> bool:
        """Is it there, and not null?"""
        return self._value(name) is not None

    def text(self, name: str, most: int | None = None) -> str:
        value = self._value(name)
        if type(value) is not str:
            raise self._wrong(name, "a text")
        if not _fits(value, most):
            raise self._wrong(name, f"{f'at most {most} bytes of ' if most else ''}Unicode without a NUL")
        return value

    def hex(self, name: str, digits: int, *, empty: bool = False) -> str:
        value = self.text(name)
        if not HEX[digits].fullmatch(value) and not (empty and not value):
            raise self._wrong(name, f"{digits} hexadecimal digits")
        return value

    def number(self, name: str, least: int = 0) -> int:
        value = self._value(name)
        if type(value) is not int or not least <= value < MOST:
            raise self._wrong(name, f"a whole number from {least} on")
        return value

    def truth(self, name: str) -> bool:
        value = self._value(name)
        if type(value) is not bool:
            raise self._wrong(name, "true or false")
        return value

    def added(self, name: str) -> Added | None:
        value = self._value(name)
        if value is None:
            return None
        if type(value) is not list or [type(v) for v in value[1:]] != [bool, bool]:
            raise self._wrong(name, "null or [after, mutate, redeliver]")
        after = value[0]
        names = after if type(after) is list else [] if after is None else [None]
        if len(names) > MAX_STAGES or not all(type(s) is str and _fits(s, STAGE_BYTES) for s in names):
            raise self._wrong(name, f"null or a list of at most {MAX_STAGES} names of stages in front")
        return after, value[1], value[2]

    def _value(self, name: str) -> Any:
        if name not in self._found:
            raise ProtocolError(f"{self._name} lacks {name!r}")
        return self._found[name]

    def _wrong(self, name: str, wanted: str) -> ProtocolError:
        return ProtocolError(f"{self._name} has {name}={reprlib.repr(self._found[name])}; it is {wanted}")


def _fits(text: str, most: int | None) -> bool:
    try:
        size = len(text.encode())
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return "\0" not in text and (most is None or size <= most)
