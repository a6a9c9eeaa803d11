"""Waiting for what a thread, another process or a page does."""

import time

WAIT_S = 600  # a safety net: what is waited for comes within seconds, but on a busy machine nobody knows when


def until(holds, what: str):
    """Looks again and again until it holds, and returns what `holds` then does."""
    end = time.monotonic() + WAIT_S
    while not (found := holds()):
        assert time.monotonic() < end, f"no {what} within {WAIT_S} s"
        time.sleep(0.02)
    return found
