"""The programs in tools/, as modules."""

import importlib
import sys
from pathlib import Path
from typing import Any

__all__ = ["TOOLS", "tool"]

TOOLS = Path(__file__).parents[2] / "tools"


def tool(name: str) -> Any:
    """The module tools/`name`.py; it finds its neighbours, as a program does."""
    sys.path.insert(0, str(TOOLS))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(TOOLS))
