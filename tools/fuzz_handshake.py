"""Coverage-guided fuzzing of the handshake, for as long as you like: `pip install atheris`, then

    python tools/fuzz_handshake.py tests/helpers/handshake_corpus -runs=10000000

Options are libFuzzer's (-max_total_time=, -merge=1 NEW OLD). What it finds worth keeping goes into the first folder; an
input that does harm is written to crash-… and its error is shown.
"""

import random
import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tests.helpers.handshake_fuzz import MOST, SEEDS, mutated, try_input


def run(data: bytes) -> None:
    """One input."""
    if len(data) > 1:
        try_input(data)


def change(data: bytes, most: int, seed: int) -> bytes:
    """Half of the changes are libFuzzer's, half know frames and JSON."""
    chance = random.Random(seed)
    if len(data) > 1 and chance.random() < 0.5:
        return mutated(chance, data, chance.choice(SEEDS))[:most]
    return atheris.Mutate(data, most)


if __name__ == "__main__":
    folders = [Path(word) for word in sys.argv[1:] if not word.startswith("-")]
    if folders and not any(folders[0].glob("*")):
        folders[0].mkdir(parents=True, exist_ok=True)
        for number, seed in enumerate(SEEDS):
            (folders[0] / f"seed-{number}").write_bytes(seed)
    atheris.instrument_all()  # json, too
    atheris.Setup([sys.argv[0], f"-max_len={MOST}", *sys.argv[1:]], run, custom_mutator=change)
    atheris.Fuzz()
