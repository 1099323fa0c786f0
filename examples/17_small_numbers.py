"""Numbers for models: bfloat16, fp8 and int4 as ml_dtypes has them; scale and zero point are ordinary fields.

Needs ml_dtypes.
"""

import importlib.util

import numpy as np

import psyne
from psyne import Struct, bf16, f32, fp8_e4m3, i4, i8, i32, interop

ROWS, COLUMNS = 32, 64


def main() -> None:
    class Layer(Struct, layout="columns"):  # the big fields lie by themselves
        scale = f32()  # value = scale * (q - zero)
        zero = i32()
        q = i8(ROWS, COLUMNS)
        activations = bf16(COLUMNS)
        gates = fp8_e4m3(COLUMNS)
        codes = i4(COLUMNS)  # a byte each, as ml_dtypes stores them

    weights = np.random.default_rng(4).uniform(-1, 3, (ROWS, COLUMNS)).astype(np.float32)
    with psyne.sender("ipc://layers", Layer) as out, psyne.receiver("ipc://layers", Layer) as layers:
        with out.loan() as m:
            scale = (weights.max() - weights.min()) / 255
            m.scale = scale
            m.zero = round(-128 - float(weights.min() / scale))
            m.q = np.clip(np.round(weights / scale) + m.zero, -128, 127)
            m.activations = np.linspace(-4, 4, COLUMNS)
            m.gates = 0.5
            m.codes = np.arange(COLUMNS) % 16 - 8
        with layers.receive() as m:
            restored = m.scale * (m.q.astype(np.float32) - m.zero)
            worst = float(np.abs(restored - weights).max())
            assert worst <= m.scale
            assert m.activations.dtype.name == "bfloat16"
            assert float(m.activations[-1]) == 4.0
            assert (m.gates.nbytes, m.codes.nbytes) == (COLUMNS, COLUMNS)
            assert (int(m.codes.min()), int(m.codes.max())) == (-8, 7)
            print(f"int8 weights came with scale {m.scale:.4f} and zero point {m.zero}: off by {worst:.4f} at most")
            if importlib.util.find_spec("torch"):
                tensor = interop.torch(m.activations, private=True)  # torch has this dtype, numpy alone does not
                print("torch takes them as", tensor.dtype)
    print("bf16, fp8 and int4 went through one slot, in the bytes that models use")


if __name__ == "__main__":
    if importlib.util.find_spec("ml_dtypes"):
        main()
    else:
        print("ml_dtypes is not installed: pip install ml_dtypes")
