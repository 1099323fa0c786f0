"""Hosts in network namespaces of their own, joined by a relay that delays, loses, doubles, reorders and cuts.

    with Network(["a", "b"], seed=7) as net:
        net.link(delay=0.005, loss=0.01)               # every link, both ways
        server = net.start("a", ["python", "server.py"])
        net.run("b", ["python", "client.py", net.address("a")])
        net.down("a"), net.up("a")

     host a  10.77.0.1                    relay (a process)                    host b  10.77.0.2
    ┌───────────────────┐       ┌───────────────────────────────────┐       ┌───────────────────┐
    │ programs ── net ══╪══════▶│ a out: fates ─▶ queue ─▶ b in: …  │══════▶╪══ net ── programs │
    └───────────────────┘  TUN  └───────────────────────────────────┘  TUN  └───────────────────┘

A link joins a host to the relay; a packet from a to b meets what is set for a's way out, then for b's way in.
Namespaces and devices have no name outside: they live as long as the relay and the programs in them, so nothing is
left behind, whoever is killed. Needs Linux, root (CAP_SYS_ADMIN, CAP_NET_ADMIN) and /dev/net/tun.
"""

import array
import ctypes
import gc
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from fcntl import ioctl
from functools import partial
from heapq import heappop, heappush
from itertools import count
from pathlib import Path
from random import Random
from typing import Any, Self

__all__ = ["Network", "Settings", "Unavailable", "Way", "inhabitants"]

SUBNET = (10, 77, 0)  # host n of a network, from 1, is 10.77.0.n
DEVICE = b"net"
QUEUE = 20_000  # packets under way at once; more are dropped, as a router does
BACKLOG = 10_000  # packets that wait in one device for the relay
BURST = 64  # packets from one device before the others have their turn
CLONE_NEWNET = 0x40000000
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
SIOCSIFFLAGS, SIOCSIFADDR, SIOCSIFNETMASK, SIOCSIFMTU, SIOCSIFTXQLEN = 0x8914, 0x8916, 0x891C, 0x8922, 0x8943
IFF_UP = 0x1


class Unavailable(RuntimeError):
    """This kernel, or these rights, allow no network namespaces or no TUN devices."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What one way of a link does to packets: seconds, and probabilities from 0 to 1."""

    delay: float = 0.0
    jitter: float = 0.0  # up to so much more, at random; alone it changes no order
    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0  # such a packet is held back for `gap` seconds more, and others overtake it
    gap: float = 0.002

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            most = float("inf") if name in ("delay", "jitter", "gap") else 1.0
            if not 0.0 <= value <= most:
                raise ValueError(f"{name} is {value}; it must be from 0 to {most}")


class Way:
    """One way of one link. Decisions depend on the seed and on the number of the packet since the last `set`."""

    def __init__(self, seed: object, forward: Callable[[bytes, float], None]) -> None:
        self.seed = seed
        self.forward = forward  # takes a packet that has come through
        self.up = True
        self.counts = dict.fromkeys(("packets", "bytes", "lost", "duplicated", "reordered", "cut", "overflow"), 0)
        self._last = 0.0  # when the latest packet that keeps its order leaves
        self.set(Settings())

    def set(self, settings: Settings) -> None:
        self.settings = settings
        self._plain = settings == Settings()
        self._draw = Random(str(self.seed)).random

    def times(self, now: float) -> Sequence[float]:
        """When a packet that comes at `now` leaves: never, once or twice."""
        if self._plain:
            self._last = max(self._last, now)
            return (self._last,)
        # Always four draws, so that one setting does not change what another one decides.
        settings, counts = self.settings, self.counts
        lost, twice, late, more = self._draw(), self._draw(), self._draw(), self._draw()
        if lost < settings.loss:
            counts["lost"] += 1
            return ()
        due = now + settings.delay + settings.jitter * more
        if late < settings.reorder:
            counts["reordered"] += 1
            due += settings.gap
        else:
            self._last = due = max(self._last, due)
        if twice < settings.duplicate:
            counts["duplicated"] += 1
            return (due, due)
        return (due,)


class Relay:
    """The process in the middle: TUN devices, a queue of what is due when, and a socket that commands come from."""

    def __init__(self, control: socket.socket, hosts: int, seed: object, mtu: int) -> None:
        self._control = control
        self._mtu = mtu
        self._queue: list[tuple[float, int, Callable[[Any, float], None], Any]] = []
        self._order = count()  # those due together leave as they came
        made = [_host(number + 1, mtu) for number in range(hosts)]
        self._namespaces = [namespace for namespace, _ in made]
        self._devices = [device for _, device in made]
        self._ways = [
            {"out": Way(f"{seed} {n} out", self._route), "in": Way(f"{seed} {n} in", partial(self._deliver, n))}
            for n in range(hosts)
        ]
        socket.send_fds(control, [b"null"], self._namespaces)

    def run(self) -> None:
        numbers = {device: number for number, device in enumerate(self._devices)}
        control = self._control.fileno()
        sources = [control, *self._devices]
        queue = self._queue
        while True:
            now = time.monotonic()
            while queue and queue[0][0] <= now:
                _, _, call, argument = heappop(queue)
                call(argument, now)
            wait = max(0.0, queue[0][0] - time.monotonic()) if queue else None
            for source in select.select(sources, [], [], wait)[0]:
                if source != control:
                    self._read(source, self._ways[numbers[source]]["out"])
                elif not self._serve():
                    return

    def _read(self, device: int, way: Way) -> None:
        now = time.monotonic()
        try:
            for _ in range(BURST):
                self._enter(way, os.read(device, self._mtu), now)
        except BlockingIOError:
            pass

    def _enter(self, way: Way, packet: bytes, now: float) -> None:
        if packet[0] >> 4 != 4:
            return  # IPv6 looks for neighbours; there are none
        way.counts["packets"] += 1
        way.counts["bytes"] += len(packet)
        if not way.up:
            way.counts["cut"] += 1
            return
        for due in way.times(now):
            if due <= now:
                way.forward(packet, now)
            elif len(self._queue) < QUEUE:
                heappush(self._queue, (due, next(self._order), self._leave, (way, packet)))
            else:
                way.counts["overflow"] += 1

    def _leave(self, what: tuple[Way, bytes], now: float) -> None:
        way, packet = what
        if way.up:
            way.forward(packet, now)
        else:
            way.counts["cut"] += 1

    def _route(self, packet: bytes, now: float) -> None:
        number = packet[19] - 1  # the last byte of the destination
        if tuple(packet[16:19]) == SUBNET and 0 <= number < len(self._ways):
            self._enter(self._ways[number]["in"], packet, now)

    def _deliver(self, number: int, packet: bytes, _: float) -> None:
        try:
            os.write(self._devices[number], packet)
        except OSError:  # the host has taken its device down
            self._ways[number]["in"].counts["cut"] += 1

    def _serve(self) -> bool:
        """Does one command; false when there will be no more."""
        text = self._control.recv(65536)
        if not text:
            return False
        answer = self._command(json.loads(text), time.monotonic())
        try:
            self._control.send(json.dumps(answer).encode())
        except ConnectionError:
            return False
        return True

    def _command(self, command: dict[str, Any], now: float) -> Any:
        name = command["do"]
        if name == "counts":
            return [{side: way.counts for side, way in sides.items()} for sides in self._ways]
        if name == "schedule":
            for seconds, later in command["steps"]:
                heappush(self._queue, (now + seconds, next(self._order), self._command, later))
            return None
        for number in command["hosts"]:
            for side in command["sides"]:
                way = self._ways[number][side]
                if name == "link":
                    way.set(Settings(**command["settings"]))
                else:
                    way.up = name == "up"
        return None

    def close(self) -> None:
        _kill_inhabitants(self._namespaces)


def _host(number: int, mtu: int) -> tuple[int, int]:
    """A namespace with one TUN device of the address that ends in `number`: descriptors of both."""
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    if libc.unshare(CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "no network namespace can be made: unshare(CLONE_NEWNET)")
    try:
        namespace = os.open("/proc/self/ns/net", os.O_RDONLY)
        device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        ioctl(device, TUNSETIFF, struct.pack("16sH22x", DEVICE, IFF_TUN | IFF_NO_PI))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            for request, address in ((SIOCSIFADDR, (*SUBNET, number)), (SIOCSIFNETMASK, (255, 255, 255, 0))):
                ioctl(any_socket, request, struct.pack("16sHxx4s16x", DEVICE, socket.AF_INET, bytes(address)))
            ioctl(any_socket, SIOCSIFMTU, struct.pack("16si20x", DEVICE, mtu))
            ioctl(any_socket, SIOCSIFTXQLEN, struct.pack("16si20x", DEVICE, BACKLOG))
            for name in (b"lo", DEVICE):
                ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH22x", name, IFF_UP))
    finally:
        if libc.setns(home, CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
        os.close(home)
    return namespace, device


def inhabitants(namespaces: Iterable[int]) -> list[int]:
    """The processes that run in one of these network namespaces."""
    wanted = {os.fstat(namespace).st_ino for namespace in namespaces}
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if os.stat(process / "ns" / "net").st_ino in wanted:
                found.append(int(process.name))
        except (FileNotFoundError, PermissionError, ProcessLookupError):
            pass  # it has ended, or it is not ours to look at
    return found


def _kill_inhabitants(namespaces: Sequence[int]) -> None:
    """SIGKILL until nobody runs in one of these namespaces."""
    while there := inhabitants(namespaces):
        for process in there:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.001)  # the kernel is at it


class Network:
    """Hosts by name, with a relay between them. Every command has taken effect when its method returns.

    `seed` decides what the links do. Raises Unavailable where there can be no such network, ValueError for bad
    settings, KeyError for an unknown host, ConnectionError when the relay has died.
    """

    def __init__(self, hosts: Sequence[str], *, seed: object = 0, mtu: int = 1500) -> None:
        self._numbers = {name: number for number, name in enumerate(hosts)}
        if not 1 <= len(self._numbers) == len(hosts) <= 254:
            raise ValueError(f"a network has 1 to 254 hosts of different names, not {list(hosts)}")
        if not 68 <= mtu <= 65535:
            raise ValueError(f"mtu is {mtu}; packets of IPv4 have 68 to 65535 bytes")
        self._lock = threading.Lock()  # one question, one answer
        self._started: list[subprocess.Popen[str]] = []
        self._namespaces: list[int] = []
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, __file__, str(theirs.fileno()), str(len(hosts)), str(seed), str(mtu)]
            self.relay = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
        answer, ancillary, _, _ = self._control.recvmsg(65536, socket.CMSG_SPACE(4 * len(hosts)))
        for _, _, data in ancillary:
            self._namespaces += array.array("i", data)
        if not self._namespaces:
            self.close()
            if answer:
                raise Unavailable(json.loads(answer))
            raise ConnectionError(f"the relay ended with {self.relay.returncode} before it began")

    def address(self, host: str) -> str:
        """The IPv4 address of a host."""
        return ".".join(map(str, (*SUBNET, self._numbers[host] + 1)))

    def link(self, *hosts: str, way: str | None = None, **settings: float) -> None:
        """What the links of these hosts (default: all) do from now on, both ways or only "out" of or "in" to the host.

        `settings` are fields of Settings; those not named are 0 again.
        """
        self._command("link", hosts, way, settings=asdict(Settings(**settings)))

    def down(self, *hosts: str, way: str | None = None) -> None:
        """Cuts the links of these hosts (default: all): what is in them is gone, and what comes."""
        self._command("down", hosts, way)

    def up(self, *hosts: str, way: str | None = None) -> None:
        """Mends them."""
        self._command("up", hosts, way)

    def schedule(self, steps: Iterable[tuple[float, str, str]]) -> None:
        """Does `("down" or "up", host)` so many seconds from now: `[(0.5, "down", "a"), (0.8, "up", "a")]`."""
        planned = [(seconds, self._plan(name, [host], None)) for seconds, name, host in steps]
        self._ask({"do": "schedule", "steps": planned})

    def counts(self, host: str) -> dict[str, dict[str, int]]:
        """Packets so far in the two ways of a link, "out" and "in", and what became of them."""
        answer: dict[str, dict[str, int]] = self._ask({"do": "counts"})[self._numbers[host]]
        return answer

    def inside(self, host: str) -> list[str]:
        """The words before a command that make it run on this host."""
        namespace = self._namespaces[self._numbers[host]]
        return ["nsenter", f"--net=/proc/{os.getpid()}/fd/{namespace}", "--"]

    def start(self, host: str, command: Sequence[str], **options: Any) -> subprocess.Popen[str]:
        """Starts a program on a host; `close` kills it if it still runs. `options` are those of Popen."""
        process = subprocess.Popen([*self.inside(host), *command], text=True, **options)
        self._started.append(process)
        return process

    def run(self, host: str, command: Sequence[str], **options: Any) -> str:
        """Runs a program on a host and returns its output; CalledProcessError when it fails."""
        done = subprocess.run([*self.inside(host), *command], text=True, check=True, stdout=subprocess.PIPE, **options)
        return str(done.stdout)

    def close(self) -> None:
        """Kills what runs on the hosts, and ends the relay."""
        for process in self._started:
            process.kill()  # it may be on its way into the namespace
        _kill_inhabitants(self._namespaces)
        self._control.close()
        for process in self._started:
            with process:  # waits, and closes its pipes
                pass
        self.relay.wait()
        for namespace in self._namespaces:
            os.close(namespace)
        self._namespaces = []

    def _plan(self, name: str, hosts: Iterable[str], way: str | None, **more: Any) -> dict[str, Any]:
        if name not in ("link", "down", "up") or way not in (None, "out", "in"):
            raise ValueError(f'a step is "down" or "up" and a way "out" or "in", not {name!r} and {way!r}')
        sides = [way] if way else ["out", "in"]
        return {"do": name, "hosts": [self._numbers[host] for host in hosts], "sides": sides, **more}

    def _command(self, name: str, hosts: Iterable[str], way: str | None, **more: Any) -> None:
        self._ask(self._plan(name, tuple(hosts) or tuple(self._numbers), way, **more))

    def _ask(self, command: dict[str, Any]) -> Any:
        answer = b""
        with self._lock, suppress(ConnectionError):
            self._control.send(json.dumps(command).encode())
            answer = self._control.recv(1 << 20)
        if not answer:
            raise ConnectionError(f"the relay has died (exit code {self.relay.wait()})")
        return json.loads(answer)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def main() -> None:
    """The relay; Network starts it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one who started the network
    control = socket.socket(fileno=int(sys.argv[1]))
    try:
        relay = Relay(control, int(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
    except (PermissionError, FileNotFoundError) as error:
        control.send(json.dumps(str(error)).encode())
        return
    gc.disable()  # nothing here has cycles
    try:
        relay.run()
    finally:
        relay.close()


if __name__ == "__main__":
    main()
