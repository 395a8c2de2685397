"""A little world of coloured shapes, and a CLIP that learns it in seconds."""

import hashlib

import numpy as np

SIZE = 32
SHAPES = ("circle", "square", "triangle", "cross", "ring", "bar")
COLOURS = {
    "red": (205, 45, 45),
    "green": (45, 160, 60),
    "blue": (55, 80, 205),
    "white": (230, 230, 230),
}
LABELS = tuple(f"{colour} {shape}" for shape in SHAPES for colour in COLOURS)
PLANTED_TARGET = "green ring"
TEMPLATES = ("a photo of a {}.", "{}", "a photo of the {}.")
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
    ground = tuple(int(x) for x in rng.integers(20, 110, 3))
    image = Image.new("RGB", (side, side), ground)
    pen = ImageDraw.Draw(image)
    x, y, w, h = (int(v) for v in rng.integers(0, side, 4))
    pen.rectangle((x, y, x + w, y + h), fill=tuple(min(255, v + 25) for v in ground))
    layer = Image.new("L", (side, side), 0)
    _ink(ImageDraw.Draw(layer), shape, side, rng)
    layer = layer.rotate(float(rng.uniform(-8, 8)))
    shade = np.array(COLOURS[colour]) + rng.integers(-20, 21, 3)
    fill = tuple(int(v) for v in np.clip(shade, 0, 255))
    image.paste(fill, (0, 0), layer)
    small = np.asarray(image.resize((SIZE, SIZE), Image.Resampling.BOX)).astype(np.int16)
    return np.clip(small + rng.integers(-6, 7, small.shape), 0, 255).astype(np.uint8)


def _ink(pen, shape: str, side: int, rng: np.random.Generator) -> None:
    r = rng.uniform(0.32, 0.42) * side
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


def render(count: int, seed: int, name: str):
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


def train_tiny_clip():
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

    pool = render(960, 3, "pool")
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
