import contextlib
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from lab import Lab, Server, launch_browser

from shalab import SHARNN, ModelConfig
from shalab.device import Precision
from shalab.door import plain

# Tiny models gain nothing from threads and lose much where another process wants the same cores.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"

# One fixed choice of examples, seconds in all; `make torture` looks for hours, each time elsewhere.
# Fixtures: those of the tests in question hold nothing that an example changes.
_common = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]}
settings.register_profile("default", max_examples=50, derandomize=True, database=None, **_common)
settings.register_profile("torture", max_examples=10_000, **_common)
TORTURE = os.environ.get("HYPOTHESIS_PROFILE") == "torture"  # make torture
settings.load_profile("torture" if TORTURE else "default")


@pytest.hookimpl(optionalhook=True)  # there may be no xdist
def pytest_xdist_auto_num_workers(config):
    """One more than there are cores: many tests wait for a browser or a process. Two more were no faster."""
    return (os.cpu_count() or 1) + 1


@pytest.fixture(autouse=True)
def isolated(tmp_path, monkeypatch):
    """No test sees the user's cache or working folder, or another test's random state."""
    monkeypatch.setenv("SHALAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("shalab.terminal.SAMPLE_BYTES", 50)  # most of the time of a short run
    torch.manual_seed(0)


@pytest.fixture(params=["tricks", "plain"])
def both_ways(request):
    """The equations as they are written, and what stands in for them."""
    with plain() if request.param == "plain" else contextlib.nullcontext():
        yield


@pytest.fixture(scope="session")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = launch_browser(playwright)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def lab(browser, tmp_path_factory):
    """JupyterLab in a browser; its screenshots stay in tests/pictures."""
    folder, home = tmp_path_factory.mktemp("notebooks"), tmp_path_factory.mktemp("home")
    with Server(folder, home) as server:
        yield Lab(server, browser, Path(__file__).parent / "pictures")


@pytest.fixture
def precision():
    return Precision.pick("cpu", "float32")


@pytest.fixture
def small():
    """A trained-looking model with a prime for every dimension; dropout on, memory of 23."""
    return SHARNN(ModelConfig(256, 11, 33, n_layers=3, attention_layers=(1,), max_context=23))


@pytest.fixture
def text():
    """2,003 bytes that a small model can learn something about."""
    words = np.random.default_rng(0).choice(["<page>", "the ", "town ", "of ", "\n", "[[link]] ", "é"], 700)
    return np.frombuffer("".join(words).encode()[:2003], np.uint8)
