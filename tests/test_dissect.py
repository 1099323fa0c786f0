"""The dissector: captures of every kind give the frames that were sent, and bad bytes are shown, not hidden."""

import json
import random
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from .helpers import captures
from .helpers.captures import Connection, pcap, pcapng
from .helpers.tools import TOOLS, tool
from .helpers.wire_document import dumps

dissect = tool("dissect")
capture = tool("capture")

SESSION = dumps()[0]
NAMES = [frame.name for frame in SESSION]
CLIENT = b"".join(frame.data for frame in SESSION if frame.side == "C")
SERVER = b"".join(frame.data for frame in SESSION if frame.side == "S")
ADDRESSES = (("fd00::1", 40000), ("fd00::2", 9999))


def session(size: int = 1000, **ends: Any) -> Connection:
    """The session of docs/wire.md, in segments of at most `size` bytes."""
    connection = Connection(**ends)
    for frame in SESSION:
        connection.send(frame.side, frame.data, size)
    return connection


def records(data: bytes, port: int | None = None) -> list[dict[str, Any]]:
    return sorted(dissect.dissect(data, port), key=lambda record: record["time"])


def names(found: list[dict[str, Any]]) -> list[str | None]:
    return [record["type"] for record in found]


def problems(found: list[dict[str, Any]]) -> list[str]:
    return [problem for record in found for problem in record["problems"]]


def data_frame(sequence: int, *values: float, sound: bool = True) -> bytes:
    """A frame DATA, written here from the document."""
    payload = struct.pack(f"<{len(values)}d", *values)
    checksum = dissect.crc32c(payload) ^ (not sound)
    body = struct.pack("<QIIQ", 0, 0, checksum, 8) + payload
    head = struct.pack("<4sBBHIIQQ", b"PSYN", 1, 16, 2, len(values), 0, len(body), sequence)
    return head[:12] + dissect.crc32c(head).to_bytes(4, "little") + head[16:] + body


FILES: dict[str, Callable[..., bytes]] = {
    "pcap": pcap,
    "pcap, big-endian": lambda p, link: pcap(p, link, order=">"),
    "pcap, nanoseconds": lambda p, link: pcap(p, link, nanoseconds=True),
    "pcapng": pcapng,
    "pcapng, big-endian": lambda p, link: pcapng(p, link, order=">"),
}


@pytest.mark.parametrize("file", FILES.values(), ids=FILES)
def test_every_kind_of_file_gives_the_frames_their_times_and_their_directions(file: Callable[..., bytes]) -> None:
    connection = session()
    found = records(file(connection.packets, 101))
    assert names(found) == NAMES
    assert problems(found) == []
    assert [record["time"] for record in found] == [time for time, _ in connection.packets[2:]]
    ends = {"C": "10.0.0.1:40000", "S": "10.0.0.2:9999"}
    assert [record["from"] for record in found] == [ends[frame.side] for frame in SESSION]


@pytest.mark.parametrize(
    ("link", "wrap", "ends"),
    [
        (1, captures.ethernet, {}),
        (1, captures.ethernet, {"client": ADDRESSES[0], "server": ADDRESSES[1]}),
        (1, captures.tagged, {}),
        (0, captures.loopback, {}),
        (113, captures.cooked, {}),
        (276, lambda ip: bytes(20) + ip, {}),
        (101, lambda ip: ip, {"client": ADDRESSES[0], "server": ADDRESSES[1]}),
        (228, lambda ip: ip, {}),
    ],
)
def test_every_link_layer_gives_the_frames(link: int, wrap: Callable[[bytes], bytes], ends: dict[str, Any]) -> None:
    packets = [(time, wrap(ip)) for time, ip in session(**ends).packets]
    found = records(pcap(packets, link))
    assert names(found) == NAMES
    assert problems(found) == []


def test_the_fields_of_frames_are_shown() -> None:
    found = records(pcap(session().packets))
    (opened,) = (record["json"] for record in found if record["type"] == "OPEN")
    assert (opened["role"], opened["checksum"]) == ("sender", True)
    first = next(record for record in found if record["type"] == "DATA")
    assert (first["sequence"], first["count"], first["size"], first["length"]) == (0, 2, 8, 56)
    assert first["flags"] == ["stamps", "checksum"]
    assert [(r["sequence"], r["received"]) for r in found if r["type"] == "ACK"] == [(0, 2), (2, 3), (3, 3)]
    assert [record["end"] for record in found if record["type"] == "END"] == ["closed"]
    assert len(next(record["proof"] for record in found if record["type"] == "PROOF")) == 64


@pytest.mark.parametrize("size", [1, 7, 33])
def test_frames_are_put_together_from_segments_of_any_size(size: int) -> None:
    found = records(pcap(session(size).packets))
    assert names(found) == NAMES
    assert problems(found) == []


@pytest.mark.parametrize("seed", range(20))
def test_segments_that_come_twice_overlap_or_overtake_change_nothing(seed: int) -> None:
    chance = random.Random(seed)
    packets = session(30).packets + session(47).packets[2:]  # the same bytes, cut elsewhere
    order = sorted(packets[2:], key=lambda _: chance.random())
    shuffled = packets[:2] + [(time, data) for (time, _), (_, data) in zip(sorted(packets[2:]), order, strict=True)]
    found = records(pcap(shuffled))
    assert problems(found) == []
    for side, stream in (("10.0.0.1:40000", "C"), ("10.0.0.2:9999", "S")):
        assert [r["type"] for r in found if r["from"] == side] == [f.name for f in SESSION if f.side == stream]


def test_the_bytes_of_one_direction_are_read_as_they_are() -> None:
    found = records(CLIENT)
    assert names(found) == [frame.name for frame in SESSION if frame.side == "C"]
    assert [record["at"] for record in found] == [
        len(b"".join(f.data for f in SESSION[:n] if f.side == "C")) for n, f in enumerate(SESSION) if f.side == "C"
    ]


def test_a_second_connection_between_the_same_ports_begins_anew() -> None:
    once = session()
    again = session(first={"C": 5000, "S": 6000})
    later = [(time + 10**9, data) for time, data in again.packets]
    found = records(pcap(once.packets + later))
    assert names(found) == NAMES * 2
    assert problems(found) == []


@pytest.mark.parametrize("at", [4, 5, 6, 8, 12, 16, 24, 31])
def test_a_header_with_a_wrong_bit_is_passed_over_and_said_to_be_bad(at: int) -> None:
    damaged = bytearray(data_frame(0, 1.0) + data_frame(1, 2.0) + data_frame(2, 3.0))
    damaged[64 + at] ^= 1
    found = records(bytes(damaged))
    assert names(found) == ["DATA", None, "DATA"]
    assert (found[1]["at"], found[1]["bytes"]) == (64, 64)
    assert "header checksum" in found[1]["problems"][0]
    assert "sequence 1 should come here" in found[2]["problems"]


def test_bytes_that_are_no_frame_are_counted_up_to_the_next_one() -> None:
    found = records(data_frame(0, 1.0) + b"PSYNPSYNPS" * 7 + data_frame(1, 2.0))
    assert names(found) == ["DATA", None, "DATA"]
    assert found[1]["bytes"] == 70
    assert found[2]["problems"] == []


def test_payload_with_a_wrong_bit_is_said_to_be_bad() -> None:
    found = records(data_frame(0, 1.0, sound=False) + data_frame(1, 2.0))
    assert [len(record["problems"]) for record in found] == [1, 0]
    assert "checksum" in found[0]["problems"][0]


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 60_000, b"9" * 60_000])
def test_a_body_that_is_no_json_is_said_to_be_bad(body: bytes) -> None:
    head = struct.pack("<4sBBHIIQQ", b"PSYN", 1, 6, 0, 0, 0, len(body), 0)
    (problem,) = problems(records(head[:12] + dissect.crc32c(head).to_bytes(4, "little") + head[16:] + body))
    assert problem.startswith("the body is no JSON: ")


def test_a_sequence_with_a_hole_is_said_to_be_bad() -> None:
    assert problems(records(data_frame(0, 1.0, 2.0) + data_frame(3, 1.0))) == ["sequence 2 should come here"]


def test_a_frame_that_is_not_whole_at_the_end_is_said_to_be_cut() -> None:
    found = records(data_frame(0, 1.0)[:-3])
    assert problems(found) == ["DATA, of whose body 29 bytes of 32 are there"]


@pytest.mark.parametrize("size", [10, 1000])
def test_a_capture_that_begins_in_the_middle_goes_on_at_the_next_frame(size: int) -> None:
    packets = [packet for packet in session(size).packets if packet[1][12:16] == bytes([10, 0, 0, 1])]
    found = records(pcap(packets[5:]))
    rest = [record["type"] for record in found if record["type"]]
    assert rest
    assert rest == [frame.name for frame in SESSION if frame.side == "C"][-len(rest) :]
    assert all("no frame begins here" in problem for problem in problems(found))


def test_what_the_capture_lacks_is_counted() -> None:
    connection = session(20)
    lost = connection.packets.pop(6)  # of HELLO
    found = records(pcap(connection.packets), port=9999)
    first = [record for record in found if record["from"] == "10.0.0.1:40000"]
    assert [(r["type"], r["bytes"]) for r in first[:2]] == [(None, 80), (None, 20)]
    assert first[1]["problems"] == ["the capture lacks these bytes"]
    assert len(lost[1]) == 20 + 20 + 20
    assert [r["type"] for r in first if r["type"]] == ["PROOF", "OPEN", "DATA", "DATA", "PING", "END"]


def test_connections_of_others_are_passed_over_unless_their_port_was_named() -> None:
    web = Connection(client=("10.0.0.1", 1), server=("10.0.0.2", 80))
    web.send("C", b"GET / HTTP/1.1\r\nHost: PSYN.example\r\n\r\n" * 10)
    packets = session().packets + web.packets
    assert names(records(pcap(packets))) == NAMES
    assert names(records(pcap(packets), port=9999)) == NAMES
    assert problems(records(pcap(packets), port=80)) == ["no frame begins here"]
    assert records(pcap(packets), port=81) == []


@pytest.mark.parametrize("file", [pcap, pcapng])
def test_a_file_that_was_cut_gives_what_is_whole_and_says_so(file: Callable[..., bytes]) -> None:
    found: list[dict[str, Any]] = []
    with pytest.raises(capture.Damaged, match="the file ends"):
        found.extend(dissect.dissect(file(session().packets)[:-5]))
    assert len(found) == len(NAMES) - 1


WHOLE = [pcap(session(100).packets), pcapng(session(100).packets), CLIENT]


@given(st.sampled_from(WHOLE), st.lists(st.tuples(st.integers(0, 1 << 20), st.binary(max_size=12)), max_size=8))
def test_damage_of_any_kind_is_shown_and_never_a_crash(whole: bytes, changes: list[tuple[int, bytes]]) -> None:
    damaged = bytearray(whole)
    for at, new in changes:
        at %= len(damaged)
        damaged[at : at + len(new)] = new
    with suppress(capture.Damaged):
        for record in dissect.dissect(bytes(damaged)):
            dissect.line(record)
            json.dumps(record)


@given(st.binary(max_size=300))
def test_any_bytes_behind_the_begin_of_a_file_are_read_or_refused(data: bytes) -> None:
    for begin in (WHOLE[0][:24], WHOLE[1][:28], b"PSYN"):
        with suppress(capture.Damaged):
            list(dissect.dissect(begin + data))


def run(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(TOOLS / "dissect.py"), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_program_prints_a_line_for_each_frame(tmp_path: Path) -> None:
    path = tmp_path / "sound.pcap"
    path.write_bytes(pcap(session().packets))
    done = run(path)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == len(NAMES)
    assert "22:13:20.000007 10.0.0.1:40000 → 10.0.0.2:9999  @" in done.stdout
    assert [json.loads(text)["type"] for text in run(path, "--json").stdout.splitlines()] == NAMES
    assert run(path, "--port", 81).stdout == ""


def test_the_program_says_by_its_exit_code_that_something_is_bad(tmp_path: Path) -> None:
    path = tmp_path / "bad"
    path.write_bytes(data_frame(0, 1.0, sound=False))
    done = run(path)
    assert done.returncode == 1
    assert "BAD: the checksum is" in done.stdout
    path.write_bytes(pcap(session().packets)[:-1])
    done = run(path)
    assert done.returncode == 1
    assert "the file ends" in done.stderr
    assert run(tmp_path / "nothing").returncode == 1


def test_a_recorded_session_of_two_sockets_is_read(tmp_path: Path) -> None:
    path = tmp_path / "lo.pcap"
    recorder = subprocess.Popen(
        [sys.executable, str(TOOLS / "record.py"), "lo", str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with recorder, socket.create_server(("127.0.0.1", 0)) as listening:
        if not recorder.stdout.readline():
            pytest.skip(f"packets cannot be recorded here: {recorder.stderr.read()}")
        port = listening.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client, listening.accept()[0] as server:
            for frame in SESSION:
                source, sink = (client, server) if frame.side == "C" else (server, client)
                source.sendall(frame.data)
                assert sink.recv(len(frame.data), socket.MSG_WAITALL) == frame.data
            large = data_frame(3, *range(100_000))
            sending = threading.Thread(target=client.sendall, args=(large,))
            sending.start()
            assert server.recv(len(large), socket.MSG_WAITALL) == large
            sending.join()
        recorder.send_signal(signal.SIGINT)
        said = recorder.stdout.readline()
        assert recorder.wait() == 0
    assert "0 dropped by the kernel" in said
    found = records(path.read_bytes(), port)
    assert names(found) == [*NAMES, "DATA"]
    assert (found[-1]["length"], found[-1]["count"]) == (800_024, 100_000)
    assert problems(found) == ["100000 messages; 1 to 4096 can be"]
