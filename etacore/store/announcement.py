"""What a promotion leaves in ``eta:active_model``: the model that running loops shall serve."""

from __future__ import annotations

import orjson


def encode_announcement(model_key: str, promoted_at: str, source: str) -> bytes:
    """Write an announcement: ``{"model_key", "promoted_at", "source"}``.

    Parameters
    ----------
    model_key : str
        The model to serve.
    promoted_at : str
        ISO 8601, UTC.
    source : str
        Who promotes.
    """
    return orjson.dumps({"model_key": model_key, "promoted_at": promoted_at, "source": source})


def announced_key(announcement: bytes | None) -> str | None:
    """Read the model key of an announcement; None if there is none, or it is no announcement."""
    if not announcement:
        return None
    try:
        key = orjson.loads(announcement)["model_key"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None
    return key if isinstance(key, str) else None
