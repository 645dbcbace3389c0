"""The packages that offline work needs, and what to install where one is absent."""

from __future__ import annotations

from importlib.util import find_spec

from etacore.errors import CompileError


def check_tools(*names: str) -> None:
    """Refuse to go on without the named packages (default: those that compiling needs).

    Raises
    ------
    CompileError
        If one is absent.
    """
    absent = [name for name in names or ("xgboost", "treelite", "tl2cgen") if find_spec(name) is None]
    if absent:
        raise CompileError(f"{', '.join(absent)} not installed", hint="pip install 'etacore[train]'")
