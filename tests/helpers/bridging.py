"""Bridges for tests: `psyne bridge` in processes, and sources of Zenoh that may lie. Needs eclipse-zenoh."""

import json
import os
import signal
import socket
import subprocess
import sysconfig
import threading
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest

from psyne import Struct, f32, u64
from psyne.bridges.envelope import Envelope
from psyne.bridges.network import schema_key
from psyne.types import VariantHdr

from .process import PATIENCE, until

__all__ = ["COMMAND", "KEY", "Imu", "Program", "Source", "both_ways", "free_endpoint", "imu", "stamps"]

COMMAND = Path(sysconfig.get_path("scripts")) / "psyne"
KEY = "robot1/camera"


class Imu(Struct):
    stamp = u64()
    accel = f32(3)


class Program:
    """`psyne bridge` in a process of its own."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [COMMAND, "bridge", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONFAULTHANDLER": "1"},
        )
        assert self.process.stdout is not None
        assert "→" in self.process.stdout.readline(), self.end()

    def end(self, sent: signal.Signals | None = None) -> tuple[int, str]:
        """Exit code and all that it said, after a signal or by itself."""
        if sent is not None:
            self.process.send_signal(sent)
        try:
            out, err = self.process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGABRT)  # it says where its threads are
            pytest.fail(f"it does not end\n{self.process.communicate()[1]}")
        return self.process.returncode, out + err

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.__exit__(None, None, None)  # closes its pipes


def free_endpoint() -> str:
    """Where a session of Zenoh can listen."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return f"tcp/127.0.0.1:{s.getsockname()[1]}"


class Source:
    """A source of the test's own, which may lie."""

    def __init__(self, endpoint: str, said: bytes, key: str = KEY, number: int = 1, answers: bool = True) -> None:
        import zenoh

        config = zenoh.Config()
        config.insert_json5("scouting/multicast/enabled", "false")
        config.insert_json5("listen/endpoints", "[]")
        config.insert_json5("connect/endpoints", json.dumps([endpoint]))
        self.session = zenoh.open(config)
        self.number, self.key = number, key
        where = schema_key(key, f"{number:016x}")
        self._where, self._answers = where, threading.Event()
        if answers:
            self.answer()
        self._replies = self.session.declare_queryable(
            where, lambda query: self._answers.wait(PATIENCE) and query.reply(where, said)
        )
        self.appear(True)
        self._publisher: Any = self.session.declare_publisher(key, congestion_control=zenoh.CongestionControl.BLOCK)

    def put(self, sequence: int, payload: bytes, cls: Any = Imu, **fields: Any) -> None:
        envelope = Envelope(self.number, sequence, VariantHdr.of_type(0, cls).word, **fields)
        self.put_raw(payload, envelope.encode())

    def put_raw(self, payload: bytes, attachment: bytes | None) -> None:
        until(lambda: self._publisher.matching_status.matching, "a subscriber")
        self._publisher.put(payload, attachment=attachment)

    def silence(self) -> None:
        """Nobody is there to be asked, as when it is over."""
        self._replies.undeclare()

    def answer(self) -> None:
        """Say the types from now on, and to who has asked."""
        self._answers.set()

    def appear(self, there: bool) -> None:
        """Declare its token, or take it back."""
        if there:
            self._token = self.session.liveliness().declare_token(self._where)
        else:
            self._token.undeclare()

    def end(self, count: int, said: bytes = b"") -> None:
        self._publisher.delete(attachment=Envelope(self.number, count, description=said).encode())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.session.close()


def imu(n: int) -> bytes:
    return np.array(Imu(stamp=n).array).tobytes()


def stamps(receiver: Any, n: int) -> list[int]:
    got = []
    for _ in range(n):
        with receiver.receive(timeout=PATIENCE) as m:
            got.append(m.stamp)
    return got


def both_ways(endpoint: str, *outward: str) -> tuple[Program, Program]:
    """ipc://here → zenoh → ipc://there; who sends starts first."""
    source = Program("ipc://here", f"zenoh://{KEY}", *outward, "--listen", endpoint)
    return source, Program(f"zenoh://{KEY}", "ipc://there", "--connect", endpoint)
