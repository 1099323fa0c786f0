"""The handshake: what both sides agree on, who is refused, and that no bytes do more than that."""

import dataclasses
import json
import logging
import sys

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import psyne
from psyne.network.bodies import TRAVELLING, Challenge, Reply, Request, decode_refusal, printable, refusal
from psyne.network.frames import HEADER_BYTES, LIMITS, Frame, Header, Type, frame
from psyne.network.handshake import Client, Handshake, Server, check_schema
from psyne.types.schema import schema_of

from .helpers.handshakes import (
    ADDRESS,
    HELLO,
    NONCE,
    OPEN,
    PEER,
    SCHEMA,
    SESSION,
    TOKEN,
    WELCOME,
    Meeting,
    fed,
    meet,
    never,
    opening,
    reply,
    request,
    welcomed,
    written,
)  # fmt: skip
from .helpers.layouts import Number, Picture

FEW = settings(max_examples=150, deadline=None)


def refused_with(meeting: Meeting, error: type[psyne.PsyneError], text: str) -> None:
    """The server raised it, and the client the same."""
    for raised in (meeting.server_error, meeting.client_error):
        assert type(raised) is error
        assert text in str(raised)
    assert str(meeting.client_error).startswith(f"{ADDRESS} refused: ")


# ---- agreeing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("token", [None, TOKEN])
@pytest.mark.parametrize("role", ["sender", "receiver", "tap"])
def test_both_sides_agree_on_the_same(token: bytes | None, role: str):
    asked = request(role=role, schema=SCHEMA if role == "sender" else None, capacity=0 if role == "sender" else 16)
    meeting = meet(Client(asked, ADDRESS, token), Server(reply, PEER, token))
    assert (meeting.client_error, meeting.server_error) == (None, None)
    assert meeting.client.opened == meeting.server.opened
    opened = meeting.client.opened
    assert opened is not None
    assert opened.request == asked
    assert opened.reply == reply(asked)
    assert (opened.next, opened.capacity) == (0, 64)
    assert meeting.server.authenticated
    assert (meeting.client.rest, meeting.server.rest) == (b"", b"")


def test_everything_that_can_be_asked_for_arrives():
    asked = request(
        role="receiver", stage="log", added=(["infer", "draw"], False, True), latest=True, history=7, schema=None,
        session=SESSION, next=12345, capacity=99, checksum=True, program="a ü b.py",
    )  # fmt: skip
    got: list[Request] = []
    server = Server(lambda r: got.append(r) or dataclasses.replace(reply(r), resumed=True), PEER)
    meeting = meet(Client(asked, ADDRESS), server)
    assert got == [asked]
    assert meeting.client.opened == meeting.server.opened
    assert meeting.client.opened is not None
    assert meeting.client.opened.next == 12345
    assert meeting.client.opened.reply.checksum  # granted, because it was asked for


def test_a_session_goes_on_where_the_receiving_side_says_and_another_begins_at_0():
    for role, resumed, next_one in (
        ("sender", True, 40),
        ("sender", False, 0),
        ("receiver", True, 30),
        ("receiver", False, 0),
    ):
        asked = request(role=role, session=SESSION, next=30 if role == "receiver" else 0, capacity=8)
        session, at = (SESSION, 40) if resumed else ("f" * 32, 0)
        answer = Reply(SCHEMA, session, resumed=resumed, next=at if role == "sender" else 0, capacity=64)
        meeting = meet(Client(asked, ADDRESS), Server(lambda _, answer=answer: answer, PEER))
        assert meeting.client.opened is not None, meeting.client_error
        assert meeting.client.opened == meeting.server.opened
        assert meeting.client.opened.next == next_one


@FEW
@given(st.integers(1, 70), st.sampled_from([None, TOKEN]))
def test_it_does_not_matter_how_the_bytes_are_cut(size: int, token: bytes | None):
    def pieces(data: bytes) -> list[bytes]:
        return [data[i : i + size] for i in range(0, len(data), size)]

    meeting = meet(Client(request(), ADDRESS, token), Server(reply, PEER, token), pieces)
    assert meeting.client.opened == meeting.server.opened != None  # noqa: E711


@FEW
@given(st.binary(max_size=50), st.integers(1, 400))
def test_what_follows_the_handshake_is_kept_for_the_caller(data: bytes, size: int):
    def late(sent: bytes) -> list[bytes]:
        whole = sent + data if Type(sent[5]) is Type.WELCOME else sent
        return [whole[i : i + size] for i in range(0, len(whole), size)]

    client = Client(request(), ADDRESS)
    server = Server(reply, PEER)
    fed(server, [client.take()])
    fed(client, [server.take()])
    fed(server, [client.take()])
    pieces = late(server.take())
    while not client.done:
        client.feed(pieces.pop(0))
    assert client.rest + b"".join(pieces) == data


# ---- tokens --------------------------------------------------------------------------------------------------------


def test_who_has_another_token_is_refused_and_nothing_is_opened():
    server = Server(never, PEER, TOKEN)
    meeting = meet(Client(request(), ADDRESS, TOKEN + b"!"), server)
    refused_with(meeting, psyne.AuthenticationFailed, f"{PEER} does not know the token")
    assert not server.authenticated


def test_who_has_no_token_learns_that_one_is_wanted():
    server = Server(never, PEER, TOKEN)
    meeting = meet(Client(request(), ADDRESS), server)
    assert isinstance(meeting.client_error, psyne.AuthenticationFailed)
    assert f"{ADDRESS} wants a token: give token=" in str(meeting.client_error)
    assert isinstance(meeting.server_error, psyne.AuthenticationFailed)
    assert fed(Server(never, PEER, TOKEN), [written(Type.HELLO, HELLO), frame(Type.PROOF, bytes(32))]) is not None


def test_who_has_a_token_does_not_talk_to_a_server_that_has_none():
    meeting = meet(Client(request(), ADDRESS, TOKEN), Server(never, PEER))
    assert isinstance(meeting.client_error, psyne.AuthenticationFailed)
    assert "cannot prove that it knows this one" in str(meeting.client_error)


def test_a_server_that_does_not_know_the_token_is_found_out_by_its_welcome():
    for pretended in ("", "00" * 32):
        client = Client(request(), ADDRESS, TOKEN)
        challenge = Challenge(sys.byteorder, 8, NONCE, True).encode()
        error = fed(client, [challenge, written(Type.WELCOME, WELCOME | {"proof": pretended})])
        assert isinstance(error, psyne.AuthenticationFailed)
        assert f"{ADDRESS} does not know the token" in str(error)


def test_a_proof_that_is_sent_back_proves_nothing():
    client = Client(request(), ADDRESS, TOKEN)
    nonce = json.loads(client.take()[HEADER_BYTES:])["nonce"]
    fed(client, [Challenge(sys.byteorder, 8, nonce, True).encode()])  # even with the client's own nonce
    proof = client.take()[HEADER_BYTES : HEADER_BYTES + 32].hex()
    error = fed(client, [written(Type.WELCOME, WELCOME | {"proof": proof})])
    assert isinstance(error, psyne.AuthenticationFailed)


def test_what_was_recorded_of_one_connection_opens_no_other():
    recorded = meet(Client(request(), ADDRESS, TOKEN), Server(reply, PEER, TOKEN)).sent["client"]
    server = Server(never, PEER, TOKEN)
    error = fed(server, recorded)
    assert isinstance(error, psyne.AuthenticationFailed)
    assert not server.authenticated


def test_who_wants_no_token_takes_no_proof():
    server = Server(never, PEER)
    assert isinstance(opening(server, proof=b"\1" + bytes(31)), psyne.AuthenticationFailed)


# ---- refusals ------------------------------------------------------------------------------------------------------


def raising(error: Exception) -> Server:
    def fail(_: Request) -> Reply:
        raise error

    return Server(fail, PEER)


@pytest.mark.parametrize("name", TRAVELLING)
def test_an_error_of_the_bound_side_is_raised_at_the_client(name: str):
    cls = getattr(psyne, name)
    refused_with(meet(Client(request(), ADDRESS), raising(cls("no camera; plug it in"))), cls, "no camera; plug it in")


def test_another_error_of_psyne_arrives_as_its_root():
    meeting = meet(Client(request(), ADDRESS), raising(psyne.ViewsAlive("three arrays")))
    assert isinstance(meeting.server_error, psyne.ViewsAlive)
    assert type(meeting.client_error) is psyne.PsyneError
    assert "three arrays" in str(meeting.client_error)


def test_of_a_bug_the_client_learns_nothing_but_that_it_was_there(caplog: pytest.LogCaptureFixture):
    meeting = meet(Client(request(), ADDRESS), raising(KeyError("/home/me/secret")))
    refused_with(meeting, psyne.PsyneError, "the bound side failed; its log says why")
    assert "secret" not in str(meeting.client_error)
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "secret" in caplog.text


@FEW
@given(st.text(max_size=300), st.sampled_from([*TRAVELLING, "SystemExit", "Full", "__class__", "PsyneError"]))
def test_a_refusal_raises_an_error_of_psyne_and_cannot_write_to_a_terminal(text: str, name: str):
    body = json.dumps({"error": name, "message": text.replace("\0", "")}).encode()
    try:
        error = decode_refusal(Frame(Type.REFUSE, body), ADDRESS)
    except psyne.ProtocolError as malformed:  # half a surrogate pair
        error = malformed
    assert type(error).__name__ in (*TRAVELLING, "PsyneError")
    assert str(error).isprintable()


def test_a_refusal_of_any_length_is_within_its_limit_and_says_the_beginning():
    for text in ("x" * 10**6, "😀" * 10**6, "\0" * 10**6, "\ud800" * 10**5):
        whole = refusal(psyne.LayoutMismatch(text))
        assert Header.decode(whole[:HEADER_BYTES]).length == len(whole) - HEADER_BYTES <= LIMITS[Type.REFUSE]
        error = decode_refusal(Frame(Type.REFUSE, whole[HEADER_BYTES:]), "tcp://h:1")
        assert str(error).startswith(f"tcp://h:1 refused: {printable(text[0])}")


def test_a_refusal_is_not_answered():
    client = Client(request(), ADDRESS)
    client.take()
    assert isinstance(fed(client, [refusal(psyne.ChannelBusy("full"))]), psyne.ChannelBusy)
    assert client.take() == b""


# ---- hosts and schemas ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("byteorder", "word"), [("big" if sys.byteorder == "little" else "little", 8), ("little", 4)])
def test_a_host_of_another_byte_order_or_word_size_is_refused_by_both_sides(byteorder: str, word: int):
    theirs = HELLO | {"byteorder": byteorder, "word": word}
    server = Server(never, PEER)
    error = fed(server, [written(Type.HELLO, theirs)])
    assert isinstance(error, psyne.LayoutMismatch)
    assert f"{PEER} is a {byteorder}-endian host with words of {word} bytes" in str(error)
    heard = fed(Client(request(), ADDRESS), [server.take()])
    assert isinstance(heard, psyne.LayoutMismatch)
    assert f"{byteorder}-endian" in str(heard)
    client = Client(request(), ADDRESS)
    error = fed(client, [Challenge(byteorder, word, NONCE, False).encode()])
    assert isinstance(error, psyne.LayoutMismatch)
    assert f"{ADDRESS} is a {byteorder}-endian host" in str(error)


def test_a_sender_of_other_types_gets_the_difference_field_by_field():
    class Imu(psyne.Struct):
        stamp = psyne.u64()
        accel = psyne.f32(3)

    ours = schema_of([Imu])

    class Imu(psyne.Struct):  # type: ignore[no-redef]
        stamp = psyne.u64()
        accel = psyne.f64(3)

    def checking(asked: Request) -> Reply:
        check_schema(ours, asked.schema or "", ADDRESS)
        return Reply(ours, SESSION, capacity=1)

    meeting = meet(Client(request(schema=schema_of([Imu])), ADDRESS), Server(checking, PEER))
    refused_with(meeting, psyne.LayoutMismatch, f"{ADDRESS} has another layout: accel: theirs")
    assert meet(Client(request(schema=ours), ADDRESS), Server(checking, PEER)).client.done


def test_types_in_another_order_are_said_to_be_that():
    with pytest.raises(psyne.LayoutMismatch, match="only the order of the types"):
        check_schema(schema_of([Number, Picture]), schema_of([Picture, Number]), ADDRESS)


@pytest.mark.parametrize("junk", ["", "{}", "[]", "nonsense", '{"struct":1}', "[" * 100_000, '{"types":[]}'])
def test_a_schema_that_is_none_is_a_layout_mismatch(junk: str):
    for theirs, yours in ((SCHEMA, junk), (junk, SCHEMA)):
        with pytest.raises(psyne.LayoutMismatch):
            check_schema(theirs, yours, ADDRESS)


def test_a_sender_does_not_send_to_a_server_that_welcomes_it_with_other_types():
    error = welcomed(request(), schema=schema_of([Number]))
    assert isinstance(error, psyne.LayoutMismatch)


def test_a_connection_that_is_closed_in_the_middle_says_what_was_due():
    client = Client(request(), ADDRESS)
    error = fed(client, [b""])
    assert isinstance(error, psyne.SystemFailure)
    assert f"{ADDRESS} closed the connection before its CHALLENGE" in str(error)


# ---- fuzz ----------------------------------------------------------------------------------------------------------

ALLOWED = tuple(getattr(psyne, name) for name in (*TRAVELLING, "SystemFailure"))


def survives(machine: Handshake, pieces: list[bytes]) -> None:
    """No bytes do more than to be refused, and nothing is kept above the limits."""
    error = fed(machine, pieces)
    assert error is None or type(error) in (*ALLOWED, psyne.PsyneError)
    assert machine._reader.held <= max(LIMITS.values())
    out = machine.take()
    assert len(out) <= 2 * max(LIMITS.values())
    if error is not None and out:
        kinds = []
        while out:
            header = Header.decode(out[:HEADER_BYTES])
            kinds.append(header.type)
            out = out[HEADER_BYTES + header.length :]
        assert Type.REFUSE not in kinds[:-1]


frames = st.builds(frame, st.sampled_from(sorted(LIMITS)), st.binary(max_size=1024))
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-1, 1 << 65)
    | st.text(max_size=5)
    | st.sampled_from([NONCE, SESSION, SCHEMA]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
bodies = st.one_of(
    *(
        st.dictionaries(st.sampled_from(sorted(fields)), values, max_size=3).map(
            lambda changes, kind=kind, fields=fields: written(kind, fields | changes)
        )
        for kind, fields in ((Type.HELLO, HELLO), (Type.OPEN, OPEN), (Type.WELCOME, WELCOME),
                             (Type.CHALLENGE, {k: v for k, v in HELLO.items() if k != "psyne"} | {"token": False}),
                             (Type.REFUSE, {"error": "ChannelBusy", "message": "no"}))
    )
)  # fmt: skip
PROOF = frame(Type.PROOF, bytes(32))
pieces = st.lists(frames | bodies | st.just(PROOF) | st.binary(max_size=60), max_size=6)


def machines(server: bool, token: bytes | None) -> Handshake:
    return Server(reply, PEER, token) if server else Client(request(), ADDRESS, token)


@settings(max_examples=400, deadline=None)
@given(st.booleans(), st.sampled_from([None, TOKEN]), pieces)
@example(True, None, [written(Type.HELLO, HELLO), PROOF, written(Type.OPEN, OPEN)])
def test_any_frames_are_refused_or_taken(server: bool, token: bytes | None, said: list[bytes]):
    survives(machines(server, token), said)


@settings(max_examples=400, deadline=None)
@given(st.booleans(), st.sampled_from([None, TOKEN]), st.data())
def test_a_good_conversation_with_a_few_other_bytes_is_refused_or_taken(
    server: bool, token: bytes | None, data: st.DataObject
):
    good = meet(Client(request(), ADDRESS, token), Server(reply, PEER, token))
    said = bytearray(b"".join(good.sent["client" if server else "server"]))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(said) - 1))
        match data.draw(st.sampled_from(["flip", "cut", "repeat", "insert"])):
            case "flip":
                said[at] ^= 1 << data.draw(st.integers(0, 7))
            case "cut":
                del said[at : at + data.draw(st.integers(1, 40))]
            case "repeat":
                said[at:at] = said[at : at + 40]
            case "insert":
                said[at:at] = data.draw(st.binary(max_size=20))
        if not said:
            return
    survives(machines(server, token), [bytes(said)])


@pytest.mark.long
@pytest.mark.watchdog(1800)
@settings(max_examples=20_000, deadline=None)
@given(st.booleans(), st.sampled_from([None, TOKEN]), pieces)
def test_any_frames_are_refused_or_taken_many_times(server: bool, token: bytes | None, said: list[bytes]):
    survives(machines(server, token), said)
