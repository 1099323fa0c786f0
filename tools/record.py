"""Writes the packets of a network interface into a file: `python tools/record.py lo capture.pcap`, until Ctrl-C.

What tcpdump does, for machines that have none. Needs Linux and root (CAP_NET_RAW). Prints a line when it has begun, and
how many packets it wrote when it is done; those that came before Ctrl-C are all in the file.
"""

import argparse
import select
import signal
import socket
import struct
import sys
import time
from pathlib import Path
from typing import BinaryIO

ETH_P_ALL = 3
SOL_PACKET, PACKET_STATISTICS = 263, 6
SO_RCVBUFFORCE = 33
BUFFER = 64 << 20  # bytes of packets that wait for this program
LARGEST = 1 << 20  # bytes of a packet; the loopback device joins them to more than 64 KiB
LINKS = {1: 1, 772: 1, 65534: 101}  # by the kind of device: Ethernet, loopback, TUN; the link layer of pcap
LOOPBACK = 772


def record(interface: str, file: BinaryIO, stop: socket.socket) -> tuple[int, int]:
    """Writes packets until `stop` can be read: how many, and how many the kernel had to drop."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)) as source:
        source.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER)
        source.bind((interface, ETH_P_ALL))
        source.setblocking(False)
        device = source.getsockname()[3]
        if device not in LINKS:
            raise ValueError(f"{interface} is a device of kind {device}; known are {sorted(LINKS)}")
        file.write(struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, LARGEST, LINKS[device]))
        print(f"recording {interface}", flush=True)
        count, going_on = 0, True
        while going_on:
            # Asked first, read afterwards: what came before the end is read.
            going_on = stop not in select.select([source, stop], [], [])[0]
            count += _read(source, file, twice=device == LOOPBACK)
        dropped = struct.unpack("II", source.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))[1]
    return count, dropped


def _read(source: socket.socket, file: BinaryIO, *, twice: bool) -> int:
    """Writes what is there; on the loopback device each packet is there twice, going out and coming in."""
    count = 0
    while True:
        try:
            packet, address = source.recvfrom(LARGEST)
        except BlockingIOError:
            return count
        if twice and address[2] == socket.PACKET_OUTGOING:
            continue
        seconds, nanoseconds = divmod(time.time_ns(), 10**9)
        file.write(struct.pack("<IIII", seconds, nanoseconds, len(packet), len(packet)) + packet)
        count += 1


def main() -> int:
    parser = argparse.ArgumentParser(description="Writes the packets of a network interface into a file.")
    parser.add_argument("interface", help="such as lo or eth0")
    parser.add_argument("file", type=Path)
    options = parser.parse_args()
    stop, wake = socket.socketpair()
    wake.setblocking(False)
    signal.set_wakeup_fd(wake.fileno())
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    try:
        with open(options.file, "wb") as file:
            count, dropped = record(options.interface, file, stop)
    except (OSError, ValueError) as error:
        print(f"cannot record {options.interface}: {error}", file=sys.stderr)
        return 1
    print(f"{count} packets in {options.file}, {dropped} dropped by the kernel")
    return 0


if __name__ == "__main__":
    sys.exit(main())
