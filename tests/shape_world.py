"""A little world of coloured shapes, and a CLIP that learns it in seconds."""

from gatekeeper.lab.shapes import World

SIZE = 32
# The lab's world, small and plain.
WORLD = World(
    size=SIZE,
    shapes=("circle", "square", "triangle", "cross", "ring", "bar"),
    colours=("red", "green", "blue", "white"),
    textures=("plain",),
    radius=(0.32, 0.42),
    turn=8.0,
)
LABELS = WORLD.labels
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


def render(count: int, seed: int, name: str):
    return WORLD.render(count, seed, name)


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
