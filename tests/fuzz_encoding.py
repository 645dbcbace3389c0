"""Encodes rows whose texts and keys are control characters of any length, and holds the commands to the twin.

``python tests/fuzz_encoding.py --iterations 2000 --seed 1``; made for kernels built with sanitizers
(``tests/sanitize.sh``), which see a byte behind the room that was asked for. The same seed makes the same rows.
"""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from etacore.pipeline.encoding import Envelope
from tests.reference import encoding as twin

ENVELOPE = Envelope("key", "xgboost", "global", "c", "f", "p", 1.25)
LONGEST = {"vehicle_id": 256, "route_id": 256, "trip_id": 256, "timestamp": 64, "key": 8_192}
"""Bytes; texts as long as the parser lets them be, keys beyond what the buffer begins with."""
CHARACTERS = ("\x01", "\x1f", "\x00", '"', "\n", "a", "\u00e9")


def text_of(name: str, rng: random.Random) -> str:
    """Half of them of the greatest length, most of them of one character."""
    n = LONGEST[name] if rng.random() < 0.5 else rng.randrange(LONGEST[name] + 1)
    text = rng.choice(CHARACTERS) * n if rng.random() < 0.8 else "".join(rng.choices(CHARACTERS, k=n))
    return text.encode()[: LONGEST[name]].decode(errors="ignore")


def row(rng: random.Random) -> dict[str, Any]:
    """Long in some of its texts, or in all."""
    chosen = set(LONGEST) if rng.random() < 0.3 else set(rng.choices(list(LONGEST), k=2))
    texts = {name: text_of(name, rng) if name in chosen else "x" for name in LONGEST}
    stops = [
        ("S" * rng.choice((1, 256)), k, rng.uniform(0, 1e6), rng.uniform(0, 7200)) for k in range(rng.randrange(1, 6))
    ]
    key = texts.pop("key").encode() + rng.choice((b"", b"\xff\xfe"))
    return {**texts, "key": key, "time_us": 1_768_910_400_123_456, "stops": stops}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--iterations", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    for done in range(arguments.iterations):
        batch = twin.Batch([row(rng) for _ in range(rng.choice((1, 1, 1, 2, 5)))])
        # A part of its own: a row that is the first of an empty buffer has no more room than it asked for.
        documents = batch.encode(ENVELOPE, prefix=b"predictions:", ttl_s=300)
        expected = batch.expected_commands(ENVELOPE, b"predictions:", 300)
        assert bytes(documents.commands) == expected, f"batch {done} of seed {arguments.seed}: {batch.rows}"
        assert documents.size <= len(documents.buffer), f"batch {done} of seed {arguments.seed}: beyond the buffer"
    print(f"{arguments.iterations} batches of documents encoded, seed {arguments.seed}, nothing found")
    return 0


if __name__ == "__main__":
    sys.exit(main())
