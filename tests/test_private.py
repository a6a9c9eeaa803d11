"""Private names of PyTorch and ipywidgets: which ones are used, what for, and what breaks when one goes.

They may change in any release without notice. Whoever raises a bound of theirs reads here what to look at.
"""

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import ipywidgets
import pytest
import torch
from torch import nn

ROOT = Path(__file__).parents[1]


def foreach(name: str, does: str) -> tuple[str, Callable, str, str]:
    breaks = "nothing: the plain update of one tensor after the other, slower on a GPU"
    return name, lambda: getattr(torch, name), f"LAMB takes all tensors together: {does}", breaks


# name, what it is in the installed PyTorch, what it is used for, what breaks without it
PRIVATE: list[tuple[str, Callable, str, str]] = [
    foreach("_foreach_lerp_", "first moments"),
    foreach("_foreach_mul_", "decay of second moments, the step's length"),
    foreach("_foreach_addcmul_", "second moments"),
    foreach("_foreach_sqrt", "the denominator"),
    foreach("_foreach_add_", "eps, weight decay, the step"),
    foreach("_foreach_div", "the direction"),
    foreach("_foreach_norm", "norms of weights and updates"),
    (
        "_softmax_backward_data",
        lambda: torch._softmax_backward_data,
        "attention's own backward pass: the gradient of a softmax from its outputs",
        "nothing: the plain attention, slower; it is w * (d - (w * d).sum(-1, keepdim=True))",
    ),
    *(
        (
            name,
            lambda name=name: getattr(nn.Linear(1, 1), name),
            "whether somebody watches a module, which then must be called and not computed past",
            "the plain path, slower; if a hook is kept elsewhere, it is passed over without a word",
        )
        for name in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    ),
    (
        "_has_any_global_hook",
        lambda: nn.modules.module._has_any_global_hook,
        "the same for hooks that watch all modules",
        "the plain path, slower",
    ),
    (
        "_instances",
        lambda: ipywidgets.widgets.widget._instances,
        "`make html` asks a notebook's kernel which widgets it holds",
        "`make html`; the pages with pictures instead of widgets are written all the same",
    ),
    (
        "torch.ops.mkldnn",
        lambda: torch.ops.mkldnn,
        "oneDNN's operators, of a weight that is arranged once for many products",
        "nothing: the plain product is taken, slower for a wide LSTM in bfloat16",
    ),
    (
        "_is_mkldnn_bf16_supported",
        lambda: torch.ops.mkldnn._is_mkldnn_bf16_supported,
        "whether those operators know bfloat16 here",
        "nothing: PyTorch's LSTM, slower where it is wide",
    ),
    (
        "_reorder_linear_weight",
        lambda: torch.ops.mkldnn._reorder_linear_weight,
        "arranges that weight",
        "nothing: PyTorch's LSTM, slower where it is wide",
    ),
    (
        "_linear_pointwise",
        lambda: torch.ops.mkldnn._linear_pointwise,
        "multiplies by that weight",
        "nothing: the plain product is taken, slower for a wide LSTM in bfloat16",
    ),
    (
        "_C",
        lambda: torch._C.__file__,
        "the library that is loaded with PyTorch's OpenMP, to send idle helpers away",
        "training beside another thread's helpers stops with an error, on Linux",
    ),
    (
        "_dynamo",
        lambda: torch._dynamo.config.patch,
        "--compile goes on without what cannot be compiled",
        "--compile stops with an error",
    ),
]
# Underscored names of others that are public: documented, and there to stay.
PUBLIC = {"_exit"}
# Missing where PyTorch was built without oneDNN, and asked for before they are used.
ONEDNN = {"torch.ops.mkldnn", "_is_mkldnn_bf16_supported", "_reorder_linear_weight", "_linear_pointwise"}


def sources() -> list[ast.Module]:
    return [ast.parse(path.read_text(encoding="utf-8")) for path in sorted((ROOT / "shalab").rglob("*.py"))]


def private(name: str) -> bool:
    return bool(re.fullmatch(r"_[A-Za-z]\w*", name))


def own(trees: list[ast.Module]) -> set[str]:
    """Private names that shalab defines: functions, classes, variables, attributes, arguments."""
    names = set()
    for tree in trees:
        for node in ast.walk(tree):
            match node:
                case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                    names.add(name)
                case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name):
                    names.add(name)
                case ast.Attribute(value=ast.Name(id="self"), attr=name, ctx=ast.Store()):
                    names.add(name)
    return {name for name in names if private(name)}


def used(tree: ast.Module) -> Iterator[str]:
    """Private names that a module takes from something, by attribute, import, or as a string for getattr."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=base, attr=name):
                if private(name):
                    yield name
                if ast.unparse(base) == "torch.ops":
                    yield f"torch.ops.{name}"
            case ast.Import(names=names):
                yield from (part for alias in names for part in alias.name.split(".") if private(part))
            case ast.ImportFrom(module=module, names=names):
                parts = [*(module or "").split("."), *(alias.name for alias in names)]
                yield from filter(private, parts)
            case ast.Call(func=ast.Name(id="getattr" | "hasattr"), args=[_, ast.Constant(value=str(name)), *_]):
                if private(name):
                    yield name


def test_every_private_name_of_others_is_in_the_list():
    trees = sources()
    found = {name for tree in trees for name in used(tree)} - own(trees) - PUBLIC
    assert found == {name for name, *_ in PRIVATE}


@pytest.mark.parametrize(("name", "what", "purpose", "breaks"), PRIVATE, ids=[name for name, *_ in PRIVATE])
def test_the_installed_pytorch_has_it(name, what, purpose, breaks):
    if name in ONEDNN and not torch.backends.mkldnn.is_available():
        pytest.skip("a PyTorch without oneDNN")
    try:
        what()
    except AttributeError:
        pytest.fail(f"{name} is gone. It was used for: {purpose}. Without it: {breaks}.")


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("torch._foreach_abs(x)", "_foreach_abs"),
        ("from torch._inductor import config", "_inductor"),
        ("import torch._inductor.config as c", "_inductor"),
        ("from torch import _VF", "_VF"),
        ("getattr(onednn, '_linear_binary')", "_linear_binary"),
        ("torch.ops.quantized.linear", "torch.ops.quantized"),
        ("lstm._all_weights", "_all_weights"),
    ],
)
def test_a_new_one_would_be_seen(line, name):
    assert list(used(ast.parse(line))) == [name]
