"""Figures of a run, how many times as fast one is as another, and what is held against budgets."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any, Final

from benchmarks.measuring import OURS

BUDGETS: Final = Path(__file__).with_name("budgets.toml")


@dataclass(frozen=True, slots=True)
class Figure:
    """A median, in `unit`, of what `side` needs for `stage` on work of `size`.

    Attributes
    ----------
    rounds : tuple of (float or None)
        The samples, round by round, of what was measured in turns with its peers; None where it was left out.
    """

    stage: str
    size: int
    side: str
    unit: str
    value: float
    rounds: tuple[float | None, ...] = ()


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times as fast one side is as another: the median over rounds, and its quartiles if there are rounds."""

    times: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Budget:
    """A limit that must hold, and perhaps a goal that is not reached yet.

    Attributes
    ----------
    at_most : float, optional
        Limit of the figure, in its unit.
    times_as_fast : float, optional
        How many times as fast as `peer` it must be.
    goal : float, optional
        What is wanted in the end, in the same terms; the report says by how much it is missed, and does not fail.
    """

    name: str
    stage: str
    size: int
    side: str = OURS
    peer: str | None = None
    at_most: float | None = None
    times_as_fast: float | None = None
    goal: float | None = None

    def __post_init__(self) -> None:
        if (self.at_most is None) == (self.times_as_fast is None) or (self.peer is None) != (
            self.times_as_fast is None
        ):
            raise ValueError(f"budget {self.name!r} needs either at_most, or peer and times_as_fast")
        if self.goal is not None and not self.met(self.goal):
            raise ValueError(f"budget {self.name!r} has a goal that is laxer than its limit")

    def met(self, measured: float) -> bool:
        """Whether the limit holds."""
        if self.at_most is not None:
            return measured <= self.at_most
        assert self.times_as_fast is not None
        return measured >= self.times_as_fast


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a budget.

    Attributes
    ----------
    measured : float or None
        None if a figure is missing: that is over budget.
    low, high : float or None
        Quartiles over the rounds, of a ratio.
    within : bool
        Whether the limit holds.
    goal : float or None
    missed_by : float or None
        Share of the goal that is missing, of a ratio, or that is too much, of a ceiling: 0.1 is a tenth. 0 where the
        goal is reached, None without goal or figure.
    """

    name: str
    limit: str
    measured: float | None
    within: bool
    low: float | None = None
    high: float | None = None
    goal: float | None = None
    missed_by: float | None = None


def read_figures(report: dict[str, Any]) -> list[Figure]:
    """Figures of a pytest-benchmark report, in its order."""
    figures = []
    for entry in report["benchmarks"]:
        info = entry["extra_info"]
        figures += [_of_rounds(figure) for figure in info.get("figures", ())]
        if "stage" in info:
            per_unit = entry["stats"]["median"] / info["size"] * 1e6
            value = float(info.get("value", per_unit))
            figures.append(Figure(info["stage"], info["size"], info["side"], info["unit"], value))
    return figures


def _of_rounds(figure: dict[str, Any]) -> Figure:
    rounds = tuple(figure["rounds"])
    value = median(taken for taken in rounds if taken is not None)
    return Figure(figure["stage"], figure["size"], figure["side"], figure["unit"], value, rounds)


def ratio(own: Figure, peer: Figure) -> Ratio:
    """How many times as fast `own` is as `peer`, by rounds if both were measured in the same ones."""
    if len(own.rounds) == len(peer.rounds):
        pairs = zip(own.rounds, peer.rounds, strict=True)
        times = [theirs / ours for ours, theirs in pairs if ours and theirs]
        if len(times) > 1:
            low, _, high = quantiles(times, n=4, method="inclusive")
            return Ratio(median(times), low, high)
    return Ratio(peer.value / own.value)


def read_budgets(path: Path = BUDGETS) -> list[Budget]:
    """Budgets of a TOML file."""
    return [Budget(**entry) for entry in tomllib.loads(path.read_text())["budget"]]


def judge(figures: Iterable[Figure], budgets: Iterable[Budget]) -> list[Verdict]:
    """Hold figures against budgets; a figure that is missing is over its budget."""
    known = {(figure.stage, figure.size, figure.side): figure for figure in figures}
    return [_judge(known, budget) for budget in budgets]


def _judge(known: dict[tuple[str, int, str], Figure], budget: Budget) -> Verdict:
    own = known.get((budget.stage, budget.size, budget.side))
    measured: Ratio | None = None
    if budget.at_most is not None:
        limit = f"at most {budget.at_most:g}"
        if own is not None:
            measured = Ratio(own.value)
    else:
        assert budget.peer is not None
        limit = f"at least {budget.times_as_fast:g} times {budget.peer}"
        other = known.get((budget.stage, budget.size, budget.peer))
        if own is not None and own.value and other is not None:
            measured = ratio(own, other)
    if measured is None:
        return Verdict(budget.name, limit, None, within=False, goal=budget.goal)
    missed_by = None
    if budget.goal is not None:
        share = measured.times / budget.goal
        missed_by = max(share - 1 if budget.at_most is not None else 1 - share, 0.0)
    within = budget.met(measured.times)
    return Verdict(budget.name, limit, measured.times, within, measured.low, measured.high, budget.goal, missed_by)


def by_size(figures: Sequence[Figure]) -> dict[tuple[int, ...], list[str]]:
    """Stages that were measured at three sizes or more: sizes to the stages that have them, both in order."""
    sizes: dict[str, list[int]] = {}
    for figure in figures:
        if figure.side == OURS and figure.size not in sizes.setdefault(figure.stage, []):
            sizes[figure.stage].append(figure.size)
    found: dict[tuple[int, ...], list[str]] = {}
    for stage, its_sizes in sizes.items():
        if len(its_sizes) >= 3:
            found.setdefault(tuple(sorted(its_sizes)), []).append(stage)
    return found
