"""`auto` takes what fits what was found, stops at the first that passes, and tells what missed."""

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
from test_compact import case_of, prescribe

from gatekeeper.errors import RectifyError
from gatekeeper.rectify import auto
from gatekeeper.rectify.auto import automatic, stages
from gatekeeper.rectify.base import Ailment, Rectified
from gatekeeper.rectify.limits import Limits, at_most
from gatekeeper.rectify.proof import Proved
from gatekeeper.triggers import Patch, TextTrigger
from gatekeeper.types import Proof, Quality

PATCH = Patch(pixels=__import__("torch").rand(3, 4, 4))


@dataclass(frozen=True)
class Fake:
    """A rectifier whose result is known; `asked` notes the begun weights it was given."""

    name: ClassVar[str] = "fake"
    method: str
    attack_success: float | None
    asked: list

    def rectify(self, case, prescription, runtime):
        self.asked.append((self.method, dict(prescription.begun), len(prescription.ailments)))
        if self.attack_success is None:
            raise RectifyError(f"{self.method} cannot", hint="x")
        worth = Quality(
            clean_accuracy=0.9, attack_success=self.attack_success, recovered_accuracy=0.5,
            agreement=1.0, rebound=None,
        )  # fmt: skip
        return Rectified(
            method=self.method, state={self.method: 1}, before=worth, after=worth,
            images_used=40, steps=1, held_out=100,
        )  # fmt: skip


def loader(asked, **success):
    return lambda name: lambda: Fake(name, success.get(name), asked)


def proof(rebound: float, *, borne: bool = False) -> Proved:
    check = at_most("rebound", "Attack success after fine-tuning", None, rebound, 0.05, 50)
    record = Proof(checks=(check,), rebound=(), path=(), images=50)
    return Proved(record=record, borne=borne)


@pytest.fixture(autouse=True)
def proofs(monkeypatch):
    """What the proofs of each method's result come to, 0 unless said."""
    rebounds: dict[str, float] = {}

    def prove(case, prescription, made, runtime, limits):
        return proof(rebounds.get(made.method, 0.0))

    monkeypatch.setattr(auto, "prove", prove)
    return rebounds


@pytest.fixture
def case(tiny_clip, shapes_training, shape_labels):
    return case_of(tiny_clip, shapes_training, shape_labels)


def names(case, prescription):
    return [stage.methods for stage in stages(case, prescription)]


def test_what_was_found_and_what_is_at_hand_choose(case, tiny_clip, shapes):
    image = prescribe("red ring", PATCH)
    assert names(case, image) == [("compact", "ablate", "negate")]
    anchored = replace(case, anchor=tiny_clip)
    assert names(anchored, image) == [("compact", "interpolate", "ablate", "negate")]
    victims = replace(image, victims=(("a.png", "red bar"),))
    assert names(case, victims) == [("compact", "ablate", "negate")], "no suspect images at hand"
    assert "unlearn" in names(replace(case, suspects=shapes), victims)[0]
    mark = Ailment(target="red bar", trigger=TextTrigger(mark="qzx"))
    assert names(case, replace(image, ailments=(mark,))) == [("text_tower",)]
    both = replace(image, ailments=(*image.ailments, mark))
    assert names(case, both) == [("text_tower",), ("compact", "ablate", "negate")]
    assert [len(s.prescription.ailments) for s in stages(case, both)] == [1, 2]
    nothing = replace(image, ailments=())
    assert names(case, nothing) == [("compact", "ablate", "negate")]


def test_the_first_that_passes_is_taken(case, runtime):
    asked = []
    load = loader(asked, compact=0.5, ablate=0.0, negate=0.0)
    made = automatic(case, prescribe("red ring", PATCH), load, runtime, Limits())
    assert made.method == "ablate"
    assert [name for name, *_ in asked] == ["compact", "ablate"]
    assert any(note.startswith("compact missed: after compact") for note in made.notes)


def test_one_that_comes_back_is_passed_over(case, runtime, proofs):
    proofs["compact"] = 0.4
    load = loader([], compact=0.0, ablate=0.0)
    made = automatic(case, prescribe("red ring", PATCH), load, runtime, Limits())
    assert made.method == "ablate"
    assert made.proved.rebound is None
    assert any("compact missed: not proven" in note for note in made.notes)


def test_the_best_miss_is_told_where_none_passes(case, runtime):
    load = loader([], compact=0.5, ablate=0.2)
    with pytest.raises(RectifyError, match="after ablate") as caught:
        automatic(case, prescribe("red ring", PATCH), load, runtime, Limits())
    assert caught.value.rejected.method == "ablate"
    assert "negate missed: negate cannot" in caught.value.rejected.notes


@pytest.mark.parametrize("below", [0.0, 0.4])
def test_what_is_as_easily_led_as_the_anchor_is_taken_only_for_want_of_better(
    below, case, runtime, monkeypatch
):
    monkeypatch.setattr(auto, "prove", lambda c, p, made, *_: proof(
        below if made.method == "ablate" else 0.0, borne=made.method == "compact"
    ))  # fmt: skip
    asked = []
    load = loader(asked, compact=0.0, ablate=0.0, negate=0.0)
    made = automatic(case, prescribe("red ring", PATCH), load, runtime, Limits())
    assert made.method == ("compact" if below else "ablate")
    assert [name for name, *_ in asked] == ["compact", "ablate"]
    assert any("lead the anchor as well" in note for note in made.notes)


def test_a_second_stage_goes_on_from_the_first(case, runtime):
    asked = []
    mark = Ailment(target="red bar", trigger=TextTrigger(mark="qzx"))
    sick = prescribe("red ring", PATCH)
    sick = replace(sick, ailments=(*sick.ailments, mark))
    load = loader(asked, text_tower=0.0, compact=0.0)
    made = automatic(case, sick, load, runtime, Limits())
    assert asked == [("text_tower", {}, 1), ("compact", {"text_tower": 1}, 2)]
    assert made.steps == 2
