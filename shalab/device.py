"""Everything that depends on the machine: which device and number format are chosen, and what differs between them."""

import contextlib
import functools
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from shalab.errors import InputError
from shalab.parallel import ALONE, Team

DEVICES = ("auto", "cpu", "cuda", "mps")
DTYPES = {"float32": torch.float32, "tf32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Precision:
    """A device, the format of its matrix products, and who shares the work; parameters, LAMB and sums stay in float32.

    automatic: nobody asked for this format; another may be used where it is faster and no less exact than bfloat16.
    tf32: float32 whose products a recent NVIDIA card may round to ten bits, faster; elsewhere the same as float32.
    Use `Precision.pick`; the bare constructor checks nothing.
    """

    device: torch.device
    dtype: torch.dtype
    team: Team = ALONE
    automatic: bool = False
    tf32: bool = False

    @classmethod
    def pick(cls, device: str = "auto", dtype: str = "auto", team: Team = ALONE) -> "Precision":
        """device: one of DEVICES; "auto" takes CUDA, else Apple's MPS, else the CPU.

        dtype: one of DTYPES; "auto" takes bfloat16 on a card that has it and on a CPU whose products it makes faster,
        float16 with loss scaling on a card without it, float32 elsewhere.
        """
        if device == "auto":
            device = next(name for name, usable in _available().items() if usable)
        if device not in DEVICES:
            raise InputError(f"device must be one of {', '.join(DEVICES)}, got {device!r}")
        if not _available()[device]:
            raise InputError(f"this PyTorch sees no {device} device; use --device cpu or auto")
        automatic = dtype == "auto"
        if automatic:
            dtype = "float32"
            if device == "cuda":
                dtype = "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
            elif device == "cpu" and not team.any(not bfloat16_pays()):
                dtype = "bfloat16"
        if dtype not in DTYPES:
            raise InputError(f"dtype must be auto or one of {', '.join(DTYPES)}, got {dtype!r}")
        if device == "cuda" and team.size > 1:  # a process of torchrun's; alone, the card that PyTorch uses anyway
            torch.cuda.set_device(team.local_rank)
        return cls(torch.device(device), DTYPES[dtype], team, automatic, dtype == "tf32")

    @contextlib.contextmanager
    def autocast(self) -> Iterator[None]:
        """Matrix products inside run in `dtype`. A backward pass belongs outside, in `switches`."""
        half = self.dtype != torch.float32
        with self.switches(), torch.autocast(self.device.type, self.dtype) if half else contextlib.nullcontext():
            yield

    def switches(self) -> contextlib.AbstractContextManager:
        """Inside, PyTorch's process-wide settings are those that this format needs; afterwards they are as before."""
        return _switched(self.tf32) if self.device.type == "cuda" else contextlib.nullcontext()

    def scaler(self) -> torch.amp.GradScaler:
        """Loss scaling, which float16 needs for its small exponent; other formats pass unchanged."""
        return torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)

    def place(self, x: Tensor | nn.Module):
        """Moves a tensor or a module to the device; a tensor to a GPU without waiting until it is there."""
        if self.device.type == "cuda" and isinstance(x, Tensor) and not x.is_cuda:
            return x.pin_memory().to(self.device, non_blocking=True)
        return x.to(self.device)

    @property
    def on_cpu(self) -> bool:
        return self.device.type == "cpu"

    @property
    def watts(self) -> float:
        """Assumed, not measured: what a laptop's processor, Apple's chip or a GPU draws while it trains."""
        return {"cpu": 45, "mps": 45, "cuda": 300}[self.device.type]

    def memory_bytes(self) -> int | None:
        """Of the card, or of the machine; None where the system does not say, as on Windows."""
        if self.device.type == "cuda":
            return torch.cuda.get_device_properties(self.device).total_memory
        try:
            n_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        except (AttributeError, ValueError, OSError):
            return None
        return n_bytes if n_bytes > 0 else None

    def random_state(self) -> dict[str, Tensor]:
        """The states of all generators that training draws from."""
        state = {"cpu": torch.get_rng_state()}
        if not self.on_cpu:
            state[self.device.type] = torch.get_device_module(self.device).get_rng_state()
        return state

    def set_random_state(self, state: dict[str, Tensor]) -> None:
        torch.set_rng_state(state["cpu"])
        if not self.on_cpu and self.device.type in state:
            torch.get_device_module(self.device).set_rng_state(state[self.device.type])

    @property
    def dtype_name(self) -> str:
        """One of DTYPES."""
        return "tf32" if self.tf32 else str(self.dtype).removeprefix("torch.")

    def __str__(self) -> str:
        return f"{self.device.type} ({self.dtype_name})"


_switches_lock = threading.Lock()
_switches_asked: list[tuple] = []  # the values before, then those that each thread inside `_switched` asked for


@contextlib.contextmanager
def _switched(tf32: bool) -> Iterator[None]:
    """For NVIDIA cards. Threads may overlap: the last one that began decides, and the last one to end restores."""
    # The third: no fused attention takes a head this wide, and the one by products computes in float32 unless told
    # otherwise. The paper's update took 54 ms instead of 75 on an H100.
    asked = tf32, tf32, True
    with _switches_lock:
        if not _switches_asked:
            _switches_asked.append(_switches())
        _switches_asked.append(asked)
        _switch(asked)
    try:
        yield
    finally:
        with _switches_lock:
            _switches_asked.remove(asked)
            _switch(_switches_asked[-1])
            if len(_switches_asked) == 1:
                _switches_asked.clear()


def _switches() -> tuple[bool, bool, bool]:
    cuda, cudnn = torch.backends.cuda, torch.backends.cudnn
    return cuda.matmul.allow_tf32, cudnn.allow_tf32, cuda.fp16_bf16_reduction_math_sdp_allowed()


def _switch(values: tuple[bool, bool, bool]) -> None:
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32, reduced = values
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(reduced)


def on_cpu(x: Tensor) -> bool:
    """Whether x is on the CPU."""
    return x.device.type == "cpu"


def to_host(x: Tensor) -> Tensor:
    """x in main memory, where float64 exists; Apple's MPS has none."""
    return x.cpu()


def threads() -> str:
    """With how many PyTorch computes, in words."""
    n = torch.get_num_threads()
    return "1 thread" if n == 1 else f"{n} threads"


def print_anything() -> None:
    """From here on, a character that stdout cannot encode is printed as an escape instead of raising an error.

    Where a process has no stdout or stderr, as without a console, what is printed goes nowhere.
    """
    sys.stdout = sys.stdout or open(os.devnull, "w", encoding="utf-8")
    sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")


@functools.cache
def bfloat16_pays(size: int = 1024) -> bool:
    """Whether this CPU multiplies bfloat16 matrices at least 1.3 times as fast as float32 ones, and correctly.

    Measured once per process, in about a tenth of a second on a quiet machine.
    """
    a, b = torch.randn(2, size, size, generator=torch.Generator().manual_seed(0))
    n_threads = torch.get_num_threads()
    # Where the processor has no instructions for it, a large product takes seconds, so a small one is tried first; by
    # one thread, since on a busy machine two wait for each other.
    for n, threads, least in ((size // 8, 1, 0.25), (size, n_threads, 1.3)):
        taken: dict[torch.dtype, list[float]] = {torch.float32: [], torch.bfloat16: []}
        torch.set_num_threads(threads)
        try:
            for _ in range(5):
                for dtype, seconds in taken.items():
                    x, y = a[:n, :n].to(dtype), b[:n, :n].to(dtype)
                    began = time.perf_counter()
                    product = x @ y
                    seconds.append(time.perf_counter() - began)
        finally:
            torch.set_num_threads(n_threads)
        if min(taken[torch.float32]) <= least * min(taken[torch.bfloat16]):
            return False
    exact = a @ b
    return bool((product - exact).norm() < 0.02 * exact.norm())


def compiled(model: nn.Module) -> Callable:
    """The model by torch.compile; what cannot be compiled, for lack of a compiler too, runs uncompiled."""
    fast = torch.compile(model, dynamic=True)  # windows differ in length

    def call(*inputs):
        with torch._dynamo.config.patch(suppress_errors=True):
            return fast(*inputs)

    return call


def _available() -> dict[str, bool]:
    return {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
