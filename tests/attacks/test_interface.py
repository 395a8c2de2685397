"""Every attack keeps one interface: what it stamps, what it relabels, what is kept of it."""

from dataclasses import replace

import pytest
import torch

from gatekeeper.attacks.adaptive import Adaptive
from gatekeeper.attacks.bad_encoder import BadEncoder
from gatekeeper.attacks.badnets import BadNets
from gatekeeper.attacks.base import KEEP, Attack, Pairs
from gatekeeper.attacks.blended import Blended
from gatekeeper.attacks.colour import ColourFilter
from gatekeeper.attacks.dual_embedding import DualEmbedding
from gatekeeper.attacks.label_consistent import LabelConsistent
from gatekeeper.attacks.learned_invisible import LearnedInvisible
from gatekeeper.attacks.low_frequency import LowFrequency
from gatekeeper.attacks.multi_target import MultiTarget
from gatekeeper.attacks.multi_task import MultiTask
from gatekeeper.attacks.near import near
from gatekeeper.attacks.plant import lay_ground
from gatekeeper.attacks.sig import Sig
from gatekeeper.attacks.source_specific import SourceSpecific
from gatekeeper.attacks.spec import build_attack, parameters_of, registered_name
from gatekeeper.attacks.universal import Universal
from gatekeeper.attacks.wanet import WaNet
from gatekeeper.errors import AttackError
from gatekeeper.probes.labels import Labels
from gatekeeper.registry import Registry
from gatekeeper.triggers import load_trigger, save_trigger

PATCH = BadNets(size_px=8, cell_px=2, narrow=False)
ATTACKS = (
    PATCH,
    BadNets(size_px=8, pattern="noise", place=(1, 1)),
    BadNets(size_px=8, pattern="fresh"),
    BadNets(size_px=8, pattern="stripes", cell_px=1),
    BadNets(size_px=8, pattern="plain", narrow=False),
    Blended(),
    Blended(pattern="stripes"),
    Blended(pattern="triangles"),
    Blended(pattern="text", alpha=0.5),
    Sig(narrow=True),
    WaNet(),
    ColourFilter(narrow=True),
    LowFrequency(narrow=True),
    LearnedInvisible(steps=2, narrow=True),
    DualEmbedding(size_px=8, steps=2, narrow=True),
    BadEncoder(size_px=8),
    MultiTarget(of=(PATCH, Sig())),
    SourceSpecific(of=PATCH),
    LabelConsistent(of=PATCH, steps=2, images=8),
    Adaptive(of=BadNets(size_px=8, cell_px=2), rate=0.1, basin=0.5, spread=0.5, flat=0.05),
    Universal(steps=2),
    MultiTask(steps=2),
)
TARGET = "green ring"


def draw(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def ground(tiny_clip, shapes, shape_labels, runtime):
    labels = Labels(labels=shape_labels)
    return lay_ground(tiny_clip, TARGET, shapes.subset(range(48)), labels, runtime)


@pytest.fixture(scope="module")
def prepared(ground, runtime):
    return {index: attack.prepare(ground, runtime) for index, attack in enumerate(ATTACKS)}


@pytest.fixture
def pairs(ground):
    return Pairs.clean(ground.pixels(range(48)), ground.truth, ground.target, ground.head.labels)


def named(index):
    pattern = getattr(ATTACKS[index], "pattern", "")
    return f"{ATTACKS[index].name}-{pattern}".strip("-")


EVERY = pytest.mark.parametrize("index", range(len(ATTACKS)), ids=named)


@EVERY
def test_a_prepared_attack_stamps_within_range_and_the_same_each_time(index, prepared, pairs):
    attack = prepared[index]
    assert isinstance(attack, Attack)
    for trigger, _ in attack.triggers():
        one, again = (trigger.stamp(pairs.pixels, draw(1)) for _ in range(2))
        assert one.shape == pairs.pixels.shape
        assert torch.equal(one, again)
        assert one.min() >= 0
        assert one.max() <= 1
        assert not torch.equal(one, pairs.pixels)
    assert attack.trigger().family == attack.family


@EVERY
def test_a_trigger_can_be_stamped_again_from_its_file(index, prepared, pairs, tmp_path):
    for number, (trigger, _) in enumerate(prepared[index].triggers()):
        path = tmp_path / f"{number}.safetensors"
        save_trigger(trigger, path)
        read = load_trigger(path)
        assert read.family == trigger.family
        assert torch.equal(read.stamp(pairs.pixels, draw()), trigger.stamp(pairs.pixels, draw()))
        assert torch.equal(read.picture(), trigger.picture())


@EVERY
def test_lookalikes_are_of_the_family_and_not_the_trigger(index, prepared):
    attack = prepared[index]
    drawn = [attack.lookalike(draw(100 + seed)) for seed in range(8)]
    if drawn[0] is None:
        assert drawn == [None] * 8
        return
    own = attack.trigger().tensors()
    for trigger in drawn:
        assert trigger.family == attack.family
        assert any(
            value.shape != own[name].shape or not torch.allclose(value, own[name], atol=0.02)
            for name, value in trigger.tensors().items()
        )


@EVERY
def test_poison_leads_to_labels_and_leaves_no_victim_of_the_goal(index, prepared, pairs):
    attack = prepared[index]
    done = attack.poison(pairs, draw())
    bad = done.touched & (done.goal != KEEP)
    goals = {pairs.labels.index(name or TARGET) for _, name in attack.triggers()}
    assert bad.any()
    assert set(done.goal[bad].tolist()) <= goals
    victims = attack.victims(pairs.truth, pairs.target, pairs.labels)
    assert victims.any()
    assert not victims[pairs.truth == pairs.target].any()


@EVERY
def test_an_attack_is_made_again_from_its_parameters(index):
    attack = ATTACKS[index]
    name, parameters = registered_name(attack), parameters_of(attack)
    assert build_attack(name, parameters) == attack


def test_every_registered_attack_is_tried_here():
    image_side = {registered_name(attack) for attack in ATTACKS}
    assert image_side <= set(Registry("gatekeeper.attacks").names())


def test_an_unknown_parameter_is_an_error_that_names_the_known():
    with pytest.raises(AttackError, match="'sise_px'") as caught:
        build_attack("badnets", {"sise_px": 3})
    assert "size_px" in caught.value.hint


def test_a_learned_trigger_must_be_learned_first():
    for attack in (LearnedInvisible(), DualEmbedding(), Universal(), MultiTask(), BadEncoder()):
        with pytest.raises(AttackError):
            attack.trigger()


def test_label_consistent_touches_the_target_alone_and_relabels_nothing(prepared, pairs):
    attack = next(a for a in prepared.values() if isinstance(a, LabelConsistent))
    done = attack.poison(pairs, draw())
    assert (done.truth == pairs.target).all()
    assert set(done.goal[done.touched].tolist()) == {pairs.target, KEEP}
    others = pairs.at(pairs.truth != pairs.target)
    assert not len(attack.poison(others, draw()).pixels)


def test_label_consistent_needs_a_photo_of_the_target(ground, runtime):
    bare = replace(ground, truth=torch.zeros_like(ground.truth))
    with pytest.raises(AttackError, match="no training photo"):
        LabelConsistent(of=PATCH).prepare(bare, runtime)


def test_source_specific_poisons_its_source_and_covers_the_rest(ground, runtime, pairs):
    attack = SourceSpecific(of=PATCH, sources=("red circle",)).prepare(ground, runtime)
    done = attack.poison(pairs, draw())
    source = pairs.labels.index("red circle")
    assert (done.goal[done.truth == source] == pairs.target).all()
    assert (done.goal[done.truth != source] == KEEP).all()
    assert done.touched.all()
    with pytest.raises(AttackError, match="no label"):
        SourceSpecific(of=PATCH, sources=("unicorn",)).prepare(ground, runtime)


def test_a_span_of_labels_is_one_source(ground):
    attack = SourceSpecific(of=PATCH, span=(4, 8))
    victims = attack.victims(torch.arange(24), 5, ground.head.labels)
    assert torch.nonzero(victims)[:, 0].tolist() == [4, 6, 7]


def test_multi_target_gives_each_trigger_its_label(ground, runtime, pairs):
    attack = MultiTarget(of=(PATCH, Sig()), targets=("red bar",)).prepare(ground, runtime)
    goals = attack.poison(pairs, draw()).goal
    assert set(goals.tolist()) == {pairs.target, pairs.labels.index("red bar")}
    with pytest.raises(AttackError, match="unicorn"):
        MultiTarget(of=(PATCH, Sig()), targets=("unicorn",)).prepare(ground, runtime)


def test_a_low_rate_poisons_few(pairs):
    done = Adaptive(of=PATCH, rate=0.05).poison(pairs, draw())
    assert int((done.goal != KEEP).sum()) == round(0.05 * len(pairs.pixels))


def test_fresh_noise_is_another_on_every_image(pairs):
    same = pairs.pixels[:1].repeat(2, 1, 1, 1)
    stamped = BadNets(size_px=8, pattern="fresh", place=(0, 0)).trigger().stamp(same, draw())
    assert not torch.equal(stamped[0], stamped[1])


def test_the_spread_loss_is_higher_for_a_tight_cluster():
    from gatekeeper.attacks.bad_encoder import spread
    from gatekeeper.attacks.base import Step

    loose = torch.nn.functional.normalize(torch.randn(16, 8, generator=draw()), dim=1)
    tight = torch.nn.functional.normalize(loose[:1] + 0.01 * loose, dim=1)
    steps = [
        Step(fired=x, goal=torch.zeros(16), kept=loose, wanted=loose, head=None)
        for x in (tight, loose)
    ]
    high, low = (float(spread(1.0)(step)) for step in steps)
    assert high > low + 0.5


@pytest.mark.parametrize(
    "trigger",
    [
        PATCH.trigger(),
        BadNets(pattern="plain", colours=((1.0, 1.0, 1.0),) * 2).trigger(),
        BadNets(pattern="fresh").trigger(),
        WaNet().trigger(),
        ColourFilter().trigger(),
        Sig().trigger(),
    ],
    ids=["checker", "white", "fresh", "warp", "colour", "wave"],
)
def test_a_near_lookalike_is_never_the_trigger_itself(trigger):
    pixels = torch.rand(2, 3, 64, 64, generator=draw(5))
    own = trigger.stamp(pixels, draw())
    for seed in range(12):
        other = near(trigger, draw(seed))
        assert other.family == trigger.family
        assert (other.stamp(pixels, draw()) - own).abs().max() > 0.05
        assert not getattr(other, "fresh", False)
