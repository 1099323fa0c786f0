"""What the three programs of the demo have in common: how they report, fail and stop."""

import json
import logging
import os
import signal
import sys
from collections.abc import Callable
from threading import Event, Thread
from typing import Any, NoReturn

from psyne import PsyneError

__all__ = ["STOPPED", "DemoError", "await_go", "report", "run"]

STOPPED = 128 + signal.SIGTERM
_go = Event()


class DemoError(Exception):
    """Something that the user can put right, said in one sentence."""


def report(**facts: Any) -> None:
    """One line to the process that supervises."""
    print(json.dumps(facts), flush=True)


def await_go() -> None:
    """Wait until the supervisor writes something on standard input."""
    _go.wait()


def run(work: Callable[[], None]) -> NoReturn:
    """Do the work of a program. SIGTERM ends it in order: blocks are left, ends are closed."""
    signal.signal(signal.SIGTERM, _stop)
    Thread(target=_leash, daemon=True).start()
    try:
        try:
            work()
        except (DemoError, PsyneError) as error:
            report(error=str(error))
            sys.exit(1)
    except BrokenPipeError:  # the supervisor is gone: nobody reads what Python writes at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it ends already: the leash may still pull
    sys.exit(0)


def _leash() -> None:
    """Standard input ends when the supervisor does, however it dies; then this program ends too."""
    while os.read(0, 1):
        _go.set()
    os.kill(os.getpid(), signal.SIGTERM)


def _stop(number: int, frame: object) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    logging.getLogger("psyne").setLevel(logging.ERROR)  # that pictures are left unread is meant
    sys.exit(STOPPED)
