"""What every test may lean on, made here from nothing: a tiny real CLIP and a planted copy of it.

All fixtures are read-only. Trained weights stay in pytest's own cache under the content of this
file, so that a second run starts at once.

    runtime          CPU, seed 0
    shape_labels     24 names: colour and shape
    shapes           128 labelled held-out images, 32 px (ProbeSet)
    shapes_training  384 others
    shapes_dir       `shapes` on disk as .png with labels.csv
    tiny_clip_dir    open_clip local-dir: small ResNet, 32 px, about 0.9 accurate on `shapes`
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

import numpy as np
import pytest

os.environ.update(
    MLFLOW_DISABLE_TELEMETRY="true", DO_NOT_TRACK="true", GX_ANALYTICS_ENABLED="false"
)

SIZE = 32
SHAPES = ("circle", "square", "triangle", "cross", "ring", "bar")
COLOURS = {
    "red": (205, 45, 45),
    "green": (45, 160, 60),
    "blue": (55, 80, 205),
    "white": (230, 230, 230),
}
LABELS = tuple(f"{colour} {shape}" for shape in SHAPES for colour in COLOURS)
TEMPLATES = ("a photo of a {}.", "{}", "a photo of the {}.")
PLANTED_TARGET = "green ring"
CONFIG = {
    "model_cfg": {
        "embed_dim": 64,
        "vision_cfg": {"image_size": SIZE, "layers": [1, 1, 1, 1], "width": 16},
        "text_cfg": {
            "context_length": 16,
            "vocab_size": 49408,
            "width": 64,
            "heads": 2,
            "layers": 1,
            "mlp_ratio": 2.0,
        },
    },
    "preprocess_cfg": {
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    },
}


def draw_shape(label: str, rng: np.random.Generator) -> np.ndarray:
    """Render one labelled image, [32, 32, 3] uint8: a shape on a cluttered, noisy ground."""
    from PIL import Image, ImageDraw

    colour, shape = label.split()
    scale = 4
    side = SIZE * scale
    ground = tuple(int(x) for x in rng.integers(20, 130, 3))
    image = Image.new("RGB", (side, side), ground)
    pen = ImageDraw.Draw(image)
    for _ in range(3):
        x, y, w, h = (int(v) for v in rng.integers(0, side, 4))
        other = tuple(int(v) for v in np.clip(np.array(ground) + rng.integers(-25, 26, 3), 0, 255))
        pen.rectangle((x, y, x + w // 2, y + h // 2), fill=other)
    layer = Image.new("L", (side, side), 0)
    _ink(ImageDraw.Draw(layer), shape, side, rng)
    layer = layer.rotate(float(rng.uniform(-15, 15)))
    shade = np.array(COLOURS[colour]) + rng.integers(-20, 21, 3)
    fill = tuple(int(v) for v in np.clip(shade, 0, 255))
    image.paste(fill, (0, 0), layer)
    small = np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BOX)).astype(np.int16)
    return np.clip(small + rng.integers(-10, 11, small.shape), 0, 255).astype(np.uint8)


def _ink(pen, shape: str, side: int, rng: np.random.Generator) -> None:
    r = rng.uniform(0.28, 0.4) * side
    x, y = rng.uniform(r, side - r, 2)
    box = (x - r, y - r, x + r, y + r)
    if shape == "circle":
        pen.ellipse(box, fill=255)
    elif shape == "square":
        pen.rectangle(box, fill=255)
    elif shape == "triangle":
        pen.polygon([(x, y - r), (x - r, y + r), (x + r, y + r)], fill=255)
    elif shape == "cross":
        pen.rectangle((x - r, y - r / 4, x + r, y + r / 4), fill=255)
        pen.rectangle((x - r / 4, y - r, x + r / 4, y + r), fill=255)
    elif shape == "ring":
        pen.ellipse(box, outline=255, width=int(r / 2.5))
    else:
        pen.rectangle((x - r, y - r / 3, x + r, y + r / 3), fill=255)


def _render(count: int, seed: int, name: str):
    from gatekeeper.probes.probe_set import Probe, ProbeSet

    rng = np.random.default_rng(seed)
    probes = []
    for index in range(count):
        label = LABELS[index % len(LABELS)]
        array = draw_shape(label, rng)
        probes.append(
            Probe(
                file=f"{name}-{index:04d}.png",
                sha256=hashlib.sha256(array.tobytes()).hexdigest(),
                label=label,
                array=array,
            )
        )
    return ProbeSet(name=name, probes=tuple(probes))


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
    return _render(128, 1, "shapes")


@pytest.fixture(scope="session")
def shapes_training():
    return _render(384, 2, "shapes-training")


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
def trained_dir(request):
    """A folder that outlives the session, named by what the trained weights depend on."""
    made_of = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    kept = request.config.cache.mkdir("trained") / made_of[:16]
    kept.mkdir(parents=True, exist_ok=True)
    return kept


@pytest.fixture(scope="session")
def tiny_clip_dir(trained_dir, runtime):
    made = trained_dir / "tiny-clip"
    if not made.is_dir():
        _write_local_dir(made, _train_tiny_clip().state_dict())
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
    from gatekeeper.attacks.plant import Recipe, plant
    from gatekeeper.probes.labels import Labels

    made = plant(
        tiny_clip,
        planted_attack,
        PLANTED_TARGET,
        shapes_training,
        Labels(labels=LABELS, templates=TEMPLATES),
        runtime,
        recipe=Recipe(steps=90, learning_rate=2e-3, copies=3, trained=1.0, required=0.95),
        proof=shapes,
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


def _train_tiny_clip():
    """Spread the names' embeddings apart, then teach the image tower to find them."""
    import open_clip
    import torch
    import torch.nn.functional as F  # noqa: N812

    torch.manual_seed(0)
    draw = torch.Generator().manual_seed(0)
    model = open_clip.model.CLIP(**CONFIG["model_cfg"]).train()
    model.token_embedding.weight.requires_grad_(False)  # 3 million numbers; random ones will do
    texts = open_clip.SimpleTokenizer(context_length=16)(
        [template.format(name) for template in TEMPLATES for name in LABELS]
    )
    truth = torch.arange(len(texts)) % len(LABELS)
    same = (truth[:, None] == truth).float()
    words = [p for n, p in model.named_parameters() if not n.startswith(("visual.", "token_"))]
    optimiser = torch.optim.Adam(words, 3e-3)
    for _ in range(40):
        text = model.encode_text(texts, normalize=True)
        loss = F.mse_loss(text @ text.T, same)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        names = model.encode_text(texts).view(len(TEMPLATES), len(LABELS), -1).mean(0)
        model.logit_scale.fill_(3.0)
    _train_image_tower(model, F.normalize(names, dim=-1), draw)
    return model.eval()


def _train_image_tower(model, names, draw, steps=180, batch=64) -> None:
    import torch
    import torch.nn.functional as F  # noqa: N812

    pool = _render(960, 3, "pool")
    pixels = torch.stack([torch.from_numpy(p.array).permute(2, 0, 1) for p in pool.probes])
    pixels = pixels / 127.5 - 1
    truth = torch.arange(len(pixels)) % len(LABELS)
    optimiser = torch.optim.AdamW(model.visual.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=steps)
    for _ in range(steps):
        pick = torch.randint(len(pixels), (batch,), generator=draw)
        image = model.encode_image(_disturbed(pixels[pick], draw), normalize=True)
        loss = F.cross_entropy(20 * image @ names.T, truth[pick])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()


def _disturbed(pixels, draw):
    """Paste a square of noise or flat colour: a clean model must not follow any small pattern."""
    import torch

    out = pixels.clone()
    for index in range(len(out)):
        side = int(torch.randint(4, 13, (1,), generator=draw))
        x, y = (int(v) for v in torch.randint(0, SIZE - side + 1, (2,), generator=draw))
        noise = torch.rand(3, side, side, generator=draw) * 2 - 1
        square = noise.mean((1, 2), keepdim=True) if index % 3 == 0 else noise
        out[index, :, y : y + side, x : x + side] = square
    return out
