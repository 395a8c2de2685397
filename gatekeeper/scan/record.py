"""What one scan's trigger searches came to, group by group."""

from collections.abc import Callable
from dataclasses import dataclass, field

from gatekeeper.scan.base import Candidate
from gatekeeper.scan.groups import Group
from gatekeeper.scan.hunt import Hunt, Result
from gatekeeper.scan.search import Found


@dataclass(slots=True)
class Record:
    """What was searched so far, group by group."""

    results: dict[str, list[Result]] = field(default_factory=dict)
    exchanges: dict[tuple[str, int | None, int], float] = field(default_factory=dict)
    recoloured: float = (
        0.0  # share of answers that tints change beyond a mirror's, without an anchor
    )
    weak: tuple[Candidate, ...] = ()  # what still counts in a model that anything leads

    def add(self, group: Group, result: Result) -> Result:
        """Keep `result` and return it."""
        self.results.setdefault(group.name, []).append(result)
        return result

    def all(self) -> list[Result]:
        """Return every result."""
        return [r for results in self.results.values() for r in results]

    def of(self, group: Group) -> list[Result]:
        """Return a group's results."""
        return self.results.get(group.name, [])

    def exchanged(self, hunt: Hunt, group: Group, target: int | None, steps: int) -> float:
        """Return how far a like search leads the anchor beyond the suspect; searched once."""
        key = (group.name, target, steps)
        if key not in self.exchanges:
            self.exchanges[key] = hunt.exchanged(group, target, steps)
        return self.exchanges[key]

    def exhausted(self, group: Group, least: float) -> bool:
        """Return whether the last search of `group`, free to lead anywhere, led nowhere."""
        last = self.of(group)[-1:]
        return bool(last) and last[0].undirected and last[0].pull.paired < least

    def found(
        self,
        least: float,
        group: Group | None = None,
        such: Callable[[Found], bool] = lambda found: True,
    ) -> tuple[int, ...]:
        """Return the words that `such` triggers, of one group or any, lead `least` images to."""
        results = self.all() if group is None else self.of(group)
        words = (
            r.pull.target for r in results if r.found and such(r.found) and r.pull.paired >= least
        )
        return tuple(dict.fromkeys(words))

    def whole(self, least: float) -> tuple[int, ...]:
        """Return the words that a group's patterns, all at once, lead `least` images to."""
        words = (r.whole.target for r in self.all() if r.whole.paired >= least)
        return tuple(dict.fromkeys(words))

    def usual(self, group: str, target: int) -> float | None:
        """Return the lowest rate at which undirected searches of a group led to other words."""
        others = [
            r.pull.paired
            for r in self.results.get(group, [])
            if r.undirected and r.pull.target != target
        ]
        return min(others, default=None)
