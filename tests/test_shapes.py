"""Every shape that a comment or a docstring promises is the shape that the tensor has.

    q = head.query(h)  # (T, B, D)

While a small model, all of whose sizes are different, learns, is scored and writes, each such line of the library is
held to its comment as soon as it has run, and each function's arguments and result to its docstring. D, H, V and N are
the model's own numbers, wherever a file's legend has them (`# T window, B streams, D width`). Any other letter means
one number within a call.
"""

import ast
import re
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from shalab import SHARNN, ModelConfig
from shalab.corpus import Corpus
from shalab.device import Precision
from shalab.door import plain
from shalab.dynamic import dynamic_charges
from shalab.evaluate import evaluate
from shalab.generate import generate_batch
from shalab.presets import TrainConfig
from shalab.train import Trainer

SHALAB = Path(__file__).parents[1] / "shalab"
FILES = [
    SHALAB / f"{name}.py"
    for name in "batches attention boom lstm dropout induction model train evaluate generate dynamic".split()
] + sorted((SHALAB / "fast").glob("*.py"))

B, T, D, H, N, V, CONTEXT = 5, 7, 26, 78, 2, 251, 19
LEGEND = {"D width": ("D", D), "H Boom width": ("H", H), "V vocabulary": ("V", V), "N heads": ("N", N)}
DIM = r"(?:\.\.\.|\.|\d*[A-Za-z]?(?:(?: // | / | \+ | or | )\d*[A-Za-z]?)*)"  # B, 4D, B N, T + 1, D / N, T or K
SHAPE = re.compile(rf"\(({DIM},(?: {DIM}(?:, {DIM})*)?)\)")
NAMED = re.compile(rf"((?:\w+, )*\w+) +{SHAPE.pattern}")
RESULT = re.compile(rf"-> (?:\w+ )?{SHAPE.pattern}")


def text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


class Promises:
    """What a file says of shapes: line -> targets and shapes, and the docstrings of its functions."""

    def __init__(self, path: Path):
        source = text(path)
        legend = next((line for line in source.splitlines() if re.match(r"# [A-Z] \w", line)), "")
        self.fixed = dict(pair for words, pair in LEGEND.items() if words in legend)
        comments = {
            token.start[0]: token.string
            for token in tokenize.generate_tokens(iter(source.splitlines(True)).__next__)
            if token.type == tokenize.COMMENT
        }
        self.lines: dict[int, tuple[int, list[str], list[str]]] = {}  # first line -> last, targets, shapes
        for node in ast.walk(ast.parse(source)):
            match node:
                case ast.Assign(targets=[target]) | ast.AugAssign(target=target) | ast.For(target=target):
                    last = node.iter.end_lineno if isinstance(node, ast.For) else node.end_lineno
                    shapes = SHAPE.findall(comments.get(last, "").partition("->")[0])
                    targets = target.elts if isinstance(target, ast.Tuple) else [target]
                    if shapes:
                        self.lines[node.lineno] = last, [ast.unparse(each) for each in targets], shapes


def holds(shape: tuple[int, ...], said: str, known: dict[str, int]) -> bool:
    """Whether a shape is the one that is said; letters that were free are bound from here on."""
    dims = [dim.strip() for dim in said.strip(", ").split(",")]
    if dims[0] == "...":
        dims, shape = dims[1:], shape[len(shape) - len(dims) + 1 :]
    if len(dims) != len(shape):
        return False
    return all(any(fits(size, one, known) for one in dim.split(" or ")) for size, dim in zip(shape, dims, strict=True))


def fits(size: int, dim: str, known: dict[str, int]) -> bool:
    if dim == ".":
        return True
    if re.fullmatch("[A-Za-z]", dim):
        return known.setdefault(dim, size) == size
    formula = re.sub(r"(?<=[\dA-Za-z]) ?(?=[A-Za-z])", " * ", dim)  # 4D, B N
    if set(re.findall("[A-Za-z]", formula)) - known.keys():  # a letter that is not bound yet
        return True
    return size == eval(formula.replace(" / ", " // "), dict(known))


class Watch:
    """Inside, promises of FILES are checked as the lines run. faults: those that did not hold; kept: those that did."""

    def __init__(self):
        self.promises = {str(path): Promises(path) for path in FILES}
        self.faults: list[str] = []
        self.kept: set[tuple[str, int]] = set()

    def __enter__(self):
        self.before = sys.gettrace()
        sys.settrace(self.call)
        return self

    def __exit__(self, *_):
        sys.settrace(self.before)

    def call(self, frame, event, _):
        promises = self.promises.get(frame.f_code.co_filename)
        if promises is None:
            return None
        known = dict(promises.fixed)
        bound: dict[int, set[str]] = {}  # line -> letters that it bound, and binds anew in a loop's next turn
        pending = None  # the line that runs now: its number, its last line's, targets and shapes
        first = frame.f_code.co_firstlineno
        doc = next((text for text in frame.f_code.co_consts[:1] if isinstance(text, str)), "")
        arguments = frame.f_code.co_varnames[: frame.f_code.co_argcount]
        for names, said in NAMED.findall(doc.partition("->")[0]):
            for name in set(names.split(", ")).intersection(arguments):
                self.check(frame, first, name, frame.f_locals[name], [said], known)
        result = RESULT.search(doc)

        def local(frame, event, value):
            nonlocal pending
            if pending and (event == "return" or not pending[0] <= frame.f_lineno <= pending[1]):
                line, _, targets, shapes = pending
                for letter in bound.get(line, ()):
                    known.pop(letter, None)
                before = set(known)
                for n, target in enumerate(targets):
                    either = [shapes[n]] if len(shapes) == len(targets) else shapes
                    self.check(frame, line, target, self.value(frame, target), either, known)
                bound[line], pending = known.keys() - before, None
            if event == "return" and result and isinstance(value, Tensor):
                self.check(frame, first, "the result", value, [result[1]], known)
            if event == "line" and (promise := promises.lines.get(frame.f_lineno)):
                pending = frame.f_lineno, *promise
            return local

        return local

    @staticmethod
    def value(frame, target: str):
        name, _, attribute = target.partition(".")
        found = frame.f_locals.get(name.partition("[")[0])
        return getattr(found, attribute, None) if attribute else None if "[" in target else found

    def check(self, frame, line: int, name: str, found, shapes: list[str], known: dict[str, int]) -> None:
        if not isinstance(found, Tensor | np.ndarray):
            return
        place = Path(frame.f_code.co_filename).relative_to(SHALAB).as_posix(), line
        if any(holds(tuple(found.shape), said, known) for said in shapes):
            self.kept.add(place)
        else:
            said = " or ".join(f"({said})" for said in shapes)
            self.faults.append(f"{place[0]}:{line}: {name} is {tuple(found.shape)}, not {said} with {known}")


def everything(precision: Precision) -> None:
    """A model learns with and without tricks, is scored, learns while it is scored, and writes three texts."""
    torch.manual_seed(0)
    data = torch.randint(V, (2000,), generator=torch.Generator().manual_seed(1)).numpy().astype(np.uint8)
    model = SHARNN(ModelConfig(V, D, H, 3, N, (1,), CONTEXT, init_scale=1.0))
    config = TrainConfig(batch_size=B, bptt=T, vary_bptt=False, lr=1e-3, accumulate=2)
    trainer = Trainer(model, Corpus("own", data), config, precision, 11)
    for _ in range(4):
        trainer.update()
    evaluate(model, data, 1000, 1123, precision, window=17, n_streams=3, context=23)
    list(dynamic_charges(model, data, 1000, 1040, precision, context=23))
    list(generate_batch(model, [b"a", b"bcd", bytes(range(31))], 4, precision, top_k=11))


def untested(kept: set[tuple[str, int]]) -> Iterator[str]:
    for path in FILES:
        name = path.relative_to(SHALAB).as_posix()
        lines = text(path).splitlines()
        for line in Promises(path).lines:
            if (name, line) not in kept:
                yield f"{name}: {lines[line - 1].strip()}"


# On a GPU only; an element of a buffer; lists, whose elements are meant.
ELSEWHERE = ("keys = torch.cat(", "gates[t] +=", "dropped, d_scored =")


def test_shapes_are_as_promised(monkeypatch):
    monkeypatch.setattr("shalab.fast.lstm.WIDE", D)
    with Watch() as watch:
        everything(Precision.pick("cpu", "float32"))
        everything(Precision.pick("cpu", "bfloat16"))
        with plain():
            everything(Precision.pick("cpu", "float32"))
        SHARNN(replace(ModelConfig(V, D, H, 3, N, (1,), CONTEXT), induction=True))
    assert not watch.faults, "\n".join(dict.fromkeys(watch.faults))
    assert not [line for line in untested(watch.kept) if not any(each in line for each in ELSEWHERE)]


def test_a_wrong_promise_is_noticed():
    known = {"D": 26}
    assert holds((7, 5, 26), "T, B, D", known) and known == {"D": 26, "T": 7, "B": 5}
    assert holds((8, 10, 13), "T + 1, B N, D / N", known | {"N": 2})
    for shape, said in (((5, 7, 26), "T, B, D"), ((7, 5), "T, B, D"), ((7, 5, 13), "T, B, D"), ((6,), "T + 1,")):
        assert not holds(shape, said, dict(known))


@pytest.mark.parametrize("old, new", [("# (K, B, D)", "# (T, B, D)"), ("# (B N, T, K)", "# (B, T, K)")])
def test_a_comment_that_lies_is_found(monkeypatch, old, new):
    """The comment in attention.py is changed for this test; its code stays."""
    attention = SHALAB / "attention.py"
    lie = text(attention).replace(old, new)
    read = text
    monkeypatch.setattr(sys.modules[__name__], "text", lambda path: lie if path == attention else read(path))
    with Watch() as watch, plain():
        everything(Precision.pick("cpu", "float32"))
    assert watch.faults and all(fault.startswith("attention.py:") for fault in watch.faults)
