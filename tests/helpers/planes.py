"""Channels for tests of devices: what a stage on a device changes, and one after it shows."""

from typing import Any

import numpy as np

import psyne
from psyne import Array, Stage, Struct, f32, u64

__all__ = ["MUTATES", "Frame", "N", "Plane", "Words", "change", "ramp", "show"]

N = 4096
Plane = Array("f4", N)
Words = Array("u4", 1024)
MUTATES = [Stage("change", mutate=True), "show"]


class Frame(Struct, layout="columns"):
    stamp = u64()
    image = f32(16, 64)


def change() -> Any:
    return psyne.receiver("ipc://planes", Plane, stage="change")


def show() -> Any:
    return psyne.receiver("ipc://planes", Plane, stage="show")


def ramp() -> Any:
    return np.arange(N, dtype="f4")
