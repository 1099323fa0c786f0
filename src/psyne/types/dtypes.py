"""Element types: numpy's, and those that ml_dtypes adds to it."""

from typing import Any

import numpy as np

__all__ = ["dtype_code", "dtype_from", "dtype_text", "element_from"]

# Short names as Psyne's fields have them, and the names that ml_dtypes gives to them.
EXTENSIONS = {
    "bf16": "bfloat16",
    "fp8_e4m3": "float8_e4m3fn",
    "fp8_e5m2": "float8_e5m2",
    "i4": "int4",
    "u4": "uint4",
}
EXTENDED = frozenset(EXTENSIONS.values())
# "i4" and "u4" are 4 bytes to numpy: four bits are asked for by the long name.
ALIASES = {short: name for short, name in EXTENSIONS.items() if short not in ("i4", "u4")}

# Codes of VariantHdr.dtype. 0 is a record, 255 any other dtype.
CODES = {
    "|b1": 1, "|i1": 2, "|u1": 3, "<i2": 4, "<u2": 5, "<i4": 6, "<u4": 7, "<i8": 8, "<u8": 9, "<f2": 10, "<f4": 11,
    "<f8": 12, "<c8": 13, "<c16": 14, "bfloat16": 15, "float8_e4m3fn": 16, "float8_e5m2": 17, "int4": 18, "uint4": 19,
}  # fmt: skip
OTHER = 255


def dtype_from(given: Any) -> np.dtype[Any]:
    """The numpy dtype of a name, a dtype or a scalar class; also of "bf16", "fp8_e4m3", "fp8_e5m2", "int4".

    Raises ImportError for a name of ml_dtypes when that is not installed, TypeError for anything unknown.
    """
    if isinstance(given, str):
        name = ALIASES.get(given, given)
        if name in EXTENDED:
            try:
                import ml_dtypes
            except ImportError as error:
                raise ImportError(f"{given} elements need ml_dtypes: pip install ml_dtypes") from error
            given = getattr(ml_dtypes, name)
    dtype: np.dtype[Any] = np.dtype(given)
    return dtype


def element_from(given: Any, shape: tuple[int, ...]) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """The same for an array of ``shape``: a dtype that has a shape itself, ``np.dtype(("f4", (3,)))``, adds it."""
    dtype = dtype_from(given)
    if dtype.subdtype is None:
        return dtype, shape
    element, inner = dtype.subdtype
    return element, (*shape, *inner)


def dtype_text(dtype: np.dtype[Any]) -> str:
    """``"<f4"``, ``"bfloat16"``: what `dtype_from` takes back."""
    return dtype.name if dtype.isbuiltin == 2 else dtype.str


def dtype_code(dtype: np.dtype[Any]) -> int:
    """The code of a dtype in `psyne.VariantHdr`."""
    return 0 if dtype.fields is not None else CODES.get(dtype_text(dtype), OTHER)
