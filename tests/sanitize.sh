#!/bin/sh
# Builds the kernels with the address and undefined-behaviour sanitizers in a directory of their own, then fuzzes the
# snapshot parser there, and the encoder where it was built, and runs the parity and property tests against that build.
# The checkout stays as it is.
#
# PYTHON (python3)       an interpreter with the dev extra installed
# ITERATIONS (200000)    mutated snapshots
# SEED (1)               seed of the fuzzer
# TESTS                  what pytest runs afterwards; empty for nothing
# KERNELS (all)          build only these, for example "snapshots"; the encoder takes "batch encode index routes"
set -eu

PYTHON=${PYTHON:-python3}
ITERATIONS=${ITERATIONS:-200000}
SEED=${SEED:-1}
TESTS=${TESTS-tests/parity tests/property}
CC=${CC:-gcc}
ROOT=$(cd "$(dirname "$0")/.." && pwd)
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
trap 'exit 130' INT TERM

cd "$ROOT"
tar cf - --exclude='*.so' --exclude='__pycache__' --exclude='.hypothesis' \
    setup.py pyproject.toml etacore src_ext tests $(ls -d models README.md 2>/dev/null) | tar xf - -C "$WORK"
cd "$WORK"
if [ -n "${KERNELS:-}" ]; then
    for source in src_ext/etacore/_kernels/*.pyx; do
        name=$(basename "$source" .pyx)
        case " $KERNELS " in *" $name "*) ;; *) rm "$source" "etacore/_kernels/$name.pyi" ;; esac
    done
fi
echo "building with sanitizers in $WORK"
ETACORE_SANITIZE=1 "$PYTHON" setup.py -q build_ext --inplace >build.log 2>&1 || { cat build.log; exit 1; }

# Python itself is not instrumented: the runtime has to be there before it starts. libstdc++ comes along because the
# runtime looks for its exception functions only once. Python's own allocator would hide the ends of the payloads.
ASAN=$("$CC" -print-file-name=libasan.so)
run() {
    LD_PRELOAD="$ASAN $("$CC" -print-file-name=libstdc++.so.6)" \
        ASAN_OPTIONS=detect_leaks=0:halt_on_error=1 UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1 \
        PYTHONMALLOC=malloc PYTHONDONTWRITEBYTECODE=1 \
        ETACORE_HYPOTHESIS_PROFILE=sanitize "$@"
}
run "$PYTHON" tests/fuzz_snapshots.py --iterations "$ITERATIONS" --seed "$SEED"
if ls etacore/_kernels/encode.*.so etacore/_kernels/routes.*.so etacore/_kernels/index.*.so >/dev/null 2>&1; then
    run "$PYTHON" tests/fuzz_encoding.py --seed "$SEED"
fi
if [ -n "$TESTS" ]; then
    # shellcheck disable=SC2086
    run "$PYTHON" -m pytest $TESTS -q -x -p no:cacheprovider \
        --deselect tests/parity/test_forest.py::test_link_functions_and_base_score  # compiles: slow under a preload
fi
