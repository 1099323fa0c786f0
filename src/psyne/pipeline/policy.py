"""When a worker that crashed is started again."""

from dataclasses import dataclass

from ..errors import InvalidArgument

__all__ = ["MINUTE", "Restart", "never", "on_crash", "restart_of"]

MINUTE = 60.0  # seconds in which crashes are counted


@dataclass(frozen=True)
class Restart:
    """`never` or `on_crash(max_per_minute)`."""

    max_per_minute: int

    def allows(self, crashes: list[float], now: float) -> bool:
        """Counts a crash of a stage at `now`, and says whether the worker may be started again."""
        crashes.append(now)
        while now - crashes[0] > MINUTE:
            del crashes[0]
        return len(crashes) <= self.max_per_minute


def on_crash(max_per_minute: int = 5) -> Restart:
    """Start a worker again that was killed or failed, unless its stage crashed more often than this within a minute."""
    if not isinstance(max_per_minute, int) or max_per_minute < 1:
        raise InvalidArgument(f"on_crash() takes a number of crashes per minute, 1 or more; got {max_per_minute!r}")
    return Restart(max_per_minute)


never: Restart = Restart(0)
"""The first crash stops the pipeline."""


def restart_of(given: object) -> Restart:
    """The policy that ``restart=`` names. Raises InvalidArgument."""
    if isinstance(given, Restart):
        return given
    if given == "never":
        return never
    if given == "on_crash":
        return on_crash()
    raise InvalidArgument(f"restart is 'never', 'on_crash' or psyne.pipeline.on_crash(max_per_minute); got {given!r}")
