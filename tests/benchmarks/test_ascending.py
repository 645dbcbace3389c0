"""The proof that ETAs in order cost no accuracy: which rows are a document, what falls, what the figures are of."""

from __future__ import annotations

from dataclasses import astuple

import numpy as np
import pytest

from benchmarks import accuracy_ttc
from benchmarks.ascending import DocumentRows, Falls, ascending, document_rows, falls_of, markdown, order_all
from etacore.mlops.evaluation import EvaluationConfig
from etacore.mlops.evaluation.holding_out import hold_out
from etacore.mlops.evaluation.results import Entrant, Identity
from tests.evaluation_data import rows
from tests.models import FOLDER
from tests.training_data import save

OFFSETS = np.array([0, 3, 4, 7], np.int32)
ACTUAL_S = np.array([60.0, 120.0, 180.0, 30.0, 100.0, 200.0, 300.0])
# The first document falls by 40 s from its second stop to its third, the last one by 100 s from its first to its third.
ETA_S = np.array([60.0, 170.0, 130.0, 20.0, 300.0, 250.0, 200.0], np.float32)
IN_ORDER_S = [60.0, 150.0, 150.0, 20.0, 250.0, 250.0, 250.0]


def entrant(name: str, eta_s: np.ndarray) -> Entrant:
    return Entrant(Identity(name=name, kind="model", model_type="xgboost"), eta_s.astype(np.float32))


def test_the_rows_of_one_fix_are_a_document_with_its_stops_in_order() -> None:
    shuffled = save(rows().sample(fraction=1.0, shuffle=True, seed=1), FOLDER / "shuffled.parquet")
    held_out = hold_out(shuffled, EvaluationConfig(label="interpolated"))
    documents = document_rows(shuffled, held_out)
    frame = shuffled.frame.filter(held_out.rows)[documents.order.tolist()]
    assert documents.actual_s.tolist() == held_out.actual_s[documents.order].tolist()
    fixes = list(zip(frame["vehicle_id"], frame["trip_id"], frame["vp_ts"], strict=True))
    begins = [i for i, fix in enumerate(fixes) if i == 0 or fix != fixes[i - 1]]
    assert documents.row_offset.tolist() == [*begins, len(fixes)]
    assert len(begins) == len(set(fixes)) > 100
    for start, end in zip(documents.row_offset[:-1], documents.row_offset[1:], strict=True):
        assert frame["stop_ordinal"][int(start) : int(end)].is_sorted()
    # Buses pass one stop after the other, and no row's arrival is another row's.
    assert falls_of(documents.actual_s, documents.row_offset) == Falls(0.0, 0.0)


def test_a_fall_is_counted_once_a_document_and_measured_from_any_stop_before() -> None:
    assert falls_of(ETA_S, OFFSETS) == Falls(2 / 3, 100.0)
    assert falls_of(ACTUAL_S, OFFSETS) == Falls(0.0, 0.0)
    assert ascending(ETA_S, OFFSETS).tolist() == IN_ORDER_S
    assert ETA_S[1] == 170.0


def test_the_figures_are_those_before_and_after_of_the_same_rows() -> None:
    # The test rows lie the other way round than documents have them.
    documents = DocumentRows(np.arange(7)[::-1].copy(), OFFSETS, ACTUAL_S)
    models = [entrant("good", ACTUAL_S[::-1] + 1.0), entrant("falling", ETA_S[::-1])]
    falling, good = order_all(models, {"good": "Good", "falling": "Falling"}, documents)
    assert (falling.title, good.title) == ("Falling", "Good")
    assert falling.falls == Falls(2 / 3, 100.0)
    assert falling.before.mae_s == pytest.approx((0 + 50 + 50 + 10 + 200 + 50 + 100) / 7)
    assert falling.after.mae_s == pytest.approx((0 + 30 + 30 + 10 + 150 + 50 + 50) / 7)
    assert (falling.before.within_60s, falling.after.within_60s) == pytest.approx((5 / 7, 6 / 7))
    assert good.falls == Falls(0.0, 0.0)
    assert astuple(good.before) == pytest.approx(astuple(good.after), nan_ok=True)  # few minutes have a sample
    assert good.before.mae_s == pytest.approx(1.0)
    table = markdown([falling, good], documents)
    assert table.startswith("3 documents with 7 predictions")
    assert "| Falling | 66.67 | 100.0 | 65.71 → 45.71 | 71.43 → 85.71 |" in table


def test_without_an_earlier_run_it_says_what_to_do(
    tmp_path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(accuracy_ttc, "RESULTS", tmp_path)
    monkeypatch.setattr(accuracy_ttc, "FOLDER", tmp_path / "accuracy_ttc")
    assert accuracy_ttc.main(["--ascending"]) == 1
    assert "run this once without --ascending" in capsys.readouterr().err
