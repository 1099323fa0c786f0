"""Kernels in PTX over messages: which parameters one has, what may be given for each, and its launch.

PTX is text that the driver compiles for the GPU that is there, so no toolkit is needed to run it. Kernels in OpenCL C
become PTX by ``clang --target=nvptx64-nvidia-cuda -S``, those in CUDA C by ``nvcc -ptx``.
"""

from __future__ import annotations

import ctypes
import math
import re
from collections.abc import Collection
from ctypes import byref, c_void_p
from typing import TYPE_CHECKING, Any

from ..errors import InvalidArgument
from . import cuda_driver as cu
from .operands import BITS_32, check_operand, counts

if TYPE_CHECKING:
    from .cuda import Cuda, CudaEvent

__all__ = ["Kernel"]

ENTRY = re.compile(r"\.entry\s+([\w$%]+)\s*(?:\(([^)]*)\))?")
PARAMETER = re.compile(r"\.param\s+(?:\.align\s+\d+\s+)?\.([a-z]+\d+)\b[^\[]*(\[)?", re.DOTALL)
POINTER = 64  # bits
LOG = 4096  # bytes of what the compiler in the driver says
ERROR_LOG, ERROR_LOG_BYTES = 5, 6  # CU_JIT_ERROR_LOG_BUFFER, CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES
TYPES: dict[str, Any] = {
    f"{kind}{8 * size}": getattr(ctypes, f"c_{sign}int{8 * size}")
    for kind, sign in {"u": "u", "b": "u", "s": ""}.items()
    for size in (1, 2, 4, 8)
} | {"f32": ctypes.c_float, "f64": ctypes.c_double}


class Kernel:
    """A kernel of one GPU. ``kernel(view, 640, 480, size=n)`` runs it on messages in place, from any thread."""

    def __init__(self, device: Cuda, ptx: str | bytes, name: str | None, reads: Collection[int]) -> None:
        self._module = c_void_p()
        text = ptx if isinstance(ptx, str) else bytes(ptx).decode("ascii", errors="replace")
        entries = dict(ENTRY.findall(text))
        if name is None and len(entries) == 1:
            name = next(iter(entries))
        if name is None or name not in entries:
            raise InvalidArgument(f"name={name!r}: this PTX has the kernels {', '.join(entries) or '(none)'}")
        self.device = device
        self.name: str = name
        self.parameters: tuple[str, ...] = tuple(_parameters(name, entries[name]))
        """Their types: ``("u64", "u32")``. A buffer is a u64."""
        self.reads: frozenset[int] = frozenset(reads)
        """Parameters that are buffers which it only reads."""
        self._function = c_void_p()
        with device.context() as driver:
            _load(driver, self._module, text)
            driver.call("cuModuleGetFunction", byref(self._function), self._module, name.encode())

    def __call__(
        self, *arguments: Any, size: int | tuple[int, ...] | None = None, block: int | tuple[int, ...] = 128,
        stream: Any = None,
    ) -> CudaEvent:  # fmt: skip
        """Run it: for a buffer give what `view` or `upload` of its device gave, for a number a number.

        ``size``: threads in x, y and z, by default one for each element of the first buffer, rounded up to whole
        blocks: the kernel must look where it is. ``stream``: as `Cuda.event` takes it; the work comes after an upload
        that another stream makes. The event keeps the messages until the work is done. Raises ReadOnly for a view that
        the device may not write, unless its parameter is in `reads`; InvalidArgument; CudaError for what the driver
        refuses. A kernel is trusted to stay in its buffers.
        """
        from .cuda import number_of

        self.device.check_open()
        if len(arguments) != len(self.parameters):
            raise InvalidArgument(f"{self} takes {len(self.parameters)} arguments, and got {len(arguments)}")
        values = [self._value(i, given) for i, given in enumerate(arguments)]
        buffers = [it for it in arguments if hasattr(it, "pointer")]
        if size is None and not buffers:
            raise InvalidArgument(f"{self} has no buffer to count threads by: say size=")
        sizes = counts("size", math.prod(buffers[0].shape) or 1 if size is None else size)
        blocks = counts("block", block, BITS_32)
        grid = counts("grid", [-(-n // per) for n, per in zip(sizes, blocks, strict=True)], BITS_32)
        pointers = (c_void_p * max(1, len(values)))(*(ctypes.addressof(it) for it in values))
        number = number_of(stream)
        for it in buffers:
            it._before(number)
        with self.device.context() as driver:
            driver.call(
                "cuLaunchKernel", self._function, *grid, *blocks, 0, number, pointers, None
            )  # which has copied the values
        return self.device.event(number, self, *buffers)

    def __repr__(self) -> str:
        return f"kernel {self.name}({', '.join(self.parameters)})"

    def __del__(self) -> None:
        if self._module:
            self.device.forget("cuModuleUnload", self._module)

    def _value(self, i: int, given: Any) -> Any:
        """What the driver gets for a parameter. It checks nothing."""
        kind = self.parameters[i]
        made = TYPES[kind]
        if (pointer := getattr(given, "pointer", None)) is not None:
            check_operand(self.device, given, f"parameter {i} of {self}")
            if ctypes.sizeof(made) * 8 != POINTER or kind[0] == "f":
                raise InvalidArgument(f"parameter {i} of {self} is a number, and got {given!r}")
            if i not in self.reads:
                given.check_writable(f"{self}, whose parameter {i} is not in reads=,")
            return made(pointer)
        try:
            value = made(float(given) if kind[0] == "f" else int(given))
        except (TypeError, ValueError) as error:
            raise InvalidArgument(f"parameter {i} of {self} cannot be {given!r}: {error}") from error
        if kind[0] != "f" and value.value != given:
            raise InvalidArgument(f"parameter {i} of {self} cannot be {given!r}, but {value.value} could")
        return value


def _parameters(name: str, text: str) -> list[str]:
    found = []
    for declared in filter(None, map(str.strip, text.split(","))):
        match = PARAMETER.match(declared)
        if match is None or match[2] or match[1] not in TYPES:
            raise InvalidArgument(f"kernel {name} has a parameter that is neither a number nor an address: {declared}")
        found.append(match[1])
    return found


def _load(driver: cu.Driver, module: c_void_p, text: str) -> None:
    """The driver compiles it here. Raises InvalidArgument, with what it says."""
    log = ctypes.create_string_buffer(LOG)
    options = (ctypes.c_int * 2)(ERROR_LOG, ERROR_LOG_BYTES)
    values = (c_void_p * 2)(ctypes.addressof(log), LOG)
    try:
        driver.call("cuModuleLoadDataEx", byref(module), text.encode(), len(options), options, values)
    except cu.CudaError as error:
        said = log.value.decode(errors="replace").strip()
        raise InvalidArgument(f"the driver does not take this PTX ({error}){': ' if said else ''}{said}") from error
