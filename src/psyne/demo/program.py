"""What the three programs of the demo have in common: how they report, fail and stop."""

import json
import logging
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from psyne import PsyneError

__all__ = ["STOPPED", "DemoError", "report", "run"]

STOPPED = 128 + signal.SIGTERM


class DemoError(Exception):
    """Something that the user can put right, said in one sentence."""


def report(**facts: Any) -> None:
    """One line to the process that supervises."""
    print(json.dumps(facts), flush=True)


def run(work: Callable[[], None]) -> NoReturn:
    """Do the work of a program. SIGTERM ends it in order: blocks are left, ends are closed."""
    signal.signal(signal.SIGTERM, _stop)
    try:
        work()
    except BrokenPipeError:
        sys.stdout = None  # nobody listens any more, not even to the flush at exit
        sys.exit(1)
    except (DemoError, PsyneError) as error:
        report(error=str(error))
        sys.exit(1)
    sys.exit(0)


def _stop(number: int, frame: object) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    logging.getLogger("psyne").setLevel(logging.ERROR)  # that pictures are left unread is meant
    sys.exit(STOPPED)
