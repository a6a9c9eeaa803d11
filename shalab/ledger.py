"""The ledger: every finished run of yours beside compressors and published results, with how each read the text."""

import html
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from shalab.baselines import PUBLISHED, archivers
from shalab.bundled import assets_dir, stored_result
from shalab.corpus import load_corpus
from shalab.errors import AT_LEAST_0, refuse, wrong

WARM = "one warm stream"
COLD = "cold streams"
LEARNS = "learning while reading"
AUTHORS = "as its authors did"
COUNTS = "counted before"
READINGS = {
    WARM: "one pass without a break, after the bytes right before the split",
    COLD: "the split is cut into 8 or 16 streams, each begun with an empty memory",
    LEARNS: "what was read changes the model, so the next bytes cost less",
    AUTHORS: "not looked up here",
    COUNTS: "byte frequencies of the training text",
}
HERE = (
    "Where this library was developed, no complete run on enwik8 has been made with it: enwik8 could not be fetched "
    "there. What comes with the course was learned from other texts. Figures on enwik8 are cited, except those marked "
    "as yours."
)

# Other people's runs of the paper's recipe on enwik8, with what is different: bits per byte on test, parameters.
REPRODUCED = (
    ("SHA-RNN, one head, reproduced with its code (a)", 1.077, "52M", COLD),
    ("SHA-RNN, one head, rewritten with changes (b)", 1.113, "", AUTHORS),
)
# An LSTM with and without what compressors do.
LARGER = (
    ("Mogrifier LSTM, larger (Melis et al. 2019)", 1.122, "96M", AUTHORS),
    ("Mogrifier LSTM, larger, learning while tested", 0.988, "96M", LEARNS),
)
NOTES = {
    "(a)": "issue 3 of the repository Smerity/sha-rnn",
    "(b)": "issue 17 there: PyTorch's MultiheadAttention, a feed-forward layer half as wide, a rate that falls when "
    "valid stands still",
}


@dataclass(frozen=True)
class Entry:
    """A line: bits per byte of the splits that are known, how they were read, and whose it is.

    kind  "yours", "course", "compressor" or "published"
    """

    name: str
    corpus: str
    valid: float | None
    test: float | None
    parameters: str
    read: str
    kind: str


def own_runs(folder: Path) -> list[Entry]:
    """Every run below `folder` that has a result.json, by name. A damaged file is left out."""
    found = []
    for path in sorted(Path(folder).rglob("result.json")):
        name = path.parent.relative_to(folder).as_posix()
        if entry := _entry(path, name if name != "." else Path(folder).resolve().name, "yours"):
            found.append(entry)
    return found


def ledger(folder: Path = Path("runs"), prices: dict[str, dict[str, tuple[float, float]]] | None = None) -> "Ledger":
    """What was run below `folder`, what comes with the course, and what others published.

    prices: corpus -> what `baselines` and `archivers` gave for it. Those of enwik6's archivers, and of the text of the
            recorded run, are known without.
    """
    entries = own_runs(folder) + _of_the_course()
    standin = stored_result("standin_archivers")
    stronger = standin["archivers"]
    known = {
        "enwik6": archivers(load_corpus("enwik6")),
        "enwik8-standin": {
            **standin["compressors"],
            "PPMd": stronger["PPMd"]["bpc"],
            "zpaq -m5": stronger["zpaq -m58"]["bpc"],
        },
    }
    for corpus, found in {**known, **(prices or {})}.items():
        for name, (valid, test) in found.items():
            read = COUNTS if name in ("uniform", "unigram") else LEARNS
            entries.append(Entry(name, corpus, valid, test, "", read, "compressor"))
    cited = [(*row, COLD if "Merity 2019" in row[0] else AUTHORS) for row in PUBLISHED]
    for name, bpc, parameters, read in (*cited, *REPRODUCED, *LARGER):
        entries.append(Entry(name, "enwik8", None, bpc, parameters, read, "published"))
    return Ledger(entries)


def _of_the_course() -> list[Entry]:
    entries = []
    for name, title in (
        ("model", "the trained model of this course"),
        ("overnight", "the recorded run of preset overnight"),
    ):
        if entry := _entry(assets_dir() / name / "result.json", title, "course"):
            entries.append(entry)
    valid, test = stored_result("archivers")["trained model"]["dynamic"]
    size = entries[0].parameters if entries else ""
    return [*entries, Entry("the trained model, learning while tested", "enwik6", valid, test, size, LEARNS, "course")]


def _entry(path: Path, name: str, kind: str) -> Entry | None:
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        valid, test, size = (float(result[key]) for key in ("valid_bpc", "test_bpc", "n_parameters"))
        refuse(wrong(AT_LEAST_0, valid_bpc=valid, test_bpc=test, n_parameters=size))
        corpus = Path(result["data"]).name
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
    return Entry(name, corpus, valid, test, _millions(size), WARM, kind)


def _millions(n_parameters: float) -> str:
    n = n_parameters / 1e6
    return f"{n:.0f}M" if n >= 10 else f"{n:.1f}M" if n >= 0.1 else f"{n:.2f}M"


@dataclass(frozen=True)
class Ledger:
    """A table for each corpus, worst test score first. Text where it is printed, HTML in a notebook."""

    entries: list[Entry]

    def corpora(self) -> list[str]:
        """Those of the reader's runs first."""
        yours = [entry.corpus for entry in self.entries if entry.kind == "yours"]
        return list(dict.fromkeys([*yours, *(entry.corpus for entry in self.entries)]))

    def of(self, corpus: str) -> list[Entry]:
        """The entries of one corpus, worst test score first."""
        entries = [entry for entry in self.entries if entry.corpus == corpus]
        return sorted(entries, key=lambda entry: -(entry.test or 0))

    def notes(self) -> list[str]:
        """What has been run with this library and what has not; (a) and (b); what the ways of reading mean."""
        readings = dict.fromkeys(entry.read for entry in self.entries)
        signs = [f"{sign} {note}." for sign, note in NOTES.items()]
        return [HERE, " ".join(signs), *(f"{name}: {READINGS[name]}." for name in readings)]

    def __str__(self) -> str:
        lines = []
        for corpus in self.corpora():
            lines.append(f"{corpus:<56}{'valid':>8}{'test':>8}  {'size':<6}  how it was read")
            for entry in self.of(corpus):
                mark = "> " if entry.kind == "yours" else "  "
                lines.append(
                    f"{mark}{entry.name:<54}{_digits(entry.valid):>8}{_digits(entry.test):>8}  "
                    f"{entry.parameters:<6}  {entry.read}"
                )
            lines.append("")
        return "\n".join([*lines, *self.notes()])

    def _repr_mimebundle_(self, **_) -> dict[str, str]:
        return {"text/html": self._html(), "text/plain": str(self)}

    def _html(self) -> str:
        head = ("bits per byte", "valid", "test", "parameters", "how it was read")
        parts = []
        for corpus in self.corpora():
            rows = "".join(_row("td", _cells(entry), entry.kind == "yours") for entry in self.of(corpus))
            caption = f"<caption><b>{html.escape(corpus)}</b></caption>"
            parts.append(f"<table>{caption}<thead>{_row('th', head)}</thead><tbody>{rows}</tbody></table>")
        return "".join(parts) + f"<p>{'<br>'.join(map(html.escape, self.notes()))}</p>"


def _digits(bpc: float | None) -> str:
    return "" if bpc is None else f"{bpc:.3f}"


def _cells(entry: Entry) -> tuple[str, ...]:
    name = f"{entry.name} (yours)" if entry.kind == "yours" else entry.name
    return name, _digits(entry.valid), _digits(entry.test), entry.parameters, entry.read


def _row(tag: str, cells: Iterable[str], strong: bool = False) -> str:
    style = ' style="font-weight: bold"' if strong else ""
    first, *others = map(html.escape, cells)
    return (
        f'<tr{style}><{tag} style="text-align: left">{first}</{tag}>'
        + "".join(f"<{tag}>{cell}</{tag}>" for cell in others)
        + "</tr>"
    )
