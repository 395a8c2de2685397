"""What may be printed on this standard output: colours, and how many columns?"""

import os
import shutil
import sys


def colour() -> bool:
    """Return whether to use colours: on a terminal, unless NO_COLOR is set; FORCE_COLOR wins."""
    if os.environ.get("FORCE_COLOR"):
        return True
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and _obeys_escapes()


def width() -> int:
    """Return the columns to fill: the terminal's up to 120, 80 elsewhere (logs, files)."""
    if not sys.stdout.isatty():
        return 80
    return min(shutil.get_terminal_size((80, 24)).columns, 120)


def _obeys_escapes() -> bool:
    return os.environ.get("TERM") != "dumb"
