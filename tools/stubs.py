"""Writes src/psyne/_native.pyi from the installed module; `--check` says whether it is current.

nanobind knows the types of what it binds; tools/stubs.pat says the rest.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STUB = ROOT / "src" / "psyne" / "_native.pyi"
PATTERNS = ROOT / "tools" / "stubs.pat"


def generate() -> str:
    """The stub of the installed psyne._native."""
    with tempfile.TemporaryDirectory() as directory:
        fresh = Path(directory) / "_native.pyi"
        command = [sys.executable, "-m", "nanobind.stubgen", "-q", "--include-private"]
        command += ["-p", str(PATTERNS), "-m", "psyne._native", "-o", str(fresh)]
        subprocess.run(command, check=True, timeout=60)
        return fresh.read_text(encoding="utf-8")


def main() -> int:
    stub = generate()
    if "--check" not in sys.argv[1:]:
        STUB.write_text(stub, encoding="utf-8")
    elif not STUB.exists() or STUB.read_text(encoding="utf-8") != stub:
        print(f"{STUB.relative_to(ROOT)} is not what the module says; run `just stubs`")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
