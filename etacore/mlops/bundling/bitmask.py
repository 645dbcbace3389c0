"""Sources of a forest's library: ``forest_kernel.c``, whose first comment says how it works, and its tables."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from etacore.mlops.bundling.forest_tables import LINKS, Forest, Tables, distinct_cuts, load, mask_dtype

__all__ = ["BACKEND", "PATHS", "Forest", "load", "refusal", "units", "write_sources"]

BACKEND: Final = "bitmask"
MAX_LEAVES: Final = 64
MAX_MASK_BYTES: Final = 8 << 20
"""Most bytes of masks. 200 trees of depth 5 with 730 thresholds take 0.75 MB, 1000 such trees 3.7 MB. A bundle is
copied, hashed and held in memory, and masks that fit no cache are no faster than branches."""
MAX_CUTS: Final = 9**4 - 1
"""Most thresholds of one feature: four levels of nodes with nine children."""

KERNEL: Final = Path(__file__).with_name("forest_kernel.c")
LIBRARY: Final = Path(__file__).with_name("forest_library.c")

PATHS: Final[dict[str, dict[str, tuple[str, ...]]]] = {
    "x86_64": {
        "portable": (),
        "avx2": ("-mavx2", "-mbmi", "-mpopcnt", "-DFOREST_LANES=32"),
        "avx512": ("-mavx512f", "-mavx512bw", "-mbmi", "-mpopcnt", "-DFOREST_LANES=64"),
    }
}
"""Flags of each path, by CPU; other CPUs have the portable path alone."""

# Four leaf values are looked up one by one: gcc would put them into a vector first, and then add.
_KERNEL_FLAGS: Final = ("-O3", "-fno-tree-slp-vectorize")


def refusal(forest: Forest) -> str:
    """Why a forest does not fit the kernel, for people; empty if it does."""
    trees = forest.trees
    if trees.unusual:
        return trees.unusual
    if forest.link not in LINKS:
        return f"link function {forest.link}"
    splits = ~trees.is_leaf
    if np.isnan(trees.value[splits]).any():
        return "a threshold is no number"
    leaves = np.add.reduceat(trees.is_leaf.astype(np.int64), trees.first[:-1])
    if leaves.max() > MAX_LEAVES:
        return f"a tree has {leaves.max()} leaves, at most {MAX_LEAVES} fit"
    cuts = distinct_cuts(forest)
    most = max((len(c) for c in cuts.values()), default=0)
    if most > MAX_CUTS:
        return f"a feature has {most} thresholds, at most {MAX_CUTS} fit"
    size = len(trees) * (sum(len(c) + 2 for c in cuts.values())) * mask_dtype(int(leaves.max())).itemsize
    if size > MAX_MASK_BYTES:
        return f"its masks would take {size / 2**20:.1f} MiB, at most {MAX_MASK_BYTES >> 20} fit"
    return ""


def write_sources(forest: Forest, folder: Path) -> None:
    """Write ``forest_tables.h``, ``forest_tables.s`` and ``forest_tables.bin``, and copy the kernel beside them.

    Parameters
    ----------
    forest : Forest
        One that `refusal` has nothing against.
    folder : Path
        An existing folder.
    """
    tables = Tables(forest)
    blob = bytearray()
    lines = ["    .section .rodata"]
    for name, table in tables.arrays.items():
        content = np.ascontiguousarray(table).tobytes() or bytes(16)
        blob += bytes(-len(blob) % 64)
        lines += ["    .balign 64", f"    .globl {name}", f"    .hidden {name}", f"{name}:"]
        lines += [f'    .incbin "forest_tables.bin", {len(blob)}, {len(content)}']
        blob += content
    lines += ['    .section .note.GNU-stack, "", %progbits', ""]
    (folder / "forest_tables.s").write_text("\n".join(lines))
    (folder / "forest_tables.bin").write_bytes(blob)
    (folder / "forest_tables.h").write_text("".join(f"#define {k} {v}\n" for k, v in tables.macros.items()))
    for source in (KERNEL, LIBRARY):
        (folder / source.name).write_bytes(source.read_bytes())


def units(cpu: str, *, emulated: bool = False) -> list[tuple[str, str, tuple[str, ...]]]:
    """Name, source and flags of everything that is compiled for a CPU, in the order of linking.

    Parameters
    ----------
    cpu : str
        As in `PATHS`.
    emulated : bool
        For tests: AVX-512 through the headers of SIMDe, on a CPU that need not have it.
    """
    paths: dict[str, tuple[str, ...]] = dict(PATHS.get(cpu, {"portable": ()}))
    flags: tuple[str, ...] = ()
    if emulated:
        flags = ("-DFOREST_EMULATED",)
        paths["avx512"] = (*paths["avx2"], "-UFOREST_LANES", "-DFOREST_LANES=64", "-O1", "-w", *flags)
    kernels = [
        (f"kernel_{name}", KERNEL.name, (*_KERNEL_FLAGS, *own, f"-DFOREST_PATH={name}")) for name, own in paths.items()
    ]
    return [("library", LIBRARY.name, flags), *kernels, ("tables", "forest_tables.s", ())]
