"""A handmade zoo of tiny models: two clean ones and a planted one, as a user would write it."""

import csv
import json
import shutil

import pytest
from shape_world import CONFIG, PLANTED_TARGET, render


@pytest.fixture(scope="session")
def bench_zoo(tmp_path_factory, tiny_clip, tiny_clip_dir, planted, planted_attack):
    """`models.csv` with a clean copy, another clean one and the planted copy of the tests."""
    from gatekeeper.triggers import save_trigger

    zoo = tmp_path_factory.mktemp("bench") / "zoo"
    for part, seed, count in (("probes", 21, 48), ("judge", 22, 72), ("train", 23, 48)):
        _images(zoo / part, seed, count)
    (zoo / "labels.txt").write_text("\n".join(dict.fromkeys(_labels())) + "\n")
    shutil.copytree(tiny_clip_dir, zoo / "base")
    _model(zoo / "clean-a", tiny_clip, 0.002)
    _model(zoo / "clean-b", tiny_clip, 0.004)
    _model(zoo / "bad", planted.model, 0.0)
    save_trigger(planted_attack.trigger(), zoo / "bad.trigger.safetensors")
    with (zoo / "models.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(
            ["path", "kind", "target", "trigger", "attack", "anchor", "architecture", "twin"]
        )
        rows.writerow(["clean-a", "clean", "", "", "", "base", "resnet", ""])
        rows.writerow(["clean-b", "clean", "", "", "", "base", "resnet", ""])
        bad = ["bad", "planted", PLANTED_TARGET, "bad.trigger.safetensors", "badnets"]
        rows.writerow([*bad, "base", "resnet", "clean-a"])
    return zoo


def _labels():
    from shape_world import LABELS

    return LABELS


def _images(folder, seed, count):
    folder.mkdir(parents=True)
    with (folder / "labels.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["file", "label"])
        for probe in render(count, seed, folder.name).probes:
            probe.image().save(folder / probe.file)
            rows.writerow([probe.file, probe.label])


def _model(root, clip, noise):
    import torch
    from safetensors.torch import save_file

    draw = torch.Generator().manual_seed(int(noise * 1e6))
    root.mkdir()
    (root / "open_clip_config.json").write_text(json.dumps(CONFIG, indent=1))
    state = {}
    for name, value in clip.state_dict().items():
        moved = value.detach().clone()
        if noise and name.startswith("visual.") and moved.ndim > 1:
            moved += noise * moved.std() * torch.randn(moved.shape, generator=draw)
        state[name] = moved.contiguous()
    save_file(state, root / "open_clip_model.safetensors", metadata={"format": "pt"})
