"""Compute kernels in Metal's shading language over messages: buffer n is a view. Not verified on hardware."""

from __future__ import annotations

import math
from ctypes import byref, c_void_p
from typing import TYPE_CHECKING, NamedTuple

from ..errors import InvalidArgument
from . import metal_api as mtl
from .operands import BITS_32, check_operand, counts

if TYPE_CHECKING:
    from typing import TypeAlias

    from .metal import Metal, MetalCopy, MetalView
    from .metal_queue import MetalEvent

    Operand: TypeAlias = MetalView | MetalCopy
    Extent: TypeAlias = int | tuple[int] | tuple[int, int] | tuple[int, int, int]

__all__ = ["Kernel"]

MOST_BYTES = 4096  # that setBytes takes


class Buffer(NamedTuple):
    """What the compiler says of an argument ``[[buffer(n)]]``."""

    writes: bool
    item: int
    """Bytes of what it points to."""


class Kernel:
    """A kernel function of one device. ``kernel(view, groups=n)`` runs it on messages in place, from any thread."""

    def __init__(self, device: Metal, source: str, name: str) -> None:
        self.device: Metal = device
        self.name: str = name
        runtime = device.queue.runtime
        error, reflection = c_void_p(), c_void_p()
        with runtime.pool():
            text = runtime.string(source)
            made = runtime.send(device.handle, "newLibraryWithSource:options:error:", text, None, byref(error))
            if (library := runtime.owned(made)) is None:
                raise InvalidArgument(f"Metal does not compile this: {runtime.reason(error.value)}")
            function = runtime.owned(runtime.send(library, "newFunctionWithName:", runtime.string(name)))
            if function is None:
                names = [runtime.text(it) for it in runtime.items(runtime.send(library, "functionNames"))]
                raise InvalidArgument(f"there is no kernel {name!r} in this source; there are {', '.join(names)}")
            call = "newComputePipelineStateWithFunction:options:reflection:error:"
            told, why = byref(reflection), byref(error)
            pipeline = runtime.owned(runtime.send(device.handle, call, function, mtl.BINDING_INFO, told, why))
            if pipeline is None:
                raise InvalidArgument(f"Metal makes no pipeline of kernel {name!r}: {runtime.reason(error.value)}")
            self.buffers: list[Buffer] = self._buffers(runtime.items(runtime.send(reflection.value, "bindings")))
            """Its arguments ``[[buffer(0)]]``, ``[[buffer(1)]]``, …"""
            self.width: int = runtime.send(pipeline, "threadExecutionWidth")
            """Threads that run in step; the number in a group unless said otherwise."""
            self.most: int = runtime.send(pipeline, "maxTotalThreadsPerThreadgroup")
            """Threads that a group may have."""
            self._pipeline = pipeline

    def __call__(
        self, *views: Operand, groups: Extent = 1, threads: Extent | None = None, push: bytes = b""
    ) -> MetalEvent:
        """Run it: ``[[buffer(n)]]`` is ``views[n]`` from its first byte on, and the buffer after the views is ``push``.

        ``groups``: thread groups in x, y and z; ``threads``: threads of each. The event keeps the messages until the
        work is done; who drops the event waits for it. A kernel is trusted as any code is: Metal does not look whether
        it stays in its views. Raises ReadOnly for a view that the device may not write, unless the kernel declares it
        ``const``; InvalidArgument.
        """
        device = self.device
        device.check_open()
        self._check_views(views, push)
        size = counts("groups", groups, BITS_32)
        each = counts("threads", self.width if threads is None else threads, BITS_32)
        if (product := math.prod(each)) > self.most:
            raise InvalidArgument(f"a group of this kernel has at most {self.most} threads, not {product}")
        runtime = device.queue.runtime

        def record(encoding: int) -> None:
            runtime.send(encoding, "setComputePipelineState:", self._pipeline)
            for i, view in enumerate(views):
                runtime.send(encoding, "setBuffer:offset:atIndex:", view.buffer, view.offset, i)
            if push:
                runtime.send(encoding, "setBytes:length:atIndex:", bytes(push), len(push), len(views))
            runtime.send(encoding, "dispatchThreadgroups:threadsPerThreadgroup:", mtl.Size(*size), mtl.Size(*each))

        return device.queue.submit(record, *views)

    def __repr__(self) -> str:
        return f"<psyne.devices.Kernel {self.name} of {len(self.buffers)} buffers on {self.device.name}>"

    # ---- checks: Metal does not make them, or ends the process ------------------------------------------------------

    def _buffers(self, bindings: list[int]) -> list[Buffer]:
        send = self.device.queue.runtime.send
        found = {}
        for it in bindings:
            if send(it, "type") == mtl.BUFFER:
                found[send(it, "index")] = Buffer(send(it, "access") != mtl.READ_ONLY, send(it, "bufferDataSize"))
            elif send(it, "type") != mtl.THREADGROUP_MEMORY:  # which is declared inside the kernel
                raise InvalidArgument(f"kernel {self.name!r} has a texture or a sampler; messages are buffers")
        if sorted(found) != list(range(len(found))):
            raise InvalidArgument(f"the buffers of kernel {self.name!r} are {sorted(found)}, not 0, 1, 2, …")
        return [found[i] for i in range(len(found))]

    def _check_views(self, views: tuple[Operand, ...], push: bytes) -> None:
        if len(views) + bool(push) != len(self.buffers):
            given = f"{len(views)} views{' and push=' if push else ''}"
            raise InvalidArgument(f"kernel {self.name!r} takes {len(self.buffers)} buffers, and got {given}")
        for i, (view, buffer) in enumerate(zip(views, self.buffers, strict=False)):
            check_operand(self.device, view, f"buffer {i}")
            if buffer.writes:
                view.check_writable(f"buffer {i} of kernel {self.name!r} (not declared `const`)")
        if push:
            last = self.buffers[-1]
            if len(push) > MOST_BYTES or len(push) % max(1, last.item):
                raise InvalidArgument(
                    f"push is at most {MOST_BYTES} bytes, and for this kernel a multiple of {last.item}; "
                    f"it has {len(push)}"
                )
            if last.writes:
                raise InvalidArgument(f"kernel {self.name!r} writes its last buffer, so that cannot be push=")
