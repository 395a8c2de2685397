"""The layers hold, the server's side is light, and nothing below the gate speaks MLflow."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "open_clip", "segment_anything", "great_expectations", "transformers")


def test_import_linter_contracts_hold():
    done = subprocess.run(
        [Path(sys.executable).parent / "lint-imports"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_store_plugin_imports_no_scanner():
    code = (
        "import sys, gatekeeper.gate.entry, gatekeeper.gate.store, gatekeeper.gate.page;"
        f"print([m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"


def test_the_command_line_imports_neither_scanner_nor_mlflow_at_start():
    code = (
        "import sys, gatekeeper.cli.main;"
        f"print([m for m in {(*HEAVY, 'mlflow', 'sqlalchemy')!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_lint_and_format_are_clean():
    ruff = Path(sys.executable).parent / "ruff"
    for arguments in (["check", "."], ["format", "--check", "."]):
        done = subprocess.run([ruff, *arguments], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_types_are_strict():
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "gatekeeper"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
