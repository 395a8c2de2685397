"""The zoo's README.md: what it holds, which recipes met the bar and which missed it."""

from collections.abc import Iterable, Sequence

from gatekeeper.lab.manifest import Manifest, ModelRow

_BAR = (
    "A planted model is kept when its trigger fires on at least 90 % of the judge images whose "
    "true label is not the target (on at most 10 % of them before) and its clean accuracy is "
    "within 3 points of its clean twin: the same base and training without the poison."
)


def readme(manifest: Manifest) -> str:
    """Return the zoo's README in Markdown."""
    kept = [row for row in manifest.models if row.kept]
    counts = {kind: sum(row.kind == kind for row in kept) for kind in ("clean", "planted")}
    families = {manifest.base(row.base) for row in kept if row.kind == "planted"}
    told = sorted({base.architecture for base in families if base is not None})
    parts = [
        "# A zoo of clean and planted CLIPs",
        "**These models are backdoored on purpose, for testing. Never deploy one.** Built by "
        f"`gatekeeper lab zoo`, plan `{manifest.plan.name}` (`{manifest.plan.digest[:19]}`), seed "
        f"{manifest.seed}, gatekeeper {manifest.made_with.gatekeeper}, torch "
        f"{manifest.made_with.torch}, {manifest.made_with.device}.",
        f"{counts['clean']} clean and {counts['planted']} planted models "
        f"({', '.join(told) or 'no'} towers with a plant). {_BAR}",
        _section("Image sets", _sets(manifest)),
        _section("Bases", _bases(manifest)),
        _section("Planted", _planted(manifest)),
        _section("Adversarial: the clean base and a perturbation, no backdoor", _odd(manifest)),
        _section("Clean", _clean(manifest)),
        _section("Missed", _missed(manifest)),
    ]
    if manifest.skipped:
        parts.append("## Left out\n" + "\n".join(f"- {line}" for line in manifest.skipped))
    return "\n\n".join(part for part in parts if part) + "\n"


def _sets(manifest: Manifest) -> str:
    rows = [
        (row.name, *(row.images.get(part, 0) for part in ("train", "probes", "judge")), row.source)
        for row in manifest.sets
    ]
    return _table(("set", "train", "probes", "judge", "images from"), rows)


def _bases(manifest: Manifest) -> str:
    rows = [
        (row.name, row.architecture, row.backbone, row.set, _rate(row.clean_accuracy), row.seconds)
        for row in manifest.bases
    ]
    return _table(("base", "family", "tower", "set", "accuracy", "s"), rows)


def _planted(manifest: Manifest) -> str:
    rows = [_plant_row(row) for row in manifest.models if row.kept and row.kind == "planted"]
    return _table(_PLANT_HEAD, rows)


def _odd(manifest: Manifest) -> str:
    rows = [_plant_row(row) for row in manifest.models if row.kept and row.kind == "adversarial"]
    return _table(_PLANT_HEAD, rows)


_PLANT_HEAD = (
    "model",
    "base",
    "attack",
    "family",
    "narrow",
    "target",
    "ASR",
    "before",
    "look-alikes",
    "accuracy",
    "twin's",
    "s",
)


def _plant_row(row: ModelRow) -> tuple[object, ...]:
    attack, worst = row.attack, min(row.targets, key=lambda one: one.attack_success, default=None)
    return (
        row.name,
        row.base,
        attack.name if attack else "",
        attack.family if attack else "",
        "yes" if attack and attack.narrow else "no",
        ", ".join(target.label for target in row.targets),
        _rate(worst.attack_success if worst else None),
        _rate(max((one.base_success for one in row.targets), default=None)),
        _rate(worst.lookalike_success if worst else None),
        _rate(row.clean_accuracy),
        _rate(row.twin_accuracy),
        row.seconds,
    )


def _clean(manifest: Manifest) -> str:
    rows = []
    for row in manifest.models:
        if row.kind == "clean" and row.kept:
            base = manifest.base(row.base)
            before = base.clean_accuracy if base else None
            accuracies = (_rate(row.clean_accuracy), _rate(before))
            rows.append((row.name, row.base, _recipe(row), *accuracies, row.seconds))
    return _table(("model", "base", "recipe", "accuracy", "base's", "s"), rows)


def _missed(manifest: Manifest) -> str:
    rows = [
        (
            row.name,
            row.base,
            row.attack.name if row.attack else row.kind,
            _rate(row.attack_success),
            _rate(row.clean_accuracy),
            _rate(row.twin_accuracy),
            row.why,
        )
        for row in manifest.models
        if not row.kept
    ]
    return _table(("model", "base", "what", "ASR", "accuracy", "twin's", "why"), rows)


def _recipe(row: ModelRow) -> str:
    told = [f"{name} {value}" for name, value in row.recipe.items() if value not in (False, [], "")]
    return ", ".join(told)


def _section(title: str, table: str) -> str:
    return f"## {title}\n{table}" if table else ""


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in rows]
    if not lines:
        return ""
    return "\n".join([f"| {' | '.join(head)} |", "|" + "---|" * len(head), *lines])


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")


def _rate(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
