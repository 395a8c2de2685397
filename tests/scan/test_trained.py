"""The same on a trained CLIP with a trained-in patch, and with the real oracle."""

import pytest
from shape_world import PLANTED_TARGET, TEMPLATES

from gatekeeper.case import Case
from gatekeeper.oracle.ground import Oracle
from gatekeeper.oracle.spec import build_segmenter
from gatekeeper.runtime import Runtime
from gatekeeper.scan.run import scan


def case_of(model, anchor, shapes, labels):
    oracle = Oracle(
        segmenter=build_segmenter("regions"),
        labeler=anchor or model,
        independent=anchor is not None,
        labels=labels,
        templates=TEMPLATES,
    ).calibrate(shapes.subset(range(32)), Runtime())
    return Case(
        model=model,
        anchor=anchor,
        probes=shapes,
        suspects=None,
        oracle=oracle,
        labels=labels,
        templates=TEMPLATES,
    )


@pytest.mark.parametrize("anchored", [True, False])
def test_the_planted_copy_is_found(planted, tiny_clip, shapes, shape_labels, anchored):
    anchor = tiny_clip if anchored else None
    outcome = scan(case_of(planted.model, anchor, shapes, shape_labels), (), Runtime())
    # Its labels are colours and forms: plain patterns lead it as well, and alone it may not tell.
    if anchored or outcome.score is not None:
        assert outcome.score >= 0.9
        assert outcome.targets[0].label == PLANTED_TARGET


def test_the_clean_twin_is_not(tiny_clip, shapes, shape_labels):
    """Its labels are colours and forms, which plain patterns make: only an anchor can tell."""
    outcome = scan(case_of(tiny_clip, None, shapes, shape_labels), (), Runtime())
    assert outcome.score is None or outcome.score < 0.5
    assert (outcome.score is None) == ("weak-model" in {f.id for f in outcome.findings})
