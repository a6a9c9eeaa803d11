"""shalab data: a corpus from the internet."""

from tqdm import tqdm

from shalab.commands import Command
from shalab.corpus import CACHE_VARIABLE, SOURCES
from shalab.download import fetch


def define(command: Command) -> None:
    data = command("data", data_command, "download and verify a corpus")
    data.add_argument(
        "name", choices=SOURCES, help=f"which one; it goes into a cache folder, or the one that ${CACHE_VARIABLE} names"
    )


def data_command(options) -> None:
    with tqdm(unit="B", unit_scale=True, desc=options.name, disable=None) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        path = fetch(options.name, progress)
    print(f"{options.name}: verified, {f'at {path}' if path else 'embedded in the package'}")
