"""Who may connect: addresses, tokens and TLS."""

import hashlib
import hmac
import socket
import ssl
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import psyne
from psyne.network import security
from psyne.network.security import Tls, bind_places, context_for, places, proof, proves, tls_failure, token_bytes

from .helpers.certificates import HOST, LOCK, Files, write_files

TOKEN = b"a token of 16 bytes or more"

# ---- addresses -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost", "::ffff:127.0.0.1"])
def test_who_binds_loopback_needs_neither_tls_nor_a_token(host: str):
    try:
        found = places(host, 9999)
    except psyne.SystemFailure:
        pytest.skip(f"{host} is not here")
    assert bind_places(host, 9999, tls=False, token=False) == found
    assert all(place[1] == 9999 for _, place in found)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "192.168.0.1", "::ffff:10.0.0.1", "fe80::1", "8.8.8.8"])
def test_who_binds_what_others_reach_needs_one_of_them(host: str):
    with pytest.raises(psyne.InsecureBind, match=rf"{host}.*other hosts reach.*tls=.*token=.*127\.0\.0\.1") as refused:
        bind_places(host, 9999, tls=False, token=False)
    assert isinstance(refused.value, PermissionError)
    for needed in ({"tls": True, "token": False}, {"tls": False, "token": True}):
        assert bind_places(host, 9999, **needed) == places(host, 9999)


def test_a_name_of_which_one_address_is_reached_by_others_is_no_loopback(monkeypatch: pytest.MonkeyPatch):
    def resolved(*_: Any, **__: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, 1)) for host in ("127.0.0.1", "10.0.0.5")]

    monkeypatch.setattr(security.socket, "getaddrinfo", resolved)
    with pytest.raises(psyne.InsecureBind, match=r"both is 10\.0\.0\.5"):
        bind_places("both", 1, tls=False, token=False)


def test_a_place_that_a_name_has_twice_is_one(monkeypatch: pytest.MonkeyPatch):
    twice = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, 1)) for host in ("127.0.0.2", "127.0.0.1", "127.0.0.2")]
    monkeypatch.setattr(security.socket, "getaddrinfo", lambda *_, **__: twice)
    assert [place for _, place in places("twice", 1)] == [("127.0.0.2", 1), ("127.0.0.1", 1)]


def test_a_host_that_nobody_knows_is_a_system_failure_with_its_name():
    with pytest.raises(psyne.SystemFailure, match=r"'no\.such\.host\.invalid' cannot be resolved") as failed:
        places("no.such.host.invalid", 1)
    assert isinstance(failed.value.__cause__, OSError)


# ---- tokens --------------------------------------------------------------------------------------------------------


def test_a_token_is_text_or_bytes_of_at_least_16_bytes():
    assert token_bytes(None) is None
    assert token_bytes("ä" * 8) == "ä".encode() * 8
    assert token_bytes(bytes(16)) == bytes(16)
    for short in ("", "x" * 15, b"x" * 15):
        with pytest.raises(psyne.InvalidArgument, match=r"at least 16 bytes.*token_hex"):
            token_bytes(short)


def test_no_error_shows_a_token():
    for secret in ("hunter2", 123456789):
        with pytest.raises(psyne.InvalidArgument) as refused:
            token_bytes(secret)  # type: ignore[arg-type]
        assert str(secret) not in str(refused.value)
    assert "hunter2" not in repr(Tls("cert", "key", password="hunter2"))


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_a_proof_proves_one_side_with_these_nonces_and_nothing_else(client: bytes, server: bytes):
    good = proof(TOKEN, "client", client, server)
    assert len(good) == 32
    assert proves(good, TOKEN, "client", client, server)
    assert not proves(good, TOKEN, "server", client, server)  # sent back
    assert not proves(good, TOKEN + b"!", "client", client, server)
    assert not proves(good[:-1], TOKEN, "client", client, server)
    assert not proves(b"", TOKEN, "client", client, server)
    other = bytes(32) if client != bytes(32) else bytes([1] * 32)
    assert not proves(good, TOKEN, "client", other, server)
    assert not proves(good, TOKEN, "client", client, bytes([server[0] ^ 1]) + server[1:])


def test_a_proof_is_this_hmac():
    mac = hmac.new(TOKEN, b"psyne server 1" + b"c" * 32 + b"s" * 32, hashlib.sha256)
    assert proof(TOKEN, "server", b"c" * 32, b"s" * 32) == mac.digest()


# ---- TLS -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return write_files(tmp_path_factory.mktemp("tls"))


def shake(server: ssl.SSLContext, client: ssl.SSLContext | None, name: str = HOST) -> dict[str, Any]:
    """Both sides of a TLS handshake over memory: the version of each, or its error. No client: plain bytes."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = {"server": server.wrap_bio(to_server, to_client, server_side=True)}
    if client is None:
        to_server.write(b"PSYN\x01\x01" + bytes(300))
    else:
        sides["client"] = client.wrap_bio(to_client, to_server, server_hostname=name)
    outcome: dict[str, Any] = {}
    for _ in range(10):
        for side, tls in sides.items():
            if isinstance(outcome.get(side), ssl.SSLError):
                continue
            try:
                tls.do_handshake()
                outcome[side] = tls.version()
                tls.read(1)  # what TLS 1.3 says after the client has finished: also that its certificate was refused
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError as error:
                outcome[side] = error
    return outcome


def test_both_sides_speak_tls_1_3(files: Files):
    outcome = shake(context_for(Tls(files.cert, files.key), "server"), context_for(Tls(ca=files.ca), "client"))
    assert outcome == {"server": "TLSv1.3", "client": "TLSv1.3"}


def test_a_bound_end_with_an_authority_takes_who_has_a_certificate_of_it(files: Files):
    server = context_for(Tls(files.cert, files.key, ca=files.ca), "server")
    known = context_for(Tls(files.cert, files.key, ca=files.ca), "client")
    assert shake(server, known) == {"server": "TLSv1.3", "client": "TLSv1.3"}
    outcome = shake(server, context_for(Tls(ca=files.ca), "client"))
    assert isinstance(failure := tls_failure(outcome["server"], "10.0.0.7:5"), psyne.AuthenticationFailed)
    assert "10.0.0.7:5 shows no certificate" in str(failure)
    assert isinstance(failure := tls_failure(outcome["client"], "tcp://host:1"), psyne.AuthenticationFailed)
    assert "tcp://host:1 refused TLS" in str(failure)
    outcome = shake(server, context_for(Tls(files.other_cert, files.other_key, ca=files.ca), "client"))
    assert isinstance(failure := tls_failure(outcome["server"], "10.0.0.7:5"), psyne.AuthenticationFailed)
    assert "the certificate of 10.0.0.7:5 is not trusted" in str(failure)
    assert isinstance(tls_failure(outcome["client"], "tcp://host:1"), psyne.AuthenticationFailed)


@pytest.mark.parametrize(("ca", "name"), [("other_ca", HOST), (None, HOST), ("ca", "another.test")])
def test_a_server_of_another_authority_or_name_is_refused(files: Files, ca: str | None, name: str):
    server = context_for(Tls(files.cert, files.key), "server")
    outcome = shake(server, context_for(Tls(ca=ca and getattr(files, ca)), "client"), name)
    assert isinstance(failure := tls_failure(outcome["client"], "tcp://host:1"), psyne.AuthenticationFailed)
    assert "the certificate of tcp://host:1 is not trusted" in str(failure)
    assert not isinstance(outcome["client"], str)


def test_who_names_no_authority_trusts_those_of_the_system_and_who_names_one_that_alone(
    files: Files, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SSL_CERT_FILE", str(files.ca))
    server = context_for(Tls(files.cert, files.key), "server")
    assert shake(server, context_for(Tls(), "client"))["client"] == "TLSv1.3"
    assert isinstance(shake(server, context_for(Tls(ca=files.other_ca), "client"))["client"], ssl.SSLError)


def test_tls_1_2_is_refused_by_either_side(files: Files):
    old_client = ssl.create_default_context(cafile=files.ca)
    old_client.maximum_version = ssl.TLSVersion.TLSv1_2
    outcome = shake(context_for(Tls(files.cert, files.key), "server"), old_client)
    assert isinstance(failure := tls_failure(outcome["server"], "10.0.0.7:5"), psyne.ProtocolError)
    assert "10.0.0.7:5 does not speak TLS 1.3" in str(failure)
    old_server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    old_server.load_cert_chain(files.cert, files.key)
    old_server.maximum_version = ssl.TLSVersion.TLSv1_2
    outcome = shake(old_server, context_for(Tls(ca=files.ca), "client"))
    assert isinstance(failure := tls_failure(outcome["client"], "tcp://host:1"), psyne.ProtocolError)
    assert "tcp://host:1 does not speak TLS 1.3" in str(failure)


def test_a_plain_client_is_refused_by_a_tls_server_with_what_to_give(files: Files):
    outcome = shake(context_for(Tls(files.cert, files.key), "server"), None)
    assert isinstance(failure := tls_failure(outcome["server"], "10.0.0.7:5"), psyne.ProtocolError)
    assert "10.0.0.7:5 does not speak TLS and this one does: give tls=" in str(failure)


def test_a_key_that_is_locked_needs_its_password_and_never_asks_the_terminal(files: Files):
    with pytest.raises(psyne.InvalidArgument, match="encrypted: give password="):
        context_for(Tls(files.cert, files.locked_key), "server")
    with pytest.raises(psyne.InvalidArgument, match="cannot be used"):
        context_for(Tls(files.cert, files.locked_key, password="wrong"), "server")
    server = context_for(Tls(files.cert, files.locked_key, password=LOCK), "server")
    assert shake(server, context_for(Tls(ca=files.ca), "client"))["client"] == "TLSv1.3"


@pytest.mark.parametrize(
    ("tls", "reason"),
    [
        (lambda f: Tls(), "a bound end needs"),
        (lambda f: Tls(ca=f.ca), "a bound end needs"),
        (lambda f: Tls(cert=f.cert), "cert and key go together"),
        (lambda f: Tls(key=f.key), "cert and key go together"),
        (lambda f: Tls(f.cert, "/no/such/key.pem"), r"key=/no/such/key\.pem.*No such file"),
        (lambda f: Tls(f.cert, f.other_key), "cannot be used.*MISMATCH"),
        (lambda f: Tls(f.key, f.key), "cannot be used"),
        (lambda f: Tls(f.cert, f.key, ca=f.key), "cannot be used"),
        (lambda f: True, r"tls is a psyne\.Tls"),
        (lambda f: "cert.pem", r"tls is a psyne\.Tls"),
    ],
)
def test_files_that_cannot_work_are_named(files: Files, tls: Callable[[Files], Any], reason: str):
    with pytest.raises(psyne.InvalidArgument, match=reason):
        context_for(tls(files), "server")


def test_a_context_of_ones_own_is_taken_if_it_is_safe(files: Files):
    client = ssl.create_default_context(cafile=files.ca)
    client.minimum_version = ssl.TLSVersion.TLSv1_2  # what is allowed by default is the system's choice
    with pytest.raises(psyne.InvalidArgument, match=r"below 1\.3 \(TLSv1_2\).*minimum_version"):
        context_for(client, "client")
    client.minimum_version = ssl.TLSVersion.TLSv1_3
    assert context_for(client, "client") is client
    with pytest.raises(psyne.InvalidArgument, match="PROTOCOL_TLS_SERVER"):
        context_for(client, "server")
    client.check_hostname = False
    for lax in (ssl.CERT_NONE, ssl.CERT_OPTIONAL):
        client.verify_mode = lax
        with pytest.raises(psyne.InvalidArgument, match=r"take any server.*CERT_REQUIRED"):
            context_for(client, "client")


def test_tls_is_found_where_it_is_documented():
    assert psyne.Tls is Tls
