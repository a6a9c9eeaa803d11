"""The ways in agree with each other, and the package keeps its shape."""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
ORDER = (
    "errors metrics corpus batches parallel device dropout lstm attention boom induction model optim "
    "evaluate generate checkpoint train presets plan run cli"
).split()


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


def test_conda_takes_the_same_lock_and_python():
    text = (ROOT / "environment.yml").read_text(encoding="utf-8")
    assert "- -r requirements.lock" in text and "- -e ." in text
    assert f"python{project()['project']['requires-python']}" in text


def test_readme_names_every_module_and_no_other():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"^  (\w+)\.py ", readme, re.M)
    assert listed == [*ORDER, "baselines", "plots", "tokenization", "course"]
    compared = re.findall(r"^    (\w+)\.py ", readme, re.M)
    assert {path.stem for path in (ROOT / "shalab" / "laboratory").glob("*.py")} == {*compared, "__init__"}
    assert {path.stem for path in (ROOT / "shalab").glob("*.py")} == {*listed, "__init__", "__main__"}


def test_modules_import_only_modules_before_them():
    for place, name in enumerate(ORDER):
        imports = re.findall(r"^(?:from shalab\.(\w+) import|from shalab import (\w+))", _source(name), re.M)
        for imported in (a or b for a, b in imports):
            assert imported in ORDER[:place], f"{name} imports {imported}"


def test_no_module_but_one_names_a_device_or_moves_a_tensor():
    for name in ORDER:
        if name != "device":
            assert not re.search(
                r"""["'](cpu|cuda|mps)["']|\.cuda\(|\.to\((self\.)?device|torch\.cuda|\.cpu\(\)""", _core(name)
            ), name


def _source(name):
    return (ROOT / "shalab" / f"{name}.py").read_text(encoding="utf-8")


def _core(name):
    # Reading onto the CPU is what a checkpoint is for, not a choice of device.
    return _source(name).replace('map_location="cpu"', "")
