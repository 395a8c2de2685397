"""Steps run as soon as what they rest on was taken, and none after one has failed."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from gatekeeper.lab.pool import carry_out, workers

RESTS_ON = {"a": set(), "b": set(), "a1": {"a"}, "a2": {"a", "a1"}, "b1": {"b"}}


def told(name):
    return name


def test_each_step_comes_after_what_it_rests_on():
    taken = []
    with workers(1) as pool:
        carry_out(RESTS_ON, lambda name: (told, (name,)), taken.append, pool)
    assert sorted(taken) == sorted(RESTS_ON)
    assert all(
        taken.index(below) < taken.index(n) for n, rests in RESTS_ON.items() for below in rests
    )


def test_what_ran_on_the_spot_is_taken_before_the_next_begins():
    events = []

    def work(name):
        events.append(f"made {name}")
        return name

    with workers(1) as pool:
        carry_out(RESTS_ON, lambda n: (work, (n,)), lambda n: events.append(f"took {n}"), pool)
    assert all(a[5:] == b[5:] for a, b in zip(events[::2], events[1::2], strict=True))


def test_a_step_does_not_wait_for_others_of_its_kind():
    """`b` ends only once `a1`, which rests on `a` alone, has begun."""
    begun = threading.Event()

    def work(name):
        if name == "a1":
            begun.set()
        if name == "b":
            assert begun.wait(timeout=20), "a1 was held back by b"
        return name

    taken = []
    with ThreadPoolExecutor(2) as pool:
        carry_out(RESTS_ON, lambda name: (work, (name,)), taken.append, pool)
    assert sorted(taken) == sorted(RESTS_ON)


def test_what_is_there_is_not_made_and_holds_nothing_up():
    taken = []
    with workers(1) as pool:
        carry_out(RESTS_ON, lambda n: None if n in "ab" else (told, (n,)), taken.append, pool)
    assert sorted(taken) == ["a1", "a2", "b1"]


def test_what_rests_on_a_failure_is_not_begun():
    begun = []

    def fails(name):
        begun.append(name)
        if name == "a":
            raise ValueError("no base")
        return name

    with workers(1) as pool, pytest.raises(ValueError, match="no base"):
        carry_out(RESTS_ON, lambda name: (fails, (name,)), begun.append, pool)
    assert "a1" not in begun
