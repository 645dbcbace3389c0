import json
import math

import numpy as np
import pytest

from etacore import accuracy


def test_plain_figures_by_hand() -> None:
    actual = [100.0, 200.0, 300.0, 400.0]
    predicted = [110.0, 180.0, 300.0, 700.0]  # errors +10, -20, 0, +300
    assert accuracy.mae_s(predicted, actual) == pytest.approx(82.5)
    assert accuracy.median_ae_s(predicted, actual) == pytest.approx(15.0)
    assert accuracy.bias_s(predicted, actual) == pytest.approx(72.5)
    assert accuracy.within(predicted, actual, 20) == 0.75
    assert accuracy.within(predicted, actual, 19.999) == 0.5


@pytest.mark.parametrize(
    ("bucket", "minutes", "earliest_s", "latest_s"),
    [(0, 0, -30, 90), (0, 2.999, -30, 90), (1, 3, -60, 150), (2, 6, -60, 210), (3, 10, -90, 270), (3, 14.99, -90, 270)],
)
def test_edges_of_a_band_belong_to_it(bucket: int, minutes: float, earliest_s: float, latest_s: float) -> None:
    actual = 60.0 * minutes
    for lateness_s, accurate in [
        (earliest_s, 1.0),
        (latest_s, 1.0),
        (earliest_s - 0.01, 0.0),
        (latest_s + 0.01, 0.0),
        (0, 1.0),
    ]:
        shares = accuracy.band_shares([actual - lateness_s], [actual])
        assert shares[bucket] == accurate
        assert all(math.isnan(share) for i, share in enumerate(shares) if i != bucket)


def test_score_is_the_unweighted_mean_of_the_four_buckets() -> None:
    # 4 samples in the first bucket (one accurate), one accurate sample in each of the others
    actual = np.array([60.0, 60.0, 60.0, 60.0, 240.0, 420.0, 720.0])
    predicted = actual + np.array([0.0, 500.0, 500.0, 500.0, 0.0, 0.0, 0.0])
    assert accuracy.bands_score(predicted, actual) == pytest.approx((0.25 + 1 + 1 + 1) / 4)


def test_score_is_unknown_when_a_bucket_is_empty() -> None:
    report = accuracy.score([60.0, 240.0, 420.0], [60.0, 240.0, 420.0])
    assert math.isnan(report.bands_score)
    assert report.to_dict()["bands_score"] is None


def test_beyond_fifteen_minutes_counts_everywhere_but_in_the_bands() -> None:
    actual = np.array([60.0, 240.0, 420.0, 720.0, 900.0, 5000.0])
    report = accuracy.score(actual, actual)
    assert report.n == 6
    assert report.bands_score == 1.0
    assert [piece.n for piece in report.by_minutes] == [1, 1, 1, 1, 1, 1]
    assert [piece.label for piece in report.by_minutes] == ["0-3", "3-6", "6-10", "10-15", "15-30", "30+"]
    assert math.isnan(report.by_minutes[4].in_band)
    assert report.overall.label == "all"


def test_slices_add_up_to_the_whole() -> None:
    rng = np.random.default_rng(7)
    actual = rng.uniform(0, 3000, 5000)
    predicted = np.clip(actual + rng.normal(20, 90, actual.size), 0, None)
    report = accuracy.score(predicted, actual)
    weights = np.array([piece.n for piece in report.by_minutes])
    assert weights.sum() == report.n == 5000
    assert np.average([piece.mae_s for piece in report.by_minutes], weights=weights) == pytest.approx(
        report.overall.mae_s
    )
    assert np.average([p.bias_s for p in report.by_minutes], weights=weights) == pytest.approx(report.overall.bias_s)
    assert report.bands_score == pytest.approx(np.mean([piece.in_band for piece in report.by_minutes[:4]]))


def test_json_has_no_nan_and_rows_fit_the_headings() -> None:
    for report in (accuracy.score([], []), accuracy.score([10.0], [20.0])):
        json.dumps(report.to_dict(), allow_nan=False)
        rows = report.rows()
        assert all(len(row) == len(accuracy.COLUMNS) for row in rows)
        assert rows[-1][0] == "all"
    assert accuracy.score([], []).rows() == [("all", "0", "-", "-", "-", "-", "-", "-", "-")]
    assert accuracy.score([10.0], [20.0]).rows()[0] == (
        "0-3", "1", "10.0", "10.0", "-10.0", "100.0", "100.0", "100.0", "100.0",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("predicted", "actual", "message"),
    [
        ([1.0], [1.0, 2.0], "one length"),
        ([[1.0]], [[1.0]], "one length"),
        ([1.0, math.nan], [1.0, 2.0], "row 1 is not finite"),
        ([1.0], [math.inf], "not finite"),
        ([1.0], [-0.5], "before its sample"),
    ],
)
def test_what_cannot_be_scored_is_refused(predicted: list[float], actual: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        accuracy.score(predicted, actual)


@pytest.mark.parametrize(
    ("bin_ix", "minutes", "earliest_s", "latest_s"),
    [
        (0, 0, -60, 60),
        (0, 2.999, -60, 60),
        (1, 3, -90, 120),
        (2, 6, -150, 210),
        (3, 12, -240, 360),
        (3, 29.5, -240, 360),
    ],
)
def test_mbta_bins_go_by_the_prediction_and_leave_out_their_edges(
    bin_ix: int, minutes: float, earliest_s: float, latest_s: float
) -> None:
    predicted = 60.0 * minutes
    for lateness_s, accurate in [
        (earliest_s, 0),
        (latest_s, 0),
        (earliest_s + 0.01, 1),
        (latest_s - 0.01, 1),
        (0, 1),
    ]:
        report = accuracy.mbta_accuracy([predicted], [predicted + lateness_s])
        assert [piece.n for piece in report.bins] == [int(i == bin_ix) for i in range(4)]
        assert report.bins[bin_ix].n_accurate == accurate
        assert report.overall == accurate


def test_mbta_overall_counts_predictions_not_bins() -> None:
    # four predictions in the first bin (one accurate), one accurate in the last, one too far ahead to count
    predicted = np.array([60.0, 60.0, 60.0, 60.0, 1000.0, 1800.0])
    actual = predicted + np.array([0.0, 500.0, 500.0, 500.0, 0.0, 0.0])
    report = accuracy.mbta_accuracy(predicted, actual)
    assert report.overall == pytest.approx(2 / 5)
    assert [piece.share for piece in report.bins] == pytest.approx([0.25, math.nan, math.nan, 1.0], nan_ok=True)
    assert report.n_outside == 1
    document = report.to_dict()
    json.dumps(document, allow_nan=False)
    assert document["by_predicted_minutes"][1] == {"from_min": 3, "to_min": 6, "n": 0, "share": None}
    assert accuracy.mbta_accuracy([], []).to_dict()["overall"] is None
