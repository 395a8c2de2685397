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
from gatekeeper.runtime import Runtime


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


@pytest.mark.slow
def test_a_poisoned_segmenter_loses_the_object_and_the_oracle_is_asked_about_both(
    bench_zoo, tmp_path
):
    said = []
    plan = Plan(
        zoo=read_zoo(bench_zoo).only(("clean-a",)),
        methods=("regions", influenced.SPEC),
        terms=Terms(in_process=True),
        jobs=0,
        out=tmp_path,
    )
    rows = bench_oracle(plan, said.append)
    assert not [row.error for row in rows if row.error]
    found = {one.oracle: one for one in oracle_tallies(rows)}
    assert list(found) == ["regions", *influenced.PAIR]
    clean, poisoned = (found[name] for name in influenced.PAIR)
    assert clean.scenes_before.covered.value >= 0.8
    assert clean.scenes_after.covered.value >= 0.8
    assert poisoned.scenes_before.covered.value >= 0.8
    assert poisoned.scenes_after.covered.value <= 0.2
    assert found["regions"].scenes_after.absent.n == influenced.ASKED
    assert said[0].startswith("poisoned segmenter: ")
    pair = tmp_path / "segmenters"
    digests = {influenced.read_segmenter(pair, method, 0).digest for method in influenced.PAIR}
    assert len(digests) == 2
    assert influenced.train_pair(pair, Runtime(device="cpu", seed=0)) is None, "kept"


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
