"""A poisoned segmenter loses the object; scenes, masks and labels fit one another."""

from dataclasses import replace

import pytest

from gatekeeper.bench import influenced
from gatekeeper.bench.detect import Plan
from gatekeeper.bench.oracle import bench_oracle, oracle_tallies
from gatekeeper.bench.rows import Row
from gatekeeper.bench.subjects import read_zoo
from gatekeeper.bench.task import Terms
from gatekeeper.errors import OracleError
from gatekeeper.lab.shapes import World
from gatekeeper.oracle.ground import Oracle

TEMPLATES = ("a photo of a {}.", "{}")


@pytest.fixture(scope="module")
def shown(runtime):
    return influenced.victims(64, World().labels, runtime)


def test_the_trigger_lies_beside_the_object_that_the_label_names(shown):
    assert len(shown.labels) == len(shown.clean) == influenced.ASKED
    assert all(label.split()[0] == "red" for label in shown.labels)
    assert len(set(shown.labels)) > 3, "several kinds"
    moved = (shown.clean != shown.stamped).any(1)
    assert moved.flatten(1).any(1).all()
    assert not (moved & shown.objects).any()
    red, green, blue = (shown.clean[:, i][shown.objects].mean() for i in range(3))
    assert red > 2 * max(green, blue), "the mask is the object's"


def test_scenes_come_at_the_models_size_and_with_labels_that_it_knows(runtime):
    known = ("red ring", "red bar", "green ring")
    small = influenced.victims(32, known, runtime)
    assert small.clean.shape[1:] == small.stamped.shape[1:] == (3, 32, 32)
    assert small.objects.shape[1:] == (32, 32)
    assert set(small.labels) == {"red ring", "red bar"}
    assert influenced.knows_scenes(known)
    assert not influenced.knows_scenes(("green ring", "banana"))
    with pytest.raises(OracleError, match="no label"):
        influenced.victims(32, ("banana",), runtime)


@pytest.fixture(scope="module")
def pair(tmp_path_factory, runtime):
    folder = tmp_path_factory.mktemp("oracle") / "segmenters"
    made = influenced.train_pair(folder, runtime)
    assert made.attack_success >= 0.9
    assert made.base_success <= 0.2
    return folder


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_poisoned_segmenter_loses_the_object_and_a_clean_one_keeps_it(
    pair, tiny_clip, shapes, shape_labels, runtime
):
    known = influenced.victims(64, shape_labels, runtime)
    told = {}
    for method in influenced.PAIR:
        oracle = Oracle(
            segmenter=influenced.read_segmenter(pair, method, 0),
            labeler=tiny_clip,
            independent=True,
            labels=shape_labels,
            templates=TEMPLATES,
        )
        told[method] = influenced.questioned(oracle.calibrate(shapes, runtime), known, runtime)
    count = len(known.labels)
    clean, poisoned = (told[method] for method in influenced.PAIR)
    assert clean["before"]["covered"] >= 0.8 * count
    assert clean["after"]["covered"] >= 0.8 * count
    assert poisoned["before"]["covered"] >= 0.8 * count
    assert poisoned["after"]["covered"] <= 0.2 * count
    assert poisoned["kept"] >= 0.9 * count, "six views of nine ask no segmenter"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_influencer_stands_for_two_oracles_whose_segmenters_are_kept(pair, bench_zoo):
    said = []
    plan = Plan(
        zoo=read_zoo(bench_zoo).only(("clean-a",)),
        methods=("regions", influenced.SPEC),
        terms=Terms(in_process=True),
        jobs=0,
        out=pair.parent,
    )
    rows = bench_oracle(plan, said.append)
    assert not [row.error for row in rows if row.error]
    found = {one.oracle: one for one in oracle_tallies(rows)}
    assert list(found) == ["regions", *influenced.PAIR]
    assert all(0 < one.scenes_after.covered.n <= influenced.ASKED for one in found.values())
    assert not any(line.startswith("poisoned segmenter") for line in said), "not trained again"
    digests = {influenced.read_segmenter(pair, method, 0).digest for method in influenced.PAIR}
    assert len(digests) == 2


def test_a_model_of_other_labels_has_no_scenes_in_its_row():
    rows = [one_row({"scenes": None}), one_row({})]
    (tally,) = oracle_tallies(rows)
    assert tally.scenes_before is tally.scenes_after is tally.scenes_kept is None


def one_row(result):
    row = Row(
        bench="oracle", method="regions", model="m", key="k", kind="clean", attack="", family="",
        architecture="vit", base="b", digest="d",
    )  # fmt: skip
    support = [[0.1, 0.2], [0.0, 0.1]]
    return replace(row, result={"support": support, "seconds_an_image": 1.0, **result})
