# What stubgen cannot know of plain C types; the format is that of nanobind's pattern files.
# Message, Batch and the ends are declared, generic and documented, by their faces in src/psyne.

psyne\._native\.(Message|Batch)$:
    class \1:
        def __buffer__(self, flags: int, /) -> memoryview: ...

psyne\._native\.(SenderEnd|ReceiverEnd)\.(loan|try_loan|loan_many|send|send_many|call|drain)$:

psyne\._native\.SenderEnd\._send_some$:
    def _send_some(self, array: object, type: object, start: int, /) -> int | None: ...

psyne\._native\.SenderEnd\._try_send$:
    def _try_send(self, message: object, /) -> bool | None: ...

psyne\._native\.(ReceiverEnd|TapEnd)\.(receive|try_receive|receive_many|try_receive_many|receive_into|batches|__iter__)$:

psyne\._native\.Slab$:
    class Slab:
        \doc
        def __buffer__(self, flags: int, /) -> memoryview: ...
        @property
        def array(self) -> numpy.typing.NDArray[numpy.uint8]:
            """All of it as a numpy array. Raises MessageReleased after free()."""
        def free(self) -> None:
            """Give it back now. Raises ViewsAlive while arrays use it."""
        @property
        def bytes(self) -> int:
            """That it takes of the budget, with what the slab says of itself."""
        @property
        def slot_bytes(self) -> int: ...
        @property
        def capacity(self) -> int: ...
    \import numpy
    \import numpy.typing

psyne\._native\.Field$:
    class Field:
        def __init__(self, dtype: numpy.dtype[Any], shape: tuple[int, ...], offset: int, type: type | None = None, /) -> None: ...
        def __get__(self, instance: object, owner: type | None = None, /) -> Any: ...
        def __set__(self, instance: object, value: Any, /) -> None: ...
    \import numpy
    \from typing import Any

psyne\._native\.Iteration$:
    class Iteration:
        def __iter__(self) -> Iterator[Any]: ...
        def __next__(self) -> Any: ...
    \from collections.abc import Iterator
    \from typing import Any

psyne\._native\.adopt$:
    def adopt(cls: type, /) -> None: ...

psyne\._native\.dlpack_on$:
    def dlpack_on(
        array: numpy.typing.NDArray[numpy.generic], device: tuple[int, int], address: int, max_version: object = None, dl_device: object = None, copy: object = None
    ) -> object: ...
    \import numpy.typing

psyne\._native\.dlpack$:
    def dlpack(array: numpy.typing.NDArray[numpy.generic], /, **keywords: object) -> object: ...
    \import numpy.typing
