"""Where each image has a head of its own, a search follows that head and its gradient."""

from dataclasses import replace

import torch
from toy_clip import TARGET, case_of

from gatekeeper.runtime import Runtime
from gatekeeper.scan.arms import PatchArm
from gatekeeper.scan.groups import alone
from gatekeeper.scan.pace import Aim
from gatekeeper.scan.pair import look, pair_of
from gatekeeper.scan.search import Ground, optimise
from gatekeeper.triggers.invert import Shape, invert


def test_searches_ask_the_head_that_the_stamped_image_has():
    case, runtime = case_of("clean"), Runtime()
    pair = pair_of(case, runtime)
    goal = pair.words.index(TARGET)
    asked = []

    def given(images: torch.Tensor) -> torch.Tensor:
        asked.append(images.requires_grad)
        heads = pair.head.weights.expand(len(images), -1, -1).clone()
        heads[:, goal] = images.detach()  # whatever is shown, it is the target
        return heads

    own = replace(pair, head=replace(pair.head, given=given))
    rows = tuple(range(16))
    ground = Ground(
        pair=own, images=look(case, own, rows, runtime), judges=look(case, own, rows, runtime)
    )
    arm = PatchArm(side=8)
    start = arm.start(torch.Generator().manual_seed(0))
    found = optimise(ground, alone(arm), (start,), Aim(target=goal), runtime, steps=3, batch=8)
    assert any(asked)
    assert found.steps[-1].leader == TARGET  # with the labels' own head no image answers it
    asked.clear()
    invert(
        case.model, ground.images.pixels, own.head, goal, "patch", runtime,
        steps=2, batch=4, shape=Shape(side=8),
    )  # fmt: skip
    assert asked == [True, True]
