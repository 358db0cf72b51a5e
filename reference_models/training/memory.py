"""Keeps the memory that a process frees, where the C library would hand it back and fault it in again in each step."""

import ctypes

from reference_models.errors import UserError

# Of mallopt(3): the most blocks that have a mapping of their own, and from how much free memory on it is handed back.
MMAP_MAX, TRIM_THRESHOLD = -4, -1
NEVER = -1


def keep_freed_memory() -> None:
    """Let malloc take every block from its heap and never shrink that, from now to the end of the process.

    A tensor of a step then lies in pages that the step before it has used. What is lost is that other processes could
    have the memory between two peaks.

    Raises:
        UserError: the C library has no `mallopt`, or does not take these settings.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
        taken = bool(mallopt(MMAP_MAX, 0)) and bool(mallopt(TRIM_THRESHOLD, NEVER))
    except (AttributeError, OSError, TypeError):  # TypeError: Windows has no library without a name
        taken = False
    if not taken:
        raise UserError(
            "training.keep_memory is for Linux with the GNU C library, and this system has another; leave it out"
        )
