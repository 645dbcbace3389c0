"""Measures the workloads with the ``etacore`` of one source tree; always a process of its own.

``python -P worker.py TASK OPTIONS``, where TASK is

``prepare``
    Compile the benchmark's model with this tree; print where its bundle is, as JSON.
``count``
    Do every workload once between two marks for callgrind (see ``marks.c``).
``time``
    Print seconds of every workload for one unit of work, as JSON.

Everything that differs between two runs and has nothing to do with the code is held fast: the clock, the key of the
text hashes, the order of sets.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from benchmarks.gate.workload import Workload
    from etacore.models.model import Model

ROOT: Final = Path(__file__).resolve().parent.parent.parent
WARM_UPS: Final = 3
START_S: Final = 1_768_910_400
_now_ns = time.perf_counter_ns


def main(arguments: Sequence[str] | None = None) -> None:
    """Do one task."""
    parser = argparse.ArgumentParser(prog="worker.py", description=__doc__)
    parser.add_argument("task", choices=("prepare", "count", "time"))
    parser.add_argument("--tree", type=Path, required=True, help="source tree whose etacore is measured")
    parser.add_argument("--cache", type=Path, help="where models are kept, instead of below build/")
    parser.add_argument("--registry", type=Path)
    parser.add_argument("--key")
    parser.add_argument("--sample", type=Path)
    parser.add_argument("--marks", type=Path, help="library made of marks.c")
    parser.add_argument("--only", default="", help="part of the names of the workloads to measure")
    parser.add_argument("--disturb", type=int, default=0, help="lay out the heap in another way, for each number")
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args(arguments)
    if given.task == "prepare":
        _import_from(given.tree)
        print(json.dumps(_prepare(given.cache)))
        return
    _hold_still()
    _import_from(given.tree)
    kept = _disturb(given.disturb)
    model, workloads = _load(given)
    workloads, failed = _try([workload for workload in workloads if given.only in workload.name])
    gc.collect()
    gc.disable()
    facts: dict[str, object] = {"failed": failed}
    if given.task == "count":
        _count(workloads, ctypes.CDLL(str(given.marks)))
        facts["workloads"] = [(workload.name, workload.size, workload.unit) for workload in workloads]
        facts["forest_path"] = getattr(model.predictor, "path", "")
    else:
        facts["seconds"] = _time(workloads, given.rounds)
    print(json.dumps(facts))
    del kept


def _hold_still() -> None:
    # Before anything takes these functions by name. The hashes of texts are keyed from os.urandom at import.
    time.time_ns = lambda: START_S * 1_000_000_000
    time.time = lambda: float(START_S)
    time.monotonic = lambda: 0.0
    time.perf_counter = lambda: 0.0
    os.urandom = bytes


def _disturb(seed: int) -> list[bytearray]:
    # Holes of all sizes, as other code would leave them.
    rng = random.Random(seed)
    blocks = [bytearray(int(2 ** rng.uniform(4, 18))) for _ in range(2_000 if seed else 0)]
    rng.shuffle(blocks)
    return blocks[: len(blocks) // 2]


def _import_from(tree: Path) -> None:
    # etacore of the tree, and the benchmarks beside this very file. An editable installation would serve modules that
    # the tree does not have from somewhere else.
    sys.meta_path[:] = [finder for finder in sys.meta_path if not finder.__module__.startswith("__editable__")]
    sys.path.insert(0, str(tree.resolve()))
    import etacore

    if Path(etacore.__file__).resolve().parent.parent != tree.resolve():
        sys.exit(f"etacore was imported from {etacore.__file__}, not from {tree}")
    sys.path[0] = str(ROOT)
    from benchmarks.gate.former_names import FormerNames

    sys.meta_path.append(FormerNames())


def _prepare(cache: Path | None) -> dict[str, str]:
    from benchmarks import fleet
    from etacore.models.registry import Registry

    if cache is not None:
        fleet.CACHE = cache
    path = fleet.registry_path()
    return {"registry": str(path), "key": Registry(path).keys()[0]}


def _load(given: argparse.Namespace) -> tuple[Model, list[Workload]]:
    from benchmarks.gate.sample import read_sample, seeded_sample
    from benchmarks.gate.workloads import make_workloads
    from etacore.models.registry import Registry

    os.environ["MODEL_REGISTRY_DIR"] = str(given.registry)
    model = Registry(given.registry).load(given.key)
    sample = read_sample(given.sample) if given.sample else seeded_sample()
    return model, make_workloads(model, given.registry / given.key, sample)


def _try(workloads: Sequence[Workload]) -> tuple[list[Workload], dict[str, str]]:
    """Those that can be run with this tree, and why the others cannot."""
    usable, failed = [], {}
    for workload in workloads:
        try:
            workload.prepare()
            if not workload.last:
                workload.run()
        except Exception as error:  # whatever an older tree does, the other workloads are still measured
            failed[workload.name] = f"{type(error).__name__}: {error}"
        else:
            usable.append(workload)
    return usable, failed


def _nothing() -> None:
    pass


def _count(workloads: Sequence[Workload], marks: Any) -> None:
    marks.count_stop.argtypes = (ctypes.c_char_p,)
    if not marks.counted():
        sys.exit("nobody counts: this is meant to be run by valgrind --tool=callgrind")
    for turn in range(WARM_UPS + 1):
        last = turn == WARM_UPS
        _between(marks, b"", _nothing, last)
        for workload in workloads:
            workload.prepare()
            if last or not workload.last:
                _between(marks, workload.name.encode(), workload.run, last)


def _between(marks: Any, name: bytes, run: Callable[[], object], counted: bool) -> None:
    # The same way in every turn, so that the counted one meets nothing for the first time.
    if counted:
        marks.count_start()
    run()
    if counted:
        marks.count_stop(name)


def _time(workloads: Sequence[Workload], rounds: int) -> dict[str, float]:
    """Median seconds of each workload for one unit of work, over rounds that go through all of them."""
    workloads = [workload for workload in workloads if not workload.last]
    taken: dict[str, list[int]] = {workload.name: [] for workload in workloads}
    for turn in range(rounds + WARM_UPS):
        for workload in workloads:
            workload.prepare()
            start = _now_ns()
            workload.run()
            if turn >= WARM_UPS:
                taken[workload.name].append(_now_ns() - start)
    return {workload.name: sorted(taken[workload.name])[rounds // 2] / 1e9 / workload.size for workload in workloads}


if __name__ == "__main__":
    main()
