"""The handshake over real sockets, plain and inside TLS: who gets through, and what the others are told."""

import contextlib
import os
import select
import socket
import ssl
import time
from collections.abc import Callable, Iterator

import pytest

import psyne
from psyne.network.bodies import refusal
from psyne.network.handshake import Client, Handshake, Server
from psyne.network.security import Tls, context_for, speaks_no_tls, tls_failure

from .helpers.certificates import HOST, Files, write_files
from .helpers.handshakes import ADDRESS, PEER, TOKEN, reply
from .helpers.handshakes import request as asked
from .helpers.process import PATIENCE


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return write_files(tmp_path_factory.mktemp("tls"))


class Side:
    """A state machine with its socket, which never blocks."""

    def __init__(self, machine: Handshake, link: socket.socket, context: ssl.SSLContext | None, peer: str) -> None:
        link.setblocking(False)
        self.machine, self.peer = machine, peer
        self.error: psyne.PsyneError | None = None
        self.unsent = b""
        if context is not None:
            host = None if isinstance(machine, Server) else HOST
            link = context.wrap_socket(link, host is None, do_handshake_on_connect=False, server_hostname=host)
        self.link = link

    @property
    def over(self) -> bool:
        return self.error is not None or (self.machine.done and not self.unsent)

    def go_on(self) -> None:
        """Whatever can be done without waiting."""
        try:
            if isinstance(self.link, ssl.SSLSocket):
                self.link.do_handshake()
            while True:
                self.unsent += self.machine.take()
                if self.unsent:
                    self.unsent = self.unsent[self.link.send(self.unsent) :]
                    continue
                if self.machine.done:
                    return
                self.machine.feed(self.link.recv(7))
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return
        except ssl.SSLError as error:
            failure = tls_failure(error, self.peer)
            if isinstance(self.machine, Server) and speaks_no_tls(error):
                os.write(self.link.fileno(), refusal(failure))  # past TLS
            self.fail(failure)
        except psyne.PsyneError as error:
            self.fail(error)
        except OSError as error:
            self.fail(psyne.SystemFailure(error.errno, str(error)))

    def fail(self, error: psyne.PsyneError) -> None:
        """Says so, as well as it can, and closes."""
        self.error = error
        with contextlib.suppress(OSError):
            self.link.sendall(self.machine.take())
        with contextlib.suppress(OSError):
            self.link.shutdown(socket.SHUT_WR)


Converse = Callable[..., tuple[Side, Side]]


@pytest.fixture(params=["socketpair", "tcp"])
def converse(request: pytest.FixtureRequest) -> Iterator[Converse]:
    """Lets a client and a server talk over such a socket until both are over, and closes it after the test."""
    if request.param == "socketpair":
        ours, theirs = socket.socketpair()
    else:
        with socket.create_server(("127.0.0.1", 0)) as bound:
            ours = socket.create_connection(bound.getsockname())
            theirs, _ = bound.accept()
    made: list[Side] = []

    def talk(
        server: ssl.SSLContext | None,
        client: ssl.SSLContext | None,
        token: bytes | None = TOKEN,
        client_token: bytes | None = TOKEN,
    ) -> tuple[Side, Side]:
        made.append(Side(Client(asked(), ADDRESS, client_token if token else None), ours, client, ADDRESS))
        made.append(Side(Server(reply, PEER, token), theirs, server, PEER))
        deadline = time.monotonic() + PATIENCE
        while waiting := [side for side in made if not side.over]:
            assert time.monotonic() < deadline, [side.error for side in made]
            for side in waiting:
                side.go_on()
            select.select([side.link for side in waiting], [], [], 0.01)
        return made[0], made[1]

    yield talk
    for side in made:
        side.link.close()


def agreed(client: Side, server: Side) -> bool:
    assert (client.error, server.error) == (None, None)
    return client.machine.opened == server.machine.opened and client.machine.done


@pytest.mark.parametrize("token", [None, TOKEN])
def test_both_sides_agree_over_a_socket(converse: Converse, token: bytes | None):
    assert agreed(*converse(None, None, token))


@pytest.mark.parametrize("token", [None, TOKEN])
@pytest.mark.parametrize("mutual", [False, True], ids=["server only", "mutual"])
def test_both_sides_agree_inside_tls(converse: Converse, files: Files, mutual: bool, token: bytes | None):
    server = context_for(Tls(files.cert, files.key, ca=files.ca if mutual else None), "server")
    client = context_for(Tls(files.cert, files.key, ca=files.ca) if mutual else Tls(ca=files.ca), "client")
    sides = converse(server, client, token)
    assert agreed(*sides)
    for side in sides:
        assert isinstance(side.link, ssl.SSLSocket)
        assert side.link.version() == "TLSv1.3"


def test_a_server_of_another_authority_is_refused(converse: Converse, files: Files):
    server = context_for(Tls(files.other_cert, files.other_key), "server")
    client, served = converse(server, context_for(Tls(ca=files.ca), "client"))
    assert isinstance(client.error, psyne.AuthenticationFailed)
    assert f"the certificate of {ADDRESS} is not trusted" in str(client.error)
    assert isinstance(served.error, psyne.AuthenticationFailed)


@pytest.mark.parametrize("shown", [False, True], ids=["no certificate", "one of another authority"])
def test_a_client_that_the_authority_does_not_know_is_refused(converse: Converse, files: Files, shown: bool):
    server = context_for(Tls(files.cert, files.key, ca=files.ca), "server")
    own = Tls(files.other_cert, files.other_key, ca=files.ca) if shown else Tls(ca=files.ca)
    client, served = converse(server, context_for(own, "client"))
    assert isinstance(served.error, psyne.AuthenticationFailed)
    assert isinstance(client.error, psyne.AuthenticationFailed)
    assert f"{ADDRESS} refused TLS" in str(client.error)


def test_tls_1_2_is_refused(converse: Converse, files: Files):
    old = ssl.create_default_context(cafile=str(files.ca))
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    _, served = converse(context_for(Tls(files.cert, files.key), "server"), old)
    assert isinstance(served.error, psyne.ProtocolError)
    assert "does not speak TLS 1.3" in str(served.error)


def test_a_plain_client_at_a_tls_server_is_refused_on_both_sides(converse: Converse, files: Files):
    client, served = converse(context_for(Tls(files.cert, files.key), "server"), None)
    assert isinstance(served.error, psyne.ProtocolError)
    assert f"{PEER} does not speak TLS and this one does: give tls=" in str(served.error)
    assert isinstance(client.error, psyne.ProtocolError)
    assert f"{ADDRESS} refused: {PEER} does not speak TLS and this one does: give tls=" in str(client.error)


def test_a_tls_client_at_a_plain_server_is_refused_on_both_sides(converse: Converse, files: Files):
    client, served = converse(None, context_for(Tls(ca=files.ca), "client"))
    assert isinstance(served.error, psyne.ProtocolError)
    assert "speaks TLS and this one does not: give tls=" in str(served.error)
    assert isinstance(client.error, psyne.ProtocolError)
    assert f"{ADDRESS} does not speak TLS and this one does" in str(client.error)


def test_inside_tls_a_token_is_asked_for_as_well(converse: Converse, files: Files):
    server, client = context_for(Tls(files.cert, files.key), "server"), context_for(Tls(ca=files.ca), "client")
    for side in converse(server, client, client_token=b"another token of 16 bytes"):
        assert isinstance(side.error, psyne.AuthenticationFailed)
        assert f"{PEER} does not know the token" in str(side.error)
