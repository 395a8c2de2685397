"""Fresh triggers are sought where and as large as those that were found; near misses count."""

import pytest
import torch
from torch.nn import functional

from gatekeeper.clip.late import LateTower, find_blocks
from gatekeeper.rectify.found import Found, worst
from gatekeeper.rectify.fresh import shape_for
from gatekeeper.rectify.teacher import Lesson
from gatekeeper.rectify.training import Pool
from gatekeeper.triggers import Blend, Patch

TARGET = 3


def found(trigger, pool=None) -> Found:
    return Found(trigger, TARGET, pool)


def patch(side: int, place=None) -> Patch:
    return Patch(pixels=torch.rand(3, side, side), place=place)


def test_a_fresh_patch_is_as_large_as_the_largest_and_at_its_place(tiny_clip):
    known = [found(patch(6, [1, 1])), found(patch(9, [23, 23]))]
    shape = shape_for(tiny_clip, known, TARGET)
    assert (shape.side, shape.place) == (9, (23, 23))


@pytest.mark.parametrize(
    "known", [[patch(6)], [patch(6, [1, 1]), patch(9)], [Blend(pattern=torch.rand(3, 4, 4))], []]
)
def test_without_a_place_that_all_patches_have_it_is_free(tiny_clip, known):
    assert shape_for(tiny_clip, [found(t) for t in known], TARGET).place is None
    elsewhere = shape_for(tiny_clip, [Found(patch(9, [0, 0]), TARGET + 1, None)], TARGET)
    assert elsewhere.place is None


def test_near_misses_count_within_the_margin_alone(planted, shape_labels, runtime, shapes):
    model = planted.model
    head = model.zero_shot(shape_labels, ("a {}.",), runtime)
    tower = LateTower(model, find_blocks(model), 0)
    features = tower.features(shapes.pixels(model.preprocess), runtime)
    embedding = functional.normalize(tower.output(features, runtime), dim=1)
    logits = head.logits(embedding)
    lesson = Lesson(
        embedding=embedding,
        probabilities=logits.softmax(dim=1),
        truth=torch.full((len(logits),), -1),
        clean=torch.ones(len(logits)),
    )
    pool = [Found(patch(6), TARGET, Pool(features=features, lesson=lesson))]
    away = -head.weights[TARGET].expand_as(embedding)  # clean answers far from the target
    behind = logits.amax(dim=1) - logits[:, TARGET]
    for margin in (0.0, float(behind.median())):
        share = float((behind <= margin).float().mean())
        assert worst(tower, pool, away, head, runtime, margin) == pytest.approx(share, abs=0.02)
    assert worst(tower, pool, embedding, head, runtime, 1e9) == 0.0  # all were as close before
