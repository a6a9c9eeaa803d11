"""Exercises that say what is wrong.

A notebook takes its own module, which is called like the notebook without its number, and hands over an answer:

    from shalab.checks import lstm as check
    check.cell(cell)

The answer is a function, or a value where nothing is to be called. The verdict is what the line evaluates to, so it
is the last line of its cell.

An exercise is declared once, as its reference under `exercise`:

    @exercise(inputs, mistakes={"nats for bits": (wrong, "hint")})
    def bits_per_byte(p): ...

A mistake is recognised by what it does: the answer gives what `wrong` gives, for all inputs, error messages included.
"""

import dis
import html
import importlib
import inspect
import json
import os
import pkgutil
import sysconfig
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from shalab.course import notebooks
from shalab.device import print_anything, to_host

TO_DO = "Replace the dots and run this cell again."  # pages say it in another way
PROGRESS_FILE = ".progress.json"  # in the folder that the notebook runs in

# outcome -> sign and colour
_SIGNS = {"right": ("✔", "#009E73"), "open": ("○", "#7F7F7F"), "wrong": ("✘", "#D55E00"), "stopped": ("⚠", "#D55E00")}


@dataclass(frozen=True)
class Verdict:
    """What a check says.

    outcome  right, open (nothing is written yet), wrong, or stopped (the answer raised an error)
    mistake  the name of a typical mistake, if it is one
    """

    outcome: str
    message: str
    mistake: str | None = None

    def __repr__(self) -> str:
        return f"{_SIGNS[self.outcome][0]} {self.message}"

    def _repr_html_(self) -> str:
        sign, color = _SIGNS[self.outcome]
        message = html.escape(self.message).replace("\n", "<br>")
        return (
            f'<div role="status" style="border-left: 4px solid {color}; padding: 0.3em 0.8em">'
            f'<b style="color: {color}">{sign}</b> {message}</div>'
        )


class Check:
    """One exercise; called with an answer it returns a verdict.

    reference  the right function; its name is the check's, its module the notebook's
    inputs     generator -> argument tuples to try, the same each time; None if the answer is a value
    mistakes   name -> (wrong answer, hint)
    fault      results -> what is wrong with them, or None, where more than one answer is right
    read       turns an answer that is a path into the value that is compared
    """

    def __init__(
        self,
        reference: Callable,
        inputs: Callable[[torch.Generator], Iterable[tuple]] | None,
        mistakes: dict[str, tuple[object, str]],
        fault: Callable[[list], str | None] | None = None,
        read: Callable[[Path], object] | None = None,
    ):
        self.reference, self.inputs, self.mistakes = reference, inputs, mistakes
        self.fault, self.read = fault, read
        self.notebook, self.name = reference.__module__.rpartition(".")[2], reference.__name__
        self.key = f"{self.notebook}.{self.name}"
        self.__doc__ = reference.__doc__

    def __call__(self, answer) -> Verdict:
        """What is right is remembered, and kept for the reader's own model if it is a piece of it."""
        from shalab import capstone  # which imports this module

        print_anything()
        verdict = self.judge(answer)
        if verdict.outcome != "right":
            return verdict
        if refused := _keep(self.key):
            return Verdict("right", f"{verdict.message} {refused}")
        return Verdict("right", f"{verdict.message} {capstone.keep(self, answer)}{_so_far(self.notebook)}")

    def judge(self, answer) -> Verdict:
        """The verdict alone; nothing is kept."""
        if answer is None or _has_dots(answer):
            return self._open()
        if callable(answer) != (self.inputs is not None):
            wanted = "the function itself, without calling it" if self.inputs else "the value, not a function"
            return Verdict("wrong", f"{self.name}: hand over {wanted}.")
        results, error = self._results(answer)
        if isinstance(error, NotImplementedError) or "ellipsis" in str(error) or any(map(_has_dots, results)):
            return self._open()
        if any(result is None for result in results):
            if _is_stub(answer):
                return self._open()
            return Verdict("wrong", f"{self.name} returned nothing: is the return missing?")
        fault = None if error else self._fault(results)
        if not error and not fault:
            return Verdict("right", f"{self.name} is right.")
        for mistake, (wrong, hint) in self.mistakes.items():
            if self._does_the_same((results, error), self._results(wrong)):
                return Verdict("wrong", f"{self.name}: {mistake}. {hint}", mistake)
        if error:
            return Verdict("stopped", f"{self.name} stopped: {type(error).__name__}: {error}{_line_of(error)}")
        if self.inputs is None:
            return Verdict("wrong", f"{self.name}: {answer!r} is not the answer.")
        return Verdict("wrong", f"{self.name} is not right yet: {fault}.")

    def _fault(self, results: list) -> str | None:
        if self.fault:
            return self.fault(results)
        expected, _ = self._results(self.reference)
        return _first_difference(results, expected)

    def _open(self) -> Verdict:
        return Verdict("open", f"{self.name} is not done yet. {TO_DO}")

    def _results(self, answer) -> tuple[list, Exception | None]:
        """What the answer gives for the inputs, as far as it came, and the error that stopped it."""
        results = []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            try:
                if self.read and isinstance(answer, str | Path):
                    results.append(self.read(Path(answer)))
                elif self.inputs is None:
                    results.append(answer() if callable(answer) else answer)
                else:
                    results.extend(answer(*arguments) for arguments in self.inputs(torch.Generator().manual_seed(0)))
            except Exception as error:
                return results, error
        return results, None

    @staticmethod
    def _does_the_same(one: tuple[list, Exception | None], other: tuple[list, Exception | None]) -> bool:
        (results, error), (other_results, other_error) = one, other
        same_error = type(error) is type(other_error) and str(error) == str(other_error)
        return same_error and len(results) == len(other_results) and not _first_difference(results, other_results)


def exercise(
    inputs: Callable[[torch.Generator], Iterable[tuple]] | None = None,
    *,
    mistakes: dict[str, tuple[object, str]],
    fault: Callable[[list], str | None] | None = None,
    read: Callable[[Path], object] | None = None,
) -> Callable[[Callable], Check]:
    """Turns a reference function into the check of an exercise; see `Check`."""
    return lambda reference: Check(reference, inputs, mistakes, fault, read)


def difference(result, expected) -> str | None:
    """What is different first, or None if both are the same up to rounding in float32."""
    if isinstance(expected, tuple | list):
        if isinstance(result, Tensor | np.ndarray) and result.ndim:
            result = list(result)
        if not isinstance(result, tuple | list) or len(result) != len(expected):
            return f"expected {len(expected)} parts, got {_kind(result)}"
        faults = enumerate(map(difference, result, expected))
        return next((f"part {place}: {fault}" for place, fault in faults if fault), None)
    if not isinstance(expected, Tensor | np.ndarray | float | int):
        return None if result == expected else f"expected {expected!r}, got {result!r}"
    try:
        result, expected = _array(result), _array(expected)
    except (TypeError, ValueError):
        return f"expected {_kind(expected)}, got {_kind(result)}"
    if result.shape != expected.shape:
        return f"expected shape {expected.shape}, got {result.shape}"
    far = ~np.isclose(result, expected, rtol=1e-4, atol=1e-6, equal_nan=True)
    if not far.any():
        return None
    place = tuple(int(i) for i in np.argwhere(far)[0])
    where = f" at {list(place)}" if place else ""
    return f"expected {expected[place]:.6g}, got {result[place]:.6g}{where}"


def exercises() -> dict[str, list[Check]]:
    """Notebook -> its exercises, in the course's order."""
    names = [name for _, name, _ in pkgutil.iter_modules(__path__)]
    course = [path.stem[3:] for path in notebooks() if path.stem[3:] in names]
    modules = {name: importlib.import_module(f"{__name__}.{name}") for name in dict.fromkeys(course + names)}
    return {
        name: [check for check in vars(module).values() if isinstance(check, Check)] for name, module in modules.items()
    }


def progress() -> None:
    """Prints how much of the course is done, a line per notebook."""
    print_anything()
    done = _passed()
    for notebook, checks in exercises().items():
        signs = "".join("●" if check.key in done else "○" for check in checks)
        print(f"{notebook:<22}{signs:<8}{signs.count('●')} of {len(signs)}")


def _first_difference(results: list, expected: list) -> str | None:
    return next(filter(None, map(difference, results, expected)), None)


def _array(x) -> np.ndarray:
    return (
        to_host(x.detach()).double().numpy()
        if isinstance(x, Tensor)
        else np.asarray(x).astype(float, casting="same_kind")
    )


def _kind(x) -> str:
    if isinstance(x, Tensor | np.ndarray):
        return f"an array of shape {tuple(x.shape)}"
    return f"{type(x).__name__} of {len(x)} parts" if isinstance(x, tuple | list) else type(x).__name__


def _has_dots(x) -> bool:
    return x is ... or isinstance(x, tuple | list) and any(map(_has_dots, x))


def _is_stub(answer: Callable) -> bool:
    """Whether a function does nothing yet: no more than dots and a docstring, or dots in the place of a value."""
    code = getattr(inspect.unwrap(answer), "__code__", None)
    if code is None:
        return False
    steps = [(step.opname, step.argval) for step in dis.get_instructions(code)]
    does = {name for name, _ in steps} - {"RESUME", "NOP", "LOAD_CONST", "RETURN_VALUE", "RETURN_CONST"}
    pairs = zip(steps, steps[1:], strict=False)
    return not does or any(value is ... and next_.startswith("STORE") for (_, value), (next_, _) in pairs)


def _line_of(error: Exception) -> str:
    """The reader's last line on the way to the error; what libraries did below it is noise."""
    libraries = [Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")]
    libraries.append(Path(__file__).parents[1])
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not any(Path(frame.filename).is_relative_to(folder) for folder in libraries)]
    return f"\nin line {own[-1].lineno}: {own[-1].line}" if own else ""


def _so_far(notebook: str) -> str:
    done = _passed()
    checks = {name: [check.key in done for check in checks] for name, checks in exercises().items()}
    here, course = checks[notebook], sum(checks.values(), [])
    return f"Done: {sum(here)} of {len(here)} in this notebook, {sum(course)} of {len(course)} in the course."


def _passed() -> set[str]:
    try:
        kept = json.loads(Path(PROGRESS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # none yet, or a file that something else wrote
        kept = []
    return {key for key in kept if isinstance(key, str)} if isinstance(kept, list) else set()


def _keep(key: str) -> str | None:
    """Remembers an exercise that is done; returns a sentence if that could not be written."""
    part = Path(PROGRESS_FILE + ".part")
    try:
        part.write_text(json.dumps(sorted(_passed() | {key}), indent=1) + "\n", encoding="utf-8")
        os.replace(part, PROGRESS_FILE)
    except OSError as error:
        return f"This could not be kept: {Path.cwd()} cannot be written ({error.strerror})."
    return None
