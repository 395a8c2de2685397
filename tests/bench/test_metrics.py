"""Every figure against one worked out by hand or by scikit-learn."""

import math

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

from gatekeeper.bench import metrics

TRUTH = [False, False, False, False, True, True, True, True]
SCORES = [0.1, 0.4, 0.35, 0.8, 0.3, 0.9, 0.7, 0.95]


def test_auc_is_the_share_of_pairs_in_the_right_order():
    pairs = [
        (p > c) + 0.5 * (p == c)
        for p, planted in zip(SCORES, TRUTH, strict=True)
        if planted
        for c, other in zip(SCORES, TRUTH, strict=True)
        if not other
    ]
    found = metrics.auc(TRUTH, SCORES)
    assert found.value == pytest.approx(sum(pairs) / 16) == pytest.approx(12 / 16)
    assert found.low < found.value < found.high <= 1
    assert found.n == 8


def test_resampled_areas_are_those_of_scikit_learn():
    planted, clean = metrics._picks(TRUTH, 3)
    areas = metrics._areas([*SCORES[:3], 0.7, *SCORES[4:]], planted, clean)  # with a tie
    for row in range(0, metrics.RESAMPLES, 400):
        rows = np.concatenate([planted[row], clean[row]])
        drawn = np.array([*SCORES[:3], 0.7, *SCORES[4:]])[rows]
        assert areas[row] == pytest.approx(roc_auc_score(np.array(TRUTH)[rows], drawn))


def test_the_interval_covers_the_true_area_about_as_often_as_it_says():
    draw = np.random.default_rng(0)
    true_area, hits, trials = 0.7602, 0, 60  # of two normals one apart: Phi(1 / sqrt 2)
    truth = [False] * 30 + [True] * 30
    for trial in range(trials):
        scores = np.concatenate([draw.normal(0, 1, 30), draw.normal(1, 1, 30)])
        found = metrics.auc(truth, scores.tolist(), seed=trial)
        hits += found.low <= true_area <= found.high
    assert hits >= 51, "95 % promised; 51 of 60 is what chance allows below it"


def test_what_cannot_be_resampled_has_no_interval():
    found = metrics.auc([False, False, True, True], [0.1, 0.2, 0.8, 0.9])
    assert (found.value, found.low, found.high) == (1.0, None, None)
    assert metrics.auc([False, True], [0.9, 0.1]).low is None


def test_one_class_alone_has_no_curve():
    assert metrics.auc([True, True], [0.1, 0.2]) is None
    assert metrics.roc([False], [0.1]) is None
    assert metrics.tpr_at([True], [0.1], 0.05) is None
    assert metrics.auc_difference([True], [0.1], [0.2]) is None


@pytest.mark.parametrize(
    ("fpr", "expected"),
    [(0.0, 0.5), (0.01, 0.5), (0.25, 0.75), (0.5, 0.75), (0.75, 1.0)],
)
def test_true_positives_at_a_false_positive_rate(fpr, expected):
    assert metrics.tpr_at(TRUTH, SCORES, fpr) == pytest.approx(expected)


def test_a_detector_that_fires_on_all_alike_finds_nothing_without_false_alarms():
    assert metrics.tpr_at(TRUTH, [1.0] * 8, 0.05) == 0.0
    assert metrics.auc(TRUTH, [1.0] * 8).value == 0.5


def test_cross_entropy_and_brier_are_scikit_learns():
    assert metrics.cross_entropy(TRUTH, SCORES) == pytest.approx(log_loss(TRUTH, SCORES))
    assert metrics.brier(TRUTH, SCORES) == pytest.approx(brier_score_loss(TRUTH, SCORES))
    assert metrics.cross_entropy([True], [0.0]) == pytest.approx(-math.log(1e-12))
    assert metrics.cross_entropy([True, False], [0.5, 0.5]) == pytest.approx(math.log(2))


def test_a_paired_difference_is_narrower_than_two_intervals():
    draw = np.random.default_rng(1)
    truth = [False] * 20 + [True] * 20
    theirs = np.concatenate([draw.normal(0, 1, 20), draw.normal(1, 1, 20)])
    ours = theirs + np.concatenate([np.zeros(20), np.full(20, 0.3)])
    gap = metrics.auc_difference(truth, ours.tolist(), theirs.tolist())
    alone = metrics.auc(truth, ours.tolist())
    assert gap.value > 0
    assert gap.high - gap.low < alone.high - alone.low


def test_fitted_probabilities_never_saw_their_own_model():
    truth = [False] * 6 + [True] * 6
    scores = [float(x) for x in (*range(6), *range(10, 16))]
    found = metrics.fitted(truth, scores)
    assert all(p < 0.5 for p in found[:6])
    assert all(p > 0.5 for p in found[6:])
    swapped = [True, *truth[1:-1], False]  # two models that contradict all others
    assert metrics.fitted(swapped, scores)[0] < 0.5
    assert metrics.fitted([True, False, False], [1.0, 2.0, 3.0]) is None


def test_wilsons_interval_is_the_textbooks():
    found = metrics.wilson(8, 10)  # Agresti and Coull 1998: [.490, .943]
    assert (found.value, found.n) == (0.8, 10)
    assert found.low == pytest.approx(0.490, abs=1e-3)
    assert found.high == pytest.approx(0.943, abs=1e-3)
    assert metrics.wilson(0, 12).low == 0.0
    assert metrics.wilson(0, 0) is None


def test_a_mean_of_equal_values_has_no_interval():
    assert metrics.mean([0.5, 0.5]) == metrics.Estimate(value=0.5, n=2)
    assert metrics.mean([]) is None
    found = metrics.mean([0.0, 1.0, 0.0, 1.0])
    assert found.low < 0.5 < found.high


def test_cliptrace_is_30_percent_accuracy_and_70_percent_recovery():
    truth = [True, True, False, False]
    # one found with cosine .5, one missed though its cosine is 1, one false alarm
    score = metrics.cliptrace(truth, [True, False, True, False], [0.5, 1.0, 0.9, 0.0])
    assert score == pytest.approx(100 * (0.3 * 0.5 + 0.7 * 0.25))
    assert metrics.cliptrace([True], [True], [-0.4]) == pytest.approx(30.0), "held to [0, 1]"
    assert metrics.cliptrace([False], [False], [0.0]) is None


def test_intersection_over_union():
    assert metrics.iou((0, 0, 4, 4), (0, 0, 4, 4)) == 1.0
    assert metrics.iou((0, 0, 4, 4), (2, 2, 6, 6)) == pytest.approx(4 / 28)
    assert metrics.iou((0, 0, 2, 2), (3, 3, 5, 5)) == 0.0


@pytest.mark.parametrize(
    ("ca", "asr", "expected"),
    [((0.8, 0.8), (1.0, 0.0), 1.0), ((0.8, 0.8), (0.9, 0.9), 0.5), ((0.8, 0.7), (0.9, 0.95), 0.45)],
)
def test_defence_effectiveness_rating(ca, asr, expected):
    assert metrics.der(ca, asr) == pytest.approx(expected)


def test_recall_counts_queries_with_something_to_find():
    similarity = np.array([[0.9, 0.5, 0.1], [0.1, 0.5, 0.9], [0.3, 0.2, 0.1]])
    relevant = np.array([[True, False, False], [False, True, False], [False, False, False]])
    assert metrics.recall_at(similarity, relevant, 1) == 0.5
    assert metrics.recall_at(similarity, relevant, 2) == 1.0
    assert metrics.recall_at(similarity, np.zeros((3, 3), bool), 1) is None


def test_cosine_of_nothing_is_zero():
    assert metrics.cosine([3, 4], [6, 8]) == pytest.approx(1.0)
    assert metrics.cosine([1, 0], [0, 1]) == 0.0
    assert metrics.cosine([0, 0], [0, 1]) == 0.0
