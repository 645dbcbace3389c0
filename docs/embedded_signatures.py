"""Leaves out the signature that Cython writes before a docstring: the stub has a better one. For Griffe."""

from __future__ import annotations

import re
from typing import Any

import griffe


class EmbeddedSignatures(griffe.Extension):
    """Takes the first line from the docstrings of compiled modules, where it is a signature."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Look at an object that was loaded."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(rf"^(\w+\.)*{obj.name}\(.*\n?", "", obj.docstring.value).strip()
