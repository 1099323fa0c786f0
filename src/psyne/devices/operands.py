"""What kernels of all devices are given, checked before a driver sees it."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .contract import Device

__all__ = ["BITS_32", "check_operand", "counts"]

BITS_32 = ((1 << 32) - 1,) * 3  # the most in x, y and z, where a driver takes 32 bits of each


def check_operand(device: Device, given: Any, what: str) -> None:
    """Raises InvalidArgument for a buffer that is of no device, or of another one."""
    if getattr(given, "device", None) is not device:
        raise InvalidArgument(f"{what} is {given!r}; a kernel takes what view() and upload() of its device give")


def counts(what: str, given: Any, most: Sequence[int] | None = None) -> tuple[int, int, int]:
    """How many threads, or groups of them, in x, y and z; of what is not given, 1. Raises InvalidArgument."""
    numbers = tuple(given) if isinstance(given, (tuple, list)) else (given,)
    whole = all(isinstance(n, (int, np.integer)) and n >= 1 for n in numbers)
    if not (whole and 1 <= len(numbers) <= 3 and (most is None or all(map(operator.le, numbers, most)))):
        limits = "1 or more" if most is None else "from 1 to {:,}, {:,} and {:,}".format(*most)
        raise InvalidArgument(f"{what}={given!r}: one to three whole numbers are wanted, {limits}")
    x, y, z = (*map(int, numbers), 1, 1)[:3]
    return x, y, z
