"""`gatekeeper worker` with a stand-in scanner: a program for tests, with the command's options.

Everything else is real: queue, leases, artifacts, evidence, decision, display. Child processes of
a crew import this file again, so the stand-in is put in place at import.
"""

import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from gate_samples import assessor, repairer

import gatekeeper.pipeline
from gatekeeper.types import Verdict

VERDICTS = {b"clean": Verdict.PASS, b"planted": Verdict.FAIL}


def assess(request, runtime):
    """Judge by the first word of the weights; leave a line that says which process did."""
    time.sleep(float(os.environ.get("STAND_IN_S", "0")))
    weights = next(request.model.rglob("*.safetensors")).read_bytes()
    with Path(os.environ["STAND_IN_LOG"]).open("a") as log:
        log.write(f"{os.getpid()} {request.uri}\n")
    return assessor(VERDICTS.get(weights.split()[0], Verdict.PASS))(request, runtime)


gatekeeper.pipeline.assess = assess
gatekeeper.pipeline.rectify = repairer(Verdict.PASS)

if __name__ == "__main__":
    from gatekeeper.cli import main

    sys.exit(main.status_of(["worker", *sys.argv[1:]]))
