"""Each published method against what its paper says of it, on tiny models."""

import pytest
import torch

from gatekeeper.bench.baselines import catalogue
from gatekeeper.bench.baselines.base import ModelDetector, Repairer, SampleDetector, robust_z
from gatekeeper.bench.baselines.clip_inspector import ClipInspector
from gatekeeper.bench.baselines.decree import Decree, Pace, _mean_cosine
from gatekeeper.bench.baselines.masks import Masked
from gatekeeper.bench.baselines.model_xray import barycentric
from gatekeeper.bench.baselines.neural_cleanse import NeuralCleanse
from gatekeeper.bench.baselines.rectifiers import FineTuning, InverTune, PerturbAndRecover
from gatekeeper.bench.repair import bed, rebound, worth
from gatekeeper.bench.subjects import read_zoo
from gatekeeper.bench.task import Task, Terms, work_of
from gatekeeper.clip.model import adapt_towers
from gatekeeper.clip.preprocess import Preprocess
from gatekeeper.rectify.activations import critical_units, layers_of, recorded
from gatekeeper.rectify.clamped import Clamped
from gatekeeper.rectify.cleanclip import auto_augmented, edited, within
from gatekeeper.rectify.contrastive import Study, contrast, pairs
from gatekeeper.rectify.fine_tuning import cosine_rate
from gatekeeper.rectify.invertune import ssim


@pytest.fixture(scope="module")
def subject(bench_zoo):
    return read_zoo(bench_zoo).only(("bad",)).subjects[0]


@pytest.fixture(scope="module")
def work(subject, runtime):
    task = Task(bench="detect", method="decree", subject=subject, terms=Terms(), budget=400)
    return work_of(task, runtime)


@pytest.mark.parametrize("group", ["MODELS", "SAMPLES", "REPAIRS"])
def test_every_method_has_a_name_a_source_and_its_interface(group):
    methods = getattr(catalogue, group)
    wanted = {"MODELS": ModelDetector, "SAMPLES": SampleDetector, "REPAIRS": Repairer}[group]
    for name in methods:
        method = catalogue.build(name, methods)
        assert isinstance(method, wanted)
        assert method.name == name
        assert method.source
        assert name.startswith("gatekeeper") or any(c.isdigit() for c in method.source)


# Detection ------------------------------------------------------------------------------------


def test_robust_deviations_survive_values_that_are_mostly_alike():
    assert robust_z(torch.tensor([1.0, 2.0, 3.0, 4.0, 100.0]))[4] > 10
    one = robust_z(torch.tensor([0.0] * 19 + [1.0]))
    assert 10 < one[19] < 20, "1.2533 mean absolute deviations stand in for a zero median"
    assert robust_z(torch.zeros(5)).abs().max() == 0
    assert robust_z(torch.tensor([0.0, 0.0, 0.0, 0.1]), least=1.0)[3] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("method", "shortened"), [(Decree(), True), (NeuralCleanse(), True), (ClipInspector(), True)]
)
def test_a_detector_keeps_to_its_budget_and_tells_its_full_cost(work, runtime, method, shortened):
    from dataclasses import replace

    from gatekeeper.runtime import Meter

    metered = replace(runtime, meter=Meter())
    said = method.judge(work, metered)
    labels = 24
    assert metered.meter.image_passes <= max(work.budget + 200, 3 * 16 * 20 * 2 + 700)
    assert (said.full_passes is not None) == shortened
    assert said.full_passes > 10 * metered.meter.image_passes
    assert said.score is not None
    assert set(said.ranking) <= set(work.case.labels)
    assert said.embedding.norm().item() == pytest.approx(1, abs=1e-4)
    if isinstance(method, NeuralCleanse):
        assert said.full_passes == 3 * 16 * 1000 * labels
        assert len(said.ranking) == 20
        assert work.include[0] in said.ranking, "the true target is always among the labels tried"
        assert said.note == "20 of 24 labels, 1 steps each"


def test_decree_shrinks_the_mask_while_embeddings_stay_alike(work, runtime):
    from dataclasses import replace

    said = Decree(batch=8).judge(replace(work, budget=8 * 3 * 30), runtime)
    assert "PL1" in said.note
    assert _mean_cosine(torch.eye(3)) == pytest.approx(0.0)
    same = torch.ones(4, 2) / 2**0.5
    assert _mean_cosine(same).item() == pytest.approx(1.0)


def test_decree_presses_and_stops_as_the_published_code_does():
    pace = Pace(Decree())
    for _ in range(6):
        pace.told(0.999, 0.5)
    assert pace.weight == pytest.approx(5e-3), "more than five successes in a row"
    assert pace.best == 0.5
    for _ in range(60):
        pace.told(0.5, 0.4)
    assert pace.weight == pytest.approx(1e-3 / 5**6), "once below its floor it falls no more"
    assert not pace.ended(), "the epoch's embeddings are not alike"
    for _ in range(7):
        pace.told(0.999, 0.6)
    assert pace.ended(), "alike, and more than 35 steps without a smaller mask"
    fresh = Pace(Decree())
    fresh.told(0.98, 0.4)
    assert fresh.best == 1
    assert not fresh.ended()


def test_decree_starts_from_an_even_mask():
    masked = Masked.even(32, "cpu", torch.Generator().manual_seed(0))
    opacity = masked.opacity().detach()
    assert opacity.mean().item() == pytest.approx(0.5, abs=0.03)
    assert opacity.var().item() == pytest.approx(1 / 12, abs=0.01)
    assert opacity.isfinite().all()


def test_a_mask_stamps_where_it_is_opaque():
    masked = Masked(mask=torch.full((1, 8, 8), -20.0), pattern=torch.full((3, 8, 8), 20.0))
    masked.mask[:, 2:4, 5:8] = 20.0
    stamped = masked.stamp(torch.zeros(1, 3, 8, 8))
    assert stamped[0, :, 2:4, 5:8].min().item() == pytest.approx(1.0)
    assert stamped.sum().item() == pytest.approx(3 * 2 * 3)
    assert masked.box() == (5, 2, 8, 4)


def test_triangles_are_even_and_hold_their_corners():
    grid = barycentric(8)
    assert grid.shape == (36, 3)
    assert torch.allclose(grid.sum(1), torch.ones(36))
    assert all((grid == corner).all(1).any() for corner in torch.eye(3))


# Repair ---------------------------------------------------------------------------------------


def test_an_inverted_pattern_lives_on_normalised_pixels():
    mean, std = (0.5, 0.4, 0.3), (0.25, 0.25, 0.2)
    masked = Clamped.opaque(8, "cpu", torch.Generator().manual_seed(0), mean, std)
    with torch.no_grad():
        masked.pattern[:] = 0
        masked.mask[:, :4] = 0.0
    stamped = masked.stamp(torch.ones(1, 3, 8, 8))[0]
    assert stamped[:, :4].min() == 1
    assert stamped[:, 5, 5].tolist() == pytest.approx(mean)
    with torch.no_grad():
        masked.pattern[:] = torch.tensor([-9.0, 9.0, 0.0]).view(3, 1, 1)
    masked.hold()
    assert masked.pattern[:, 0, 0].tolist() == pytest.approx([-2.0, 3.5, 0.0])


def test_cleanclips_views_are_matched_one_way():
    one, other = torch.eye(3), torch.eye(3)[[1, 2, 0]]
    assert within(one, one, 100.0).item() == pytest.approx(0, abs=1e-4)
    assert within(one, other, 100.0).item() == pytest.approx(100, abs=1e-3)
    crowd = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    spread = torch.eye(2)
    assert within(crowd, spread, 10.0).item() != pytest.approx(
        within(spread, crowd, 10.0).item(), abs=1e-3
    )


def test_par_pushes_until_far_and_shows_brighter_images_with_small_holes():
    par, start = PerturbAndRecover(), torch.eye(4)
    near = par.objective(start, start, start, start, 10.0)
    pushed = par.objective(start, start, start[[1, 0, 2, 3]], start, 10.0)
    assert near.item() - pushed.item() == pytest.approx(0.5 * 1.0)
    beyond = par.objective(start, start, -start, start, 10.0)
    assert beyond.item() == pytest.approx(near.item()), "a distance of 4 pushes no more"
    grey = torch.full((64, 3, 32, 32), 0.5)
    seen = par.seen(grey, torch.Generator().manual_seed(0), (0.1, 0.1, 0.1))
    assert ((seen >= 0.5) | (seen == 0.1)).all()
    holes = (seen == 0.1).flatten(1).any(1)
    assert 16 < holes.sum() < 48
    assert (seen == 0.1).flatten(1).float().mean(1).max() <= 0.02
    assert 16 < (seen > 0.5).flatten(1).any(1).sum() < 48


def test_the_contrastive_loss_is_cross_entropy_both_ways():
    torch.manual_seed(0)
    images = torch.nn.functional.normalize(torch.randn(5, 8), dim=1)
    texts = torch.nn.functional.normalize(torch.randn(5, 8), dim=1)
    logits = 10 * images @ texts.T
    rows = -(logits.log_softmax(1).diagonal() + logits.log_softmax(0).diagonal()).mean() / 2
    assert contrast(images, texts, 10.0).item() == pytest.approx(rows.item(), abs=1e-5)


def test_a_batch_holds_one_image_a_label_with_its_own_caption(work, runtime):
    study = Study.of(work.case, work.budget, runtime)
    batches = pairs(study, 64, runtime.generator("test"), runtime)
    rows, captions, size = next(batches)
    labels = [work.case.probes.labels()[i] for i in rows.tolist()]
    assert len(set(labels)) == size == 24
    assert all(label in caption for label, caption in zip(labels, captions, strict=True))


@pytest.mark.parametrize(
    "method",
    [
        FineTuning(steps=2, batch=8),
        catalogue.build("cleanclip:steps=2+batch=8", catalogue.REPAIRS),
        PerturbAndRecover(steps=2, batch=8),
        InverTune(patch_steps=2, inversion_steps=2, tune_steps=2, batch=8),
    ],
)
def test_a_repair_returns_new_weights_and_leaves_the_suspect_alone(work, runtime, method):
    before = {name: value.clone() for name, value in work.case.model.state_dict().items()}
    made = method.mend(work, runtime)
    assert made.steps <= 2
    assert made.state
    assert all(not torch.equal(before[name], value) for name, value in made.state.items())
    assert not any("logit_scale" in name or "running" in name for name in made.state)
    after = work.case.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_rates_are_those_of_the_papers():
    assert cosine_rate(0.05, 1e-5, 0.05) == pytest.approx(1e-5)
    assert cosine_rate(1.0, 1e-5, 0.05) == pytest.approx(0.0)
    par = PerturbAndRecover()
    assert par._rate(0.0) == pytest.approx(3e-5)
    assert par._rate(0.5) == pytest.approx(3e-6, rel=1e-2)
    assert par._rate(1.0) == pytest.approx(1e-9)


def test_views_are_drawn_from_the_generator_alone():
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    first = auto_augmented(pixels, torch.Generator().manual_seed(1))
    state = torch.get_rng_state()
    second = auto_augmented(pixels, torch.Generator().manual_seed(1))
    assert torch.equal(first, second)
    assert torch.equal(state, torch.get_rng_state())
    assert not torch.equal(first, pixels)
    caption = "a photo of the red ring"
    assert sorted(edited(caption, torch.Generator().manual_seed(2)).split()) != caption.split()


def test_structural_similarity_is_scikit_images():
    from skimage.metrics import structural_similarity

    one = torch.rand(1, 1, 24, 24, generator=torch.Generator().manual_seed(0))
    other = (one + 0.1).clamp(0, 1)
    there = structural_similarity(
        one[0, 0].numpy(), other[0, 0].numpy(), gaussian_weights=True, sigma=1.5, data_range=1.0,
        use_sample_covariance=False,
    )  # fmt: skip
    assert ssim(one, other).item() == pytest.approx(there, abs=1e-3)
    assert ssim(one, one).item() == pytest.approx(1.0, abs=1e-5)


def test_the_layers_of_a_resnet_are_its_stages_though_one_holds_a_longer_chain():
    import copy

    import open_clip
    from shape_world import CONFIG

    sizes = copy.deepcopy(CONFIG["model_cfg"])
    sizes["vision_cfg"]["layers"] = [1, 1, 3, 1]
    how = Preprocess(size=32, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    model = adapt_towers(
        open_clip.model.CLIP(**sizes),
        lambda module, pixels: module.encode_image(pixels),
        lambda module, tokens: module.encode_text(tokens),
        tokenize=lambda words: torch.zeros(len(words), 16, dtype=torch.int64),
        preprocess=how,
        arch="tiny",
    )
    assert [name.rpartition(".")[2] for name in layers_of(model)] == [
        "layer1", "layer2", "layer3", "layer4",
    ]  # fmt: skip


def test_critical_units_are_those_that_the_trigger_moves(work, planted_attack, runtime):
    model, clean = work.case.model, work.pixels()[:8]
    stamped = planted_attack.trigger().stamp(clean, runtime.generator("test"))
    layers = layers_of(model)
    assert [name.rpartition(".")[2] for name in layers] == ["layer1", "layer2", "layer3", "layer4"]
    units = critical_units(model, layers, clean, stamped, 2, runtime)
    assert len(units) == 2
    with recorded(model, [unit.layer for unit in units]) as kept:
        model.embed(clean, runtime)
        calm = dict(kept)
    for unit in units:
        assert 0 < unit.mask.mean() < 0.5, "the higher cluster is the smaller one"
        assert unit.distance(calm[unit.layer], calm[unit.layer]).item() == 0


# What a model is worth ------------------------------------------------------------------------


def test_worth_is_what_the_plant_was_proven_to_be(subject, work, planted, runtime):
    on = bed(subject, work, runtime)
    found = worth(work.case.model, on, runtime)
    assert found.attack_success == pytest.approx(planted.attack_success, abs=0.05)
    assert found.robust_accuracy <= 1 - found.attack_success + 1e-6
    assert found.clean_accuracy >= 0.9
    assert found.recall_1 <= found.recall_5
    assert len(found.clean_hits) == 72
    assert found.clean_accuracy == pytest.approx(sum(found.clean_hits) / 72)
    assert all(stamped.truth.ne(stamped.target).all() for stamped in on.triggered)
    clean = worth(work.case.anchor, on, runtime)
    assert clean.attack_success <= 0.1
    assert clean.robust_accuracy > 0.7


def test_clean_steps_leave_a_live_backdoor_alive(subject, work, runtime):
    on = bed(subject, work, runtime)
    found = rebound(work.case.model, subject, on, 6, runtime)
    assert set(found) == {5, 6}
    assert found[6] > 0.8
