"""Writes the course as pages that ask no host for anything: a page is one file, with all that it needs.

Widgets go on by their own scripts (shim.js) and by answers.js, which says what Python would; equations are MathML.
"""

import base64
import html
import json
import re
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import nbformat
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from latex2mathml.converter import convert
from mistune.plugins.table import table_in_list
from nbconvert.filters.ansi import ansi2html
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from shalab import course
from shalab.checks import TO_DO
from shalab.pages.weights import packed
from shalab.plots import img_tag

HERE = Path(__file__).parent
VIEW = "application/vnd.jupyter.widget-view+json"
STORE = "from pathlib import Path; from shalab.pages.states import store; store(Path('states.json'))"
LONG_EQUATION = 40  # characters and the gaps between them, of one that may be too wide for a line on a phone
LONG = 1000  # characters from which a value is kept once for all widgets of a page that have it


@dataclass
class Page:
    """path: of the notebook or text, as in the course's folder; states: what `states.store` wrote."""

    path: Path
    notebook: NotebookNode
    states: dict[str, dict]

    @property
    def address(self) -> Path:
        return self.path.with_suffix(".html")

    @property
    def title(self) -> str:
        return self._said(r"^# (.+)$") or self.path.stem

    @property
    def minutes(self) -> str | None:
        return self._said(r"Time:\s+(\d+)\s+minutes")

    @property
    def plan(self) -> str:
        """What a reader will do, as HTML."""
        plan = self._said(r"(?<=\*\*You will\*\*)\s+((?:.+\n?)+)")
        return prose(f"You will {plan}") if plan else ""

    def _said(self, pattern: str) -> str | None:
        text = "\n\n".join(cell.source for cell in self.notebook.cells if cell.cell_type == "markdown")
        found = re.search(pattern, text, re.MULTILINE)
        return found[1] if found else None


def write(folder: Path, living: bool = True) -> None:
    """Writes a page for every notebook and for teachers, an index, and the notebooks' files without their outputs.

    living  runs the notebooks that have widgets, to get what the widgets hold; that takes minutes. Otherwise a widget
            is its stored picture
    """
    folder.mkdir(parents=True, exist_ok=True)  # what cannot be written is told before anything is run
    pages = list(read(living))
    for page in pages:
        place = folder / page.address
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(rendered(page), encoding="utf-8")
        if page.path.suffix == ".ipynb":
            course.write_without_outputs(course.notebooks_dir() / page.path, folder / page.path)
        print(f"{place}  {place.stat().st_size / 1e6:.1f} MB", flush=True)
    (folder / "index.html").write_text(contents(pages), encoding="utf-8")


def read(living: bool) -> Iterator[Page]:
    """All pages in the course's order: notebooks, solutions, the page for teachers."""
    own = course.notebooks_dir()
    for path in [*course.notebooks(), *sorted(own.glob("solutions/[0-9][0-9]_*.ipynb"))]:
        notebook = nbformat.read(path, as_version=4)
        outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
        if living and any(VIEW in output.get("data", {}) for output in outputs):
            print(f"running {path.name} for its widgets", flush=True)
            yield Page(path.relative_to(own), notebook, executed(notebook))
        else:
            yield Page(path.relative_to(own), notebook, {})
    if course.teaching().exists():
        text = nbformat.v4.new_markdown_cell(course.teaching().read_text(encoding="utf-8"))
        yield Page(course.teaching().relative_to(own), nbformat.v4.new_notebook(cells=[text]), {})


def executed(notebook: NotebookNode) -> dict[str, dict]:
    """Runs the notebook anew, and returns what its widgets hold at the end."""
    with tempfile.TemporaryDirectory() as folder:
        notebook.cells.append(nbformat.v4.new_code_cell(STORE))
        course.run_in(Path(folder), notebook)
        notebook.cells.pop()
        return json.loads((Path(folder) / "states.json").read_text(encoding="utf-8"))


class Renderer(IPythonRenderer):
    """Equations as MathML, code in colours."""

    def inline_math(self, body: str) -> str:
        equation = mathml(body)
        return f'<span class="{"long" if len(words(equation)) > LONG_EQUATION else "whole"}">{equation}</span>'

    def block_math(self, body: str) -> str:
        return f'<span class="scroll">{mathml(body, "block")}</span>'

    def block_code(self, code: str, info: str | None = None) -> str:
        return coloured(code) if (info or "").startswith("python") else f"<pre>{html.escape(code)}</pre>\n"


def mathml(equation: str, display: Literal["inline", "block"] = "inline") -> str:
    """The converter knows {aligned} by another name, and takes a few signs for what they are not."""
    converted = convert(equation.replace("{aligned}", "{split}"), display=display)
    converted = re.sub(ENTITY, lambda code: chr(int(code[1], 16)), converted)
    for pattern, replacement in SETTING:
        converted = re.sub(pattern, replacement, converted)
    return converted


ENTITY = r"&#x(?!0*(?:22|26|3C|3E);)([0-9A-F]+);"  # of a sign that needs none
NAME = "<mi>(?:ln|log|exp|tanh|max|min|mean)</mi>"
FUNCTION = rf"((?<!<msup>)(?<!<msub>){NAME}|<msub>{NAME}<mn>\d+</mn></msub>)"
THIN = '<mspace width="0.167em"/>'
SETTING = (
    (r"<mo>([a-z]{2,}|∞)</mo>", r"<mi>\1</mi>"),
    (r"<mi>±</mi>", "<mo>±</mo>"),
    (r"<mi>:</mi>(?=<mo[^>]*>\()", '<mo lspace="0" rspace="0.278em">:</mo>'),  # a shape follows
    (r"<mo>‖</mo>", '<mo stretchy="false">‖</mo>'),  # not as high as the line
    (r"<msup>(<mi>\w</mi>)<mi>′</mi></msup>", r'<mrow>\1<mo form="postfix">′</mo></mrow>'),  # it is raised already
    # A space between a function's name and what it is of, and before the name
    (rf"{FUNCTION}(?=<m(?!o))", rf"\1{THIN}"),
    (rf"(</m(?:i|n|sub)>|[)∂]</mo>){FUNCTION}", rf"\1{THIN}\2"),
    # A minus after one of these is no difference.
    (r"(<mo[^>]*>[=≈≤≥,:(\[{+·×/⊙←]</mo>)<mo>(?=−</mo>)", r'\1<mo form="prefix">'),
)


def prose(source: str) -> str:
    """A cell's or an output's Markdown."""
    markdown = MarkdownWithMath(renderer=Renderer(escape=False))
    table_in_list(markdown)
    text = re.sub(r"(</math>)</span>([.,:;)]+)", r"\1\2</span>", tables(markdown.render(source)))  # stays on its line
    return f'<div class="prose">{text}</div>\n'


def coloured(code: str) -> str:
    return f'<pre class="code">{highlight(code.rstrip(), PythonLexer(), HtmlFormatter(nowrap=True)).rstrip()}</pre>\n'


# What a notebook says to somebody who runs it, and what its page says instead
Sayings = tuple[tuple[str, str | Callable[[re.Match], str]], ...]
IN_A_PAGE: Sayings = (
    (r"(?m)^### How to work$", "### How to work in the notebooks"),
    (r"\bbefore\s+you\s+run\s+the\s+cell\b", "before you read on"),
    (r"\bthen\s+run\s+the\s+cell\b", "then read on"),
    (r",\s+then\s+run\s+it;\s+it\s+takes\s[^.]*", ", then read on"),
    (r"\brun\s+the\s+folded\s+cell,\s+but\s+you\s+need\s+not", "you need not"),
    (r"\bRun\s+it,\s+but\s+you\s+need\s+not", "You need not"),
)
WHERE_WIDGETS_WORK: Sayings = (
    (r"\bIn\s+(?:JupyterLab|the\s+running\s+notebook),?\s+(\w)", lambda first: first[1].upper()),
    (r";\s+the\s+stored\s+picture\s[^.]*(?=\.)", ""),
    (r"\brunning\s+the\s+cell\s+again\b", "loading the page again"),
)


def article(page: Page) -> str:
    """The notebook's cells, one after the other."""
    parts = []
    for cell in page.notebook.cells:
        if cell.cell_type == "markdown":
            source = cell.source
            for pattern, here in IN_A_PAGE + (WHERE_WIDGETS_WORK if page.states else ()):
                source = re.sub(pattern, here, source)
            parts.append(prose(source))
        elif cell.cell_type == "code":
            source = coloured(cell.source)
            if cell.metadata.get("jupyter", {}).get("source_hidden"):
                source = f"<details><summary>Code of a side trip</summary>{source}</details>\n"
            parts += [source, *(shown(output, page.states) for output in cell.outputs)]
    body = "".join(parts)
    if "<h2" not in body:  # no level is left out
        body = re.sub(r"(</?h)3\b", r"\g<1>2", body)
    # Links to other notebooks go to their pages.
    linked = re.sub(r'(href="[^":]*)\.(?:ipynb|md)(["#])', r"\1.html\2", body)
    linked = linked.replace('href="solutions"', 'href="index.html#solutions"')
    # What a check says to somebody who runs its cell
    here = f'<a href="{page.path.name}" download>this notebook\'s file</a>'
    linked = linked.replace(TO_DO, f"Replace the dots in {here}, and run the cell there.")
    return re.sub(r"(✔</b> \w+ is right\.)[^<]*(?=</div>)", r"\1", linked)


def tables(prose: str) -> str:
    """Frames that scroll where a table is too wide, and heads that a screen reader can say."""
    prose = re.sub(r"<table>.*?</table>", r'<div class="scroll">\g<0></div>', prose, flags=re.DOTALL)
    prose = re.sub(r"<th( [^>]*)?></th>", r"<td\1></td>", prose)
    return re.sub(
        r"<th([^>]*)>(<span[^>]*><math.*?</math></span>)</th>",
        lambda th: f'<th{th[1]}><span class="unseen">{words(th[2])}</span><span aria-hidden="true">{th[2]}</span></th>',
        prose,
    )


def words(markup: str) -> str:
    """Its text, on one line, still escaped."""
    return " ".join(re.sub(r"<[^>]+>", " ", markup).split())


def shown(output: NotebookNode, states: dict[str, dict]) -> str:
    """One output: a living widget in the place of its picture, else the best of its forms."""
    if output.output_type == "stream":
        return printed(output.text)
    if output.output_type == "error":
        return printed("\n".join(output.traceback))
    data = output.data
    if VIEW in data:
        picture = img_tag(data["image/png"].strip(), data["text/plain"])
        model = data[VIEW]["model_id"]
        living = model in states and "export default" in states[model]["esm"]
        kind = f'class="out" data-model="{model}"' if living else 'class="out scroll"'
        return f"<div {kind}>{picture}</div>\n"
    if "text/markdown" in data:
        return prose(data["text/markdown"])
    if "text/html" in data:
        return f'<div class="out scroll">{data["text/html"]}</div>\n'
    if "image/svg+xml" in data:
        return f'<div class="out scroll">{data["image/svg+xml"]}</div>\n'
    if "image/png" in data:
        return f'<div class="out scroll">{img_tag(data["image/png"].strip(), data["text/plain"])}</div>\n'
    return printed(data["text/plain"])


def printed(text: str) -> str:
    """Lines break where they are too long; those of a table, where gaps make columns, scroll instead."""
    kind = "out columns" if re.search(r"\S {2,}\S", text) else "out"
    return f'<pre class="{kind}">{ansi2html(text)}</pre>\n'


def rendered(page: Page) -> str:
    """The whole file: the cells, and what widgets need. The notebooks themselves say which come before and after."""
    return template(
        "page.html", title=page.title, body=article(page), up="../" * len(page.path.parent.parts),
        file=page.path.name if page.path.suffix == ".ipynb" else None, scripts=scripts(page.states),
    )  # fmt: skip


def scripts(states: dict[str, dict]) -> dict[str, str] | None:
    """What a page's widgets are made of: their modules, and all else, compressed. None where there are no widgets."""
    if not states:
        return None
    sources = list(dict.fromkeys(state["esm"] for state in states.values()))
    modules = [re.sub(r"^export default ", "const widget_ = ", source, flags=re.MULTILINE) for source in sources]
    shared: list[Any] = []
    data = {
        "widgets": {
            name: {"module": sources.index(state["esm"]), **{key: _sharing(state[key], shared) for key in KEPT}}
            for name, state in states.items()
        },
        "weights": _sharing(weights(), shared) if any(state["kind"] in READERS for state in states.values()) else None,
        "shared": shared,
    }
    return {
        # A widget's default may be a function that makes the widget, as in anywidget.
        "modules": ",\n".join(
            f'async () => {{ "use strict";\n{source}\nreturn typeof widget_ === "function" ? widget_() : widget_; }}'
            for source in modules
        ),
        "data": compressed(data),
    }


KEPT = ("kind", "css", "traits", "facts")
READERS = ("AttentionExplorer", "GuessingGame")  # widgets for which the page has the trained model


def compressed(data: dict[str, Any]) -> str:
    """`opened` of shim.js reads it: base64 of a zlib stream, in which lie the length of a JSON as uint32, the JSON, and
    then all bytes that were in data["shared"], one part after the other; a part's length stands in its place."""
    parts = [base64.b64decode(part["base64"]) if isinstance(part, dict) else None for part in data["shared"]]
    shared = [text if part is None else len(part) for text, part in zip(data["shared"], parts, strict=True)]
    head = json.dumps({**data, "shared": shared}, separators=(",", ":")).encode()
    stream = b"".join([len(head).to_bytes(4, "little"), head, *filter(None, parts)])
    return base64.b64encode(zlib.compress(stream, 9)).decode()


def weights() -> dict[str, str]:
    return {"base64": base64.b64encode(packed(course.trained_model())).decode()}


def _sharing(value: Any, shared: list) -> Any:
    """The value with every long part in `shared`, once, and its place there instead."""
    if isinstance(value, str) and len(value) >= LONG or isinstance(value, dict) and "base64" in value:
        if value not in shared:
            shared.append(value)
        return {"shared": shared.index(value)}
    if isinstance(value, dict):
        return {key: _sharing(part, shared) for key, part in value.items()}
    return [_sharing(part, shared) for part in value] if isinstance(value, list) else value


def in_a_page(script: str) -> str:
    """A script's text that no </script> in it can end."""
    return script.replace("</", "<\\/").replace("<!--", "<\\u0021--")


def contents(pages: list[Page]) -> str:
    """The index, with a search through all sections."""
    sections = [part for page in pages for part in _sections(page)]
    groups = {
        "Notebooks": [page for page in pages if page.path.parent == Path() and page.path.suffix == ".ipynb"],
        "Solutions": [page for page in pages if page.path.parent != Path()],
        "For teachers": [page for page in pages if page.path.suffix == ".md"],
    }
    return template("index.html", title="The course", groups=groups, sections=in_a_page(json.dumps(sections)))


def _sections(page: Page) -> Iterator[tuple[str, str, str]]:
    """(address, title, text) of each section, for the search."""
    for part in re.split(r"(?=<h[1-4] id=)", article(page)):
        heading = re.match(r'<h[1-4] id="([^"]*)">(.*?)<a class="anchor-link"', part, re.DOTALL)
        text = html.unescape(words(re.sub(r"<(svg|h[1-4])\b.*?</\1>", " ", part, flags=re.DOTALL)))
        name = html.unescape(words(heading[2])) if heading else page.title
        anchor = f"#{heading[1]}" if heading else ""
        title = page.title if name == page.title else f"{page.title}: {name}"
        yield page.address.as_posix() + anchor, title, text


def template(name: str, **values: Any) -> str:
    environment = Environment(loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined)
    font = base64.b64encode((HERE / "stix-two-math.woff2").read_bytes()).decode()
    paths = [*(HERE / name for name in FILES), HERE.parent / "widgets" / "network.js"]
    files = {path.stem: path.read_text(encoding="utf-8") for path in paths}
    return environment.get_template(name).render(font=font, files=files, **values)


FILES = ("pages.css", "theme.js", "answers.js", "shim.js", "reading.js", "search.js")
