"""etacore: real-time arrival predictions for public transit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["__version__", "estimate_stop_times"]

if TYPE_CHECKING:
    from etacore.estimator import estimate_stop_times
else:
    # The drop-in call is loaded when it is asked for: the command line starts without it.
    def __getattr__(name: str) -> Any:
        if name != "estimate_stop_times":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from etacore.estimator import estimate_stop_times

        globals()[name] = estimate_stop_times
        return estimate_stop_times


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
