"""The course's notebooks: where they are, a copy to work in, what they need, and how they are run."""

import itertools
import math
import os
import platform
import re
import shutil
import tempfile
import time
from pathlib import Path

import nbformat
import torch

from shalab.bundled import assets_dir
from shalab.checkpoint import load_model
from shalab.corpus import load_corpus
from shalab.device import Precision, threads
from shalab.errors import InputError
from shalab.files import write_text
from shalab.model import SHARNN
from shalab.presets import find_preset
from shalab.train import Trainer

CELL_TIMEOUT_S = 1200


def notebooks_dir() -> Path:
    """The course's own notebooks, beside `assets` in a checkout as in an installed package."""
    return assets_dir().parent / "notebooks"


def notebooks() -> list[Path]:
    """The notebooks in the course's order."""
    return sorted(notebooks_dir().glob("[0-9][0-9]_*.ipynb"))


def teaching() -> Path:
    """The page for teachers."""
    return notebooks_dir() / "teaching.md"


def trained_model() -> SHARNN:
    """The model that comes with the course, in evaluation mode."""
    path = assets_dir() / "model"
    if not path.exists():
        raise InputError(
            f"no trained model at {path}: get the whole course again, or make one in five minutes with "
            "`shalab train --out runs/mine` and `shalab export runs/mine` to that path"
        )
    return load_model(path)


def environment_check() -> None:
    """Prints what this machine has and how long each notebook will compute on it; takes some seconds."""
    precision = Precision.pick()
    print(f"Python {platform.python_version()}, PyTorch {torch.__version__}, {platform.system()} {platform.machine()}")
    print(f"computing on {precision}, {threads()}")
    print(f"enwik6: {len(load_corpus('enwik6')):,} bytes, verified")
    print(f"trained model: {trained_model().n_parameters:,} parameters")
    speed = steps_per_minute()
    print(f"training: {speed:,} steps per minute, so the notebooks will compute for about")
    for path in notebooks():
        steps = nbformat.read(path, as_version=4).metadata.get("training_steps")
        print(f"  {path.stem:<26}{f'{steps / speed:4.1f} minutes' if steps else 'not measured'}")


def steps_per_minute() -> int:
    """Updates of the laptop recipe per minute here: the unit in which notebooks state what they compute."""
    trainer = _laptop_trainer()
    _fill_memory(trainer)
    first, began = trainer.step, trainer.elapsed_s
    while trainer.elapsed_s - began < 2 or trainer.step - first < 3:
        trainer.update()
    return max(1, round(60 * (trainer.step - first) / (trainer.elapsed_s - began)))


def step_cpu_s(n_steps: int = 20) -> float:
    """Processor time of one such update, which depends less on what else runs here."""
    trainer = _laptop_trainer()
    _fill_memory(trainer)
    began = time.process_time()
    for _ in range(n_steps):
        trainer.update()
    return (time.process_time() - began) / n_steps


def _laptop_trainer() -> Trainer:
    preset = find_preset("laptop")
    return Trainer(SHARNN(preset.model), load_corpus("enwik6"), preset.train, Precision.pick())


def _fill_memory(trainer: Trainer) -> None:
    """Updates until the memory is full: before that, one costs less."""
    for _ in range(trainer.model.max_context // trainer.config.bptt + 2):
        trainer.update()


def copy(fresh: bool = False) -> Path:
    """A copy of the course in this folder, without outputs, so that predictions come before results.

    An existing my-course is returned as it is; `fresh` puts a new one beside it, my-course-2 and so on.
    """
    names = ("my-course" if n == 1 else f"my-course-{n}" for n in itertools.count(1))
    target = next(path for path in map(Path, names) if not (fresh and path.exists()))
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=".") as part:  # the copy appears whole or not at all
            for path in sorted(notebooks_dir().glob("**/[0-9][0-9]_*.ipynb")):
                write_without_outputs(path, Path(part) / "course" / path.relative_to(notebooks_dir()))
            if teaching().exists():
                shutil.copy(teaching(), Path(part) / "course")
            shutil.move(Path(part) / "course", target)
    return target


def write_without_outputs(path: Path, place: Path) -> None:
    """A copy of the notebook at `path`, as it is before anything is run."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    place.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, place)


def run_all(notebook: nbformat.NotebookNode, record_timing: bool = False) -> None:
    """Runs its cells in a kernel of their own and an empty folder; outputs, and times if asked for, go into it."""
    with tempfile.TemporaryDirectory() as folder:
        run_in(Path(folder), notebook, record_timing)


def run_in(folder: Path, notebook: nbformat.NotebookNode, record_timing: bool = False) -> None:
    """The same in a folder that stays."""
    from nbclient import NotebookClient

    NotebookClient(
        notebook, timeout=CELL_TIMEOUT_S, kernel_name="python3", record_timing=record_timing,
        coalesce_streams=True, resources={"metadata": {"path": str(folder)}},
    ).execute()  # fmt: skip


def execute(path: Path) -> None:
    """Runs a notebook in an empty folder and stores its outputs: the same file for the same results.

    What a widget would need to go on is left out: in a fresh clone its picture is shown instead.
    """
    path.open("rb+").close()  # what cannot be written is told before anything is computed
    try:
        notebook = nbformat.read(path, as_version=4)
    except nbformat.reader.NotJSONError:
        raise InputError(f"{path} is no notebook: expected a .ipynb file") from None
    step_s, before = step_cpu_s(), os.times()
    run_all(notebook)
    after = os.times()
    steps = (after.children_user - before.children_user + after.children_system - before.children_system) / step_s
    stored = notebook.metadata.get("training_steps", 0)
    if not stored / 1.5 < steps < stored * 1.5:  # otherwise every run of this would change the file
        notebook.metadata["training_steps"] = math.ceil(float(f"{steps:.1g}"))
    notebook.metadata.pop("widgets", None)
    notebook.metadata["language_info"] = {"name": "python"}
    nbformat.write(notebook, path)


def minutes(path: Path) -> tuple[str, int, list[tuple[str, int]]]:
    """A notebook's title, and how many minutes it says that it takes: in all, and each section that says so."""
    prose = "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown")
    title = re.search(r"^# (?:\d\d )?(.+)$", prose, re.MULTILINE)
    time_ = re.search(r"Time:\s+(\d+)\s+minutes", prose)
    if not title or not time_:
        raise InputError(f"{path} must say what it is called and how long it takes: `# 00 Title`, `Time: 40 minutes`")
    sections = re.findall(r"^## (.+?) · (\d+) min$", prose, re.MULTILINE)
    return f"{path.stem[:2]} {title[1]}", int(time_[1]), [(name, int(n)) for name, n in sections]


MINUTES = re.compile(r"(?<=<!-- minutes -->\n).*(?=<!-- end of minutes -->)", re.DOTALL)  # in teaching.md


def minutes_tables() -> str:
    """The part of teaching.md between its two comments: a table for each notebook."""
    tables = []
    for path in notebooks():
        title, total, sections = minutes(path)
        lines = [f"### [{title}]({path.name}): {total} minutes"]
        if sections:
            lines += ["", "| section | minutes |", "|---|---:|", *(f"| {name} | {n} |" for name, n in sections)]
        tables.append("\n".join(lines))
    return "\n\n".join(tables) + "\n"


def store_minutes() -> None:
    """Writes what the notebooks say of their length into teaching.md, and into README's table in a checkout."""
    text = teaching().read_text(encoding="utf-8")
    write_text(teaching(), MINUTES.sub(lambda _: minutes_tables(), text))
    readme = notebooks_dir().parent / "README.md"
    if readme.exists():
        text = readme.read_text(encoding="utf-8")
        for path in notebooks():
            text = re.sub(rf"(\| \[.*{path.name}\).*\| )\d+ \|", rf"\g<1>{minutes(path)[1]} |", text)
        write_text(readme, text)
