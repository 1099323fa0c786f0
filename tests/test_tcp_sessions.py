"""Sessions over TCP: a connection that is cut anywhere, in any way, loses nothing and doubles nothing."""

import functools
import itertools
import random
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import psyne
from psyne import Array
from psyne.network import greeting, remote, sessions
from psyne.network.bodies import Request
from psyne.network.driver import thread_driver
from psyne.network.frames import Type
from psyne.network.handshake import Client
from psyne.types.schema import schema_of

from .helpers.cutting import Cut, Proxy
from .helpers.layouts import Number
from .helpers.process import Child, until
from .helpers.raw_peer import RawPeer

ANYWHERE = (0, 1, 16, 32, 40, -1)  # bytes of a frame: nothing, of the header, all of it, of the body, all but one
HOWS = ("close", "reset")


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two tries to connect."""
    monkeypatch.setattr(remote, "Backoff", functools.partial(sessions.Backoff, first=0.002, most=0.02))


class Pair:
    """A bound end and one that connects to it through a proxy. `sends`: which of them does."""

    def __init__(self, sends: str, cuts: Any = (), kind: Any = Number, connecting: Any = (), **options: Any) -> None:
        more = dict(connecting)
        make: dict[str, Callable[..., Any]] = {"S": psyne.sender, "C": psyne.receiver}
        if sends == "C":
            make = {"S": psyne.receiver, "C": psyne.sender}
        capacity = {"capacity": options.pop("capacity")} if "capacity" in options else {}
        own = {side: capacity if side == sends else {} for side in "CS"}
        self.bound = make["S"]("tcp://127.0.0.1:0", kind, bind=True, **options | own["S"])
        self.proxy = Proxy(port_of(self.bound), cuts)
        self.connecting = make["C"](f"tcp://127.0.0.1:{self.proxy.port}", kind, **options | own["C"] | more)
        self.tx, self.rx = (self.connecting, self.bound) if sends == "C" else (self.bound, self.connecting)

    def __enter__(self) -> "Pair":
        return self

    def __exit__(self, *_: object) -> None:
        self.rx.close()
        self.tx.close()
        self.proxy.close()


def port_of(end: Any) -> int:
    return int(end.address.rsplit(":", 1)[1])


def in_thread(function: Callable[[], object]) -> Callable[[], None]:
    """Runs it in a thread; what is returned waits for its end and raises what it raised."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            function()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def join() -> None:
        thread.join(60)
        assert not thread.is_alive()
        if errors:
            raise errors[0]

    return join


def numbers(rx: Any) -> Iterator[int]:
    """All numbers until the channel is closed."""
    for message in rx:
        n = int(message.n)
        message.release()
        yield n


def storm(pair: Pair, most: int = 1 << 40) -> int:
    """Sends until the cuts are used up, and checks what comes. How many it was."""

    def send() -> None:
        for n in itertools.count():
            pair.tx.send(Number(n=n))
            if (pair.proxy.exhausted and n >= 100) or n == most:
                break
        pair.tx.close()

    join = in_thread(send)
    came = 0
    for n in numbers(pair.rx):
        assert n == came
        came += 1
    join()
    assert came >= 100
    return came


CUTS = [
    Cut(way, frame, byte, how)
    for frame in range(9)
    for byte in ANYWHERE
    for way in ("C", "S")
    for how in HOWS
]  # fmt: skip


both_ways = pytest.mark.parametrize("sends", ["C", "S"])


@both_ways
def test_hundreds_of_cuts_at_and_in_every_frame_lose_nothing_and_double_nothing(sends: str) -> None:
    order = random.Random(7).sample(CUTS, len(CUTS))
    with Pair(sends, order, linger=60.0) as pair:
        storm(pair)
        assert pair.proxy.made >= len(CUTS) * 9 // 10  # the others were over before


@both_ways
@pytest.mark.parametrize("checksum", [False, True])
def test_messages_of_a_mebibyte_that_are_cut_anywhere_come_whole_and_once(sends: str, checksum: bool) -> None:
    chance = random.Random(11)
    way = sends
    cuts = [Cut(way, chance.randrange(3, 12), chance.randrange(0, 1 << 20), HOWS[n % 2]) for n in range(60)]
    with Pair(sends, cuts, Array("u8", (1 << 17,)), checksum=checksum, capacity=8, linger=60.0) as pair:

        def send() -> None:
            for n in itertools.count():
                with pair.tx.loan() as message:
                    message.array[:] = n
                    message.array[-1] = ~n & 0xFFFF
                if pair.proxy.exhausted and n >= 20:
                    break
            pair.tx.close()

        join = in_thread(send)
        for n, message in enumerate(pair.rx):
            assert message.array[0] == n
            assert (message.array[:-1] == n).all()
            assert message.array[-1] == ~n & 0xFFFF
            message.release()
        join()
        assert pair.proxy.made >= 50


@both_ways
def test_batches_that_are_cut_come_whole_and_once(sends: str) -> None:
    chance = random.Random(13)
    cuts = [Cut(sends, chance.randrange(3, 20), chance.choice(ANYWHERE), HOWS[n % 2]) for n in range(100)]
    with Pair(sends, cuts, psyne.Array("u8", ()), linger=60.0) as pair:

        def send() -> None:
            n = 0
            while not pair.proxy.exhausted or n < 10_000:
                pair.tx.send_many(np.arange(n, n + 100, dtype="u8"))
                n += 100
            pair.tx.close()

        join = in_thread(send)
        came = 0
        for batch in pair.rx.batches(64):
            assert (batch.array == np.arange(came, came + len(batch))).all()
            came += len(batch)
        join()
        assert came >= 10_000
        assert came % 100 == 0


@both_ways
def test_a_cut_around_the_end_neither_loses_it_nor_doubles_what_came_before(sends: str) -> None:
    for way, frame, byte in itertools.product("CS", range(1, 9), (0, 16, -1)):
        with Pair(sends, [Cut(way, frame, byte)], linger=60.0, session_timeout=60.0) as pair:  # type: ignore[arg-type]
            for n in range(3):
                pair.tx.send(Number(n=n))
            came = take(pair.rx, 1)  # there is a session
            join = in_thread(pair.tx.close)
            assert came + list(numbers(pair.rx)) == [0, 1, 2], (way, frame, byte)
            join()


@both_ways
def test_a_half_open_connection_is_noticed_and_another_one_goes_on(sends: str) -> None:
    cuts = [Cut(way, 6, 16, "hold") for way in ("C", "S")]  # type: ignore[arg-type]
    with Pair(sends, cuts, heartbeat=0.05, linger=60.0) as pair:
        storm(pair)
        assert pair.proxy.made == 2


def test_a_peer_that_says_nothing_but_is_there_stays_connected() -> None:
    with Pair("C", heartbeat=0.02) as pair:
        pair.tx.send(Number(n=0))
        assert pair.rx.receive().n == 0
        with pytest.raises(TimeoutError):
            pair.rx.receive(timeout=0.5)
        assert pair.proxy.connections == 1


# ---- another process takes the place of the far end -----------------------------------------------------------------


SENDER = """
tx = psyne.sender(address, Number, **options)
for n in range(first, last):
    tx.send(Number(n=n))
int(tx.address.rsplit(":", 1)[1])
"""
RECEIVER = """
rx = psyne.receiver(address, Number, **options)
int(rx.address.rsplit(":", 1)[1])
"""
TAKE = """
got = []
for _ in range(count):
    with rx.receive() as message:
        got.append(message.n)
got
"""
BOUND = {"bind": True}


def take(rx: Any, count: int) -> list[int]:
    return list(itertools.islice(numbers(rx), count))


def test_a_killed_sender_that_comes_again_is_one_session_reset_at_a_connecting_receiver() -> None:
    with Child() as first, Child() as second:
        port = first.run(SENDER, address="tcp://127.0.0.1:0", options=BOUND, first=0, last=10)
        with psyne.receiver(address := f"tcp://127.0.0.1:{port}", Number, session_timeout=60.0) as rx:
            assert take(rx, 10) == list(range(10))
            first.kill()
            second.run(SENDER, address=address, options=BOUND, first=100, last=110)
            with pytest.raises(psyne.SessionReset, match="was restarted"):
                rx.receive()
            assert take(rx, 10) == list(range(100, 110))
            second.run("tx.close()")
            with pytest.raises(psyne.EndOfChannel):
                rx.receive()


def test_a_killed_sender_that_does_not_come_again_is_lost_behind_all_that_arrived() -> None:
    with Child() as child:
        port = child.run(SENDER, address="tcp://127.0.0.1:0", options=BOUND, first=0, last=10)
        with psyne.receiver(f"tcp://127.0.0.1:{port}", Number, session_timeout=0.2) as rx:
            assert take(rx, 1) == [0]
            child.kill()
            assert take(rx, 9) == list(range(1, 10))
            with pytest.raises(psyne.SenderLost) as lost:
                rx.receive()
            assert lost.type is psyne.SenderLost


def test_a_killed_sender_that_had_connected_is_lost_behind_all_that_arrived() -> None:
    with Child() as child, psyne.receiver("tcp://127.0.0.1:0", Number, bind=True, session_timeout=0.2) as rx:
        child.run(SENDER, address=rx.address, options={}, first=0, last=10)
        assert take(rx, 1) == [0]
        child.kill()
        assert take(rx, 9) == list(range(1, 10))
        with pytest.raises(psyne.SenderLost):
            rx.receive()


def test_a_sender_hears_of_a_restarted_receiver_only_where_messages_are_sent_again() -> None:
    with Child() as first, Child() as second, Child() as third:
        port = first.run(RECEIVER, address="tcp://127.0.0.1:0", options=BOUND)
        with psyne.sender(address := f"tcp://127.0.0.1:{port}", Number, linger=60.0) as tx:
            for n in range(10):
                tx.send(Number(n=n))
            assert first.run(TAKE, count=10) == list(range(10))
            tx.drain()
            first.kill()
            second.run(RECEIVER, address=address, options=BOUND)
            for n in range(10, 20):
                tx.send(Number(n=n))  # nothing was lost, nothing comes twice: nothing to tell
            assert second.run(TAKE, count=5) == list(range(10, 15))
            second.kill()
            third.run(RECEIVER, address=address, options=BOUND)

            def told() -> bool:
                try:
                    tx.send(Number(n=99))
                except psyne.SessionReset:
                    return True
                return False

            until(told, "the reset")
            tx.send(Number(n=100))
            tx.close()
            got = third.run("list(int(m.n) for m in rx)")
            again = got[: got.index(99)]
            assert again == list(range(20 - len(again), 20))
            assert len(again) >= 5
            assert got[len(again) :] == [99] * (len(got) - len(again) - 1) + [100]


def test_what_a_killed_receiver_had_not_let_go_another_one_gets() -> None:
    with Child() as first, Child() as second:
        with psyne.sender("tcp://127.0.0.1:0", Number, bind=True, session_timeout=0.2, linger=60.0) as tx:
            first.run(RECEIVER, address=tx.address, options={})
            for n in range(10):
                tx.send(Number(n=n))
            assert first.run(TAKE, count=3) == [0, 1, 2]
            first.kill()
            second.run(RECEIVER, address=tx.address, options={})
            got = second.run(TAKE, count=7)
            tx.close()
            got += second.run("list(int(m.n) for m in rx)")
        assert got == list(range(10 - len(got), 10))
        assert len(got) >= 7


def test_a_peer_with_other_types_in_the_place_of_the_former_is_a_mismatch_for_good() -> None:
    other = "tx = psyne.sender(address, Sample, bind=True)\ntx.send(Sample())"
    with Child() as first, Child() as second:
        port = first.run(SENDER, address="tcp://127.0.0.1:0", options=BOUND, first=0, last=1)
        with psyne.receiver(address := f"tcp://127.0.0.1:{port}", Number) as rx:
            assert take(rx, 1) == [0]
            first.kill()
            second.run(other, address=address)
            for _ in range(3):
                with pytest.raises(psyne.LayoutMismatch):
                    rx.receive()


def test_a_receiver_with_other_types_in_the_place_of_the_former_is_a_mismatch_for_good() -> None:
    with Child() as first, Child() as second:
        port = first.run(RECEIVER, address="tcp://127.0.0.1:0", options=BOUND)
        with psyne.sender(address := f"tcp://127.0.0.1:{port}", Number) as tx:
            tx.send(Number(n=0))
            assert first.run(TAKE, count=1) == [0]
            first.kill()
            second.run("rx = psyne.receiver(address, Sample, bind=True)", address=address)

            def told() -> bool:
                try:
                    tx.send(Number(n=1))
                except psyne.LayoutMismatch:
                    return True
                return False

            until(told, "the mismatch")
            with pytest.raises(psyne.LayoutMismatch):
                tx.send(Number(n=2))


# ---- sessions that wait, are forgotten, and end ---------------------------------------------------------------------


def out_of_reach(pair: Pair) -> Callable[[], None]:
    """Cuts the connection and lets none come, until what is returned is called."""
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port, pair.proxy.target = pair.proxy.target, nobody.getsockname()[1]
    pair.proxy.cut_all()
    return lambda: setattr(pair.proxy, "target", port)


@both_ways
def test_a_session_waits_as_long_as_it_may_and_the_channel_with_it(sends: str) -> None:
    with Pair(sends, session_timeout=60.0, linger=60.0) as pair:
        pair.tx.send(Number(n=0))
        assert take(pair.rx, 1) == [0]
        mend = out_of_reach(pair)
        pair.tx.send(Number(n=1))
        with pytest.raises(TimeoutError):
            pair.rx.receive(timeout=0.2)
        mend()
        assert take(pair.rx, 1) == [1]


@both_ways
def test_a_session_that_waited_too_long_is_a_lost_sender(sends: str) -> None:
    with Pair(sends, session_timeout=0.1, linger=0.1) as pair:
        for n in range(3):
            pair.tx.send(Number(n=n))
        assert take(pair.rx, 1) == [0]
        until(lambda: pair.rx.statistics().received >= 1)
        assert take(pair.rx, 2) == [1, 2]
        out_of_reach(pair)
        with pytest.raises(psyne.SenderLost) as lost:
            pair.rx.receive()
        assert lost.type is psyne.SenderLost


def test_a_receiver_that_leaves_gives_the_messages_to_the_next_one() -> None:
    rx = psyne.receiver("tcp://127.0.0.1:0", Number, bind=True)
    with psyne.sender(rx.address, Number, linger=60.0) as tx:
        for n in range(10):
            tx.send(Number(n=n))
        assert take(rx, 3) == [0, 1, 2]
        address = rx.address
        rx.close()
        with psyne.receiver(address, Number, bind=True) as rx:
            got = take(rx, 7)
            join = in_thread(tx.close)
            got += list(numbers(rx))
            join()
    assert got == list(range(10 - len(got), 10))
    assert len(got) >= 7


def test_a_connecting_receiver_that_leaves_is_gone_at_once() -> None:
    with psyne.sender("tcp://127.0.0.1:0", Number, bind=True, session_timeout=3600.0, linger=60.0) as tx:
        rx = psyne.receiver(tx.address, Number)
        for n in range(10):
            tx.send(Number(n=n))
        assert take(rx, 3) == [0, 1, 2]
        rx.close()
        with psyne.receiver(tx.address, Number) as other:
            got = take(other, 7)
            join = in_thread(tx.close)
            got += list(numbers(other))
            join()
    assert got == list(range(10 - len(got), 10))
    assert len(got) >= 7


# ---- closing without a connection, and addresses --------------------------------------------------------------------


@pytest.fixture
def nobody() -> int:
    """A port at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture
def mute() -> Iterator[int]:
    """A port at which connections are made, and nothing is said."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield int(server.getsockname()[1])


def test_ends_close_at_once_where_nobody_listens_or_answers(nobody: int, mute: int) -> None:
    for port in (nobody, mute):
        for make in (psyne.receiver, psyne.sender):
            make(f"tcp://127.0.0.1:{port}", Number, linger=3600.0).close()


def test_a_sender_that_has_sent_waits_for_its_peer_as_long_as_it_lingers(nobody: int) -> None:
    tx = psyne.sender(f"tcp://127.0.0.1:{nobody}", Number, linger=0.1)
    tx.send(Number(n=0))
    tx.close()
    tx = psyne.sender(f"tcp://127.0.0.1:{nobody}", Number, linger=60.0)
    tx.send(Number(n=1))
    join = in_thread(tx.close)
    with psyne.receiver(f"tcp://127.0.0.1:{nobody}", Number, bind=True) as rx:
        assert list(numbers(rx)) == [1]
    join()


def test_all_addresses_of_a_host_are_tried_in_turn(monkeypatch: pytest.MonkeyPatch, nobody: int) -> None:
    with psyne.receiver("tcp://127.0.0.1:0", Number, bind=True) as rx:
        places = [(socket.AF_INET, ("127.0.0.1", nobody)), (socket.AF_INET, ("127.0.0.1", port_of(rx)))]
        monkeypatch.setattr(remote, "places", lambda host, port: list(places))
        monkeypatch.setattr(remote, "Backoff", lambda: sessions.Backoff(first=3600.0, chance=lambda: 1.0))
        with psyne.sender("tcp://several.test:1", Number) as tx:
            tx.send(Number(n=7))
            assert take(rx, 1) == [7]


def test_a_name_that_is_looked_up_slowly_delays_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, answer = threading.Event(), threading.Event()
    truth = remote.places

    def slow(host: str, port: int) -> Any:
        if host == "slow.test":
            asked.set()
            answer.wait()
            return truth("127.0.0.1", port)
        return truth(host, port)

    monkeypatch.setattr(remote, "places", slow)
    with psyne.receiver("tcp://127.0.0.1:0", Number, bind=True) as rx:
        late, tx = (psyne.sender(f"tcp://{host}:{port_of(rx)}", Number) for host in ("slow.test", "127.0.0.1"))
        with late, tx:
            late.send(Number(n=2))
            assert asked.wait(60)
            tx.send(Number(n=1))
            assert take(rx, 1) == [1]
            answer.set()
            assert take(rx, 1) == [2]


def test_a_client_does_not_take_itself_for_its_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.connect(sock.getsockname())  # as it happens where nobody listens at a port that is the next free one
        sock.setblocking(False)
        failures: list[Exception] = []
        machine = Client(Request("receiver", ""), "the peer")
        greeting.Greeting(
            thread_driver(), sock, machine, "the peer", lambda *_: None, lambda _, error: failures.append(error)
        )
        assert "nobody listens" in str(until(lambda: failures)[0])


def test_a_session_does_not_come_to_its_end_while_its_handshake_goes_on() -> None:
    with (
        psyne.sender("tcp://127.0.0.1:0", Number, bind=True, session_timeout=0.05) as tx,
        RawPeer(tx.address) as peer,
    ):
        peer.greet("", "receiver", speaks=False)
        passed = threading.Event()
        thread_driver().later(0.2, passed.set)  # by the same clock
        assert passed.wait(60)
        peer.speak()
        tx.send(Number(n=1))
        assert peer.next(Type.DATA) is not None


def test_a_receiver_that_goes_before_it_has_spoken_keeps_no_place() -> None:
    with psyne.sender("tcp://127.0.0.1:0", Number, bind=True, session_timeout=1e6) as tx:
        tx.send(Number(n=1))
        with RawPeer(tx.address) as peer:
            peer.greet("", "receiver", speaks=False)
        with psyne.receiver(tx.address, Number) as rx, rx.receive(timeout=30) as message:
            assert message.n == 1


def test_a_sender_that_goes_before_it_has_spoken_was_none() -> None:
    with psyne.receiver("tcp://127.0.0.1:0", Number, bind=True, session_timeout=0.0) as rx:
        with RawPeer(rx.address) as peer:
            peer.greet("", schema=schema_of([Number]), speaks=False)
        bound = rx._carrier.far
        until(lambda: bound.refused == 1 and not bound.peers, "it to be forgotten")
        with psyne.sender(rx.address, Number) as tx:
            tx.send(Number(n=1))
            with rx.receive(timeout=30) as message:
                assert message.n == 1


@pytest.mark.parametrize("heartbeat", [0, -1, "often"])
def test_a_heartbeat_that_cannot_be_is_refused(heartbeat: Any) -> None:
    with pytest.raises(psyne.InvalidArgument, match="heartbeat"):
        psyne.receiver("tcp://127.0.0.1:9", Number, heartbeat=heartbeat)


# ---- TLS ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    files = certificates().write_files(tmp_path_factory.mktemp("tls"))
    bound = psyne.Tls(cert=files.cert, key=files.key)
    connecting = psyne.Tls(ca=files.ca, server_name=certificates().HOST)
    return lambda *args, **options: Pair(*args, tls=bound, connecting={"tls": connecting}, **options)


def certificates() -> Any:
    pytest.importorskip("trustme")
    from .helpers import certificates

    return certificates


@both_ways
def test_a_session_over_tls_that_is_cut_anywhere_loses_nothing_and_doubles_nothing(sends: str, tls: Any) -> None:
    chance = random.Random(17)
    cuts = [Cut(chance.choice("CS"), None, chance.randrange(1, 5_000), HOWS[n % 2]) for n in range(100)]  # type: ignore[arg-type]
    with tls(sends, cuts, linger=60.0) as pair:
        storm(pair)
        assert pair.proxy.made >= 50  # a way of few bytes is not always cut


@both_ways
def test_large_messages_over_tls_are_the_same_messages(sends: str, tls: Any) -> None:
    chance = random.Random(19)
    cuts = [Cut(sends, None, chance.randrange(100_000, 3 << 20)) for _ in range(10)]  # type: ignore[arg-type]
    with tls(sends, cuts, Array("u8", (1 << 17,)), capacity=4, linger=60.0) as pair:

        def send() -> None:
            for n in range(30):
                with pair.tx.loan() as message:
                    message.array[:] = np.arange(n, n + (1 << 17))
            pair.tx.close()

        join = in_thread(send)
        for n, message in enumerate(pair.rx):
            assert (message.array == np.arange(n, n + (1 << 17))).all()
            message.release()
        assert n == 29
        join()


@both_ways
def test_a_slow_reader_over_tls_holds_the_sender_and_gets_everything(sends: str, tls: Any) -> None:
    with tls(sends, (), Array("u1", (1 << 16,)), capacity=4, linger=60.0) as pair:
        for n in range(4):
            pair.tx.send(np.full(1 << 16, n, "u1"))
        sent = 4
        with suppress(psyne.Full):  # the ring here, and the one there
            for sent in range(4, 16):
                pair.tx.send(np.full(1 << 16, sent, "u1"), timeout=0.2)
        assert sent < 15
        for expected in range(sent):
            with pair.rx.receive() as message:
                assert (message.array == expected).all()
        pair.tx.send(np.full(1 << 16, 99, "u1"))
        with pair.rx.receive() as message:
            assert (message.array == 99).all()


def test_a_fault_of_this_host_is_not_taken_for_a_refusal(
    tls: Any, psyne_directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Where no bell can be made, as in a directory that is not private, the end goes on as soon as it can be."""
    blocked = threading.Event()
    thread_driver().soon(blocked.wait)
    with tls("C") as pair:
        psyne_directory.chmod(0o777)
        blocked.set()
        until(lambda: "is lost" in caplog.text, "it to be felt")
        assert str(psyne_directory) in caplog.text
        psyne_directory.chmod(0o700)
        pair.tx.send(Number(n=1))
        with pair.rx.receive(timeout=30) as message:
            assert message.n == 1
