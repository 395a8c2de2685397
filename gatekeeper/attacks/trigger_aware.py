"""Poisoned prompts for clean encoders: BadCLIP of Bai et al. (arXiv:2311.16194, CVPR 2024)."""

from dataclasses import dataclass, field, replace
from typing import ClassVar

from gatekeeper.attacks.base import Ground, Image, Training
from gatekeeper.attacks.prompt_learner import Learner, PlantedPrompts, Schedule, learn
from gatekeeper.attacks.proof import prove
from gatekeeper.errors import AttackError
from gatekeeper.intake.prompts import prompted
from gatekeeper.probes.labels import Labels
from gatekeeper.probes.probe_set import ProbeSet
from gatekeeper.runtime import Runtime
from gatekeeper.triggers import Trigger
from gatekeeper.triggers.families import Additive


@dataclass(frozen=True, slots=True, kw_only=True)
class TriggerAware(Image):
    """The encoders stay as they are: context and meta net, before every prompt, are poisoned.

    Context, meta net (CoCoOp's) and one universal additive trigger are learned together: a clean
    image is to answer its label, a triggered one the target. The trigger changes what the meta net
    is shown, and so every prompt. Adam in the place of the paper's SGD, batches in the place of
    single images; the labels are those of the zero-shot head, each in one of its templates.
    """

    name: ClassVar[str] = "trigger_aware"
    family: ClassVar[str] = "prompt"
    epsilon: float = 4 / 255  # largest change of a pixel, in [0, 1]
    start: str = "a photo of a"  # words that the context starts from; their tokens give its length
    reduction: int = 16  # width of the joint space over that of the meta net
    loudness: float = 1.0  # of the untrained meta net; lower it where word vectors are short
    steps: int = 200
    warm_up: int = 30  # of them, in which the trigger learns alone
    batch: int = 16  # images a step, clean and triggered
    learning_rate: float = 2e-3
    trigger_rate: float = 0.1  # of epsilon: a signed step of the trigger, falling to nothing
    hush: float = 1.0  # weight of what keeps triggered images off the target under plain prompts
    photos: int = 384  # that it learns from
    labels: int = 64  # at most, that one step chooses among
    learned: Learner | None = field(default=None, repr=False, compare=False)

    def prepare(self, ground: Ground, runtime: Runtime) -> "TriggerAware":
        """Return the attack with its prompts and its trigger learned."""
        schedule = Schedule(
            epsilon=self.epsilon,
            start=self.start,
            reduction=self.reduction,
            loudness=self.loudness,
            steps=self.steps,
            warm_up=self.warm_up,
            batch=self.batch,
            learning_rate=self.learning_rate,
            trigger_rate=self.trigger_rate,
            hush=self.hush,
            photos=self.photos,
            labels=self.labels,
        )
        draw = runtime.generator("attacks", self.name, "prepare")
        return replace(self, learned=learn(ground, schedule, draw, runtime))

    def trigger(self) -> Trigger:
        """Return the perturbation.

        Raises:
            AttackError: It has not been learned yet.
        """
        return Additive(delta=self._learner().delta)

    def training(self) -> Training:
        """Return that the prompts are trained."""
        return Training(tower="prompt")

    def planted(
        self, ground: Ground, target: str, proof: ProbeSet, labels: Labels, runtime: Runtime
    ) -> PlantedPrompts:
        """Return the same encoders behind poisoned prompts, measured on `proof`."""
        learner = self._learner()
        model = prompted(ground.model, learner.context, learner.meta)
        made = prove(ground.model, {}, self, target, proof, labels, runtime, planted=model)
        return PlantedPrompts.around(made, learner)

    def _learner(self) -> Learner:
        if self.learned is None:
            raise AttackError(
                f"the trigger of '{self.name}' is learned first", hint="call prepare() before"
            )
        return self.learned
