"""What comes over the network may be anything: it ends the connection that it came over, and nobody else notices."""

import gc
import itertools
import os
import random
import resource
import socket
import ssl
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import psyne
from psyne import Array
from psyne.network import bound, greeting
from psyne.network.driver import thread_driver
from psyne.network.frames import Header, Type, frame
from psyne.network.serve import Serving
from psyne.types.schema import schema_of

from .helpers.certificates import Files, write_files
from .helpers.process import Child, until
from .helpers.raw_peer import RawPeer, ack, data, end

NUMBER = Array("u8", (4,))
SIZE = 32  # bytes of one
SCHEMA = schema_of([NUMBER])
TOKEN = "a token of more than sixteen bytes"
HELLO = frame(Type.HELLO, b'{"byteorder":"little","word":8,"nonce":"%s","psyne":"0.1.0"}' % (b"5a" * 32))
NO_PROOF = frame(Type.PROOF, bytes(32))
pytestmark = pytest.mark.usefixtures("impatient")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """All times are short."""
    for module, name, seconds in (
        (greeting, "HANDSHAKE", 1.0),
        (greeting, "FAREWELL", 0.3),
    ):
        monkeypatch.setattr(module, name, seconds)


class Place:
    """A served channel with a local receiver, and a good client in another process that sends to it."""

    def __init__(self, stack: ExitStack, **options: Any) -> None:
        self.serving: Serving = stack.enter_context(
            psyne.serve("tcp://127.0.0.1:0", session_timeout=0.3, linger=0.5, heartbeat=0.5, **options)
        )
        self.address = self.serving.address
        self.tx = stack.enter_context(psyne.sender("ipc://numbers", NUMBER, pattern="mpmc", capacity=64))
        self.rx = stack.enter_context(psyne.receiver("ipc://numbers", NUMBER))
        self.child = stack.enter_context(Child())
        self.options = {name: options[name] for name in ("token",) if name in options}
        self._sent = 0
        self._before: tuple[int, int] | None = None
        self.good_client_works()
        until(lambda: self.serving.statistics().connected == 1, "the good client")
        self._before = self._have()

    def good_client_works(self) -> None:
        """One that is there from the beginning, and one that comes now."""
        for name in ("tx", "other"):
            self.child.run(
                "if name not in globals():\n"
                "    globals()[name] = psyne.sender(address, psyne.Array('u8', (4,)), **options)\n"
                "for n in range(first, first + 100): globals()[name].send(np.full(4, n, 'u8'))",
                name=name, first=self._sent, address=f"{self.address}/numbers", options=self.options,
            )  # fmt: skip
            for n in range(self._sent, self._sent + 100):
                with self.rx.receive(timeout=30) as m:
                    assert m.array.tolist() == [n] * 4
            self._sent += 100
        self.child.run("other.close(); del other")

    def nothing_is_left(self) -> None:
        """No lane, member, session, connection or thread of whom was there for a while."""
        until(lambda: len(self.serving._bound.peers) == 1 and self.serving._bound.strangers == 0, "the last peer to go")
        seen = psyne.inspect("ipc://numbers")
        assert seen is not None
        assert len([lane for lane in seen.lanes if lane.state == "open"]) == 2
        assert [len(stage.members) for stage in seen.stages] == [1]
        if self._before is not None:
            before = self._before
            until(lambda: all(now <= then for now, then in zip(self._have(), before, strict=True)), "all to be closed")

    def _have(self) -> tuple[int, int]:
        """Descriptors and threads. Not counted: what local ends keep of others' rings and bells until others come."""
        gc.collect()
        files = []
        for fd in os.listdir("/proc/self/fd"):
            with suppress(FileNotFoundError):  # that of the directory itself
                files.append(os.readlink(f"/proc/self/fd/{fd}"))
        return sum(not file.endswith(" (deleted)") for file in files), threading.active_count()

    def peer(self) -> RawPeer:
        return RawPeer(self.address)


@pytest.fixture
def place() -> Iterator[Place]:
    with ExitStack() as stack:
        yield Place(stack)


def good_after(place: Place, attack: Callable[[RawPeer], object]) -> None:
    """Runs it, and looks that nobody else has noticed."""
    with place.peer() as peer:
        attack(peer)
        place.good_client_works()
    place.nothing_is_left()
    place.good_client_works()


# ---- before anybody is known ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n", id="http"),
        pytest.param(bytes(64), id="zeros"),
        pytest.param(frame(Type.OPEN, b"{}"), id="OPEN before HELLO"),
        pytest.param(frame(Type.HELLO, b"{"), id="no JSON"),
        pytest.param(frame(Type.HELLO, b"[]"), id="no object"),
        pytest.param(Header(Type.HELLO, 1 << 60).encode(), id="a giant HELLO"),
        pytest.param(HELLO + Header(Type.PROOF, 33).encode(), id="a long PROOF"),
        pytest.param(HELLO + frame(Type.PROOF, b"x" * 32), id="a wrong PROOF"),
        pytest.param(HELLO + NO_PROOF + Header(Type.OPEN, (1 << 20) + 1).encode(), id="a giant OPEN"),
        pytest.param(HELLO + NO_PROOF + frame(Type.OPEN, b"{}"), id="an empty OPEN"),
        pytest.param(HELLO + HELLO, id="HELLO twice"),
        pytest.param(bytes([*HELLO[:12], HELLO[12] ^ 1, *HELLO[13:]]), id="a wrong header checksum"),
        pytest.param(HELLO + data(bytes(SIZE), 0, SIZE), id="DATA before OPEN"),
    ],
)
def test_wrong_words_are_refused_with_a_reason(place: Place, words: bytes) -> None:
    def attack(peer: RawPeer) -> None:
        peer.send(words)
        assert peer.refusal()["error"] in ("ProtocolError", "AuthenticationFailed")

    refused = place.serving.statistics().refused
    good_after(place, attack)
    assert place.serving.statistics().refused == refused + 1


def test_the_refusal_arrives_even_when_the_peer_goes_on_talking(place: Place) -> None:
    def attack(peer: RawPeer) -> None:
        with suppress(ConnectionError, TimeoutError):
            peer.send(b"x" * 300_000)
        assert peer.refusal()["error"] == "ProtocolError"

    good_after(place, attack)


def test_the_last_words_are_not_overtaken_by_a_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    """To close a socket with bytes that nobody has read resets it, so it stays open until its peer has closed, too."""
    monkeypatch.setattr(greeting, "FAREWELL", 1e6)
    driver, ours_is_closed, done = thread_driver(), threading.Event(), threading.Event()
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with theirs:
        theirs.sendall(b"x" * 100_000)
        driver.soon(lambda: greeting.Farewell(driver, ours, b"the last words", ours_is_closed.set))
        assert theirs.recv(100) == b"the last words"
        assert theirs.recv(100) == b""
        driver.soon(done.set)
        assert done.wait(60)
        assert not ours_is_closed.is_set()
    assert ours_is_closed.wait(60)


def test_the_last_words_wait_for_nobody_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(greeting, "FAREWELL", 0.05)
    driver, ours_is_closed = thread_driver(), threading.Event()
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with theirs:
        driver.soon(lambda: greeting.Farewell(driver, ours, b"the last words", ours_is_closed.set))
        assert ours_is_closed.wait(60)
        assert theirs.recv(100) == b"the last words"


def test_a_client_that_speaks_tls_hears_that_here_is_none(place: Place) -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with pytest.raises((ssl.SSLError, ConnectionError)), socket.create_connection(_pair(place.address)) as sock:
        context.wrap_socket(sock)
    place.nothing_is_left()
    place.good_client_works()


def test_a_client_that_speaks_no_tls_hears_that_here_is_some(tmp_path: Path) -> None:
    files = write_files(tmp_path)
    with (
        psyne.serve("tcp://127.0.0.1:0", tls=psyne.Tls(files.cert, files.key)) as serving,
        RawPeer(serving.address) as peer,
    ):
        peer.send(HELLO)
        assert "TLS" in peer.refusal()["message"]


def test_random_bytes_in_every_phase_end_their_connection_alone(place: Place) -> None:
    chance = random.Random(7)
    for round_ in range(30):
        with place.peer() as peer, suppress(ConnectionError, psyne.PsyneError):
            if round_ % 3:
                peer.greet("numbers", "sender", schema=SCHEMA) if round_ % 3 == 1 else peer.greet("numbers", "receiver")
            peer.send(chance.randbytes(chance.choice([1, 31, 32, 33, 1000, 100_000])))
            peer.half_close()
            peer.closed()
    place.nothing_is_left()
    place.good_client_works()


PHASES: dict[str, Callable[[RawPeer], object]] = {
    "connected": lambda peer: None,
    "half a HELLO": lambda peer: peer.send(HELLO[:20]),
    "HELLO": lambda peer: peer.send(HELLO),
    "PROOF": lambda peer: peer.send(HELLO, NO_PROOF),
    "half an OPEN": lambda peer: peer.send(HELLO, NO_PROOF, Header(Type.OPEN, 900).encode(), b"{"),
    "welcomed sender": lambda peer: peer.greet("numbers", "sender", schema=SCHEMA),
    "welcomed receiver": lambda peer: peer.greet("numbers", "receiver"),
    "welcomed tap": lambda peer: peer.greet("numbers", "tap"),
    "half a header": lambda peer: (PHASES["welcomed sender"](peer), peer.send(data(bytes(SIZE), 0, SIZE)[:10])),
    "half a message": lambda peer: (PHASES["welcomed sender"](peer), peer.send(data(bytes(SIZE), 0, SIZE)[:-5])),
}


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("way", ["close", "reset", "half_close"])
def test_whoever_goes_in_any_phase_leaves_nothing(place: Place, phase: str, way: str) -> None:
    with place.peer() as peer:
        PHASES[phase](peer)
        getattr(peer, way)()
        until(lambda: len(place.serving._bound.peers) == 1, "it to be gone")
        place.good_client_works()
    place.nothing_is_left()


@pytest.mark.parametrize("phase", [name for name in PHASES if not name.startswith("welcomed")])
def test_whoever_stands_still_in_the_handshake_or_in_a_frame_is_dropped(place: Place, phase: str) -> None:
    def attack(peer: RawPeer) -> None:
        PHASES[phase](peer)
        peer.closed()

    good_after(place, attack)


def test_a_handshake_that_is_played_again_is_refused() -> None:
    with ExitStack() as stack:
        place = Place(stack, token=TOKEN)
        with place.peer() as honest:
            honest.greet("numbers", "sender", schema=SCHEMA, token=TOKEN.encode())
            heard = honest.said
        with place.peer() as peer:
            peer.send(heard)
            assert peer.refusal()["error"] == "AuthenticationFailed"
        with place.peer() as peer, pytest.raises(psyne.AuthenticationFailed, match="token"):
            peer.greet("numbers", "sender", schema=SCHEMA, token=b"another token of sixteen bytes")
        place.nothing_is_left()
        place.good_client_works()


# ---- sessions ------------------------------------------------------------------------------------------------------


def test_a_session_goes_on_only_with_the_same_request(place: Place) -> None:
    with place.peer() as peer:
        session = peer.greet("numbers", "sender", schema=SCHEMA).reply.session
        with place.peer() as thief, pytest.raises(psyne.InvalidArgument, match="another request"):
            thief.greet("numbers", "receiver", session=session)
        peer.send(data(bytes(SIZE), 0, SIZE))
        with place.rx.receive(timeout=30) as m:
            assert m.array.tolist() == [0] * 4
        assert peer.next(Type.ACK) is not None
    place.nothing_is_left()


def test_a_session_goes_on_only_with_the_same_certificate(tmp_path: Path) -> None:
    files = write_files(tmp_path)
    mine, theirs = _client(files, "cert"), _client(files, "other_cert")
    with ExitStack() as stack:
        both = tmp_path / "both.pem"
        both.write_bytes(files.ca.read_bytes() + files.other_ca.read_bytes())
        tls = psyne.Tls(cert=files.cert, key=files.key, ca=both)
        serving = stack.enter_context(psyne.serve("tcp://127.0.0.1:0", tls=tls, session_timeout=20.0))
        stack.enter_context(psyne.sender("ipc://numbers", NUMBER, pattern="mpmc"))
        with RawPeer(serving.address, mine) as peer:
            session = peer.greet("numbers", "receiver").reply.session
        with RawPeer(serving.address, theirs) as thief, pytest.raises(psyne.AuthenticationFailed, match="certificate"):
            thief.greet("numbers", "receiver", session=session)
        with RawPeer(serving.address, mine) as peer:
            assert peer.greet("numbers", "receiver", session=session).reply.resumed


def test_a_session_whose_new_connection_is_sent_away_waits_no_longer_than_it_may() -> None:
    with ExitStack() as stack:
        serving = stack.enter_context(psyne.serve("tcp://127.0.0.1:0", max_connections=16, session_timeout=0.05))
        stack.enter_context(psyne.sender("ipc://numbers", NUMBER))
        first, again = (stack.enter_context(RawPeer(serving.address)) for _ in range(2))
        session = first.greet("numbers", "receiver").reply.session
        until(lambda: serving.statistics().connected == 1, "it to be there")
        assert again.greet("numbers", "receiver", session=session, speaks=False).reply.resumed
        for _ in range(3):  # a quarter of all may be from one address
            stack.enter_context(RawPeer(serving.address))
        until(lambda: not serving._bound.peers, "it to be given up")


def test_a_session_that_goes_on_with_messages_that_were_never_sent_is_over(place: Place) -> None:
    with place.peer() as peer:
        session = peer.greet("numbers", "receiver").reply.session
    with place.peer() as peer:
        assert peer.greet("numbers", "receiver", session=session, next=1000).reply.resumed
        peer.closed()
    place.nothing_is_left()
    place.good_client_works()


# ---- a peer that is known ------------------------------------------------------------------------------------------

one = data(bytes(SIZE), 0, SIZE)


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(data(bytes(SIZE), 5, SIZE), id="a hole in the sequence"),
        pytest.param(one + one, id="the same message twice"),
        pytest.param(data(bytes(SIZE), 0, SIZE, length=1 << 40), id="a giant length"),
        pytest.param(data(bytes(SIZE), 0, SIZE, count=0), id="no messages"),
        pytest.param(data(bytes(SIZE), 0, SIZE, count=4097), id="too many messages"),
        pytest.param(data(bytes(SIZE), 0, SIZE, said=SIZE - 1), id="another size"),
        pytest.param(data(bytes(SIZE), 0, SIZE, variant=9), id="an unknown type"),
        pytest.param(data(bytes(SIZE), 0, SIZE, flags=2), id="a checksum that nobody asked for"),
        pytest.param(data(bytes(SIZE), 0, SIZE, flags=64), id="an unknown flag"),
        pytest.param(one[:13] + bytes([one[13] ^ 1]) + one[14:], id="a wrong header checksum"),
        pytest.param(end(1), id="an END of another count"),
        pytest.param(end(0, 7), id="an END for no reason"),
        pytest.param(end(0) + end(0), id="END twice"),
        pytest.param(end(0) + one, id="DATA behind END"),
        pytest.param(HELLO, id="another handshake"),
        pytest.param(ack(0, 0), id="an ACK of a sender"),
        pytest.param(Header(Type.BYE).encode(), id="a BYE of a sender"),
        pytest.param(bytes(100), id="zeros"),
    ],
)
def test_a_sender_that_breaks_the_protocol_hears_why_and_nobody_else_notices(place: Place, words: bytes) -> None:
    refused = place.serving.statistics().refused

    def attack(peer: RawPeer) -> None:
        peer.greet("numbers", "sender", schema=SCHEMA)
        peer.send(words)
        assert peer.refusal()["error"] == "ProtocolError"
        until(lambda: place.serving.statistics().refused == refused + 1, "it to be counted")
        if words.startswith(one):
            with place.rx.receive(timeout=30) as m:
                assert m.array.tolist() == [0] * 4

    good_after(place, attack)


def test_a_payload_with_a_wrong_checksum_is_not_delivered(place: Place) -> None:
    def attack(peer: RawPeer) -> None:
        peer.greet("numbers", "sender", schema=SCHEMA, checksum=True)
        peer.send(data(bytes(SIZE), 0, SIZE, flags=2, checksum=12345))
        assert "checksum" in peer.refusal()["message"]

    good_after(place, attack)


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(ack(100, 100), id="an ACK of what was not sent"),
        pytest.param(ack(2, 1), id="let go before it was received"),
        pytest.param(one, id="DATA of a receiver"),
        pytest.param(Header(Type.BYE).encode(), id="a BYE without END"),
        pytest.param(end(0), id="an END of a receiver"),
        pytest.param(bytes(100), id="zeros"),
    ],
)
def test_what_a_receiver_got_that_breaks_the_protocol_others_get(place: Place, words: bytes) -> None:
    with place.peer() as peer:
        peer.greet("numbers", "receiver", capacity=4)
        for n in range(20):
            place.tx.send(np.full(4, n, "u8"))
        peer.next(Type.DATA)
        peer.send(words)
        peer.closed()
        got = []
        for _ in range(20):
            with place.rx.receive(timeout=30) as m:
                got.append(int(m.array[0]))
        assert sorted(got) == list(range(20))
    place.nothing_is_left()
    place.good_client_works()


def test_a_receiver_that_never_reads_is_dropped_and_others_get_its_messages(place: Place) -> None:
    with place.peer() as peer:
        peer.greet("numbers", "receiver", capacity=8)
        for n in range(40):
            place.tx.send(np.full(4, n, "u8"))
        got = []
        for _ in range(40):
            with place.rx.receive(timeout=30) as m:
                got.append(int(m.array[0]))
        assert sorted(got) == list(range(40))
    place.nothing_is_left()


def test_a_peer_that_sends_a_frame_byte_by_byte_is_dropped(place: Place) -> None:
    """Each byte is a sign of life, so only its pace betrays it."""

    def attack(peer: RawPeer) -> None:
        peer.greet("numbers", "sender", schema=SCHEMA)
        words = data(bytes(SIZE * 1000), 0, SIZE)
        with suppress(ConnectionError):
            for at in range(len(words)):
                peer.send(words[at : at + 1])
                time.sleep(0.1)  # no message is whole when it is dropped
            raise AssertionError("it was let send all of it")

    good_after(place, attack)


def test_a_peer_that_rests_between_frames_stays(place: Place) -> None:
    with place.peer() as peer:
        peer.greet("numbers", "sender", schema=SCHEMA)
        pings = 0
        while pings < 8:  # longer than a frame may stand still
            got = peer.next(Type.PING)
            assert got is not None
            peer.send(frame(Type.PONG, got[1]))
            pings += 1
        peer.send(one)
        with place.rx.receive(timeout=30) as m:
            assert m.array.tolist() == [0] * 4
        peer.send(end(1))
        assert peer.next(Type.BYE) is not None
    place.nothing_is_left()


# ---- room ----------------------------------------------------------------------------------------------------------


def test_strangers_make_room_for_newcomers_and_peers_for_nobody(place: Place) -> None:
    with ExitStack() as stack:
        for _ in range(3 * bound.STRANGERS):
            stack.enter_context(place.peer()).send(HELLO[:7])
        until(lambda: place.serving.statistics().sent_away >= 2 * bound.STRANGERS, "the oldest to go")
        assert place.serving.statistics().strangers <= bound.STRANGERS
        place.good_client_works()
    place.nothing_is_left()


def test_beyond_max_connections_nobody_gets_in() -> None:
    with ExitStack() as stack:
        place = Place(stack, max_connections=8)
        held = [stack.enter_context(place.peer())]
        held[0].greet("numbers", "tap")  # of one address, a quarter of 8: with the good client
        with place.peer() as peer:
            assert "max_connections=8" in peer.refusal()["message"]
        held[0].close()
        place.nothing_is_left()
        place.good_client_works()


def test_a_process_without_descriptors_takes_others_later(place: Place) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as stack:
        waiting = stack.enter_context(socket.socket())
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 1, hard))
        taken = []
        try:
            with suppress(OSError):
                while True:
                    taken.append(os.dup(0))
            waiting.connect(_pair(place.address))
            until(lambda: place.serving._bound.pauses > 0, "accept() to fail")
        finally:
            for fd in taken:
                os.close(fd)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        waiting.settimeout(30)
        waiting.sendall(b"no psyne at all")
        assert waiting.recv(4) == b"PSYN"
    place.nothing_is_left()
    place.good_client_works()


@pytest.mark.parametrize(
    ("connections", "rounds", "count"), [(200, 1, 2000), pytest.param(1000, 7, 100_000, marks=pytest.mark.long)]
)
@pytest.mark.watchdog(600)
def test_many_slow_connections_cost_little_and_a_good_client_goes_on(connections: int, rounds: int, count: int) -> None:
    """Of all kinds: silent, in the middle of HELLO, of a long OPEN, and known but in the middle of a message."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        host, good = stack.enter_context(Child()), stack.enter_context(Child())
        address = host.run(
            "s = psyne.serve('tcp://127.0.0.1:0', session_timeout=1.0, linger=.5)\n"
            "kind = psyne.Array('u8', (4,))\n"
            "txs = [psyne.sender(f'ipc://{name}', kind, pattern='mpmc') for name in ('numbers', 'others')]\n"
            "s.address"
        )
        rx = stack.enter_context(psyne.receiver("ipc://numbers", NUMBER))
        good.run("tx = psyne.sender(address + '/numbers', psyne.Array('u8', (4,)))", address=address)
        start = itertools.count(0, count)

        def rate() -> float:
            first, begun = next(start), time.monotonic()
            good.begin(
                "for n in range(first, first + count): tx.send(np.full(4, n, 'u8'))", first=first, count=count
            )  # fmt: skip
            for n in range(first, first + count):
                with rx.receive(timeout=60) as m:
                    assert int(m.array[0]) == n
            good.result()
            return count / (time.monotonic() - begun)

        rate()
        ratios = []
        for _ in range(rounds):
            alone, before = rate(), _resident(host.pid)
            slow = _slow_peers(address, connections)
            beside, most = rate(), _resident(host.pid) - before
            seen = host.run("s.statistics()")
            assert seen.connected + seen.waiting + seen.strangers <= 64  # of one address
            assert most < 128 << 20, f"{most} bytes for {connections} connections"
            for peer in slow:
                peer.close()
            host.run(
                "import time\nwhile (n := s.statistics()).strangers or n.connected + n.waiting > 1: time.sleep(.01)"
            )
            ratios.append(2 * beside / (alone + rate()))
            print(f"{connections} slow ones: {beside:.0f} messages/s, {ratios[-1]:.2f} of alone, {most >> 20} MiB")
        print(f"median {statistics.median(ratios):.2f} of alone")
        good.run("tx.close()")
        host.run("s.close(); [tx.close() for tx in txs]")


def _slow_peers(address: str, connections: int) -> list[RawPeer]:
    """The known ones send to a channel of their own: a receiver looks at each sender of its channel in turn."""
    half_an_open = (HELLO, NO_PROOF, Header(Type.OPEN, 1 << 20).encode(), bytes(1 << 19))
    kinds: list[tuple[bytes, ...]] = [(), (HELLO[:9],), (HELLO,), half_an_open]
    slow = []
    for k in range(connections):
        with suppress(OSError):
            peer = RawPeer(address)
            slow.append(peer)
            if k % 20 == 19:
                with suppress(psyne.PsyneError):
                    peer.greet("others", "sender", schema=SCHEMA)
                    peer.send(one[:-1])
            else:
                peer.send(*kinds[k % 4])
    return slow


def _resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def _pair(address: str) -> tuple[str, int]:
    host, port = address.removeprefix("tcp://").split(":")
    return host, int(port)


def _client(files: Files, name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(files.ca)
    context.load_cert_chain(getattr(files, name), getattr(files, name.replace("cert", "key")))
    return context
