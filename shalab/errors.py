"""The one exception that means "the input is at fault, not the program", and the checks that raise it."""

import sys
from collections.abc import Callable
from typing import Any


class InputError(ValueError):
    """Says what was expected, what was got and what to do; the command line prints it and exits with 2."""


def whole(x: Any) -> bool:
    """Whether x is an integer; True and False do not count."""
    return isinstance(x, int) and not isinstance(x, bool)


def real(x: Any) -> bool:
    """Whether x is a finite number that a float can hold."""
    return isinstance(x, int | float) and not isinstance(x, bool) and abs(x) <= sys.float_info.max


# What a value must be, in words and as a test.
Rule = tuple[str, Callable[[Any], bool]]
COUNT: Rule = "an integer of at least 1", lambda x: whole(x) and x >= 1
NATURAL: Rule = "an integer of at least 0", lambda x: whole(x) and x >= 0
SEED: Rule = "an integer from 0 to 2^62", lambda x: whole(x) and 0 <= x <= 2**62
ABOVE_0: Rule = "finite and above 0", lambda x: real(x) and x > 0
AT_LEAST_0: Rule = "finite and at least 0", lambda x: real(x) and x >= 0
FRACTION: Rule = "at least 0 and below 1", lambda x: real(x) and 0 <= x < 1
FLAG: Rule = "True or False", lambda x: isinstance(x, bool)


def wrong(rule: Rule, **values: Any) -> list[str]:
    """A sentence for each value that breaks the rule."""
    what, holds = rule
    return [f"{name} must be {what}, got {value!r}" for name, value in values.items() if not holds(value)]


def wrong_fields(rule: Rule, config: Any, names: str) -> list[str]:
    """The same for fields of a configuration, their names separated by spaces."""
    return wrong(rule, **{name: getattr(config, name) for name in names.split()})


def refuse(faults: list[str]) -> None:
    """Raises one InputError that lists all faults; nothing if there are none."""
    if faults:
        raise InputError("; ".join(faults))
