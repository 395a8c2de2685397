"""Run published code as it lies, with stand-ins for what it asks for and does not need here.

A module is compiled from its source alone (no stored byte code), and what it finds in place of a
graphics card, a checkpoint or a data set of its own is given by whoever loads it. Nothing of the
published code is kept here.
"""

import contextlib
import sys
import types
from unittest import mock

import torch


class Stand(types.ModuleType):
    """A module that answers as another does, but for what is given."""

    def __init__(self, of, **given):
        super().__init__(getattr(of, "__name__", "stand"))
        self.__dict__["_of"] = of
        self.__dict__.update(given)

    def __getattr__(self, name):
        return getattr(self.__dict__["_of"], name)


def empty(name, **given):
    """Return a module of which every other name is a mock, and that counts as a package."""
    made = Stand(mock.MagicMock(name=name), **given)
    made.__name__, made.__path__ = name, []
    return made


def load(file, stands, name=None):
    """Return the module of a source file; imports of the names in `stands` find those."""
    module = types.ModuleType(name or f"published.{file.stem}")
    module.__file__ = str(file)
    module.__package__ = module.__name__.rpartition(".")[0]
    code = compile(file.read_text(encoding="utf-8"), str(file), "exec")
    parents = [x for x in dict.fromkeys(n.partition(".")[0] for n in stands) if x not in stands]
    with mock.patch.dict(sys.modules, {**{x: empty(x) for x in parents}, **stands}):
        exec(code, module.__dict__)  # the user named this code, to have it run
    return module


def on_cpu(**given):
    """Return torch as seen by code that asks for a graphics card by name."""
    return Stand(torch, device=lambda *_, **__: torch.device("cpu"), **given)


@contextlib.contextmanager
def steady(seed):
    """Draw from torch's, numpy's and Python's generators as if newly seeded; put them back."""
    import random

    import numpy

    states = random.getstate(), numpy.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        numpy.random.seed(seed)
        random.seed(seed)
        yield
    random.setstate(states[0])
    numpy.random.set_state(states[1])


def pixels_of(normalised, mean, std):
    """Return images in [0, 1] of ones that were normalised."""
    wide = [torch.tensor(x).view(3, 1, 1).to(normalised) for x in (mean, std)]
    return normalised * wide[1] + wide[0]
