"""What the notebooks that train say and do when their training is stopped, or begun twice."""

import nbformat
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook

from shalab import course

STOPS_EARLY = """
from shalab.run import Run
ALL = Run.events
def until_3(self):
    for event in ALL(self):
        if self.trainer.step == 3:
            self.stop.set()
        yield event
Run.events = until_3
"""


SHORT_SPLITS = """
from shalab import corpus
from shalab.corpus import Corpus
WHOLE = Corpus.bounds.func
Corpus.bounds = property(lambda self: {name: (begin, begin + 5_000 if name != "train" else end)
                                       for name, (begin, end) in WHOLE(self).items()})
"""


def run(number, steps, folder):
    """Printed text of each step: the id of one of the notebook's cells, or source of our own."""
    path = next(path for path in course.notebooks() if path.name.startswith(number))
    cells = {cell.id: cell.source for cell in nbformat.read(path, as_version=4).cells}
    notebook = new_notebook(cells=[new_code_cell(cells.get(step, step)) for step in [SHORT_SPLITS, *steps]])
    NotebookClient(notebook, kernel_name="python3", timeout=300, resources={"metadata": {"path": folder}}).execute()
    return ["".join(output.get("text", "") for output in cell.outputs) for cell in notebook.cells[1:]]


def test_start_here_says_that_training_was_stopped_and_draws_no_infinite_bar(tmp_path):
    given = """
from shalab.bundled import stored_result
rungs, trained = {"unigram": 5.3, "gzip -9": 2.6, "xz -9e": 2.0}, [1.7, 2.3]
writings = {}
"""
    said = run(
        "00", [STOPS_EARLY, "cell-07", given, "cell-26", "cell-28", "cell-32", "print(max(ladder.values()))"], tmp_path
    )
    assert said[3].endswith("stopped at step 3 of 240: run this cell again\n")
    assert said[4] == "stopped at step 3 of 240: run the training cell again\n" and float(said[6]) < 8


TINY = """
from shalab.presets import PRESETS, Budget
PRESET, DATA, LENGTH, SEED = "tiny", "enwik6", Budget(steps=400), 6
"""
BEGIN = [TINY, "cell-04", "cell-10"]  # choose, fetch, launch
STEPS = "print(max(line['step'] for line in read_metrics(FOLDER)))"


def test_the_complete_run_launched_twice_trains_once_and_is_found_when_it_is_over(tmp_path):
    again = "first = run.process\nassert first"
    found = "print(run.process == first, type(run).__name__)"
    said = run(
        "06", [*BEGIN, again, "cell-10", found, "cell-12", "cell-18", "cell-10", "cell-12", "cell-18", "cell-20"],
        tmp_path,
    )  # fmt: skip
    assert said[5] == "True Follower\n" and said[7] == said[10] == "finished and scored\n"
    assert "'valid_bpc'" in said[11]
    assert (tmp_path / "runs" / "tiny-enwik6-400-steps-seed-6" / "result.json").exists()


def test_the_complete_run_says_that_its_process_was_killed_and_goes_on(tmp_path):
    kill = """
import asyncio, os, signal
while not dashboard.history.place[0]:
    await asyncio.sleep(0.05)
os.kill(run.process[0], signal.SIGKILL)
while run.alive:
    await asyncio.sleep(0.05)
"""
    waiting = "from shalab.run import InputError, read_metrics"
    said = run(
        "06", [*BEGIN, "cell-12", kill, "cell-18", "cell-20", waiting, "cell-10", "cell-12", "cell-18", STEPS], tmp_path
    )
    assert said[5].startswith("its process is gone") and said[6] == "not finished yet\n"
    assert said[10] == "finished and scored\n" and said[11] == "400\n"


def test_an_interrupt_during_the_pause_leaves_the_complete_run_training(tmp_path):
    """The cell is interrupted while the run is paused; were it still paused then, it would never end."""
    path = next(path for path in course.notebooks() if path.name.startswith("06"))
    (cell,) = (cell.source for cell in nbformat.read(path, as_version=4).cells if cell.id == "cell-16")
    interrupted = """
import asyncio
sleep = asyncio.sleep
async def interrupt(seconds):
    if seconds == 1 and dashboard.history.state == "paused":
        raise KeyboardInterrupt
    await sleep(seconds)
asyncio.sleep = interrupt
async def cell():
    global updates, learning
    {}
try:
    await cell()
except KeyboardInterrupt:
    print("interrupted")
asyncio.sleep = sleep
"""
    steps = [*BEGIN, "cell-12", interrupted.format(cell.replace("\n", "\n    ")), "cell-18"]
    said = run("06", steps, tmp_path)
    assert said[4] == "interrupted\n" and said[5] == "finished and scored\n"


def test_without_a_network_the_complete_run_takes_the_text_that_is_there(tmp_path):
    nothing = (
        TINY.replace("enwik6", "enwik8")
        + """
from shalab import download
def nobody(url, *arguments):
    raise download.MirrorError("no network")
    yield
download._answer = nobody
"""
    )
    said = run("06", [nothing, "cell-04", "print(PRESET, DATA, LENGTH)"], tmp_path)
    assert said[1].startswith("enwik8 cannot be fetched just now (no mirror delivered enwik8.zip")
    assert said[1].endswith("test 5,000\n") and said[2] == "laptop enwik6 150 steps\n"
