"""Packages that only some commands need: which are absent, and which extra of etacore brings them."""

from __future__ import annotations

from importlib.metadata import distributions
from importlib.util import find_spec
from typing import Final

PACKAGE_OF: Final = {
    "google.transit": "gtfs-realtime-bindings",
    "prefect_dask": "prefect-dask",
    "xgboost": "xgboost-cpu",
}
"""Packages that are not called like the module they bring."""

XGBOOST_PACKAGES: Final = frozenset({"xgboost", "xgboost-cpu"})
"""Both bring the module ``xgboost``, with the same files: the one installed last overwrites the other."""


def absent_packages(*modules: str) -> list[str]:
    """Name the packages to install for those of some modules that are not there."""
    return [PACKAGE_OF.get(module, module) for module in modules if not _is_there(module)]


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # the package around it is not there
        return False


def install_hint(extra: str) -> str:
    """Say how to install an extra."""
    return f"the extra etacore[{extra}] brings what is missing; in a checkout: pip install '.[{extra}]'"


def installed_xgboosts() -> set[str]:
    """Name those packages that bring the module ``xgboost`` and are installed; more than one is a fault."""
    return {(found.metadata["Name"] or "").lower().replace("_", "-") for found in distributions()} & XGBOOST_PACKAGES
