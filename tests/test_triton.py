"""A kernel of Triton on messages in place: in its interpreter, and compiled for a GPU; CI installs Triton if asked."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from .helpers.process import run_program

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None or importlib.util.find_spec("torch") is None,
    reason="Triton is not installed (997 MB): pip install triton torch",
)
EXAMPLE = Path(__file__).parents[1] / "examples" / "37_triton.py"
LOADED = f"import sys; sys.path.insert(0, {str(EXAMPLE.parent)!r}); it = __import__('37_triton')\n"


def test_the_example_runs_in_the_interpreter_without_a_gpu(tmp_path: Path):
    done = subprocess.run([sys.executable, EXAMPLE], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "the largest is 3.0, the smallest 0.0" in done.stdout


def test_a_kernel_in_the_interpreter_touches_one_page_of_a_message():
    run_program(
        LOADED + "from psyne import interop; from psyne.testing import touch_test\n"
        "def write(x):\n"
        "    x[:1] = -1\n"
        "    it.relu[(1,)](x, 1, -1.0, BLOCK=16)\n"
        "touch_test(interop.torch, write=write)\n"
        "try: touch_test(lambda m: interop.torch(m).clone(), write=write, nbytes=1 << 20)\n"
        "except AssertionError as error: assert 'copied' in str(error)\n"
        "else: raise SystemExit('a copy was not noticed')\n"
    )


def test_the_kernel_of_the_example_compiles_for_a_gpu(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TRITON_INTERPRET", "0")  # compiling needs no GPU
    run_program(
        LOADED
        + "import triton; from triton.backends.compiler import GPUTarget; from triton.compiler import ASTSource\n"
        "signature = {'x': '*fp32', 'n': 'i32', 'gain': 'fp32', 'BLOCK': 'constexpr'}\n"
        "source = ASTSource(it.relu, signature, constexprs={'BLOCK': 1024})\n"
        "code = triton.compile(source, target=GPUTarget('cuda', 90, 32)).asm['ptx']\n"
        "assert '.target sm_90' in code and 'st.global' in code\n"
    )
