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
"""
    said = run(
        "00", [STOPS_EARLY, "cell-07", given, "cell-26", "cell-28", "cell-32", "print(max(ladder.values()))"], tmp_path
    )
    assert said[3].endswith("stopped at step 3 of 300: run this cell again\n")
    assert said[4] == "stopped at step 3 of 300: run the training cell again\n" and said[6] == "5.3\n"


def test_the_complete_run_says_that_it_was_stopped_and_goes_on(tmp_path):
    steps = [
        STOPS_EARLY,
        "cell-02",
        "cell-04",
        "cell-06",
        "cell-08",
        "Run.events = ALL",
        "cell-04",
        "await run",
        "cell-08",
    ]
    said = run("06", steps, tmp_path)
    again = "stopped at step 3 of 150: run the cell with run.start() again\n"
    assert said[3].endswith(again) and said[4] == again
    assert "this run" in said[8] and "zpaq -m5" in said[8]


def test_the_complete_run_begun_twice_trains_once(tmp_path):
    begun = "first = run; assert first._thread.is_alive()"
    ended = "print(first._thread.is_alive(), first is run, run.trainer.step)"
    assert run("06", ["cell-02", "cell-04", begun, "cell-02", ended], tmp_path)[4] == "False False 0\n"


def test_an_interrupt_during_the_pause_leaves_the_complete_run_training(tmp_path):
    """The cell's second sleep is interrupted; were the run still paused then, `await run` would never end."""
    interrupted = """
import threading, time
sleep = time.sleep
def interrupt(seconds):
    if seconds == 1 and threading.current_thread() is threading.main_thread():
        raise KeyboardInterrupt
    sleep(seconds)
time.sleep = interrupt
async def cell_06():
    {}
try:
    await cell_06()
except KeyboardInterrupt:
    time.sleep = sleep
await run
print(run.trainer.step)
"""
    path = next(path for path in course.notebooks() if path.name.startswith("06"))
    (cell,) = (cell.source for cell in nbformat.read(path, as_version=4).cells if cell.id == "cell-06")
    steps = ["cell-02", "cell-04", interrupted.format(cell.replace("\n", "\n    "))]
    assert run("06", steps, tmp_path)[-1] == "150\n"
