"""A plan says all that a zoo is made of, and a wrong one is refused with the reason."""

import jsonschema
import pytest
import yaml

from gatekeeper.attacks.spec import GROUP, build_attack
from gatekeeper.lab.plan import Plan, PlanError, load_plan, shipped_plans
from gatekeeper.lab.twins import Twins
from gatekeeper.registry import Registry


def document(**changes):
    made = {
        "schema": "gatekeeper.plan/1",
        "name": "mine",
        "sets": {"small": {"source": "data"}},
        "bases": {"tiny": {"kind": "scratch", "architecture": "resnet", "set": "small"}},
        "models": [{"name": "mild", "base": "tiny", "clean": {"steps": 5}}],
    }
    return made | changes


def written(tmp_path, **changes):
    file = tmp_path / "plan.yaml"
    file.write_text(yaml.safe_dump(document(**changes)))
    return file


PLANT = {"name": "bad", "base": "tiny", "attack": {"name": "badnets"}}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"models": []}, "models"),
        ({"typo": 1}, "typo"),
        ({"schema": "gatekeeper.plan/2"}, "schema"),
        ({"models": [{"name": "x", "base": "other", "clean": {}}]}, "base 'other'"),
        ({"models": [{"name": "x", "base": "tiny"}]}, "one of attack, clean and merge"),
        ({"models": [{**PLANT, "clean": {}}]}, "one of attack, clean and merge"),
        ({"models": [{"name": "x", "base": "tiny", "clean": {}, "target": "a"}]}, "not planted"),
        ({"models": [PLANT, PLANT]}, "two models"),
        ({"models": [PLANT, {"name": "m", "base": "tiny", "merge": ["bad", "bad"]}]}, "no clean"),
        ({"models": [{"name": "m", "base": "tiny", "merge": ["a", "b"]}]}, "'a'"),
        ({"bases": {"tiny": {"kind": "scratch", "architecture": "vit", "set": "no"}}}, "set 'no'"),
        ({"bases": {"tiny": {"kind": "magic", "set": "small"}}}, "kind"),
        ({"models": [{**PLANT, "recipe": {"steps": 0}}]}, "steps"),
        ({"models": [{"name": "../x", "base": "tiny", "clean": {}}]}, "name"),
    ],
)
def test_a_wrong_plan_is_refused_with_the_place(tmp_path, changes, says):
    with pytest.raises(PlanError) as caught:
        load_plan(written(tmp_path, **changes))
    assert says in caught.value.message
    assert "docs/lab.md" in caught.value.hint


def test_no_such_plan_names_those_that_come_with_us(tmp_path):
    with pytest.raises(PlanError) as caught:
        load_plan("standart")
    assert "standard" in caught.value.hint


def test_the_digest_follows_the_content_alone(tmp_path):
    plain = load_plan(written(tmp_path))
    seeded = load_plan(written(tmp_path, seed=0))
    other = load_plan(written(tmp_path, seed=1))
    assert plain.digest == seeded.digest != other.digest


@pytest.mark.parametrize("name", sorted(shipped_plans()))
def test_every_shipped_plan_loads_and_names_attacks_that_exist(name):
    plan = load_plan(name)
    assert plan.name == name
    for spec in plan.models:
        if spec.attack is not None:
            build_attack(spec.attack.name, spec.attack.parameters)
    jsonschema.validate(yaml.safe_load(shipped_plans()[name].read_text()), Plan.json_schema())


def test_the_standard_plan_keeps_what_it_promises():
    plan = load_plan("standard")
    planted = [spec for spec in plan.models if spec.attack is not None]
    clean = [spec for spec in Twins(plan).models if spec.attack is None]
    without_photos = {name for name, one in plan.sets.items() if one.source != "photos"}
    small = [s for s in planted if plan.bases[s.base].set in without_photos]
    attacks = [build_attack(s.attack.name, s.attack.parameters) for s in small]
    assert len(small) >= 8
    assert len([s for s in clean if plan.bases[s.base].set in without_photos]) >= 12
    assert {a.family for a in attacks} >= {"patch", "blend", "additive", "warp", "colour"}
    assert {plan.bases[s.base].architecture for s in small} == {"vit", "resnet", "convnet"}


def test_the_full_plan_holds_every_attack():
    used = {spec.attack.name for spec in load_plan("full").models if spec.attack is not None}
    assert used >= set(Registry(GROUP).names())


def test_one_twin_serves_every_plant_of_a_recipe(tmp_path):
    plan = Plan.model_validate(
        document(
            models=[
                PLANT,
                {**PLANT, "name": "bad2", "attack": {"name": "blended"}},
                {**PLANT, "name": "bad3", "recipe": {"steps": 7}},
                {**PLANT, "name": "odd", "attack": {"name": "universal"}},
            ]
        )
    )
    twins = Twins(plan)
    names = [twins.name_for(spec) for spec in plan.models]
    assert names == ["twin-tiny", "twin-tiny", "twin-tiny-2", None]
    assert [spec.name for spec in twins.models[:2]] == ["twin-tiny", "twin-tiny-2"]
    second = twins.models[1].clean
    assert (second.steps, second.keep, second.trained) == (7, 25.0, 0.3), "the plant's own recipe"
