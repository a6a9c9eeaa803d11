"""Doors between the plain equations and what computes them faster.

The plain functions of this library are marked with `@door`. A trick of `shalab.fast` may stand in for one: the same
arguments, the same result, sooner. `SHALAB_PLAIN=1` in the environment, or `with plain():`, shuts every door.
"""

import contextlib
import functools
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from shalab.errors import InputError


@dataclass
class Trick:
    """What stands in for a plain function; it returns NotImplemented where its conditions do not hold.

    plain    the function's name
    gain     what it brings, measured, and on what machine
    where    its conditions
    compute  changes none of its arguments before all operators that it needs have worked: if one fails, the plain
             function gets the same arguments
    """

    name: str
    plain: str
    gain: str
    where: str
    compute: Callable
    on: bool = True


TRICKS: dict[str, Trick] = {}
_BEHIND: dict[Callable, list[Trick]] = {}  # a door -> its tricks, in the order in which they are tried


def door(equation: Callable) -> Callable:
    """`equation`, or the first trick that stands in for it here. The equation stays readable as `__wrapped__`."""

    tricks: list[Trick] = []

    @functools.wraps(equation, updated=())
    def enter(*args, **kwargs):
        for trick in tricks:
            if not trick.on:
                continue
            try:
                result = trick.compute(*args, **kwargs)
            except (AttributeError, NotImplementedError, TypeError) as error:  # as when PyTorch lacks an operator
                result = equation(*args, **kwargs)  # if the arguments are at fault, it raises, and the trick stays on
                trick.on = False
                warnings.warn(f"without the trick {trick.name!r} from here on, slower: {error}", stacklevel=2)
            if result is not NotImplemented:
                return result
        return equation(*args, **kwargs)

    _BEHIND[enter] = tricks
    return enter


def stands_in_for(entry: Callable, name: str, gain: str, where: str) -> Callable[[Callable], Callable]:
    """Puts the decorated function behind a door, as the trick `name`."""

    on = os.environ.get("SHALAB_PLAIN", "0") in ("", "0")

    def register(compute: Callable) -> Callable:
        trick = TRICKS[name] = Trick(name, entry.__qualname__, gain, where, compute, on)
        _BEHIND[entry].append(trick)
        return compute

    return register


@contextlib.contextmanager
def plain(*names: str) -> Iterator[None]:
    """Within, the tricks of these names are off; all of them, if none is named. For the whole process.

    >>> with plain("constant memory"):
    ...     print(TRICKS["constant memory"].on)
    False
    """
    if unknown := set(names) - TRICKS.keys():
        raise InputError(f"no trick is called {', '.join(sorted(unknown))}; there are {', '.join(TRICKS)}")
    before = {name: TRICKS[name].on for name in names or TRICKS}
    for name in before:
        TRICKS[name].on = False
    try:
        yield
    finally:
        for name, on in before.items():
            TRICKS[name].on = on
