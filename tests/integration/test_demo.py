"""The demo as a whole command, without a terminal."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def start(*arguments: str) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if name != "MODEL_REGISTRY_DIR"}
    return subprocess.Popen(
        [sys.executable, "-m", "etacore", "demo", *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_it_ends_by_itself_and_scores_its_predictions() -> None:
    demo = start("--seconds", "6", "--plain")
    output, _ = demo.communicate(timeout=120)
    assert demo.returncode == 0, output
    n_predictions = re.search(r"([\d,]+) predictions for (\d+) buses", output)
    assert n_predictions is not None, output
    assert int(n_predictions[1].replace(",", "")) > 100
    everything = re.search(r"^ all +([\d,]+) +([\d.]+)", output, re.MULTILINE)
    assert everything is not None, output
    assert float(everything[2]) < 180.0, "the shipped model does not know the city it was trained on"
    for reason in ("invalid json", "off route", "future timestamp", "wrong type", "unknown route"):
        assert reason in output


def test_interrupted_it_still_sums_up_and_leaves_nothing_running() -> None:
    demo = start("--seconds", "60", "--plain")
    assert demo.stdout is not None
    first_line = demo.stdout.readline()
    socket = re.search(r"-server on (\S+/redis\.sock)", first_line + demo.stdout.readline())
    demo.send_signal(signal.SIGTERM)
    output, _ = demo.communicate(timeout=60)
    assert demo.returncode == 0, output
    assert socket is not None, first_line
    assert not Path(socket[1]).exists()
