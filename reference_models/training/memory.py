"""Keep freed memory in the process, to avoid page faults in every training step."""

import ctypes

from reference_models.errors import UserError

# Parameters of mallopt(3): maximum number of blocks from mmap, and amount of free memory that triggers its return.
MMAP_MAX, TRIM_THRESHOLD = -4, -1
NEVER = -1


def keep_freed_memory() -> None:
    """Let malloc take every block from its heap and never shrink the heap, until the process ends.

    The tensors of a step then reuse the memory pages of the previous step. In exchange, other processes cannot use this
    memory between two peaks.

    Raises:
        UserError: If the C library has no `mallopt` or rejects these settings.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
        taken = bool(mallopt(MMAP_MAX, 0)) and bool(mallopt(TRIM_THRESHOLD, NEVER))
    except (AttributeError, OSError, TypeError):  # TypeError: on Windows, CDLL(None) is not allowed
        taken = False
    if not taken:
        raise UserError(
            "training.keep_memory is for Linux with the GNU C library, which this system does not have; remove the "
            "setting"
        )
