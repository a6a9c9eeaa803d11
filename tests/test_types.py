"""The types are right."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
# What mypy checks: files and folders of shalab. Their imports are followed, but reported only where they are listed.
CHECKED = """
__init__.py __main__.py errors.py files.py metrics.py bundled.py corpus.py download.py batches.py parallel.py
device.py process.py door.py dropout.py lstm.py attention.py boom.py induction.py model.py shapes.py optim.py presets.py
evaluate.py schedules.py generate.py checkpoint.py events.py clock.py snapshot.py train.py background.py steering.py
run_config.py run.py cli.py original.py export.py portable.py dynamic.py mixing.py archive.py kept.py
baselines.py ledger.py plan.py calibrate.py follow.py terminal.py plots.py diagram.py cell_diagram.py
capstone.py grade.py course commands tokenization checks fast widgets pages
""".split()


def test_the_type_checker_has_nothing_to_say():
    files = [f"shalab/{name}" for name in CHECKED]
    command = [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", *files]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stdout + done.stderr
