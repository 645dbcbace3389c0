"""What `etacore explain` says of one vehicle, as plain values: for a table, and for JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from etacore.loop.explain_place import AskedKey, PatternChosen, Place
from etacore.loop.explain_snapshot import SnapshotRead


@dataclass(frozen=True, slots=True)
class FeatureShown:
    """A feature of the next stop, as the model gets it."""

    name: str
    value: float
    unit: str
    meaning: str


@dataclass(frozen=True, slots=True)
class StopPredicted:
    """A stop of the document: seconds from the snapshot's time, and the arrival in the model's time zone."""

    stop_id: str | None
    name: str
    distance_m: float | None
    eta_s: float | None
    arrival: str | None


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the loop would store, and what the model was asked."""

    model_key: str
    model_scope: str
    time_zone: str
    features: list[FeatureShown]
    stops: list[StopPredicted]


@dataclass(frozen=True, slots=True)
class Stored:
    """The prediction that Redis holds now, and how it differs."""

    key: str
    found: bool
    source_timestamp: str | None = None
    computed_at: str | None = None
    age_s: float | None = None
    expires_in_s: float | None = None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Earlier:
    """An earlier snapshot of a file, in one line."""

    time: str | None
    status: str
    progress_m: float | None
    next_stop: str | None


@dataclass(slots=True)
class Explanation:
    """One vehicle, as the loop would see it.

    Attributes
    ----------
    key : str
        Its Redis key.
    status : str
        As what the loop would count it: a label of `Status`.
    counted_as : str
        ``predicted``, ``unchanged``, ``rejected`` or ``failed``.
    meaning, advice : str
        The same in words, and what to do.
    remarks : list of str
        What is odd though it is predicted: values of `Remark`, as the loop counts them.
    details : list of str
        What exactly is so with this vehicle.
    notes : list of str
        What else should be known.
    """

    key: str
    status: str
    counted_as: str
    meaning: str
    details: list[str]
    advice: str
    remarks: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    earlier: list[Earlier] = field(default_factory=list)
    snapshot: SnapshotRead | None = None
    asked: list[AskedKey] = field(default_factory=list)
    pattern: PatternChosen | None = None
    place: Place | None = None
    prediction: Prediction | None = None
    stored: Stored | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)
