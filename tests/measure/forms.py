"""Scan one tiny CLIP in every MODEL form, and hostile files of every class, by the command line.

    python tests/measure/forms.py forms
    python tests/measure/forms.py hostile

Prints a table: what was given, the exit code, the kinds of findings (and the globals they name).
The tiny CLIP has drawn weights: what counts is that it is read and judged, not the verdict.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).parents[1] / "intake"))

import forms as made
import hostile as bad


def scan(model, folder, *extra):
    """Return (exit code, findings, message) of `gatekeeper scan`."""
    out = Path(folder) / "report"
    done = subprocess.run(
        [
            *(Path(sys.executable).parent / "gatekeeper", "scan", model, "--format", "json"),
            *("--output", out, "--labels", Path(folder) / "labels.txt", *extra),
        ],
        capture_output=True,
        text=True,
    )
    try:
        report = json.loads(done.stdout)
    except json.JSONDecodeError:
        lines = [line for line in done.stderr.splitlines() if line.startswith("Error")]
        return done.returncode, [], (lines or [""])[0]
    return done.returncode, report["findings"], report["verdict"]


def told(findings):
    kinds = sorted({f["kind"] for f in findings if f["severity"] != "info"})
    names = sorted({str(g) for f in findings for g in f["evidence"].get("globals", [])})
    return ", ".join(kinds) + (f" [{', '.join(names)[:60]}]" if names and kinds else "")


@click.group()
def main():
    """Show what is read, and what is refused."""


@main.command("forms")
def forms_():
    """Scan every form."""
    module = made.tiny_open_clip()
    makers = {
        "open_clip local-dir": (made.local_dir, ()),
        "open_clip local-dir, fp16": (made.half_local_dir, ()),
        "open_clip local-dir, .bin": (made.bin_local_dir, ()),
        "open_clip local-dir, legacy .bin": (made.legacy_local_dir, ()),
        "training checkpoint": (made.training_checkpoint, ()),
        "MLflow pytorch, whole pickle": (made.mlflow_pickle, ("anchor",)),
        "MLflow pytorch, state dict": (made.mlflow_state_dict, ("anchor",)),
        "MLflow pytorch, pt2": (made.mlflow_pt2, ("anchor",)),
        "MLflow pyfunc with artifacts": (made.mlflow_pyfunc, ()),
        "plain artifacts": (made.plain_artifacts, ()),
    }
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "labels.txt").write_text("cat\ndog\nhorse\nplane\nship\ntruck\n")
        anchor = made.local_dir(root / "anchor", module)
        for number, (name, (make, needs)) in enumerate(makers.items()):
            model = make(root / f"m{number}", module)
            extra = ("--anchor", anchor) if needs else ()
            show(name, *scan(model, folder, *extra), "--anchor BASE" if needs else "")
        bare = anchor / "open_clip_model.safetensors"
        lone = root / "bare.safetensors"
        lone.write_bytes(bare.read_bytes())
        config = anchor / "open_clip_config.json"
        show("bare checkpoint", *scan(lone, folder, "--arch", config), "--arch FILE")
        for name, make, tokens in (
            ("transformers CLIPModel", made.tiny_clip_model, made.clip_tokenizer_files),
            ("transformers SiglipModel", made.tiny_siglip_model, made.siglip_tokenizer_files),
        ):
            model = root / name.split()[1]
            make().save_pretrained(model)
            tokens(model)
            write_processor(model, siglip="Siglip" in name)
            show(name, *scan(model, folder))


def write_processor(model, *, siglip):
    from transformers import CLIPImageProcessor, SiglipImageProcessor

    side = json.loads((model / "config.json").read_text())["vision_config"]["image_size"]
    if siglip:
        SiglipImageProcessor(size={"height": side, "width": side}).save_pretrained(model)
    else:
        CLIPImageProcessor(
            size={"shortest_edge": side}, crop_size={"height": side, "width": side}
        ).save_pretrained(model)


def show(name, code, findings, verdict, how=""):
    click.echo(f"{name:<34} {how:<14} exit {code}  {verdict:<13} {told(findings)}")


@main.command("hostile")
def hostile_():
    """Scan every hostile sample."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        canary = root / "executed"
        (root / "labels.txt").write_text("cat\ndog\n")
        samples = {
            name: ("model.pth", bad.torch_zip("archive", {"data.pkl": bad.program(body)}))
            for name, (body, _) in bad.payloads(canary).items()
        }
        good = bad.torch_zip("archive", {"data.pkl": bad.program(b"}")})
        samples |= {
            "payload, renamed extension": (
                "notes.txt",
                bad.program(next(iter(bad.payloads(canary).values()))[0]),
            ),
            "payload, broken tail": (
                "model.pkl",
                bad.program(next(iter(bad.payloads(canary).values()))[0])[:-1] + b"\xff\xff",
            ),
            "encrypted flag": ("model.pth", bad.flip_flag(good)),
            "local name differs": ("model.pth", bad.rename_local(good)),
            "zip bomb": ("model.pth", bad.bomb()),
            "zip bomb that lies": ("model.pth", bad.lying_bomb()),
            "trailing bytes": ("model.pth", good + b"MZ" * 64),
            "safetensors overlap": (
                "model.safetensors",
                bad.safetensors(
                    json.dumps(
                        {
                            "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
                            "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]},
                        }
                    ).encode(),
                    b"\0" * 12,
                ),
            ),
        }
        for number, (name, (file, content)) in enumerate(samples.items()):
            model = root / f"h{number}"
            model.mkdir()
            (model / file).write_bytes(content)
            show(name, *scan(model, folder))
        (root / "empty").mkdir()
        show("empty folder", *scan(root / "empty", folder))
        show("no such path", *scan(root / "nowhere", folder))
        click.echo(f"executed: {'YES' if canary.exists() else 'nothing'}")


if __name__ == "__main__":
    main()
