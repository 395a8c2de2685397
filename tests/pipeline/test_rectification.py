"""What a repair and its re-scan come to: a second round, a refusal kept as evidence, a pass."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from gatekeeper.errors import RectifyError, ServiceError, UtilityLostError
from gatekeeper.pipeline import Assessment, rectification, rounds
from gatekeeper.pipeline.checkpoint import opened_work
from gatekeeper.pipeline.prepare import ScanRequest
from gatekeeper.policy.schema import load_policy
from gatekeeper.rectify.base import Ailment, Rectified
from gatekeeper.rectify.limits import at_most
from gatekeeper.rectify.proof import Proved
from gatekeeper.runtime import Runtime
from gatekeeper.scan.base import CompactSet, Confirmed, ScanOutcome
from gatekeeper.triggers import Patch
from gatekeeper.types import (
    Cost,
    CurvePoint,
    Evaluation,
    ModelRef,
    Proof,
    Quality,
    Reference,
    ScanReport,
    Verdict,
)

SHA = "sha256:" + "0" * 64


def quality(attack_success: float, accuracy: float = 0.8) -> Quality:
    return Quality(
        clean_accuracy=accuracy,
        attack_success=attack_success,
        recovered_accuracy=0.7,
        agreement=0.98,
        rebound=0.0,
    )


def repaired(attack_success: float) -> Rectified:
    return Rectified(
        method="compact",
        state={},
        before=quality(0.95),
        after=quality(attack_success),
        images_used=60,
        steps=0,
        held_out=20,
        notes=(),
    )


def proved(rebound: float = 0.0, **more) -> Proved:
    check = at_most("rebound", "Attack success after fine-tuning", None, rebound, 0.05, 40)
    curve = (CurvePoint(at=300, attack_success=rebound),)
    return Proved(record=Proof(checks=(check,), rebound=curve, path=(), images=40), **more)


def assessment(request, verdict: Verdict, *targets: str) -> Assessment:
    triggers = tuple(
        Confirmed(
            id=f"trigger-{number}",
            trigger=Patch(pixels=torch.full((3, 4, 4), 0.1 * number)),
            target=target,
            detector="trigger_search",
            flip_rate=0.9,
            anchor_flip_rate=None,
            oracle_agrees=1.0,
        )
        for number, target in enumerate(targets, start=1)
    )
    reference = Reference(name="x", digest=SHA)
    report = ScanReport(
        verdict=verdict,
        score=0.9 if targets else 0.01,
        reasons=("A patch leads 90 % of the images to 'tench'.",) if targets else (),
        targets=(), victims=(), triggers=(), suspects=(), findings=(), measurements={}, rules=(),
        model=ModelRef(uri=request.uri, digest=SHA, arch="toy"),
        anchor=None, policy=reference, probes=reference, oracle=reference, calibration=None,
        cost=Cost(seconds=1, image_passes=1, text_passes=1, peak_rss_mb=1, device="cpu"),
        environment={}, seed=0, started="2026-01-02T03:04:05+00:00",
        finished="2026-01-02T03:04:06+00:00",
    )  # fmt: skip
    return Assessment(
        request=request,
        report=report,
        evaluation=Evaluation(verdict=verdict, rules=(), reasons=()),
        opened=SimpleNamespace(),
        outcome=ScanOutcome(
            score=report.score,
            triggers=triggers,
            compact=CompactSet(affected=targets, victims=(), probes=()),
        ),
        case=SimpleNamespace(labels=(), templates=(), suspects=None),
    )


class Bench:
    """A failed scan, repairs and re-scans that answer in turn, and what they were asked."""

    def __init__(self, tmp_path, monkeypatch, repairs, rescans, proofs=()) -> None:
        self.root = tmp_path / "suspect"
        self.root.mkdir()
        (self.root / "weights.bin").write_bytes(b"suspect")
        self.out = tmp_path / "out"
        request = ScanRequest(model=self.root, uri="suspect", policy=load_policy(None))
        self.found = assessment(request, Verdict.FAIL, "tench")
        self.prescriptions, self.seeds = [], []
        self.repairs, self.rescans = iter(repairs), iter(rescans)
        self.proofs = iter(proofs)
        for name in ("repair", "assess", "write_like", "prove"):
            monkeypatch.setattr(rounds, name, getattr(self, name))

    def repair(self, case, prescription, method, runtime):
        self.prescriptions.append(prescription)
        given = next(self.repairs)
        if isinstance(given, Exception):
            raise given
        return given

    def prove(self, case, prescription, repaired, runtime):
        return next(self.proofs, proved())

    def assess(self, request, runtime):
        self.seeds.append(runtime.seed)
        verdict, *targets = next(self.rescans)
        return assessment(request, verdict, *targets)

    def write_like(self, opened, state, root, out):
        assert not out.exists()
        out.mkdir()
        (out / "weights.bin").write_bytes(b"cleaned %d" % len(self.prescriptions))

    def recalled(self, request, file):
        assert file.is_file()
        return assessment(request, Verdict.PASS)

    def run(self, seed=0):
        return rectification.rectify(self.found, Runtime(device="cpu", seed=seed), self.out)


def refused(kind=RectifyError, attack_success=0.3):
    error = kind("the found trigger still leads 30.0% of images", hint="add probes")
    error.rejected = repaired(attack_success)
    return error


def test_a_repair_that_passes_takes_one_round(tmp_path, monkeypatch):
    bench = Bench(tmp_path, monkeypatch, [repaired(0.0)], [(Verdict.PASS,)])
    result = bench.run()
    assert result.passed
    assert result.rounds == 1
    assert result.why_not == ""
    assert (result.model / "weights.bin").read_bytes() == b"cleaned 1"
    assert (bench.root / "weights.bin").read_bytes() == b"suspect"
    assert bench.seeds == [rounds.FRESH_SEED]
    report = json.loads((bench.out / "report.json").read_text())
    assert report["before"]["attack_success"] == 0.95
    assert report["after"]["attack_success"] == 0.0
    assert (bench.out / "rescan" / "report.json").is_file()


def test_what_the_rescan_finds_is_repaired_too(tmp_path, monkeypatch):
    first = replace(repaired(0.0), state={"head": torch.ones(2)})
    bench = Bench(
        tmp_path, monkeypatch, [first, repaired(0.0)], [(Verdict.FAIL, "goldfish"), (Verdict.PASS,)]
    )
    result = bench.run()
    assert result.passed
    assert result.rounds == 2
    assert (result.model / "weights.bin").read_bytes() == b"cleaned 2"
    second = bench.prescriptions[1]
    assert [ailment.target for ailment in second.ailments] == ["tench", "goldfish"]
    assert second.affected == ("tench", "goldfish")
    assert torch.equal(second.begun["head"], first.state["head"])
    assert len(set(bench.seeds)) == 2


def test_a_repair_beyond_its_limits_is_kept_and_not_passed(tmp_path, monkeypatch):
    """Even where the re-scan sees nothing: the repair's own measurement is evidence too."""
    bench = Bench(tmp_path, monkeypatch, [refused()], [(Verdict.PASS,)])
    result = bench.run()
    assert not result.passed
    assert "30.0%" in result.why_not
    assert (bench.out / "model" / "weights.bin").is_file()
    assert json.loads((bench.out / "report.json").read_text())["after"]["attack_success"] == 0.3


def test_a_rescan_that_fails_twice_is_kept_and_not_passed(tmp_path, monkeypatch):
    fails = [(Verdict.FAIL, "tench")] * 2
    result = Bench(tmp_path, monkeypatch, [repaired(0.0)] * 2, fails).run()
    assert not result.passed
    assert result.rounds == 2
    assert "its own scan says fail: A patch leads" in result.why_not


def test_what_the_proof_brings_back_is_repaired_from_there(tmp_path, monkeypatch):
    near = Ailment(target="tench", trigger=Patch(pixels=torch.rand(3, 4, 4)))
    back = proved(0.4, returned=(near,), begun={"head": torch.full((2,), 3.0)})
    passes = [(Verdict.PASS,)] * 2
    bench = Bench(tmp_path, monkeypatch, [repaired(0.0)] * 2, passes, [back, proved()])
    result = bench.run()
    assert result.passed
    assert result.rounds == 2
    second = bench.prescriptions[1]
    assert torch.equal(second.begun["head"], torch.full((2,), 3.0))
    assert torch.equal(second.ailments[-1].trigger.pixels, near.trigger.pixels)


def test_what_cannot_be_proven_is_kept_and_not_passed(tmp_path, monkeypatch):
    back = [proved(0.4)] * 2
    bench = Bench(tmp_path, monkeypatch, [repaired(0.0)], [(Verdict.PASS,)], back)
    result = bench.run()
    assert not result.passed
    assert "40.0% (required: <= 5.0%)" in result.why_not
    report = json.loads((bench.out / "report.json").read_text())
    assert report["after"]["rebound"] == 0.4
    assert report["proof"]["checks"][0]["ok"] is False


@pytest.mark.parametrize("interrupted", ["repair", "assess", "prove"])
def test_an_interrupted_run_goes_on_from_its_finished_stages(tmp_path, monkeypatch, interrupted):
    bench = Bench(tmp_path, monkeypatch, [repaired(0.0)], [(Verdict.PASS,)])

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as during:
        during.setattr(rounds, interrupted, interrupt)
        with pytest.raises(KeyboardInterrupt):
            bench.run()
    assert not bench.out.exists()
    monkeypatch.setattr(rounds, "recall", lambda request, file, _: bench.recalled(request, file))
    assert bench.run().passed
    assert len(bench.prescriptions) == 1
    assert len(bench.seeds) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "suspect"]


def test_other_arguments_start_anew(tmp_path, monkeypatch):
    bench = Bench(tmp_path, monkeypatch, [repaired(0.0)] * 2, [(Verdict.PASS,)] * 2)

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as during:
        during.setattr(rounds, "prove", interrupt)
        with pytest.raises(KeyboardInterrupt):
            bench.run()
    assert bench.run(seed=1).passed
    assert len(bench.prescriptions) == 2


def test_a_second_process_on_the_same_output_is_refused(tmp_path, monkeypatch):
    bench = Bench(tmp_path, monkeypatch, [repaired(0.0)], [(Verdict.PASS,)])
    with (
        opened_work(tmp_path / ".out.work", "another"),
        pytest.raises(ServiceError, match="at work"),
    ):
        bench.run()


def test_lost_utility_is_not_repaired_further(tmp_path, monkeypatch):
    lost = refused(UtilityLostError, 0.0)
    bench = Bench(tmp_path, monkeypatch, [lost], [(Verdict.FAIL, "tench")])
    assert bench.run().rounds == 1


def test_a_second_round_that_makes_nothing_leaves_the_first(tmp_path, monkeypatch):
    broken = RectifyError("no prompt", hint="name another label")
    bench = Bench(tmp_path, monkeypatch, [repaired(0.0), broken], [(Verdict.FAIL, "x")])
    result = bench.run()
    assert not result.passed
    assert (result.model / "weights.bin").read_bytes() == b"cleaned 1"


def test_nothing_made_leaves_nothing_behind(tmp_path, monkeypatch):
    bench = Bench(tmp_path, monkeypatch, [RectifyError("too few", hint="more")], [])
    with pytest.raises(RectifyError, match="too few"):
        bench.run()
    assert [path.name for path in tmp_path.iterdir()] == ["suspect"]


def test_a_clean_model_under_force_comes_back_byte_for_byte(tiny_clip_dir, tmp_path):
    """No ailment, no new weights: what is written is the model that came in."""
    from gatekeeper.intake.digest import tree_digest
    from gatekeeper.intake.open import open_model
    from gatekeeper.intake.write import write_like

    opened = open_model(tiny_clip_dir, uri="clean")
    write_like(opened, {}, tiny_clip_dir, tmp_path / "copy")
    assert tree_digest(tmp_path / "copy")[0] == opened.ref.digest
