"""Parameters as people give them: a list, its items with commas between them, or one item."""

from __future__ import annotations

from typing import Any

import pytest

from flows.dataset_flow import dataset_build
from flows.parameters import existing, names
from flows.prefect_eta_flow import prefect_eta_runtime
from flows.training_flow import model_training


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, None),
        ("", None),
        ([], None),
        (9, ("9",)),
        ("9", ("9",)),
        ("9, 10,9", ("9", "10")),
        ([9, "10", 9], ("9", "10")),
        (["a,b"], ("a,b",)),
        (0, ("0",)),
    ],
)
def test_names(given: Any, expected: Any) -> None:
    assert names(given) == expected


@pytest.mark.parametrize(
    ("flow", "parameters"),
    [
        (dataset_build, {"route_ids": 9}),  # --param route_ids=9
        (dataset_build, {"route_ids": [9, 10]}),
        (dataset_build, {"route_ids": "9,10"}),
        (model_training, {"model_types": "ewma"}),
        (prefect_eta_runtime, {"notification_blocks": "slack-webhook/eta"}),
    ],
)
def test_prefect_takes_a_single_value_for_a_list(flow: Any, parameters: dict[str, Any]) -> None:
    assert parameters.items() <= flow.validate_parameters(parameters).items()


def test_a_path_may_be_a_number_and_hold_commas(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("0", "a,b"):
        (tmp_path / name).touch()
    assert [str(path) for path in existing("telemetry_source", "ETA_NOTHING", 0)] == ["0"]
    assert [str(path) for path in existing("telemetry_source", "ETA_NOTHING", "a,b")] == ["a,b"]
