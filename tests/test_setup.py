"""The ways in agree with each other, and the package keeps its shape."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import shalab

ROOT = Path(__file__).parents[1]
ORDER = (
    "errors files metrics bundled corpus batches parallel device process door dropout lstm attention boom "
    "induction model shapes optim schedules presets evaluate generate checkpoint events clock snapshot train "
    "background steering run_config run"
).split()
# The core imports none of these.
AROUND = (
    "download original export portable dynamic mixing archive kept baselines ledger plan calibrate follow terminal "
    "plots diagram cell_diagram capstone grade cli"
).split()
TOKENIZATION = "tokenizer pieces counting accounts attacks".split()
FAST = "conditions masks lstm attention boom lamb decoder".split()


def lock():
    lines = (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines()
    return {Requirement(line).name.lower().replace("_", "-"): Requirement(line) for line in lines if line[0] != "#"}


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_lock_pins_everything_exactly_and_within_the_bounds():
    pins = lock()
    assert all(re.fullmatch(r"==[^=*]+", str(pin.specifier)) for pin in pins.values())
    assert str(pins["torch"].specifier) == "==2.13.0"
    wanted = project()["project"]["dependencies"] + project()["project"]["optional-dependencies"]["test"]
    for requirement in map(Requirement, wanted + project()["build-system"]["requires"]):
        version = str(pins[requirement.name].specifier).removeprefix("==")
        assert requirement.specifier.contains(version), requirement


def test_version_has_one_source():
    assert "version" not in project()["project"] and project()["project"]["dynamic"] == ["version"]
    assert project()["tool"]["hatch"]["version"]["path"] == "shalab/__init__.py"
    assert f"\nversion: {shalab.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def test_conda_takes_the_same_lock_and_python():
    text = (ROOT / "environment.yml").read_text(encoding="utf-8")
    assert "- -r requirements.lock" in text and "- -e ." in text
    assert f"python{project()['project']['requires-python']}" in text


def test_readme_names_every_module_and_no_other():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"^  (\w+)\.py ", readme, re.M)
    assert listed == [*ORDER, *AROUND]
    in_folders = re.findall(r"^    (\w+)\.py ", readme, re.M)
    assert in_folders[: len(TOKENIZATION)] == TOKENIZATION
    laboratory = in_folders[len(TOKENIZATION) + len(FAST) :]
    for folder, names in (("tokenization", TOKENIZATION), ("fast", FAST), ("laboratory", laboratory)):
        assert {path.stem for path in (ROOT / "shalab" / folder).glob("*.py")} == {*names, "__init__"}
    assert {path.stem for path in (ROOT / "shalab").glob("*.py")} == {*listed, "__init__", "__main__"}


def test_modules_import_only_modules_before_them():
    modules = [*ORDER, *AROUND]
    for place, name in enumerate(modules):
        imports = re.findall(r"^(?:from shalab\.(\w+) import|from shalab import (\w+))", _source(name), re.M)
        for imported in (a or b for a, b in imports):
            folders = {"capstone": ("checks",), "grade": ("checks", "course"), "cli": ("commands",)}
            before = [*modules[:place], *folders.get(name, ())]
            assert imported in before, f"{name} imports {imported}"
    above = {"cli", "grade", "capstone", "checks", "pages", "widgets", "laboratory"}
    assert not above & set(re.findall(r"shalab\.(\w+)", _source("course/__init__"))), "its commands may, it may not"
    for place, name in enumerate(TOKENIZATION):
        imports = re.findall(r"^from shalab\.([\w.]+) import", _source(f"tokenization/{name}"), re.M)
        for imported in imports:
            before = {"errors", "metrics", *(f"tokenization.{earlier}" for earlier in TOKENIZATION[:place])}
            assert imported in before, f"tokenization.{name} imports {imported}"


def test_the_core_imports_nothing_around_it():
    """Not even inside a function, but for `Run.launch`, which begins another process, and another format's file."""
    found = set()
    for name in [*ORDER, *(f"fast/{each}" for each in FAST)]:
        imports = re.findall(
            r"^ *(?:from shalab\.(\w+)|from shalab import (\w+)|import shalab\.(\w+))", _source(name), re.M
        )
        found |= {(name, imported) for each in imports for imported in each if imported not in ("", "fast", *ORDER)}
    assert found == {("run", "follow"), ("checkpoint", "portable")}


def test_no_module_but_one_names_a_device_or_moves_a_tensor():
    for name in [*ORDER, *AROUND]:
        if name != "device":
            assert not re.search(
                r"""["'](cpu|cuda|mps)["']|\.cuda\(|\.to\((self\.)?device|torch\.cuda|\.cpu\(\)""", _core(name)
            ), name


def test_the_linter_has_nothing_to_say():
    for check in (["check"], ["format", "--check"]):
        done = subprocess.run([sys.executable, "-m", "ruff", *check, ROOT], capture_output=True, encoding="utf-8")
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_text_file_is_opened_with_an_encoding():
    """Also where the linter does not know that a path is one: `(folder / "name").read_text()`."""
    faults = []
    for path in [*(ROOT / "shalab").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                call = ast.unparse(node)
                opens = re.search(r"(^open|\.(open|read_text|write_text))\(", ast.unparse(node.func) + "(")
                mode = re.search(r"""['"][rwax]?\+?b\+?['"]""", call)
                others = re.match(r"(os|tarfile|webbrowser|lab|lzma|bz2|gzip|OPENER|packed|Image)\.open", call)
                if opens and not mode and not others and "encoding=" not in call and "**" not in call:
                    faults.append(f"{path.relative_to(ROOT)}:{node.lineno}: {call[:80]}")
    assert not faults, "\n".join(faults)


USES_EVERYTHING = """
import sys, warnings
warnings.filterwarnings("error", category=EncodingWarning, module="shalab")
import numpy as np
from pathlib import Path
from shalab import checks, cli, plots
from shalab.checks import start_here
from shalab.course.__main__ import main
from shalab.tokenization import Claim
from shalab.widgets import *
from shalab.widgets.explorer import AttentionExplorer

print(start_here.bits_per_byte(start_here.bits_per_byte.reference))
checks.progress()
Path("own.txt").write_bytes("今天 ␍ é\\n".encode() * 300)
arguments = "--preset tiny --steps 3 --dtype float32 --data own.txt --out r"
assert cli.main(["train", *arguments.split()]) == 0
assert cli.main(["train", "--resume", "--out", "r"]) == 0
assert cli.main(["eval", "r", "--dtype", "float32"]) == 0
assert cli.main(["generate", "r", "--prompt", "今天 é", "--bytes", "9"]) == 0
assert cli.main(["info", "r"]) == cli.main(["export", "r", "s"]) == cli.main(["page", "s", "page.html"]) == 0
assert cli.main(["info"]) == 0 and "torch._dynamo" not in sys.modules, "PyTorch's compiler takes seconds to load"
text = "今天 é <␍>"
n = len(text.encode())
for widget in (
    AttentionExplorer(np.tril(np.ones((n, n))) / np.arange(1, n + 1)[:, None], text),
    MemoryView(5, 12, 1, text), SurpriseMap(text, {"今": np.ones(n), "é": np.zeros(n)}),
    TokenExplorer(text, np.ones(n), {"今": [1] * n}), ClaimDial([Claim("今", b"ab", np.ones(2), b"ab")], "今"),
    GuessingGame(text + "x", n, n + 1), Prediction("今", 1, low=0, high=2, unit="é"),
    PredictedCurve([1, 2], [1, 2], "今", "é", "今"), TrustInspector(Path("r")),
    Dashboard.from_folder("r", {"今": 7.0}), BoomExplorer(7, 2), Playground({"今": "r"}, text),
):
    print(widget._repr_mimebundle_()[0]["text/plain"])
plots.save(plots.ladder({"今": 2.0}, "今"), Path("ladder.png"))
print(main(["copy"]), "done")
"""


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_everything_works_whatever_the_machine_calls_its_encoding(encoding, tmp_path):
    """Under both, a file opened without an encoding is an error, as it would be on some machine."""
    environment = {**os.environ, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C", "PYTHONPATH": str(ROOT)}
    if encoding == "cp1252":
        environment["PYTHONIOENCODING"] = encoding
    (tmp_path / "everything.py").write_text(USES_EVERYTHING, encoding="utf-8")
    command = [sys.executable, "-X", "warn_default_encoding", "everything.py"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == b"0 done", done.stderr.decode(errors="replace")
    assert "今天 é".encode() in done.stdout  # what is generated stays what it is


def _source(name):
    return (ROOT / "shalab" / f"{name}.py").read_text(encoding="utf-8")


def _core(name):
    # Reading onto the CPU is what a checkpoint is for, not a choice of device.
    return _source(name).replace('map_location="cpu"', "")
