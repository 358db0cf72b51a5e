"""`%load_ext shell_cells`: notebook cells that begin with `%%bash` print their output at once, and fail aloud.

The built-in magic breaks lines where the chunks of the output end.
"""

import os
import subprocess
from typing import Any


def bash(line: str, cell: str) -> None:
    """Run a cell in a shell and print its output; a command that fails ends the notebook with its message."""
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", cell], capture_output=True, text=True)
    print(done.stdout, end="")
    if done.returncode:
        raise RuntimeError(done.stderr)


def load_ipython_extension(shell: Any) -> None:
    """Called by IPython."""
    os.environ |= {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    shell.register_magic_function(bash, magic_kind="cell", magic_name="bash")
