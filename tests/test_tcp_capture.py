"""A capture of a session that went over a network is read by the dissector without a bad frame."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from .helpers.hosts import Host, network
from .helpers.tools import TOOLS, tool

dissect = tool("dissect")

RECEIVER = 'rx = psyne.receiver("tcp://0.0.0.0:5000", Number, bind=True, token="a token of this test")'
SENDER = 'tx = psyne.sender(f"tcp://{peer}:5000", Number, checksum=True, token="a token of this test", linger=60.0)'


@pytest.mark.parametrize("loss", [0.0, 0.02])
def test_a_recorded_session_has_no_bad_frame_and_all_its_messages(tmp_path: Path, loss: float) -> None:
    file = tmp_path / "session.pcap"
    with network("a", "b", seed=7) as net, Host(net, "a") as a, Host(net, "b") as b:
        net.link(delay=0.001, loss=loss)
        recorder = net.start("b", [sys.executable, str(TOOLS / "record.py"), "net", str(file)], stdout=subprocess.PIPE)
        assert recorder.stdout.readline() == "recording net\n"
        b.run(RECEIVER)
        a.run(SENDER, peer=b.address)
        a.begin("for n in range(2000): tx.send(Number(n=n))\ntx.close()")
        assert b.run("[int(m.n) for m in rx]") == list(range(2000))
        a.result()
        net.down("a", "b")  # all that went over it has come
        recorder.send_signal(signal.SIGINT)
        assert recorder.wait() == 0
    records = list(dissect.dissect(file.read_bytes(), 5000))
    assert [problem for record in records for problem in record["problems"]] == []
    kinds = [record["type"] for record in records]
    for once in ("HELLO", "CHALLENGE", "PROOF", "OPEN", "WELCOME", "END"):
        assert kinds.count(once) == 1, once
    assert kinds.count("BYE") in (1, 2)  # the last of all is perhaps still under way
    data = sorted((r for r in records if r["type"] == "DATA"), key=lambda r: r["sequence"])
    assert sum(record["count"] for record in data) == 2000
    assert [r["sequence"] for r in data] == [sum(x["count"] for x in data[:i]) for i in range(len(data))]
