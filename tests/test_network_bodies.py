"""The bodies of the handshake: every field is checked, whatever a stranger writes into it."""

import json
import sys
from typing import Any

import pytest

import psyne
from psyne.network.bodies import Challenge
from psyne.network.frames import Type, frame
from psyne.network.handshake import Client, Handshake, Server

from .helpers.handshakes import (
    ADDRESS,
    HELLO,
    NONCE,
    OPEN,
    PEER,
    SESSION,
    WELCOME,
    fed,
    never,
    opening,
    reply,
    request,
    welcomed,
    written,
)  # fmt: skip

WRONG: list[Any] = [None, True, 5, -1, 1.5, "x", "", [], {}, [[]], 1 << 63, "\0", "\ud800", "x" * 300, {"a": [1]}]


def fits(name: str, value: Any) -> bool:
    """Is this a good value of that field?"""
    match name:
        case "byteorder" | "channel" | "stage" | "psyne" | "program":
            most = {"byteorder": 16, "channel": 128, "stage": 47, "psyne": 64, "program": 255}[name]
            return type(value) is str and len(value) <= most and value not in ("\0", "\ud800")
        case "schema":
            return type(value) is str and value not in ("\0", "\ud800")
        case "session" | "proof":
            return value == ""
        case "added":
            return value is None
        case "latest" | "checksum" | "token" | "resumed":
            return type(value) is bool
        case "word" | "history" | "next" | "capacity":
            return type(value) is int and 0 <= value < 1 << 63
    return False


@pytest.mark.parametrize("name", HELLO)
@pytest.mark.parametrize("value", WRONG, ids=repr)
def test_each_field_of_hello_is_checked(name: str, value: Any):
    error = fed(Server(never, PEER), [written(Type.HELLO, HELLO | {name: value})])
    if not fits(name, value):
        assert isinstance(error, psyne.ProtocolError)
        assert f"HELLO has {name}=" in str(error)


@pytest.mark.parametrize("name", OPEN)
@pytest.mark.parametrize("value", WRONG, ids=repr)
def test_each_field_of_open_is_checked(name: str, value: Any):
    error = opening(Server(reply, PEER), **{name: value})
    if not fits(name, value):
        assert isinstance(error, psyne.ProtocolError)
        assert f"OPEN has {name}=" in str(error) or "role" in str(error)


@pytest.mark.parametrize("name", WELCOME)
@pytest.mark.parametrize("value", WRONG, ids=repr)
def test_each_field_of_welcome_is_checked(name: str, value: Any):
    error = welcomed(request(), **{name: value})
    if not fits(name, value) or (name == "session" and value == ""):
        assert isinstance(error, psyne.ProtocolError)
        assert f"WELCOME has {name}=" in str(error)


@pytest.mark.parametrize(("kind", "fields"), [(Type.HELLO, HELLO), (Type.OPEN, OPEN), (Type.WELCOME, WELCOME)])
def test_a_field_that_is_missing_is_named_and_an_unknown_one_passed_over(kind: Type, fields: dict[str, Any]):
    def heard(body: dict[str, Any]) -> tuple[psyne.PsyneError | None, Handshake]:
        machine: Handshake
        if kind is Type.WELCOME:
            machine = Client(request(), ADDRESS)
            before = [Challenge(sys.byteorder, 8, NONCE, False).encode()]
        else:
            machine = Server(reply, PEER)
            before = [] if kind is Type.HELLO else [written(Type.HELLO, HELLO), frame(Type.PROOF, bytes(32))]
        return fed(machine, [*before, written(kind, body)]), machine

    assert heard(fields | {"colour": ["blue", {}]})[0] is None
    for name in fields:
        error, _ = heard({key: value for key, value in fields.items() if key != name})
        assert isinstance(error, psyne.ProtocolError)
        assert f"{kind.name} lacks '{name}'" in str(error)


@pytest.mark.parametrize(
    "added",
    [[None, False], [None, False, False, False], ["infer", False, False], [[1], False, False], [None, 0, False],
     [["x" * 48], False, False], [["a"] * 33, False, False], [["\ud800"], False, False], [{}, False, False]],
)  # fmt: skip
def test_a_stage_to_add_is_checked_in_all_its_parts(added: Any):
    error = opening(Server(never, PEER), added=added)
    assert isinstance(error, psyne.ProtocolError)
    assert "OPEN has added=" in str(error)


@pytest.mark.parametrize("channel", ["../etc", "a/b", ".hidden", "x.0123456789abcdef"])
def test_no_name_leads_out_of_the_directory_of_channels(channel: str):
    assert isinstance(opening(Server(never, PEER), channel=channel), psyne.InvalidArgument)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"role": "king"}, "one of sender, receiver, tap"),
        ({"schema": None}, "schema=None"),
        ({"next": 5}, "goes on at 5 and names no session"),
    ],
)
def test_fields_that_contradict_each_other_are_refused(changes: dict[str, Any], reason: str):
    error = opening(Server(never, PEER), **changes)
    assert isinstance(error, psyne.ProtocolError)
    assert reason in str(error)


@pytest.mark.parametrize(
    ("asked", "changes", "reason"),
    [
        ({}, {"resumed": True}, "said to be the same"),
        ({"session": SESSION}, {}, "said to be another"),
        ({}, {"next": 3}, "begins at 0, not at 3"),
        ({"checksum": True}, {}, "checksums were asked for"),
        ({}, {"capacity": 0}, "from 1 on"),
    ],
)
def test_an_answer_that_does_not_fit_what_was_asked_is_refused(
    asked: dict[str, Any], changes: dict[str, Any], reason: str
):
    error = welcomed(request(**asked), **changes)
    assert isinstance(error, psyne.ProtocolError)
    assert reason in str(error)


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"5", b"null", b"\xff\xfe", b'"' + b"x" * 900 + b'"', b"[" * 1000, b'{"a":' * 200, b"1" * 1000],
)
def test_what_is_no_json_object_is_a_protocol_error(body: bytes):
    assert isinstance(fed(Server(never, PEER), [frame(Type.HELLO, body)]), psyne.ProtocolError)


@pytest.mark.parametrize("inner", [b"[" * 500_000, b'{"a":' * 100_000, b"9" * 500_000, b"-1e999999", b"NaN",
                                   b'"' + b"x" * 500_000 + b'"', b"[" * 500 + b"]" * 500])  # fmt: skip
def test_deep_and_long_values_are_a_protocol_error_of_a_few_words(inner: bytes):
    body = json.dumps(OPEN).encode().replace(b'"history": 0', b'"history": ' + inner)
    server = Server(never, PEER)
    before = [written(Type.HELLO, HELLO), frame(Type.PROOF, bytes(32))]
    error = fed(server, [*before, frame(Type.OPEN, body)])
    assert isinstance(error, psyne.ProtocolError)
    assert len(str(error)) < 200
