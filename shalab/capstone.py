"""The reader's own model: answers that passed their checks, collected in my_sharnn.py and assembled in notebook 07.

    assemble()                          # takes from the solutions what is missing
    from my_sharnn import cell, fold

A piece is a section of the file, between two comments; what stands outside the sections is the reader's own and stays.
A piece works with nothing but the imports and the pieces before it.
"""

import ast
import builtins
import dis
import inspect
import re
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import nbformat

from shalab import checks, course
from shalab.errors import InputError
from shalab.files import WriteError, write_text

FILE = "my_sharnn.py"  # in the folder that the notebook runs in
# The exercises whose answers are pieces, in the order in which they may use each other.
PIECES = """
start_here.bits_per_byte lstm.window lstm.cell lstm.layer_norm attention.attention_weights attention.remember
attention.overparam boom.fold lamb.trust_ratio lamb.min_trust_step
""".split()
_NAMES = [key.partition(".")[2] for key in PIECES]
_ORDER = ["imports", *_NAMES, "model"]
_IMPORTS = '''"""My SHA-RNN, piece by piece: what passed its check in the course's notebooks."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
'''
_FROM_SOLUTIONS = "# from the solutions\n"
_SECTION = re.compile(r"^# ---- (\w+)\b.*\n((?:(?!# ---- ).*\n)*)# ---- end of \1 ----\n", re.MULTILINE)


def keep(check: checks.Check, answer: Callable) -> str:
    """Puts a right answer into the reader's file, if it is a piece; returns what the verdict says about that."""
    if check.key not in PIECES:
        return ""
    refused = _add(check.name, [_source(answer, check.name)], check)
    return f"It is not in {FILE}: {refused}. " if refused else f"It is part of your model now, in {FILE}. "


def add_model(*functions: Callable) -> str:
    """Puts the functions that make a model of the pieces into the reader's file, as one section; returns a sentence."""
    refused = _add("model", [_source(function, function.__name__) for function in functions])
    if refused:
        return f"The model is not in {FILE}: {refused}."
    n_lines = sum(bool(line.strip()) for *_, body in _sections(_read()).values() for line in body.splitlines())
    return f"{FILE} holds a whole model now, in {n_lines} lines."


def _add(name: str, sources: list[str | None], check: checks.Check | None = None) -> str:
    """Puts a section into the file if it works there by itself; returns why it is not in, or nothing."""
    if None in sources:
        return "only a function that is written with def can be kept"
    source = "\n\n".join(map(str, sources))
    try:
        text = _put(_read(), name, source)
        space, faults = _run(text, name)
        if missing := sorted(_needs(compile(source, FILE, "exec")) - space.keys() - vars(builtins).keys()):
            return f"it needs {', '.join(missing)}, which that file does not have; define it inside the function"
        if fault := faults.get(name) or (check and _fault(check, space)):
            return f"alone it does not work, {fault.rstrip('.')}"
        write_text(Path.cwd() / FILE, text)
    except InputError as error:
        return str(error)
    return ""


@dataclass(frozen=True)
class Pieces:
    """Where the pieces of the reader's model come from; shows itself as a table.

    own, solutions, missing  names of pieces
    faults                   name -> what its check says, of a piece that was changed after it
    note                     why the file could not be written, or nothing
    """

    own: list[str]
    solutions: list[str]
    missing: list[str]
    faults: dict[str, str]
    note: str = ""

    def __repr__(self) -> str:
        rows = [f"{'piece':<20}{'notebook':<10}{FILE}"]
        for key, name in zip(PIECES, _NAMES, strict=True):
            whose = "yours" if name in self.own else "not there yet" if name in self.missing else "from the solutions"
            rows.append(f"{name:<20}{_notebook(key).stem[:2]:<10}{whose}")
        rows.append(f"{len(self.own)} of {len(PIECES)} are yours")
        rows += [f"✘ {fault}\n  Repair {name} in {FILE}, or delete its section." for name, fault in self.faults.items()]
        return "\n".join(rows + [self.note] * bool(self.note))


def pieces() -> Pieces:
    """What is in the reader's file, and whether it still does what its checks ask."""
    return _judged(_read())


def assemble() -> Pieces:
    """Makes the reader's file complete, with the solutions' pieces where there is none, and marks those.

    Afterwards `from my_sharnn import ...` takes the pieces as they are now, however often that is repeated. A piece
    that is at fault is named and left as it is. Where the file cannot be written, `note` says so, and the import works
    all the same. Raises InputError if it cannot be read.
    """
    text, note = _read(), ""
    there = _sections(text)
    for key, name in zip(PIECES, _NAMES, strict=True):
        if name not in there:
            text = _put(text, name, _FROM_SOLUTIONS + _solution(key))
    try:
        write_text(Path.cwd() / FILE, text)
    except WriteError as error:
        note = f"{FILE} could not be written: {error}. The pieces work all the same, until the kernel ends."
    module = ModuleType(Path(FILE).stem)
    module.__file__ = str(Path.cwd() / FILE)
    module.__dict__.update(_run(text)[0])
    sys.modules[module.__name__] = module  # Python's own import would keep the first one that it has seen
    return _judged(text, note)


def _judged(text: str, note: str = "") -> Pieces:
    space, faults = _run(text)
    there = _sections(text)
    own = [name for name in _NAMES if name in there and not there[name][2].startswith(_FROM_SOLUTIONS)]
    solutions = [name for name in _NAMES if name in there and name not in own]
    known = {check.key: check for notebook in checks.exercises().values() for check in notebook}
    for key, name in zip(PIECES, _NAMES, strict=True):
        if name in there and name not in faults and (fault := _fault(known[key], space)):
            faults[name] = fault
    return Pieces(own, solutions, [name for name in _NAMES if name not in there], faults, note)


def _fault(check: checks.Check, space: dict[str, Any]) -> str:
    """What its check says of the piece; nothing if it is right."""
    verdict = check.judge(space.get(check.name))
    return "" if verdict.outcome == "right" else verdict.message


def _notebook(key: str) -> Path:
    return next(path for path in course.notebooks() if path.stem[3:] == key.partition(".")[0])


def _solution(key: str) -> str:
    """The source of the function, from the solutions of its notebook."""
    path, name = _notebook(key), key.partition(".")[2]
    for cell in nbformat.read(path.parent / "solutions" / path.name, as_version=4).cells:
        if cell.cell_type == "code":
            for node in ast.parse(cell.source).body:
                if isinstance(node, ast.FunctionDef) and node.name == name:
                    return ast.get_source_segment(cell.source, node) or ""
    raise InputError(f"no solution of {name} in {path.name}: get the whole course again")


def _source(function: Callable, name: str) -> str | None:
    """The text that defines it, under that name; None if there is none, as for a lambda."""
    try:
        source = textwrap.dedent(inspect.getsource(function))
        compile(source, FILE, "exec")
        body = ast.parse(source).body
    except (OSError, TypeError, SyntaxError):
        return None
    defined = body[0].name if len(body) == 1 and isinstance(body[0], ast.FunctionDef) else None
    if defined is None or defined != getattr(inspect.unwrap(function), "__name__", None):  # the lines around a lambda
        return None
    return source if defined == name else f"{source}\n\n{name} = {defined}\n"


def _needs(code: CodeType) -> set[str]:
    """The names that the code, and the functions in it, look up outside."""
    parts = [part for part in code.co_consts if isinstance(part, CodeType)]
    looked_up = {step.argval for step in dis.get_instructions(code) if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    return looked_up.union(*map(_needs, parts))


def _read() -> str:
    """The reader's file, with its imports; a new one if there is none."""
    path = Path(FILE)
    try:
        text = path.read_text(encoding="utf-8") if path.exists() else ""
    except (OSError, ValueError) as error:
        raise InputError(f"{path.resolve()} cannot be read ({error}): rename it") from None
    return text if "imports" in _sections(text) else _put(text, "imports", _IMPORTS)


def _sections(text: str) -> dict[str, tuple[int, int, str]]:
    """Name -> (begin, end, body)"""
    return {found[1]: (found.start(), found.end(), found[2]) for found in _SECTION.finditer(text)}


def _put(text: str, name: str, body: str) -> str:
    """The text with this section: in its old place, or else before the sections that come after it."""
    text += "\n" * (bool(text) and not text.endswith("\n"))
    number = f", notebook {_notebook(PIECES[_NAMES.index(name)]).stem[:2]}" if name in _NAMES else ""
    section = f"# ---- {name}{number} ----\n{body.rstrip()}\n# ---- end of {name} ----\n"
    there = _sections(text)
    if name in there:
        begin, end, _ = there[name]
        return text[:begin] + section + text[end:]
    later = [there[other][0] for other in _ORDER[_ORDER.index(name) + 1 :] if other in there]
    if later:
        return text[: min(later)] + section + "\n\n" + text[min(later) :]
    return text + "\n\n" * bool(text) + section


def _run(text: str, last: str = _ORDER[-1]) -> tuple[dict[str, Any], dict[str, str]]:
    """Executes the sections up to `last`; returns what they define, and what stopped which of them."""
    space: dict[str, Any] = {"__name__": Path(FILE).stem}
    faults = {}
    there = _sections(text)
    for name in _ORDER[: _ORDER.index(last) + 1]:
        if name in there:
            begin, _, body = there[name]
            body = "\n" * (text.count("\n", 0, begin) + 1) + body  # so that errors name the file's lines
            try:
                exec(compile(body, str(Path.cwd() / FILE), "exec"), space)
            except Exception as error:
                faults[name] = f"{name} stopped: {type(error).__name__}: {error}"
    return space, faults
