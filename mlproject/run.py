"""Hand MLproject parameters to the `gatekeeper` command; parameters left empty are not passed."""

import subprocess
import sys


def main() -> int:
    """Run `gatekeeper COMMAND MODEL --option value …` and return its exit code."""
    command, model, *parameters = sys.argv[1:]
    arguments = ["gatekeeper", command, model]
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if value:
            arguments += [f"--{name}", value]
    return subprocess.run(arguments, check=False).returncode  # noqa: S603 - no shell


if __name__ == "__main__":
    sys.exit(main())
