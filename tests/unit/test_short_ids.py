"""Six characters or the beginning of a key mean one model, or the error says which they may mean."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest

from etacore.errors import ModelNotFoundError
from etacore.models import short_ids as model_ids
from etacore.models.registry import Registry
from etacore.models.short_ids import resolve_key, short_ids, shorten
from tests import models

XGBOOST = [f"xgboost_city_spatial-temporal_global_2026010{n}_030405" for n in (1, 2)]
EWMA = "ewma_city_global_20260101_030405"


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    registry = Registry(tmp_path / "models")
    for key in (*XGBOOST, EWMA):
        models.add_table(registry, key)
    return registry


def digest(key: str) -> str:
    return sha256(key.encode()).hexdigest()


def test_an_id_is_the_beginning_of_the_keys_hash(registry):
    assert short_ids(registry.keys()) == {key: digest(key)[:6] for key in registry.keys()}  # noqa: SIM118


def test_ids_grow_until_they_differ(monkeypatch):
    digests = {"a": "123456789" + "0" * 55, "b": "123456788" + "0" * 55, "c": "1234560" + "0" * 57}
    monkeypatch.setattr(model_ids, "_digest", digests.__getitem__)
    assert short_ids(digests) == {"a": "123456789", "b": "123456788", "c": "1234560"}


def test_keys_beginnings_and_ids_mean_a_model(registry):
    for key in registry.keys():  # noqa: SIM118
        for given in (key, digest(key)[:4], digest(key)[:6].upper(), digest(key)):
            assert resolve_key(registry, given) == key
    assert resolve_key(registry, "ewma") == EWMA
    assert resolve_key(registry, XGBOOST[1][:-7]) == XGBOOST[1]


def test_an_ambiguous_beginning_lists_the_candidates(registry):
    with pytest.raises(ModelNotFoundError) as caught:
        resolve_key(registry, "xgboost_city")
    assert caught.value.message.startswith("xgboost_city may be any of 2 models: ")
    for key in XGBOOST:
        assert f"{digest(key)[:6]} {key}" in caught.value.message
    assert EWMA not in caught.value.message
    assert "more characters" in (caught.value.hint or "")


def test_a_whole_key_counts_even_if_another_one_begins_with_it(registry):
    longer = models.add_table(registry, EWMA + "_alpha=0.5")
    assert resolve_key(registry, EWMA) == EWMA
    assert resolve_key(registry, EWMA + "_") == longer


@pytest.mark.parametrize("given", ["xgb", "e", ""])
def test_too_few_characters_mean_nothing(registry, given):
    with pytest.raises(ModelNotFoundError):
        resolve_key(registry, given)


def test_an_unknown_key_names_the_nearest_and_not_all(registry):
    for n in range(20):
        models.add_table(registry, f"historical_mean_elsewhere_{n:02d}")
    with pytest.raises(ModelNotFoundError) as caught:
        resolve_key(registry, EWMA.replace("ewma", "emwa"), advice="set model_key")
    assert caught.value.message == f"Model {EWMA.replace('ewma', 'emwa')} not found in registry"
    hint = caught.value.hint or ""
    assert hint.startswith("set model_key; the nearest in ")
    assert EWMA in hint
    assert hint.count("historical_mean") <= 5
    with pytest.raises(ModelNotFoundError) as caught:
        resolve_key(registry, "@@@@@@@@")
    assert "18 more (etacore registry list)" in (caught.value.hint or "")


def test_an_empty_registry_says_so(tmp_path):
    with pytest.raises(ModelNotFoundError) as caught:
        resolve_key(Registry(tmp_path), "ewma_city")
    assert f"{tmp_path} holds none" in (caught.value.hint or "")


def test_archived_models_are_meant_only_if_no_other_is(registry):
    registry.archive([XGBOOST[0]])
    assert resolve_key(registry, "xgboost_city") == XGBOOST[1]
    assert resolve_key(registry, digest(XGBOOST[0])[:6]) == XGBOOST[0]
    assert resolve_key(registry, "xgboost_city", among=registry.archived()) == XGBOOST[0]


def test_shortened_texts_keep_both_ends():
    assert shorten("a" * 56) == "a" * 56
    short = shorten("begin" + "x" * 100 + "end", 20)
    assert (len(short), short[:5], short[-3:]) == (20, "begin", "end")
