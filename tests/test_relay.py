"""The network that tests of network ends run over: its relay does what it is told, and leaves nothing behind."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from .helpers.hosts import Host, network, relay
from .helpers.process import until

SENT = 4000

# Sends datagrams FIRST to LAST - 1, of 4 bytes, to ADDRESS for each line "ADDRESS FIRST LAST".
SPEAKER = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    for line in sys.stdin:
        address, first, last = line.split()
        for n in range(int(first), int(last)):
            s.sendto(n.to_bytes(4, "little"), (address, 5000))
"""

# Keeps what comes; for each line writes the numbers that have come, in their order.
HEARER = """
import json, socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    s.setsockopt(socket.SOL_SOCKET, 33, 1 << 26)  # SO_RCVBUFFORCE: room for all of them
    s.bind(("", 5000))
    s.setblocking(False)
    print(flush=True)
    for _ in sys.stdin:
        numbers = []
        while True:
            try:
                numbers.append(int.from_bytes(s.recv(4), "little"))
            except BlockingIOError:
                break
        print(json.dumps(numbers), flush=True)
"""

# Streams what random.Random(SIZE) gives: an eighth, and after a line the rest. DIGESTER reports both.
STREAMER = """
import random, socket, sys
address, size = sys.argv[1], int(sys.argv[2])
data = random.Random(size).randbytes(size)
with socket.create_connection((address, 5000)) as s:
    s.sendall(data[: size // 8])
    sys.stdin.readline()
    s.sendall(data[size // 8 :])
"""
DIGESTER = """
import hashlib, socket, sys
part = int(sys.argv[1]) // 8
digest, got = hashlib.sha256(), 0
with socket.create_server(("", 5000)) as server:
    print(flush=True)
    with server.accept()[0] as s:
        while data := s.recv(min(65536, part - got) if got < part else 65536):
            digest.update(data)
            got += len(data)
            if got == part:
                print(flush=True)
print(digest.hexdigest(), flush=True)
"""


class Talk:
    """Datagrams from host a to host b."""

    def __init__(self, net: Any) -> None:
        self.net = net
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self.hearer = net.start("b", [sys.executable, "-c", HEARER], **pipes)
        self.speaker = net.start("a", [sys.executable, "-c", SPEAKER], **pipes)
        assert self.hearer.stdout.readline() == "\n"

    def say(self, first: int, last: int) -> None:
        """Sends these numbers, and returns when the relay has seen them."""
        before = self.net.counts("a")["out"]["packets"]
        self.speaker.stdin.write(f"{self.net.address('b')} {first} {last}\n")
        self.speaker.stdin.flush()
        until(lambda: self.net.counts("a")["out"]["packets"] == before + last - first, "reading by the relay")

    def come(self, packets: int) -> None:
        """Waits until so many have come to b's device in all."""
        until(lambda: self.net.counts("b")["in"]["packets"] == packets, "coming out of the relay")

    def heard(self) -> list[int]:
        """The numbers that have come since the last time."""
        self.hearer.stdin.write("\n")
        self.hearer.stdin.flush()
        return json.loads(self.hearer.stdout.readline())


@pytest.fixture
def net() -> Iterator[Any]:
    with network("a", "b", "c", seed=7) as it:
        yield it


def heard_once(seed: int, **settings: float) -> tuple[list[int], dict[str, int]]:
    """What b hears of SENT datagrams over a fresh network, and the counts of a's way out."""
    with network("a", "b", seed=seed) as net:
        net.link("a", way="out", **settings)
        talk = Talk(net)
        talk.say(0, SENT)
        counts = net.counts("a")["out"]
        talk.come(SENT - counts["lost"] + counts["duplicated"])
        return talk.heard(), counts


def test_a_link_of_which_nothing_is_asked_passes_everything_once_and_in_order(net: Any) -> None:
    talk = Talk(net)
    talk.say(0, SENT)
    assert talk.heard() == list(range(SENT))
    counts = net.counts("a")["out"]
    assert counts.pop("packets") == SENT
    assert counts.pop("bytes") == SENT * (20 + 8 + 4)
    assert not any(counts.values())


def test_every_host_reaches_every_other_and_itself(net: Any) -> None:
    server = "import socket; s = socket.create_server(('', 5000)); print(flush=True)\nwhile s.accept(): pass"
    client = "import socket, sys; print(socket.create_connection((sys.argv[1], 5000)).getpeername()[0])"
    for host in "abc":
        assert net.start(host, [sys.executable, "-c", server], stdout=subprocess.PIPE).stdout.readline() == "\n"
    for host in "abc":
        for other in "abc":
            address = net.address(other)
            assert net.run(host, [sys.executable, "-c", client, address]) == f"{address}\n"


def test_packets_are_lost_at_the_rate_that_was_asked_for() -> None:
    heard, counts = heard_once(7, loss=0.1)
    assert 305 < counts["lost"] < 495  # 400, and five standard deviations of 19
    assert len(heard) == SENT - counts["lost"]
    assert heard == sorted(set(heard))


def test_packets_are_doubled_at_the_rate_that_was_asked_for() -> None:
    heard, counts = heard_once(7, duplicate=0.1)
    assert 305 < counts["duplicated"] < 495
    assert sorted(Counter(heard).values()) == [1] * (SENT - counts["duplicated"]) + [2] * counts["duplicated"]
    assert heard == sorted(heard)


def test_packets_that_are_held_back_are_overtaken() -> None:
    heard, counts = heard_once(7, reorder=0.01, gap=0.05)
    assert 10 <= counts["reordered"] <= 75  # 40, and five standard deviations of 6.3
    assert sorted(heard) == list(range(SENT))
    overtaken = sum(later < earlier for earlier, later in pairwise(heard))
    assert 0 < overtaken <= counts["reordered"]


def test_jitter_alone_changes_no_order() -> None:
    heard, _ = heard_once(7, delay=0.001, jitter=0.01)
    assert heard == list(range(SENT))


def test_the_same_seed_decides_the_same_about_the_same_packets() -> None:
    settings = {"loss": 0.05, "duplicate": 0.05}
    once, again, other = (heard_once(seed, **settings)[0] for seed in (7, 7, 8))
    assert once == again
    assert once != other


def test_a_decision_does_not_depend_on_the_other_settings() -> None:
    way = relay.Way("7 0 out", lambda packet, now: None)

    def fates(**settings: float) -> list[bool]:
        way.set(relay.Settings(**settings))
        return [way.times(1.0) == () for _ in range(1000)]

    assert fates(loss=0.1) == fates(loss=0.1, duplicate=0.5, reorder=0.5, delay=1.0, jitter=1.0)
    assert fates(loss=0.1) != fates(loss=0.2)
    assert fates(loss=0.1) == fates(loss=0.1)  # each setting begins anew


def test_a_delay_is_kept_on_each_way(net: Any) -> None:
    net.link(delay=0.02)
    server = """
import socket
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    s.bind(("", 5000))
    print(flush=True)
    s.sendto(*s.recvfrom(10))
"""
    client = """
import socket, sys, time
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    begin = time.monotonic()
    s.sendto(b"ping", (sys.argv[1], 5000))
    s.recv(10)
    print(time.monotonic() - begin)
"""
    assert net.start("a", [sys.executable, "-c", server], stdout=subprocess.PIPE).stdout.readline() == "\n"
    assert float(net.run("b", [sys.executable, "-c", client, net.address("a")])) >= 4 * 0.02


def test_a_full_queue_drops_what_comes_and_counts_it(net: Any) -> None:
    net.link("a", way="out", delay=3600.0)
    talk = Talk(net)
    for first in range(0, relay.QUEUE + 5000, 5000):
        talk.say(first, first + 5000)
    assert net.counts("a")["out"]["overflow"] == 5000


def test_what_is_under_way_in_a_link_that_is_cut_is_gone(net: Any) -> None:
    net.link("a", way="out", delay=2.0)
    talk = Talk(net)
    talk.say(0, 100)
    net.down("a")
    until(lambda: net.counts("a")["out"]["cut"] == 100, "cutting")
    net.up("a")
    net.link("a")
    talk.say(100, 200)
    assert talk.heard() == list(range(100, 200))


def test_links_are_cut_and_mended_by_a_schedule(net: Any) -> None:
    talk = Talk(net)
    numbers = iter(range(10**9))

    def say_one() -> None:
        n = next(numbers)
        talk.say(n, n + 1)

    net.schedule([(0.0, "down", "b")])
    until(lambda: (say_one(), net.counts("b")["in"]["cut"])[1], "cutting")
    talk.heard()
    net.schedule([(0.01, "up", "b")])
    until(lambda: (say_one(), talk.heard())[1], "mending")


def test_a_tcp_transfer_goes_on_when_its_link_is_up_again(net: Any) -> None:
    size = 8 << 20
    net.link(delay=0.001, jitter=0.001, loss=0.005, duplicate=0.005, reorder=0.005)
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    digester = net.start("a", [sys.executable, "-c", DIGESTER, str(size)], **pipes)
    assert digester.stdout.readline() == "\n"
    streamer = net.start("b", [sys.executable, "-c", STREAMER, net.address("a"), str(size)], **pipes)
    assert digester.stdout.readline() == "\n"  # an eighth has come

    net.down("a")
    before = net.counts("a")["in"]
    streamer.stdin.write("\n")
    streamer.stdin.flush()
    until(lambda: net.counts("a")["in"]["cut"] >= before["cut"] + 10, "losing packets")
    down = net.counts("a")["in"]
    # Nothing came through: neither what arrived meanwhile nor what was under way.
    assert down["packets"] - before["packets"] <= down["cut"] - before["cut"]
    net.up("a")
    assert digester.stdout.readline().strip() == hashlib.sha256(random.Random(size).randbytes(size)).hexdigest()
    assert streamer.wait() == 0


def devices(namespace: int) -> set[str]:
    """The network devices in a namespace."""
    enter = ["nsenter", f"--net=/proc/{os.getpid()}/fd/{namespace}", "cat", "/proc/net/dev"]
    lines = subprocess.run(enter, capture_output=True, text=True, check=True).stdout.splitlines()
    return {line.split(":")[0].strip() for line in lines[2:]}


@pytest.fixture
def kept(net: Any) -> Iterator[int]:
    """A descriptor that keeps the namespace of host a."""
    kept = os.open(net.inside("a")[1].removeprefix("--net="), os.O_RDONLY)
    yield kept
    os.close(kept)


def running(pid: int) -> bool:
    """Is it there, and more than a zombie?"""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return text[text.rindex(")") + 2] not in "ZX"


def test_a_network_that_is_closed_leaves_nothing(net: Any, kept: int) -> None:
    sleeper = net.start("a", ["sleep", "3600"])
    until(lambda: relay.inhabitants([kept]) == [sleeper.pid], "entering the namespace")
    assert devices(kept) == {"lo", "net"}
    net.close()
    assert sleeper.returncode == -signal.SIGKILL
    assert net.relay.returncode == 0
    assert relay.inhabitants([kept]) == []
    assert devices(kept) == {"lo"}


def test_a_relay_that_is_killed_leaves_nothing(net: Any, kept: int) -> None:
    shell = net.start("a", ["sh", "-c", "sleep 3600 & wait"])
    until(lambda: len(relay.inhabitants([kept])) == 2, "starting two processes")
    net.relay.kill()
    net.relay.wait()
    until(lambda: devices(kept) == {"lo"}, "the end of the devices")
    with pytest.raises(ConnectionError, match="the relay has died \\(exit code -9\\)"):
        net.down("a")
    net.close()
    assert shell.returncode == -signal.SIGKILL
    assert relay.inhabitants([kept]) == []


def test_an_owner_that_is_killed_leaves_nothing() -> None:
    with network("a"):
        pass  # skips where this cannot be
    code = """
import sys
sys.path.insert(0, sys.argv[1])
from relay import Network
net = Network(["a"])
print(net.relay.pid, net.start("a", ["sh", "-c", "echo; sleep 3600"], stdout=-1).pid, flush=True)
sys.stdin.readline()
"""
    owner = subprocess.Popen(
        [sys.executable, "-c", code, str(Path(relay.__file__).parent)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with owner:
        pids = [int(pid) for pid in owner.stdout.readline().split()]
        assert all(map(running, pids))
        owner.kill()
        until(lambda: not any(map(running, pids)), "the end of the relay and of the program on the host")


def test_packets_are_as_long_as_the_mtu_allows() -> None:
    code = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    s.sendto(bytes(8000), (sys.argv[1], 5000))
"""
    for mtu, packets in ((9000, 1), (1500, 6)):
        with network("a", "b", mtu=mtu) as net:
            net.run("a", [sys.executable, "-c", code, net.address("b")])
            until(lambda net=net, packets=packets: net.counts("b")["in"]["packets"] == packets, "coming")


@pytest.mark.parametrize(
    ("hosts", "options", "what"),
    [([], {}, "hosts"), ("aa", {}, "hosts"), ("a", {"mtu": 0}, "mtu"), ("a", {"mtu": 1 << 16}, "mtu")],
)
def test_a_network_that_cannot_be_is_refused(hosts: str, options: dict[str, int], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        relay.Network(hosts, **options)


@pytest.mark.parametrize("settings", [{"loss": 1.5}, {"delay": -1.0}, {"jitter": float("nan")}])
def test_settings_that_make_no_sense_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        relay.Settings(**settings)


def test_mistakes_in_commands_are_errors_and_change_nothing(net: Any) -> None:
    with pytest.raises(KeyError):
        net.down("d")
    with pytest.raises(ValueError, match="sideways"):
        net.down("a", way="sideways")
    with pytest.raises(ValueError, match="explode"):
        net.schedule([(0.0, "explode", "a")])
    talk = Talk(net)
    talk.say(0, 10)
    assert talk.heard() == list(range(10))


def test_a_child_on_a_host_answers_and_has_a_directory_of_its_own(net: Any) -> None:
    with Host(net, "a") as a, Host(net, "b") as b:
        b.run("import socket; server = socket.create_server(('', 5000))")
        a.run("import socket; client = socket.create_connection((address, 5000))", address=b.address)
        assert b.run("server.accept()[1][0]") == a.address
        directories = {host.run("os.environ['PSYNE_DIR']") for host in (a, b)}
        assert directories == {str(a.directory), str(b.directory)}
    assert not a.directory.exists()
