"""How many fixes of a recording were of use for a dataset, and a loud word where most were not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt

from etacore.mlops.transit.left_out import files_warning, lost_fixes, quoted, survival_warning
from etacore.mlops.transit.positions import Positions, from_us
from etacore.status import FAILED, REJECTED, Status

_LOST: Final = ("without_trip", "unknown_trip", "without_rows")
_KEPT: Final = ("used", "not_sampled", "other_route_or_date")


def examples_of_reasons(positions: Positions, status: npt.NDArray[np.uint8]) -> dict[str, str]:
    """The first fix that the engine set aside for each reason."""
    found: dict[str, str] = {}
    for reason in sorted(REJECTED | FAILED):
        rows = np.flatnonzero(status == reason)
        if rows.size:
            row = int(rows[0])
            time = from_us(positions.time_us[row]).isoformat()
            place = f"{positions.lat[row]:g}, {positions.lon[row]:g}"
            found[reason.label] = f"vehicle {quoted(positions.vehicle_id[row])} at {time}, {place}"
    return found


def build_warnings(fixes: Mapping[str, int], positions: Positions, examples: Mapping[str, str]) -> tuple[str, ...]:
    """What has to be said loudly; see `survival_warning` and `files_warning`.

    Parameters
    ----------
    fixes : mapping of str to int
        The section of that name of a `etacore.mlops.dataset.report.BuildReport`.
    positions : Positions
        The recording.
    examples : mapping of str to str
        By reason.
    """
    rejected = [status.label for status in Status if status in REJECTED | FAILED]
    lost = lost_fixes(positions.left_out) | {name: fixes[name] for name in (*rejected, *_LOST) if fixes.get(name)}
    n_kept = sum(fixes[name] for name in _KEPT)
    warnings = (
        files_warning(positions.n_files, positions.left_out, examples),
        survival_warning(n_kept, n_kept + sum(lost.values()), lost, examples),
    )
    return tuple(warning for warning in warnings if warning)
