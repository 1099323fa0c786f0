"""The calls of Metal that psyne uses, through the Objective-C runtime by ctypes: no package is needed.

Not verified on hardware: it ran against a stand-in only (`tests/helpers/fakemetal.c`). Names, numbers and signatures
are those of Apple's headers. The rules of Objective-C hold: who gets an object from a call named ``new…``, ``Create``
or ``Copy`` owns it (`Object`); all others belong to the pool (`Runtime.pool`) around the call.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import POINTER, c_bool, c_char_p, c_size_t, c_uint64, c_void_p
from typing import Any

from ..errors import DeviceUnavailable, ForkedError, SystemFailure

__all__ = ["MetalError", "Object", "Runtime", "Size", "runtime"]

# CoreGraphics: a program without windows gets no default device otherwise.
LIBRARIES = (
    "/usr/lib/libobjc.A.dylib",
    "/System/Library/Frameworks/Metal.framework/Metal",
    "/System/Library/Frameworks/CoreGraphics.framework/CoreGraphics",
)
OLDEST = 13  # the macOS that has MTLComputePipelineReflection.bindings

# MTLResourceOptions: of CPU and GPU
SHARED = 0
# MTLPipelineOption: what a reflection tells
BINDING_INFO = 1
# MTLCommandBufferStatus
COMMITTED, COMPLETED, FAILED = 2, 4, 5
# MTLBindingType, MTLBindingAccess
BUFFER, THREADGROUP_MEMORY = 0, 1
READ_ONLY = 0


class MetalError(SystemFailure):
    """Metal refused something; the text is its own."""


class Size(ctypes.Structure):
    """MTLSize."""

    _fields_ = (("width", c_size_t), ("height", c_size_t), ("depth", c_size_t))


ID, COUNT, ERROR = c_void_p, c_size_t, POINTER(c_void_p)

_SELECTORS: dict[str, tuple[Any, ...]] = {  # what comes back, and what goes in
    # NSString, NSArray, NSError
    "stringWithUTF8String:": (ID, c_char_p),
    "UTF8String": (c_char_p,),
    "count": (COUNT,),
    "objectAtIndex:": (ID, COUNT),
    "localizedDescription": (ID,),
    # MTLDevice
    "name": (ID,),
    "registryID": (c_uint64,),
    "hasUnifiedMemory": (c_bool,),
    "maxBufferLength": (COUNT,),
    "newCommandQueue": (ID,),
    "newBufferWithLength:options:": (ID, COUNT, COUNT),
    "newBufferWithBytesNoCopy:length:options:deallocator:": (ID, c_void_p, COUNT, COUNT, ID),
    "newLibraryWithSource:options:error:": (ID, ID, ID, ERROR),
    "newComputePipelineStateWithFunction:options:reflection:error:": (ID, ID, COUNT, POINTER(ID), ERROR),
    # MTLBuffer
    "contents": (c_void_p,),
    "length": (COUNT,),
    # MTLLibrary, MTLComputePipelineState, MTLComputePipelineReflection, MTLBinding
    "newFunctionWithName:": (ID, ID),
    "functionNames": (ID,),
    "maxTotalThreadsPerThreadgroup": (COUNT,),
    "threadExecutionWidth": (COUNT,),
    "bindings": (ID,),
    "type": (COUNT,),
    "access": (COUNT,),
    "index": (COUNT,),
    "bufferDataSize": (COUNT,),
    # MTLCommandQueue, MTLCommandBuffer
    "commandBuffer": (ID,),
    "computeCommandEncoder": (ID,),
    "commit": (None,),
    "waitUntilCompleted": (None,),
    "status": (COUNT,),
    "error": (ID,),
    # MTLComputeCommandEncoder
    "setComputePipelineState:": (None, ID),
    "setBuffer:offset:atIndex:": (None, ID, COUNT, COUNT),
    "setBytes:length:atIndex:": (None, c_char_p, COUNT, COUNT),
    "dispatchThreadgroups:threadsPerThreadgroup:": (None, Size, Size),
    "endEncoding": (None,),
}

_FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "objc_getClass": (ID, c_char_p),
    "sel_registerName": (c_void_p, c_char_p),
    "objc_retain": (ID, ID),
    "objc_release": (None, ID),
    "objc_autoreleasePoolPush": (c_void_p,),
    "objc_autoreleasePoolPop": (None, c_void_p),
    "MTLCreateSystemDefaultDevice": (ID,),
    "MTLCopyAllDevices": (ID,),
}


class Object:
    """An object of Objective-C that is ours until this is collected or released. Calls take it as it is."""

    def __init__(self, runtime: Runtime, identity: int) -> None:
        self._runtime = runtime
        self.id: int = identity

    @property
    def _as_parameter_(self) -> c_void_p:
        return c_void_p(self.id)

    def release(self) -> None:
        """Once; it is nil from now on."""
        was, self.id = self.id, 0
        if was and self._runtime.pid == os.getpid():  # a forked child has nothing to say to the driver
            with self._runtime.pool():
                self._runtime.functions["objc_release"](was)

    def __del__(self) -> None:
        self.release()


class Runtime:
    """Objective-C and Metal: `send` is a message to an object. ctypes lets the GIL go meanwhile."""

    def __init__(self, path: str | None) -> None:
        if path is None and sys.platform != "darwin":
            raise DeviceUnavailable("Metal is there on macOS only")
        if path is None and int(platform.mac_ver()[0].partition(".")[0] or OLDEST) < OLDEST:
            raise DeviceUnavailable(f"kernels of Metal need macOS {OLDEST}; this is {platform.mac_ver()[0]}")
        self.path: str | None = path
        self.pid: int = os.getpid()
        try:
            self.libraries: list[ctypes.CDLL] = [ctypes.CDLL(it) for it in ((path,) if path else LIBRARIES)]
            self.functions: dict[str, Any] = {name: self._function(name, *types) for name, types in _FUNCTIONS.items()}
            message = ctypes.cast(self._symbol("objc_msgSend"), c_void_p).value or 0
        except (OSError, AttributeError) as error:
            raise DeviceUnavailable(f"there is no Metal here that psyne can use: {error}") from None
        self._calls = {}  # one function for each signature: objc_msgSend takes what the method takes
        for selector, (result, *arguments) in _SELECTORS.items():
            kind = ctypes.CFUNCTYPE(result, ID, c_void_p, *arguments)
            self._calls[selector] = kind(message), self.functions["sel_registerName"](selector.encode())
        self._strings = self.functions["objc_getClass"](b"NSString")

    def send(self, receiver: Object | int | None, selector: str, *arguments: Any) -> Any:
        """What a method returns; None for nil. The receiver must have it, else the process ends."""
        call, registered = self._calls[selector]
        return call(receiver, registered, *arguments)

    @contextmanager
    def pool(self) -> Iterator[None]:
        """Objects that nobody owns live until its end. Of one thread."""
        if self.pid != os.getpid():
            raise ForkedError("Metal is the parent process's, and does not survive a fork: spawn processes")
        pool = self.functions["objc_autoreleasePoolPush"]()
        try:
            yield
        finally:
            self.functions["objc_autoreleasePoolPop"](pool)

    def owned(self, identity: int | None) -> Object | None:
        """Of what a call named ``new…``, ``Create`` or ``Copy`` returned."""
        return Object(self, identity) if identity else None

    def kept(self, identity: int) -> Object:
        """Of what belongs to the pool, so that it outlives that."""
        self.functions["objc_retain"](identity)
        return Object(self, identity)

    def string(self, text: str) -> int:
        """An NSString; it belongs to the pool."""
        found: int = self.send(self._strings, "stringWithUTF8String:", text.encode())
        return found

    def text(self, string: int | None) -> str:
        """Of an NSString."""
        return (self.send(string, "UTF8String") or b"").decode(errors="replace")

    def reason(self, error: int | None) -> str:
        """What an NSError says."""
        return self.text(self.send(error, "localizedDescription")) or "no reason given"

    def items(self, array: int | Object | None) -> list[int]:
        """Of an NSArray, which keeps them."""
        return [self.send(array, "objectAtIndex:", i) for i in range(self.send(array, "count"))]

    def devices(self) -> list[Object]:
        """The default one first."""
        found: dict[int, Object] = {}
        with self.pool():
            default = self.owned(self.functions["MTLCreateSystemDefaultDevice"]())
            others = self.owned(self.functions["MTLCopyAllDevices"]())
            for it in (default, *(self.kept(other) for other in self.items(others))):
                if it is not None:
                    found.setdefault(self.send(it, "registryID"), it)
        return list(found.values())

    def _symbol(self, name: str) -> Any:
        for it in self.libraries:
            if hasattr(it, name):
                return getattr(it, name)
        raise AttributeError(f"{name} is missing")

    def _function(self, name: str, result: Any, *arguments: Any) -> Any:
        found = self._symbol(name)
        found.restype, found.argtypes = result, arguments
        return found


_runtime: Runtime | None = None


def runtime() -> Runtime:
    """Metal of this process; ``$PSYNE_LIBMETAL`` names a library that stands in for it. Raises DeviceUnavailable."""
    global _runtime
    path = os.environ.get("PSYNE_LIBMETAL")
    if _runtime is not None and _runtime.pid != os.getpid():
        raise DeviceUnavailable("the parent process uses Metal, which does not survive a fork: spawn processes")
    if _runtime is None or _runtime.path != path:
        _runtime = Runtime(path)
    return _runtime
