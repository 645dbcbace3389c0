"""Alerts: when one is due, and how it reaches every receiver that was named."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from prefect.blocks.abstract import NotificationBlock
from prefect.blocks.core import Block

from etacore.errors import ConfigError
from etacore.loop.runtime import PollResult
from etacore.status import Status
from flows.runtime_config import stored_blocks

log: Final = logging.getLogger("etacore.flows")

OLD_SLUGS: Final = {"slack": "slack-webhook", "webhook": "custom-webhook", "teams": "ms-teams-webhook"}
"""First halves of names as older documentation spelled them."""


@dataclass(frozen=True, slots=True)
class Alert:
    """Something to tell people."""

    subject: str
    body: str


@dataclass(frozen=True, slots=True)
class Receiver:
    """A notification block that was found; ``name`` is type-slug/name."""

    name: str
    block: NotificationBlock


def find_receivers(names: Sequence[str]) -> list[Receiver]:
    """Load the notification blocks of these names.

    A name is ``type-slug/name``, or ``name`` alone if no two types share it.
    ``slack/eta-alerts`` of older versions finds ``slack-webhook/eta-alerts``
    and a block called ``slack-eta-alerts``.

    Raises
    ------
    ConfigError
        If a block is missing, ambiguous, or cannot notify.
    """
    if not names:
        return []
    # Apprise, which several of these blocks stand on, logs the address it failed at, token and all.
    logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)
    known = stored_blocks()
    receivers = []
    for name in names:
        slug, _, rest = name.rpartition("/")
        wanted = {(slug, rest), (OLD_SLUGS.get(slug, slug), rest)}
        found = [(s, n) for s, n in known if ((s, n) in wanted if slug else n == rest)]
        if slug and not found:
            found = [(s, n) for s, n in known if n == name.replace("/", "-")]
        receivers.append(_load(name, found))
    return receivers


def _load(name: str, found: list[tuple[str, str]]) -> Receiver:
    if not found:
        raise ConfigError(
            f"there is no notification block {name}",
            hint="give type-slug/name, for example slack-webhook/eta-alerts; `prefect block ls` lists what there is",
        )
    blocks: dict[str, Any] = {f"{slug}/{n}": None for slug, n in found}
    for full in blocks:
        try:
            blocks[full] = Block.load(full)
        except Exception as error:
            raise ConfigError(f"notification block {full} cannot be loaded: {type(error).__name__}") from None
    able = {full: block for full, block in blocks.items() if isinstance(block, NotificationBlock)}
    if not able:
        raise ConfigError(f"block {next(iter(blocks))} is not a notification block", hint="name one that can notify")
    if len(able) > 1:
        raise ConfigError(f"notification block {name} is ambiguous", hint=f"say {' or '.join(sorted(able))}")
    full, block = able.popitem()
    return Receiver(full, block)


def send(alert: Alert, receivers: Sequence[Receiver]) -> int:
    """Try every receiver; what fails is logged, without its URL, and never raised. Returns how many got it."""
    n_sent = 0
    for receiver in receivers:
        try:
            with receiver.block.raise_on_failure():
                cast(Any, receiver.block).notify(alert.body, alert.subject)  # async only if awaited
        except Exception as error:
            log.warning("alert %r did not reach %s: %s", alert.subject, receiver.name, type(error).__name__)
        else:
            n_sent += 1
    return n_sent


class AlertRules:
    """Counts polls in a row that went wrong in the same way; at the threshold there is one alert, and one when it ends.

    Three ways: vehicles that should have got a prediction and none did; no
    snapshot in Redis at all; Redis not reachable. A poll with nothing to
    predict, because all vehicles are unchanged, neither counts nor ends it.

    Parameters
    ----------
    threshold : int
        Polls; 0 = never an alert.
    where : str
        Names the loop in the messages.
    """

    def __init__(self, threshold: int, where: str) -> None:
        self.threshold: Final = threshold
        self._where: Final = where
        self._kind: str | None = None
        self._n = 0
        self._raised: set[str] = set()

    def after_poll(self, result: PollResult) -> Alert | None:
        """The alert that this poll makes due, if any."""
        if result.n_keys == 0:
            return self._count("empty", "Redis holds no vehicle snapshot: is the producer running?")
        if result.n_due and not result.counts[Status.OK]:
            reasons = ", ".join(
                f"{status.label} {n}" for status, n in result.counts.most_common() if status > Status.UNCHANGED
            )
            return self._count(
                "none", f"{result.n_due} vehicles should have got a prediction and none did ({reasons})."
            )
        if result.counts[Status.OK] or self._kind != "none":
            return self._end()
        return None

    def after_outage(self, message: str) -> Alert | None:
        """The alert that this failed poll makes due, if any."""
        return self._count("redis", f"{message}.")

    def _count(self, kind: str, what: str) -> Alert | None:
        self._n = self._n + 1 if kind == self._kind else 1
        self._kind = kind
        if not self.threshold or self._n < self.threshold or kind in self._raised:
            return None
        self._raised.add(kind)
        return Alert(f"{self._where}: no predictions", f"{what} This is so since {self._n} polls.")

    def _end(self) -> Alert | None:
        raised, self._kind, self._n, self._raised = self._raised, None, 0, set()
        if not raised:
            return None
        return Alert(f"{self._where}: recovered", "Predictions are written again.")
