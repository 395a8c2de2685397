"""Keep what a bench measured, without the answers image by image: small enough to commit.

    python tests/measure/keep.py OUTPUT [OUTPUT …] > docs/results/NAME.json

OUTPUT: folders of `gatekeeper bench rectify` (or detect). One line a row, sorted by model and
method; where two folders hold the same row, the later one counts.
"""

import json
import sys
from pathlib import Path

LONG = ("clean_hits", "attack_hits", "embedding")


def main(folders):
    """Print the rows of all folders as one JSON document."""
    rows = {}
    for folder in folders:
        for file in sorted(Path(folder).glob("rows/*/*.json")):
            row = json.loads(file.read_text(encoding="utf-8"))
            row["result"] = {k: v for k, v in row["result"].items() if k not in LONG}
            rows[row["model"], row["method"]] = rounded(row)
    lines = ",\n".join(json.dumps(rows[key]) for key in sorted(rows))
    sys.stdout.write(f'{{"schema": "gatekeeper.kept/1", "rows": [\n{lines}\n]}}\n')


def rounded(value):
    """Return the value with floats to four places."""
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    return [rounded(one) for one in value] if isinstance(value, list) else value


if __name__ == "__main__":
    main(sys.argv[1:])
