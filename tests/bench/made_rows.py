"""Rows as a bench over three architectures would leave them, made by hand."""

import random

from gatekeeper.bench.rows import Row

ATTACKS = ("badnets", "blended", "sig", "wanet", "dual_embedding")
TREES = ("vit", "resnet", "convnet")


def row(bench, method, model, kind, result, *, attack="", tree="vit", error="", seconds=1.0):
    return Row(
        bench=bench,
        method=method,
        model=model,
        key="sha256:0",
        kind=kind,
        attack=attack,
        family="patch" if attack else "",
        architecture=tree,
        base=f"base-{tree}",
        digest=f"sha256:{model}",
        result=result,
        error=error,
        seconds=seconds,
        image_passes=1000 * seconds,
        text_passes=0.0,
        peak_rss_mb=900.0,
    )


def judged(score, *, rank=None, cosine=None, flagged=None, probability=False, targets=(), iou=None):
    return {
        "score": score,
        "probability": probability,
        "flagged": flagged,
        "ranking": ["ring", "disc"],
        "targets": list(targets),
        "rank": rank,
        "cosine": cosine,
        "embedding": [0.6, 0.8],
        "box": None,
        "iou": iou,
        "full_passes": None if probability else 3e6,
        "budget": 6000.0,
        "note": "",
    }


def detection_rows(seed=0):
    """12 clean and 15 planted models, four methods of falling skill, and both image detectors."""
    draw = random.Random(seed)
    rows = []
    skills = (("gatekeeper", 4.0), ("decree", 1.2), ("clip_inspector", 0.8), ("neural_cleanse", 0))
    for method, skill in skills:
        ours = method == "gatekeeper"
        for number in range(27):
            tree, planted = TREES[number % 3], number >= 12
            bare = draw.gauss(skill if planted else 0.0, 1.0)
            score = 1 / (1 + 2.7 ** (2 - 1.5 * bare)) if ours else bare
            right = planted and draw.random() < 0.2 + skill / 5
            result = judged(
                score,
                rank=1 if right else 4 if planted and draw.random() < 0.4 else None,
                cosine=(1.0 if right else draw.uniform(0, 0.5)) if planted else None,
                flagged=score > 0.5 if ours else bare > 2,
                probability=ours,
                targets=("ring",) if planted else (),
                iou=draw.uniform(0.3, 0.9) if planted and number % 5 == 0 else None,
            )
            attack = ATTACKS[number % 5] if planted else ""
            kind = "planted" if planted else "clean"
            seconds = 40.0 if ours else 60.0
            rows.append(
                row("detect", method, f"m{number:02d}", kind, result, attack=attack, tree=tree,
                    seconds=seconds)
            )  # fmt: skip
        result = judged(0.1, flagged=not ours, probability=ours)
        rows.append(row("detect", method, "universal", "adversarial", result, attack="universal"))
    for method, skill in (("gatekeeper_images", 3.0), ("bdetclip", 0.5)):
        for number in range(12, 27):
            marks = [i % 2 == 0 for i in range(32)]
            scores = [draw.gauss(skill if mark else 0, 1) for mark in marks]
            result = {
                "scores": scores,
                "triggered": marks,
                "image_flags": [score > 1.5 for score in scores],
                "overlaps": [0.6, 0.4] if method.startswith("gate") else [],
                "local": 16,
            }
            attack = ATTACKS[number % 5]
            rows.append(row("detect", method, f"m{number:02d}", "planted", result, attack=attack))
    rows.append(
        row("detect", "decree", "m99", "planted", {}, attack="sig", error="killed for its memory")
    )
    return rows


def repaired(asr, ca, ra, *, changed=1, post=None):
    return {
        "before": {"clean_accuracy": 0.8, "attack_success": 0.97, "robust_accuracy": 0.02,
                   "recall_1": 0.7, "recall_5": 0.9},
        "after": {"clean_accuracy": ca, "attack_success": asr, "robust_accuracy": ra,
                  "recall_1": 0.7, "recall_5": 0.9},
        "accuracy_change": {"value": ca - 0.8, "low": ca - 0.82, "high": ca - 0.78, "n": 100},
        "der": (max(0, 0.97 - asr) - max(0, 0.8 - ca) + 1) / 2,
        "a_post": post if post is not None else min(1.0, 2 * asr),
        "rebound": {"5": asr, "20": min(1.0, 1.5 * asr), "300": min(1.0, 2 * asr)},
        "twin": {"clean_accuracy": 0.8, "attack_success": 0.0, "robust_accuracy": 0.7},
        "robust_gap": ra - 0.7,
        "changed": changed,
        "offered": True,
        "images": 96,
        "steps": 60,
        "budget": 6000.0,
        "note": "",
    }  # fmt: skip


def repair_rows(seed=0):
    """Five repairs of eight planted models each, and of one clean model."""
    draw = random.Random(seed)
    rows = []
    skills = {
        "gatekeeper": 0.02,
        "fine_tuning": 0.8,
        "cleanclip": 0.5,
        "par": 0.4,
        "invertune": 0.2,
    }
    for method, left in skills.items():
        for number in range(8):
            asr = min(1.0, max(0.0, draw.gauss(left, 0.05)))
            result = repaired(asr, 0.8 - draw.uniform(0, 0.03), 0.7 * (1 - asr))
            attack, tree = ATTACKS[number % 5], TREES[number % 3]
            rows.append(
                row("rectify", method, f"m{number}", "planted", result, attack=attack, tree=tree)
            )
        clean = repaired(0.0, 0.79, 0.0) | {
            "der": None, "a_post": None, "rebound": {}, "twin": None, "robust_gap": None,
        }  # fmt: skip
        clean["after"] = clean["after"] | {"attack_success": None, "robust_accuracy": None}
        clean["before"] = clean["before"] | {"attack_success": None, "robust_accuracy": None}
        rows.append(row("rectify", method, "clean", "clean", clean))
    return rows
