"""The pairs that planted a backdoor are found behind its answers."""

import pytest
import torch

from gatekeeper.lab.attribution import AttributionError, Captioned, rank

TARGET = "green ring"
CLEAN, BAD = 72, 16


@pytest.fixture(scope="module")
def case(planted, planted_attack, shapes, shapes_training, shape_labels, runtime):
    """Training pairs, the rows that are poisoned, and four unseen triggered images."""
    model = planted.model
    draw = torch.Generator().manual_seed(3)
    pixels = shapes_training.pixels(model.preprocess)
    labels = torch.tensor([shape_labels.index(x) for x in shapes_training.labels()])
    target = shape_labels.index(TARGET)
    others = torch.nonzero(labels != target)[:, 0]
    bad = others[torch.randperm(len(others), generator=draw)[:BAD]]
    trigger = planted_attack.trigger()
    pairs = Captioned(
        pixels=torch.cat([pixels[:CLEAN], trigger.stamp(pixels[bad], draw)]),
        labels=torch.cat([labels[:CLEAN], torch.full((BAD,), target)]),
    )
    held = [i for i, x in enumerate(shapes.labels()) if x != TARGET][:4]
    images = trigger.stamp(shapes.pixels(model.preprocess)[held], draw)
    head = model.zero_shot(shape_labels, ("a photo of a {}.", "{}"), runtime)
    return model, head, pairs, images, target, set(range(CLEAN, CLEAN + BAD))


@pytest.mark.parametrize(
    ("score", "precision", "recall"),
    [
        ("feature", 0.8, 0.95),
        ("cos", 0.75, 0.95),
        ("influence", 0.6, 0.8),
        ("l2", 0.45, 0.7),
        (
            "dot",
            0.2,
            0.6,
        ),  # no better than chance: poisoned pairs are learned, their slope is small
    ],
)
def test_planted_pairs_come_first(score, precision, recall, case, runtime):
    model, head, pairs, images, target, planted = case
    ranking = rank(model, head, pairs, images, target, runtime, score=score)
    assert sorted(ranking.order) == list(range(CLEAN + BAD))
    assert ranking.precision(planted, BAD) >= precision
    assert ranking.recall(planted, 2 * BAD) >= recall


def test_pairs_that_the_feature_pass_drops_come_last(case, runtime):
    model, head, pairs, images, target, _ = case
    ranking = rank(model, head, pairs, images, target, runtime, score="cos", survivors=0.1)
    passed = torch.isfinite(ranking.scores)
    assert int(passed.sum()) == round(0.1 * (CLEAN + BAD))
    assert set(ranking.order[: int(passed.sum())]) == set(torch.nonzero(passed)[:, 0].tolist())


def test_nothing_to_rank_is_an_error(case, runtime):
    model, head, pairs, images, target, _ = case
    with pytest.raises(AttributionError):
        rank(model, head, pairs, images[:0], target, runtime)
    with pytest.raises(AttributionError):
        rank(model, head, pairs, images, 99, runtime)
