"""The published repairs of `gatekeeper.rectify` as the bench runs them: all probes, its budget."""

from typing import Protocol

from gatekeeper.bench.baselines.base import Mended, Work
from gatekeeper.rectify import cleanclip, fine_tuning, invertune, par
from gatekeeper.rectify.contrastive import Study, Trained
from gatekeeper.runtime import Runtime


class _Method(Protocol):
    def train(self, study: Study, runtime: Runtime) -> Trained: ...


class _Mending:
    """Hands a method what every method of the bench is handed."""

    __slots__ = ()

    def mend(self: _Method, work: Work, runtime: Runtime) -> Mended:
        """Return the new weights for `work`'s model, which stays as it is."""
        study = Study.of(work.case, work.budget, runtime)
        made = self.train(study, runtime)
        return Mended(state=made.state, images=len(study.pixels), steps=made.steps, note=made.note)


class FineTuning(_Mending, fine_tuning.FineTuning):
    """Plain fine-tuning."""


class CleanClip(_Mending, cleanclip.CleanClip):
    """CleanCLIP."""


class PerturbAndRecover(_Mending, par.PerturbAndRecover):
    """PAR."""


class InverTune(_Mending, invertune.InverTune):
    """InverTune."""
