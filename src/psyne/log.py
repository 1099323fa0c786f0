"""The logger ``psyne``: rare events, at most one line per second and cause."""

import logging
import re
import time

logger: logging.Logger = logging.getLogger("psyne")
CAUSES = 256  # that are remembered
_last: dict[str, float] = {}


def nothing() -> None:
    """Python code, for threads that wait in the native module: what others left for them to free is freed here."""


def warn(text: str) -> None:
    """Log a warning unless the same cause (the text without its numbers) was logged within the last second."""
    cause, now = re.sub(r"\d+", "#", text), time.monotonic()
    if now - _last.get(cause, -1.0) >= 1.0:
        if len(_last) >= CAUSES:  # a stranger's words may be in it, and there are many
            _last.clear()
        _last[cause] = now
        logger.warning(text)
