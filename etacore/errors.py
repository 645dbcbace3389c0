"""Every error that etacore raises on purpose.

One root, `EtacoreError`; each class also inherits the builtin that a caller
would have expected, so ``except ValueError`` keeps working. A message says
what was wrong and where; ``hint`` says what to do about it.
"""

from __future__ import annotations


class EtacoreError(Exception):
    """Root of all etacore errors.

    Parameters
    ----------
    message : str
        What was wrong, and where.
    hint : str, optional
        What to do about it; shown on a line of its own.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message


class KernelError(EtacoreError, ImportError):
    """A compiled kernel is missing, or was built for something else."""

    __str__ = EtacoreError.__str__


class ConfigError(EtacoreError, ValueError):
    """A setting has a value that cannot work."""


class SchemaError(EtacoreError, ValueError):
    """A model asks for features that this version cannot compute."""


class ModelNotFoundError(EtacoreError, KeyError):
    """No model under this key, or none that fits the request."""

    __str__ = EtacoreError.__str__


class ModelLoadError(EtacoreError, OSError):
    """A model bundle exists but must not or cannot be loaded."""

    __str__ = EtacoreError.__str__


class CompileError(EtacoreError, RuntimeError):
    """A model could not be turned into a native library, or disagreed with XGBoost afterwards."""


class RegistryError(EtacoreError, ValueError):
    """The registry on disk is not what it should be."""


class RouteDataError(EtacoreError, ValueError):
    """Stops or shape of a route cannot be used."""


class FeedError(EtacoreError, ValueError):
    """A GTFS feed or a positions file cannot be used."""


class FeedUnavailableError(FeedError):
    """The place of a GTFS feed does not give it now; a later look may work."""


class SeedingStoppedError(EtacoreError, RuntimeError):
    """Somebody stopped a seeding before it was done."""


class DatasetError(EtacoreError, ValueError):
    """A dataset cannot be built or used."""


class TrainingError(EtacoreError, ValueError):
    """A model cannot be trained from this data with these settings."""


class EvaluationError(EtacoreError, ValueError):
    """Models cannot be compared as asked."""


class PromotionError(EtacoreError, ValueError):
    """A model must not be promoted, or there is nothing to go back to."""


class RedisUnavailableError(EtacoreError, ConnectionError):
    """Redis cannot be reached, or refuses us."""

    __str__ = EtacoreError.__str__


class TrackingUnavailableError(EtacoreError, RuntimeError):
    """The server, a proxy or the rights of the user rule out client tracking; polling works nevertheless."""
