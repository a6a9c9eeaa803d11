"""Events read by a thread, so that a notebook stays usable meanwhile; and signals that stop a training cleanly."""

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from shalab.errors import InputError
from shalab.process import dismiss_helpers


@dataclass(frozen=True)
class StateEvent:
    """What the thread does now: "running", "paused", "over" or "failed", with the exception."""

    state: str
    error: str = ""


class Stop(threading.Event):
    """Set by whoever wants a training to end; `signal_number` is that of the signal that set it, if one did."""

    signal_number: int | None = None


class Background:
    """Something whose `events()` a thread reads; it can be started, paused, stopped and waited for.

    listener  called in that thread with each event, and with a StateEvent at each change; there is one at a time
    stop      set to ask for the end; `events()` itself looks at it, and at `pause_asked`, and calls `hold()`
    """

    def __init__(self):
        self.stop = Stop()
        self.listener: Callable = lambda event: None
        self._paused = False  # a pause was asked for
        self.is_paused = False  # in a pause, which begins after the event under way when it is asked for
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def events(self) -> Iterator:
        raise NotImplementedError

    def start(self, listener: Callable | None = None) -> None:
        """Starts or continues, and returns at once. Other code must not use torch's global random state meanwhile."""
        if self.alive:
            raise InputError("it has been started already: wait() for its end, or stop.set() and then wait()")
        self.listener = listener or self.listener
        self.stop.clear()
        self._paused, self._error = False, None
        events = self.events()
        dismiss_helpers()
        self._thread = threading.Thread(target=self._read, args=(events,), daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread reads events, or holds."""
        return self._thread is not None and self._thread.is_alive()

    def pause(self) -> None:
        """Holds before the next event, until `proceed()` or `stop.set()`."""
        self._paused = True

    def proceed(self) -> None:
        self._paused = False

    def end(self) -> None:
        """Asks for the end, after the current update of a training."""
        self.stop.set()

    @property
    def pause_asked(self) -> bool:
        """Whether a pause was asked for and has not been ended."""
        return self._paused and not self.stop.is_set()

    def hold(self) -> None:
        """Returns when the pause has been ended."""
        self.is_paused = True
        self.listener(StateEvent("paused"))
        while self.pause_asked:
            self.stop.wait(0.05)
        self.is_paused = False
        self.listener(StateEvent("running"))

    def wait(self) -> None:
        """Blocks until the thread ends, and raises its exception here. Ctrl-C acts like `stop.set()`."""
        if self._thread is None:
            raise InputError("there is nothing to wait for: start() it first")
        with stop_on_interrupt(self.stop):
            while self.alive:
                self._thread.join(0.1)  # without a limit, Windows would not let Ctrl-C through
        if self._error:
            raise self._error

    def __await__(self):
        """`await run` in a notebook is `run.wait()`, but the widgets' buttons work meanwhile."""
        return self._until_over().__await__()

    async def _until_over(self) -> None:
        try:
            while self.alive:
                await asyncio.sleep(0.05)
        except asyncio.CancelledError:  # how Jupyter interrupts a cell that awaits
            self.stop.set()
        self.wait()

    def _read(self, events: Any) -> None:  # a generator, or another iterator that can be closed
        try:
            with contextlib.closing(events):
                self.listener(StateEvent("running"))
                for event in events:
                    self.listener(event)
            self.listener(StateEvent("over"))
        except BaseException as error:
            self._error = error
            self.listener(StateEvent("failed", f"{type(error).__name__}: {error}"))


@contextlib.contextmanager
def stop_on_interrupt(stop: Stop) -> Iterator[None]:
    """Inside, Ctrl-C or SIGTERM sets `stop`, so that the current update is completed; a second one interrupts it."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield
        return

    def on_signal(number, frame):
        if stop.is_set():
            raise KeyboardInterrupt
        stop.signal_number = number
        stop.set()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
