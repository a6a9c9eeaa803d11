"""What a process that does nothing but train may do to itself: settings of the memory and of the threads."""

import ctypes
import sys

import torch


def keep_freed_memory() -> None:
    """Lets this process reuse freed memory instead of giving it back to Linux after every large tensor.

    The kernel clears each page that it hands out, and most tensors live for a fraction of a step. Two settings of
    glibc's malloc, for the whole process and for good, so only for a process that does nothing but train: memory that
    was once needed stays taken. Without them the laptop preset's step took 1.09 times as long on one machine and 1.02
    times on another (`assets/bench`). Nothing happens elsewhere than on Linux.
    """
    m_trim_threshold, m_mmap_max = -1, -4  # malloc.h
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "mallopt"):
        library.mallopt(m_mmap_max, 0)
        library.mallopt(m_trim_threshold, 2**31 - 1)


def dismiss_helpers() -> None:
    """Ends the threads that help the calling thread to compute; they come back when it computes again.

    OpenMP's helpers wait for the next piece of work in a busy loop. If two threads have helpers, there are more of them
    than processors, and GNU's OpenMP lets them fall asleep after every piece instead: waking them made the laptop
    preset's step 1.7 times as long on one machine, and no longer on a slower one (`assets/bench`). GNU's OpenMP is
    Linux's; nothing happens elsewhere.
    """
    omp_pause_soft = 1  # omp.h
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(torch._C.__file__), "omp_pause_resource_all"):
        library.omp_pause_resource_all(omp_pause_soft)
