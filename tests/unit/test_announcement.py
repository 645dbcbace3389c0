"""The value of eta:active_model, written and read."""

from __future__ import annotations

import json

import pytest

from etacore.store.announcement import announced_key, encode_announcement


def test_what_is_written_is_the_documented_object_in_its_order():
    written = encode_announcement("k", "2026-01-02T03:04:05+00:00", "cli")
    assert written == b'{"model_key":"k","promoted_at":"2026-01-02T03:04:05+00:00","source":"cli"}'
    assert announced_key(written) == "k"


def test_a_key_is_read_whatever_else_is_said_and_however_it_is_spaced():
    assert announced_key(json.dumps({"more": [1], "model_key": "é=1"}, indent=1).encode()) == "é=1"


@pytest.mark.parametrize(
    "value",
    [
        *(None, b"", b"{", b"garbage", b"\xff", b"null", b"[]", b'["model_key"]', b'"model_key"', b"3", b"{}"),
        *(b'{"model_key": null}', b'{"model_key": 7}', b'{"model_key": ["k"]}'),
    ],
)
def test_what_is_no_announcement_names_no_model(value):
    assert announced_key(value) is None
