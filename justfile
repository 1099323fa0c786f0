# What developers do. Needs a C++ compiler, Python 3.11 or later, CMake and Ninja.

set positional-arguments

# List the commands.
default:
    @just --list --unsorted

# Build and install in place: Python changes count at once, C++ changes need another `just build`.
build:
    python -m pip install 'scikit-build-core>=1.0' 'nanobind~=3.1.0' 'numpy>=2.0'
    python -m pip install --no-build-isolation --config-settings=build-dir=build/python --editable '.[test,bench]'

# Run the Python tests: `just test -k lease`, `just test -m long`.
test *ARGUMENTS:
    pytest "$@"

# Run the C++ tests: `just test-cpp`, `just test-cpp asan`, `just test-cpp tsan long`.
test-cpp PRESET="core" STRESS="short":
    cmake --preset {{PRESET}} -DPSYNE_STRESS={{STRESS}}
    cmake --build --preset {{PRESET}}
    ctest --preset {{PRESET}}

# Check style, types, layers and the stub.
check:
    ruff check
    ruff format --check
    mypy
    pyright
    python tools/layers.py --check
    python tools/stubs.py --check

# Write src/psyne/_native.pyi anew, after a change of the bindings.
stubs:
    python tools/stubs.py

# Run a benchmark: `just bench latency`; without a name, list them.
bench NAME="" *ARGUMENTS:
    #!/usr/bin/env bash
    set -euo pipefail
    if [[ $# == 0 || -z $1 ]]; then
        basename --suffix=.py benchmarks/*.py
    else
        exec python "benchmarks/$1.py" "${@:2}"
    fi

# Check the models: `just models`, `just models --short`.
models *ARGUMENTS:
    python models/run.py "$@"

# Do everything that continuous integration does.
ci:
    .ci/run
