"""Kernels in OpenCL C over messages: which arguments one has, what may be given for each, and its launch."""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from ..errors import InvalidArgument
from .opencl_driver import OpenClEvent, told
from .operands import check_operand, counts

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyopencl as cl

    from .opencl import OpenCl

__all__ = ["Argument", "Kernel"]

SCALARS: dict[str, Any] = {
    "char": np.int8, "short": np.int16, "int": np.int32, "long": np.int64,
    "uchar": np.uint8, "ushort": np.uint16, "uint": np.uint32, "ulong": np.uint64,
    "half": np.float16, "float": np.float32, "double": np.float64,
}  # fmt: skip


class Argument(NamedTuple):
    """A parameter of a kernel, as its source declares it."""

    name: str
    type: str
    """``"float*"``, ``"uint"``."""
    kind: Literal["buffer", "local", "scalar"]
    writes: bool
    """A buffer that is not ``const``."""

    def __str__(self) -> str:
        return f"{self.type} {self.name}"


class Kernel:
    """A kernel of one device. ``kernel(view, 2.0)`` runs it on messages in place, from any thread."""

    def __init__(self, device: OpenCl, source: str, name: str | None, options: Sequence[str]) -> None:
        self.device = device
        self._kernel = _built(device, source, name, options)
        self.name: str = self._kernel.function_name
        self.arguments: tuple[Argument, ...] = tuple(_argument(self._kernel, i) for i in range(self._kernel.num_args))
        """What it takes, in order."""
        self._lock = threading.Lock()  # from the first argument to the launch

    def __call__(
        self, *arguments: Any, size: int | tuple[int, ...] | None = None, group: int | tuple[int, ...] | None = None
    ) -> OpenClEvent:
        """Run it: a buffer is a view or an upload, a scalar a number, ``local`` memory a ``pyopencl.LocalMemory``.

        ``size``: work items in x, y and z, by default one for each element of the first buffer; ``group``: how many of
        them are a work group, by default as the driver likes. The event keeps the messages until the work is done; who
        drops the event waits for it. Raises ReadOnly for a view that the device may not write, unless the argument is
        declared ``const``; CannotShare; InvalidArgument. A kernel is trusted to stay in its buffers, as any code is.
        """
        import pyopencl as cl

        self.device.check_open()
        if len(arguments) != len(self.arguments):
            raise InvalidArgument(f"{self} takes {len(self.arguments)} arguments, and got {len(arguments)}")
        values = [self._value(argument, given) for argument, given in zip(self.arguments, arguments, strict=True)]
        buffers = [it for it in zip(self.arguments, arguments, values, strict=True) if it[0].kind == "buffer"]
        if size is None and not buffers:
            raise InvalidArgument(f"{self} has no buffer to count work items by: say size=")
        sizes = counts("size", math.prod(buffers[0][1].shape) if size is None else size)
        groups = None if group is None else counts("group", group)
        queue = self.device.queue
        with self._lock, told(f"{self} does not run with size={sizes}, group={groups}"):
            for i, value in enumerate(values):
                self._kernel.set_arg(i, value)
            before = [it for _, given, region in buffers for it in given.sent(region)]
            work = cl.enqueue_nd_range_kernel(queue, self._kernel, sizes, groups, wait_for=before)
            after = [work]
            after += [it for argument, given, region in buffers if argument.writes for it in given.fetched(region)]
            queue.flush()
        return OpenClEvent(after[-1], (self, arguments, values, before, after))  # the queue is in order

    def __repr__(self) -> str:
        return f"kernel {self.name}({', '.join(map(str, self.arguments))})"

    def _value(self, argument: Argument, given: Any) -> Any:
        """What the driver gets for an argument. It checks sizes, but neither leases nor whose memory it is."""
        from pyopencl import LocalMemory

        if argument.kind == "buffer":
            check_operand(self.device, given, f"{argument} of {self}")
            if argument.writes:
                given.check_writable(f"{argument.name} of kernel {self.name} (not declared `const`)")
            return given.region()
        if argument.kind == "local":
            if not isinstance(given, LocalMemory):
                raise InvalidArgument(f"{argument} of {self} is {given!r}; it takes pyopencl.LocalMemory(bytes)")
            return given
        return self._scalar(argument, given)

    def _scalar(self, argument: Argument, given: Any) -> Any:
        """A number as the kernel declares it; vectors and structs are given as they are (pyopencl.cltypes)."""
        scalar = SCALARS.get(argument.type)
        if scalar is None:
            return given
        if not isinstance(given, (int, float, np.number)):
            raise InvalidArgument(f"{argument} of {self} is {given!r}; it takes a number")
        try:
            made = scalar(given)
        except (OverflowError, ValueError) as error:  # NaN, and what is too large
            raise InvalidArgument(f"{argument} of {self} cannot be {given!r}: {error}") from error
        if isinstance(made, np.integer) and made != given:
            raise InvalidArgument(f"{argument} of {self} cannot be {given!r}, but {made} could")
        return made


def _built(device: OpenCl, source: str, name: str | None, options: Sequence[str]) -> cl.Kernel:
    """The kernel of this name, or the only one."""
    import pyopencl as cl

    no_cache: Any = False  # arguments are known where the source is compiled; drivers have caches of their own
    try:
        program = cl.Program(device.context, source).build(["-cl-kernel-arg-info", *options], cache_dir=no_cache)
    except cl.RuntimeError as error:
        _, _, log = str(error).partition("\n\n")
        raise InvalidArgument(f"this kernel does not compile:\n{log or error}") from error
    kernels: dict[str, cl.Kernel] = {it.function_name: it for it in program.all_kernels()}
    if name is None and len(kernels) == 1:
        (name,) = kernels
    if name not in kernels:
        raise InvalidArgument(f"name={name!r}: this source has the kernels {', '.join(kernels) or '(none)'}")
    return kernels[name]


def _argument(kernel: cl.Kernel, i: int) -> Argument:
    import pyopencl as cl

    asked, spaces = cl.kernel_arg_info, cl.kernel_arg_address_qualifier
    told_of: Any = kernel.get_arg_info
    with told(f"the driver does not say what {kernel.function_name} takes"):
        name, its_type, space = told_of(i, asked.NAME), told_of(i, asked.TYPE_NAME), told_of(i, asked.ADDRESS_QUALIFIER)
        constant = told_of(i, asked.TYPE_QUALIFIER) & cl.kernel_arg_type_qualifier.CONST
    if space in (spaces.GLOBAL, spaces.CONSTANT):
        return Argument(name, its_type, "buffer", space == spaces.GLOBAL and not constant)
    return Argument(name, its_type, "local" if space == spaces.LOCAL else "scalar", False)
