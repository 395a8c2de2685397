"""The MLproject is thin: every parameter is an option of the command it calls."""

from importlib import import_module
from pathlib import Path

import pytest
import yaml

PROJECT = Path(__file__).parents[2] / "mlproject"


@pytest.mark.parametrize("entry", ["scan", "rectify"])
def test_every_parameter_is_an_option_of_the_command(entry):
    project = yaml.safe_load((PROJECT / "MLproject").read_text())
    command = import_module(f"gatekeeper.cli.{entry}").command
    options = {name.removeprefix("--") for p in command.params for name in p.opts}
    parameters = set(project["entry_points"][entry]["parameters"]) - {"model"}
    assert parameters <= options
    for name in parameters:
        assert f"{name}={{{name}}}" in project["entry_points"][entry]["command"]
