"""Fit the curves that turn a scan's statistics into its score, and judge them out of sample.

    python tests/measure/calibrate.py FOLDER… [--zoo ZOO]… [--output FILE]

FOLDER: outputs of `gatekeeper bench detect` (its rows name the truth), or folders with report.json
of scans of models in ZOO. Without --output nothing is written.
"""

import json
from pathlib import Path

import click

from gatekeeper.bench.calibrate import calibrated
from gatekeeper.bench.known import read_known
from gatekeeper.bench.subjects import read_zoo

folder = click.Path(exists=True, file_okay=False, path_type=Path)


@click.command()
@click.argument("folders", nargs=-1, required=True, type=folder)
@click.option("--zoo", "zoos", multiple=True, type=folder, help="Truth of reports; repeatable.")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path))
def main(folders, zoos, output):
    """Fit and judge; write the file that ships."""
    rows, left = read_known(folders, [read_zoo(zoo) for zoo in zoos])
    for why, count in left.items():
        click.echo(f"left out: {count} {why}", err=True)
    clean = len({row.digest for row in rows if row.kind == "clean"})
    planted = len({row.digest for row in rows if row.kind == "planted"})
    document = calibrated(rows, f"{clean} clean and {planted} planted models")
    tell(document)
    if output is not None:
        output.write_text(laid_out(document), encoding="utf-8")
        click.echo(f"{output}: {document['digest']}")


def tell(document):
    click.echo("statistic  anchor  middle  width  highest clean  lowest planted  fitted")
    for c in document["curves"]:
        low, high = (
            "-" if c[k] is None else f"{c[k]:.3f}" for k in ("highest_clean", "lowest_planted")
        )
        click.echo(
            f"{c['statistic']:<10} {c['anchored']!s:<6} {c['middle']:6.3f} {c['width']:6.3f} "
            f"{low:>14} {high:>15}  {'yes' if c['fitted'] else 'no'}"
        )
    for way, found in document["measured"].items():
        families = {f"  without {k}": v for k, v in found.get("families", {}).items()}
        for name, figures in {**found, **families}.items():
            if name != "families":
                told = ", ".join(f"{k} {v}" for k, v in figures.items())
                click.echo(f"{way} {name}: {told}")


def laid_out(document):
    """Return the document with a line a curve and a line a model."""
    lines = []
    for key, value in document.items():
        if isinstance(value, list):
            rows = ",\n".join(f"  {json.dumps(row, ensure_ascii=False)}" for row in value)
            lines.append(f' "{key}": [\n{rows}\n ]')
        else:
            lines.append(f' "{key}": {json.dumps(value, ensure_ascii=False)}')
    return "{\n" + ",\n".join(lines) + "\n}\n"


if __name__ == "__main__":
    main()
