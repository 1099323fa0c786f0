"""Three hosts and a router of Zenoh: a camera on one host, viewers on the others, which know nothing of the network.

    host 1: camera ─▶ ipc://camera ─▶ psyne bridge ─▶ router ─▶ psyne bridge ─▶ ipc://camera ─▶ viewer :hosts 2 and 3
The hosts are network namespaces, joined by an Ethernet switch of the kernel; only root can make these.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack

import psyne
from psyne import Struct, u8, u64

NAME = f"psyne{os.getpid()}"
ROUTER = "tcp/10.77.0.1:7447"
CONFIG = f'{{mode: "router", listen: {{endpoints: ["{ROUTER}"]}}, scouting: {{multicast: {{enabled: false}}}}}}'
SERVE = f"import time, zenoh; session = zenoh.open(zenoh.Config.from_json5({CONFIG!r})); time.sleep(60)"
BRIDGE = "import psyne.cli; psyne.cli.main()"  # what the command psyne does


class Frame(Struct):
    number = u64()
    pixels = u8(48, 64)


def camera() -> None:
    with psyne.sender("ipc://camera", Frame, stages=[]) as out:
        for number in range(10_000):
            with out.loan() as m:
                m.number, m.pixels = number, number % 256
            time.sleep(0.01)


def viewer(host: str) -> None:
    with psyne.receiver("ipc://camera") as frames:  # the channel describes itself, on this host too
        got = [(m.number, int(m.pixels.min()), int(m.pixels.max())) for m, _ in zip(frames, range(20), strict=False)]
    right = got == [(n, n % 256, n % 256) for n in range(got[0][0], got[0][0] + 20)]
    print(f"host {host} saw {len(got)} frames in a row, every pixel as it was sent: {right}")


def ip(host: int, *commands: str) -> None:
    subprocess.run(["ip", "-n", f"{NAME}-{host}", "-batch", "-"], input="\n".join(commands), text=True, check=True)


def network(stack: ExitStack) -> None:
    for host in range(4):  # 0: the router
        subprocess.run(["ip", "netns", "add", f"{NAME}-{host}"], check=True)
        stack.callback(subprocess.run, ["ip", "netns", "del", f"{NAME}-{host}"], check=True)
    ip(0, "link add switch type bridge", "addr add 10.77.0.1/24 dev switch", "link set switch up")
    for host in (1, 2, 3):
        ip(0, f"link add to{host} type veth peer eth0 netns {NAME}-{host}", f"link set to{host} master switch up")
        ip(host, f"addr add 10.77.0.{host + 1}/24 dev eth0", "link set eth0 up")


def start(stack: ExitStack, host: int, memory: str, *program: str) -> subprocess.Popen[bytes]:
    """A program on a host, whose channels no other host can see. It ends with the stack."""
    command = ["ip", "netns", "exec", f"{NAME}-{host}", sys.executable, *program]
    there = {**os.environ, "PSYNE_DIR": f"{memory}/{host}"}
    process = subprocess.Popen(command, env=there, stdout=None if "viewer" in program else subprocess.DEVNULL)
    stack.callback(process.wait)
    stack.callback(process.terminate)
    return process


def main() -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as memory, ExitStack() as stack:
        network(stack)
        start(stack, 0, memory, "-c", SERVE)
        start(stack, 1, memory, __file__, "camera")
        start(stack, 1, memory, "-c", BRIDGE, "bridge", "ipc://camera", "zenoh://robot1/camera", "--connect", ROUTER)
        for n in (2, 3):
            start(stack, n, memory, "-c", BRIDGE, "bridge", "zenoh://*/camera", "ipc://camera", "--connect", ROUTER)
        for process in [start(stack, n, memory, __file__, "viewer", str(n)) for n in (2, 3)]:
            process.wait()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        camera() if sys.argv[1] == "camera" else viewer(sys.argv[2])
    elif not (shutil.which("ip") and importlib.util.find_spec("zenoh") and os.geteuid() == 0):
        print("three hosts need root, the command ip and eclipse-zenoh: nothing was done")
    elif subprocess.call(["unshare", "--net", "true"]) != 0:
        print("three hosts need network namespaces, which this machine does not allow: nothing was done")
    else:
        main()
