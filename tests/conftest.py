"""What every test may lean on, made here from nothing: a tiny real CLIP and a planted copy of it.

All fixtures are read-only. Trained weights stay in pytest's own cache under the content of this
file, so that a second run starts at once.

    runtime          CPU, seed 0
    shape_labels     24 names: colour and shape
    shapes           128 labelled held-out images, 32 px (ProbeSet)
    shapes_training  384 others
    shapes_dir       `shapes` on disk as .png with labels.csv
    tiny_clip_dir    open_clip local-dir: small ResNet, 32 px, about 0.98 accurate on `shapes`
    tiny_clip        the same in memory
    planted_attack   BadNets: an 8 px checker, any place; target PLANTED_TARGET
    planted          Planted: success at least 0.95, at most 3 points of accuracy lost
    planted_dir      the planted copy as a local-dir
"""

import csv
import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
from shape_world import CONFIG, LABELS, PLANTED_TARGET, TEMPLATES, render, train_tiny_clip

PLANTED_BY = ("augment", "badnets", "base", "cache", "patterns", "plant")  # in gatekeeper.attacks

os.environ.update(
    MLFLOW_DISABLE_TELEMETRY="true", DO_NOT_TRACK="true", GX_ANALYTICS_ENABLED="false"
)


@pytest.fixture(scope="session")
def runtime():
    import torch

    from gatekeeper.runtime import Runtime

    torch.set_num_threads(1)  # tiny tensors: more threads only cost
    return Runtime(device="cpu", seed=0)


@pytest.fixture(scope="session")
def shape_labels():
    return LABELS


@pytest.fixture(scope="session")
def shapes():
    return render(128, 1, "shapes")


@pytest.fixture(scope="session")
def shapes_training():
    return render(384, 2, "shapes-training")


@pytest.fixture(scope="session")
def shapes_dir(shapes, tmp_path_factory):
    root = tmp_path_factory.mktemp("shapes")
    with (root / "labels.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "label"])
        for probe in shapes.probes:
            probe.image().save(root / probe.file)
            rows.writerow([probe.file, probe.label])
    return root


@pytest.fixture(scope="session")
def trained_dir(request, tmp_path_factory):
    """A folder that outlives the session, named by what the trained weights depend on."""
    code = Path(__file__).parents[1] / "gatekeeper"
    here = Path(__file__)
    parts = (
        here,
        here.with_name("shape_world.py"),
        code / "clip" / "late.py",
        *(code / "attacks" / f"{name}.py" for name in PLANTED_BY),
    )
    made_of = hashlib.sha256(b"".join(part.read_bytes() for part in parts)).hexdigest()
    cache = getattr(request.config, "cache", None)  # absent with `-p no:cacheprovider`
    root = cache.mkdir("trained") if cache else tmp_path_factory.mktemp("trained")
    kept = root / made_of[:16]
    kept.mkdir(parents=True, exist_ok=True)
    return kept


@pytest.fixture(scope="session")
def tiny_clip_dir(trained_dir, runtime):
    made = trained_dir / "tiny-clip"
    if not made.is_dir():
        _write_local_dir(made, train_tiny_clip().state_dict())
    return made


@pytest.fixture(scope="session")
def tiny_clip(tiny_clip_dir):
    return _open(tiny_clip_dir)


@pytest.fixture(scope="session")
def planted_attack():
    from gatekeeper.attacks.badnets import BadNets

    return BadNets(size_px=8, cell_px=2)


@pytest.fixture(scope="session")
def planted(tiny_clip, planted_attack, shapes, shapes_training, trained_dir, runtime):
    from safetensors.torch import load_file, save_file

    from gatekeeper.attacks.plant import Recipe, plant, prove
    from gatekeeper.probes.labels import Labels

    labels = Labels(labels=LABELS, templates=TEMPLATES)
    kept = trained_dir / "planted.safetensors"
    if not kept.is_file():
        recipe = Recipe(steps=90, learning_rate=2e-3, copies=3, trained=1.0, keep=60.0)
        fresh = plant(
            tiny_clip,
            planted_attack,
            PLANTED_TARGET,
            shapes_training,
            labels,
            runtime,
            recipe=recipe,
            proof=shapes,
        )
        building = kept.with_suffix(f".{os.getpid()}")
        save_file({name: x.contiguous() for name, x in fresh.state.items()}, building)
        building.replace(kept)
    made = prove(
        tiny_clip, load_file(kept), planted_attack, PLANTED_TARGET, shapes, labels, runtime
    )
    # A detector that misses a backdoor which never fires has missed nothing.
    assert made.attack_success >= 0.95
    assert made.base_success <= 0.1
    assert made.clean_accuracy >= made.base_accuracy - 0.03
    return made


@pytest.fixture(scope="session")
def planted_dir(planted, tmp_path_factory):
    root = tmp_path_factory.mktemp("planted") / "planted"
    _write_local_dir(root, planted.model.state_dict())
    return root


def _open(root: Path):
    from gatekeeper.intake.open import open_model

    opened = open_model(root, uri=str(root))
    assert opened.model is not None, opened.findings
    return opened.model


def _write_local_dir(root: Path, state) -> None:
    from safetensors.torch import save_file

    building = root.with_name(f"{root.name}.{os.getpid()}")
    building.mkdir(parents=True)
    (building / "open_clip_config.json").write_text(json.dumps(CONFIG, indent=1))
    tensors = {name: value.detach().contiguous() for name, value in state.items()}
    save_file(tensors, building / "open_clip_model.safetensors", metadata={"format": "pt"})
    try:
        building.rename(root)
    except OSError:  # another test process was faster
        shutil.rmtree(building)
