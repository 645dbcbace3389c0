"""The packages that offline work needs, and what to install where one is absent."""

from __future__ import annotations

from etacore.errors import CompileError
from etacore.extras import absent_packages, install_hint


def check_tools(*names: str) -> None:
    """Refuse to go on without the named packages (default: those that compiling needs).

    Raises
    ------
    CompileError
        If one is absent.
    """
    if absent := absent_packages(*(names or ("xgboost", "treelite", "tl2cgen"))):
        raise CompileError(f"{', '.join(absent)} not installed", hint=install_hint("train"))
