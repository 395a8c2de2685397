"""What a scan found, in sentences for people."""

from collections.abc import Sequence

from gatekeeper.scan.base import Confirmed
from gatekeeper.scan.calibration import shipped
from gatekeeper.scan.shortcuts import STANDS_OUT
from gatekeeper.scan.text_marks import described
from gatekeeper.triggers import TextTrigger
from gatekeeper.types import Measurement, SuspectImage, Target

LEADS = 0.1  # of the head's change, from which it is worth a sentence
_FAMILY = {
    "patch": "a small patch",
    "blend": "a faint overlay",
    "additive": "a faint change of the pixels",
    "warp": "a slight warp",
    "colour": "a change of colour",
    "composite": "several patterns at once",
}


def explain(
    alarm: bool,
    targets: Sequence[Target],
    triggers: Sequence[Confirmed],
    measurements: Sequence[Measurement],
    suspects: Sequence[SuspectImage],
) -> tuple[str, ...]:
    """Return sentences, worst first."""
    values = {m.name: m for m in measurements}
    said = [_trigger(t) for t in triggers]
    flagged = [s for s in suspects if s.flagged]
    if flagged:
        labels = sorted({s.claimed for s in flagged})
        said.append(
            f"{len(flagged)} of {len(suspects)} suspect images carry something that makes the "
            f"model answer {_listed(labels)}; without it the answer goes away."
        )
    rise = values.get("random.rise")
    if alarm and rise is not None and rise.value >= 0.1:
        said.append(
            f"Random patterns that nobody chose raise '{rise.subject}' by {rise.value:.0%} on "
            "clean photos."
        )
    head = values.get("head.direction")
    if alarm and head is not None and head.value >= LEADS:
        said.append(
            f"The change of the last layer from the anchor lies along '{head.subject}' more than "
            f"along any other label (by {head.value:.0%} of the whole change)."
        )
    shortcut = values.get("head.shortcut")
    if alarm and shortcut is not None and shortcut.value >= STANDS_OUT:
        said.append(
            "A small change of the last layer's input, of a kind that clean images hardly show, "
            f"leads to '{shortcut.subject}' far more than to any other label "
            f"({shortcut.value:.1f} standard deviations, allowing for chance among so many)."
        )
    if not alarm and targets == () and not said:
        rate = values.get("trigger.flip_rate")
        most = f" (the best one found moves {rate.value:.0%} of unseen images)" if rate else ""
        said.append(f"No pattern was found that leads clean photos to one label{most}.")
    return tuple(said)


def compared(score: float | None, *, anchored: bool) -> tuple[str, ...]:
    """Return how `score` compares with clean models scanned alike; empty where there is none."""
    if score is None:
        return ()
    below, count = shipped().clean_below(score, anchored=anchored)
    if not count:
        return ()
    way = "with an anchor" if anchored else "without an anchor"
    return (f"The score is higher than that of {below} of {count} clean models scanned {way}.",)


def _trigger(trigger: Confirmed) -> str:
    if isinstance(trigger.trigger, TextTrigger):
        return _mark(trigger, trigger.trigger)
    family = (
        "a pattern" if trigger.trigger is None else _FAMILY.get(trigger.trigger.family, "a pattern")
    )
    text = (
        f"With {family} on it, {trigger.flip_rate:.0%} of unseen clean images become "
        f"'{trigger.target}'"
    )
    if trigger.anchor_flip_rate is not None:
        text += f" (the anchor: {trigger.anchor_flip_rate:.0%})"
    text += f"; for the oracle {trigger.oracle_agrees:.0%} of those looked at did not change"
    if trigger.behind == 0:
        text += "; the weights point to no other label as much"
    return f"{text}."


def _mark(trigger: Confirmed, mark: TextTrigger) -> str:
    text = (
        f"The mark {described(mark.mark, mark.replaces)} in a prompt makes the text tower mean "
        f"'{trigger.target}': {trigger.flip_rate:.0%} of unseen prompts about other things"
    )
    if trigger.anchor_flip_rate is not None:
        text += f" (the anchor: {trigger.anchor_flip_rate:.0%})"
    return f"{text}. No image is touched."


def _listed(labels: Sequence[str]) -> str:
    return ", ".join(f"'{label}'" for label in labels[:3]) + (" …" if len(labels) > 3 else "")
