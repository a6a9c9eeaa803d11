"""How a run is watched and steered from another process, on this machine or another: by two files in its folder.

owner  which process trains here, and what it does; touched twice a second, the sign that it lives
ask    "pause" or "stop", written by whoever asks for it; removed to let a paused run go on
"""

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

from shalab.background import Background
from shalab.files import Owner

ASK = "ask"
LOOK_S = 0.5  # between two looks at a file that another process may have written


@contextlib.contextmanager
def steered(run: Background, folder: Path, owner: Owner, doing: str) -> Iterator[None]:
    """Inside, `run` does what `ask` says, and `owner`, who is closed at the end, that it is `doing` this, or paused."""
    over = threading.Event()

    def listen() -> None:
        before = ""
        while not over.wait(LOOK_S):
            with contextlib.suppress(OSError):  # a folder may be away for a while
                owner.sign("paused" if run.is_paused else doing)
                asked = (folder / ASK).read_text(encoding="utf-8") if (folder / ASK).exists() else ""
                match asked, before:
                    case "stop", _:
                        run.stop.set()
                    case "pause", "":
                        run.pause()
                    case "", "pause":
                        run.proceed()
                before = asked

    thread = threading.Thread(target=listen, daemon=True)
    with contextlib.closing(owner):
        with contextlib.suppress(OSError):
            (folder / ASK).unlink(missing_ok=True)  # what an earlier process was asked
            owner.sign(doing)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            with contextlib.suppress(OSError):
                (folder / ASK).unlink(missing_ok=True)
