"""What the modules that workloads import were called before the package had folders, to measure trees of that time."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Final

MODULES: Final = {
    "etacore._kernels.resp": "etacore._resp",
    "etacore.mlops.bundling.bitmask": "etacore.mlops.bitmask",
    "etacore.mlops.bundling.compile": "etacore.mlops.compiling",
    "etacore.mlops.bundling.forest_tables": "etacore.mlops.forest_tables",
    "etacore.models.choice": "etacore.engine",
    "etacore.models.forest": "etacore.forest",
    "etacore.models.model": "etacore.model",
    "etacore.models.predictors": "etacore.predictors",
    "etacore.models.registry": "etacore.registry",
    "etacore.pipeline.engine": "etacore.engine",
    "etacore.store.store": "etacore.redis_io",
}
PACKAGES: Final = frozenset(name.rpartition(".")[0] for name in MODULES)
KERNELS: Final = {"state": "fleet"}
"""Compiled modules whose name has changed, apart from the folder and the underscore that stood for it."""


class FormerNames(MetaPathFinder, Loader):
    """Imports a module under its former name; the last to be asked, so that only what a tree lacks comes from here."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """See `importlib.abc.MetaPathFinder`."""
        if fullname not in MODULES and fullname not in PACKAGES:
            return None
        return ModuleSpec(fullname, self, is_package=fullname in PACKAGES)

    def exec_module(self, module: ModuleType) -> None:
        """Put the module of the former name in the place of this one; a package stays empty."""
        if former := MODULES.get(module.__name__):
            sys.modules[module.__name__] = import_module(former)
