"""A run while it learns, afterwards, or again."""

import math
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import traitlets
from IPython.display import display
from matplotlib.figure import Figure

from shalab.background import Background, StateEvent
from shalab.errors import InputError
from shalab.events import as_line, read_metrics
from shalab.follow import Follower
from shalab.plots import BLUE, GREEN, GREY, ORANGE, curve, draw_learning_curve, finite
from shalab.run import Run
from shalab.run_config import RunConfig
from shalab.widgets.base import Widget, source
from shalab.widgets.history import History

MESSAGE_GAP_S = 0.06  # between two messages to the browser, at least
MESSAGE_POINTS = 7  # in a message of their own; more travel with everything else


class Replay(Background):
    """The lines of a run that was, `speed` times as fast as they were written. One that is stopped can go on."""

    def __init__(self, lines: list[dict], speed: float):
        super().__init__()
        if not speed > 0:
            raise InputError(f"speed must be above 0 (1 is the run's own, math.inf is at once), got {speed}")
        self.speed, self._left = speed, iter(lines)

    def events(self) -> Iterator[dict]:
        at, owed = None, 0.0  # seconds; naps too short to be kept exactly are put together
        for line in self._left:
            if "elapsed_s" in line:
                owed += (line["elapsed_s"] - (line["elapsed_s"] if at is None else at)) / self.speed
                at = line["elapsed_s"]
            if owed > 0.02:
                self.stop.wait(owed)
                owed = 0.0
            yield line
            if self.pause_asked:
                self.hold()
            if self.stop.is_set():
                return


class Dashboard(Widget):
    """Curves, speed, trust ratios, progress and the latest sample of a run, with pause, continue and stop.

        dashboard = Dashboard(run, {"xz -9e": 1.987})
        dashboard.show()
        run.start()
        await run

    The buttons act while the cell awaits. With run.wait() instead, ipykernel 7.4 keeps them back until the run is over,
    and only interrupting the kernel stops it, with a checkpoint.

    run         a Run, or anything else that reads events in the background; the dashboard becomes its listener
    references  name -> bits per byte, drawn as dashed lines
    """

    _esm = source("chart", "dashboard")
    references = traitlets.Dict().tag(sync=True)
    controls = traitlets.Bool().tag(sync=True)
    resumes = traitlets.Bool().tag(sync=True)  # whether "continue" begins another process when there is none
    history = traitlets.Any().tag(sync=True, to_json=lambda _, self: self._everything())

    def __init__(
        self, run: Background | None = None, references: dict[str, float] | None = None, history: History | None = None
    ):
        for name, bpc in (references or {}).items():
            if not (isinstance(bpc, (int, float)) and math.isfinite(bpc) and bpc > 0):
                raise InputError(f"references must map names to bits per byte above 0, got {name!r}: {bpc!r}")
        self._lock = threading.RLock()
        with self._lock:
            self.run, self._handle, self._sent_at = run, None, 0.0
            history = history or History()
            if run:
                run.listener = self  # events that come from here on wait for the lock
            if isinstance(run, Run):
                history = History(run.metrics(), run.config.total_steps or 0)
            super().__init__(
                references=references or {},
                controls=run is not None,
                resumes=isinstance(run, Follower),
                history=history,
            )
            self._sent = self._counts()
        self.on_msg(self._on_message)

    @classmethod
    def from_folder(cls, folder: Path, references: dict[str, float] | None = None) -> "Dashboard":
        """What a run's folder tells, after the kernel that trained it is gone."""
        history = History(read_metrics(folder))
        if history.state == "running":
            history.state = "unfinished"
        return cls(None, references, history)

    @classmethod
    def follow(cls, folder: Path | Follower, references: dict[str, float] | None = None) -> "Dashboard":
        """Starts at once to show a run that any process trains in `folder`, with buttons that reach that process.

        `await dashboard.run` waits for its end. When the process is gone, "continue" resumes the run in another one.
        """
        follower = folder if isinstance(folder, Follower) else Follower(folder)
        total_steps = RunConfig.read(follower.folder).total_steps or 0
        dashboard = cls(follower, references, History(follower.backlog(), total_steps))
        follower.start()
        return dashboard

    @classmethod
    def replay(
        cls, recorded: Path | list[dict], speed: float = 100.0, references: dict[str, float] | None = None
    ) -> "Dashboard":
        """Starts at once to show a recorded run again. recorded: its folder, or the lines of its metrics.jsonl."""
        replay = Replay(recorded if isinstance(recorded, list) else read_metrics(recorded), speed)
        dashboard = cls(replay, references)
        replay.start()
        if speed == math.inf:
            replay.wait()
        return dashboard

    def show(self) -> None:
        """Displays a view whose stored picture is exchanged when the run is over; its text stays as it is here."""
        self._handle = display(self._bundle(), raw=True, display_id=True)

    def __call__(self, event) -> None:
        with self._lock:
            self._note(event)
            urgent = not isinstance(event, dict) and not hasattr(event, "loss_nats")
            if urgent or time.monotonic() - self._sent_at >= MESSAGE_GAP_S:
                self._send_news()
        if isinstance(event, StateEvent) and event.state in ("over", "failed") and self._handle:
            self._handle.update(self._bundle(), raw=True)

    def picture(self) -> Figure:
        points, history = list(self.history.points), self.history
        figure = Figure(figsize=(8, 6), layout="constrained")
        (above,), (below,) = figure.subfigures(2, 1, squeeze=False, height_ratios=(3, 2))
        draw_learning_curve(
            above.subplots(), [(point[1], point[3]) for point in points], [(row[1], row[3]) for row in history.scores],
            self.references,
        )  # fmt: skip
        lr, norm, trust = below.subplots(1, 3)
        millions = [point[1] / 1e6 for point in points]
        curve(lr, millions, [point[4] for point in points], color=GREEN)
        curve(norm, millions, [point[5] for point in points], log=True, color=GREY, linewidth=0.8)
        millions = [row[1] / 1e6 for row in history.trust]
        low, middle, high = ([row[place] for row in history.trust] for place in (3, 4, 5))
        trust.fill_between(
            millions, low, high, color=BLUE, alpha=0.25, linewidth=0
        )  # first: ticks are for what is drawn
        curve(trust, millions, middle, True, color=ORANGE)
        for axes, title in ((lr, "learning rate"), (norm, "gradient norm"), (trust, "trust ratio and range")):
            axes.set_title(title, fontsize=9)
            axes.tick_params(labelsize=8)
            axes.grid(alpha=0.3)
            if not axes.lines:
                axes.set(xticks=[], yticks=[])
        return figure

    def summary(self) -> str:
        history = self.history
        if not history.points.count:
            return f"{self._headline()}: no update yet"
        step, n_bytes, _, bpc, *_ = history.points.last
        lines = [f"step {step:,} of {history.total_steps:,}, {n_bytes:,} bytes read: {history.state}"]
        lines.append("train: no score" if bpc is None else f"train {bpc:.2f} bpc (smoothed)")
        if history.scores:
            best = min(history.scores, key=lambda row: row[3])
            lines.append(f"valid {history.scores[-1][3]:.2f} bpc, best {best[3]:.2f} at step {best[0]:,}")
        if history.trust:
            low, middle, high = history.trust[-1][3:]
            lines.append(f"trust ratios {low:.2g} to {high:.2g}, median {middle:.2g}")
        lines += [f"{name} {bpc:.2f} bpc" for name, bpc in self.references.items()]
        return "\n".join(lines)

    def _headline(self) -> str:
        total_steps = self.history.total_steps
        return f"dashboard of a run of {total_steps:,} steps" if total_steps else "dashboard of a run"

    def _bundle(self) -> dict:
        data, _ = self._repr_mimebundle_()
        return {**data, "text/plain": self._headline()}

    def _note(self, event) -> None:
        history = self.history
        if not isinstance(event, StateEvent):
            history.add(event if isinstance(event, dict) else as_line(event))
        elif event.state != "over":
            history.state, history.error = event.state, event.error
        elif history.state == "running":  # without an EndEvent since it was started
            history.state = history.ended or ("stopped" if self.run and self.run.stop.is_set() else "over")

    def _counts(self) -> dict:
        history = self.history
        return {
            "k": history.points.k, "points": len(history.points.kept),
            "scores": len(history.scores), "trust": len(history.trust), "sample": history.sample,
        }  # fmt: skip

    def _everything(self) -> dict:
        with self._lock:
            return self._news({"points": 0, "scores": 0, "trust": 0, "sample": None})

    def _news(self, since: dict) -> dict:
        """What the browser appends to its lists and what it replaces. passing: the last point, until the next comes."""
        history = self.history
        lists = {"points": history.points.kept, "scores": history.scores, "trust": history.trust}
        return {
            **{name: [_short(row) for row in rows[since[name] :]] for name, rows in lists.items()},
            "passing": _short(history.points.last) if history.points.passing else None,
            "total_steps": history.total_steps,
            "seconds_left": _short([history.seconds_left])[0],
            "state": history.state, "error": history.error,
            "machine": self.run.machine if isinstance(self.run, Follower) else "",
            **({"sample": history.sample} if history.sample != since["sample"] else {}),
        }  # fmt: skip

    def _do(self, act: Callable[[], None]) -> None:
        try:
            act()
        except InputError as error:
            self(StateEvent("failed", str(error)))

    def _send_news(self) -> None:
        now = self._counts()
        if now["k"] != self._sent["k"] or now["points"] - self._sent["points"] > MESSAGE_POINTS:
            self.send_state("history")
        else:
            self.send(self._news(self._sent))
        self._sent, self._sent_at = now, time.monotonic()

    def _on_message(self, _, content: dict, buffers) -> None:
        match content:
            case {"ask": "everything"}:
                with self._lock:
                    self.send_state("history")
                    self._sent = self._counts()
            case {"ask": "pause"} if self.run:
                self._do(self.run.pause)
            case {"ask": "continue"} if self.run:  # in a thread: another process takes seconds to begin
                threading.Thread(target=self._do, args=(self.run.proceed,), daemon=True).start()
            case {"ask": "stop"} if self.run:
                self._do(self.run.end)


def _short(row) -> list:
    """Six digits are more than a screen shows; JSON has no sign for what is not finite."""
    known = map(finite, row)
    return [value if value is None or isinstance(value, int) else float(f"{value:.6g}") for value in known]
