"""What `etacore run` loads before it does anything: the sum over ``python -X importtime``, the least of some starts."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import Any

from benchmarks.fleet import ROOT
from benchmarks.measuring import OURS, describe, report_value

PROGRAM = "import etacore.cli.app, etacore.loop.runtime"


def bench_import(benchmark: Any) -> None:
    describe(benchmark, "import", OURS, unit="s")
    # A deployed package has its bytecode on disk.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    totals: list[float] = []

    def start() -> None:
        run = subprocess.run(
            [sys.executable, "-X", "importtime", "-c", PROGRAM],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        times_us = re.findall(r"^import time:\s+(\d+) \|", run.stderr, re.MULTILINE)
        assert " etacore.loop.runtime\n" in run.stderr
        totals.append(sum(map(int, times_us)) / 1e6)

    benchmark.pedantic(start, rounds=5, warmup_rounds=1)
    # What others do on this machine only adds to it.
    report_value(benchmark, min(totals))
