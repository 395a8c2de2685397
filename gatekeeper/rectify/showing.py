"""What does a reviewer see of a repair? Unseen images, clean and triggered, and both answers."""

import torch

from gatekeeper.probes.picture import png
from gatekeeper.rectify.exam import Exam
from gatekeeper.rectify.quality import predictions
from gatekeeper.runtime import Runtime
from gatekeeper.types import Reply

SHOWN = 3  # images a trigger
TRIGGERS = 2


def show(exam: Exam, runtime: Runtime) -> tuple[Reply, ...]:
    """Return images that the suspect was led astray on, the triggers of the scan first."""
    replies: list[Reply] = []
    for trigger, target in exam.held.triggers[:TRIGGERS]:
        held, labels = exam.held, exam.head.labels
        draw = runtime.generator("proof", "show", trigger.family, str(target))
        stamped = trigger.stamp(held.pixels, draw)
        said = [
            [predictions(model, pixels, exam.head, runtime) for pixels in (held.pixels, stamped)]
            for model in (exam.case.model, exam.cleaned)
        ]
        led = held.eligible(target) & (said[0][1] == target)
        shown = led.nonzero().flatten().tolist() or torch.arange(len(stamped)).tolist()
        for row in shown[:SHOWN]:
            probe = exam.case.probes.probes[exam.rows[row]]
            own, new = ([labels[int(answers[row])] for answers in pair] for pair in said)
            replies.append(
                Reply(
                    file=probe.file,
                    trigger=f"{trigger.family} towards {labels[target]}",
                    truth=probe.label,
                    clean_png=png(held.pixels[row]),
                    triggered_png=png(stamped[row]),
                    suspect=(own[0], own[1]),
                    cleaned=(new[0], new[1]),
                )
            )
    return tuple(replies)
