"""IPython extension for `%%bash` cells: print the whole output at the end, and raise an error if a command fails.

Load it with `%load_ext shell_cells`. The built-in magic inserts line breaks between chunks of the output.
"""

import os
import subprocess
from typing import Any


def bash(line: str, cell: str) -> None:
    """Run a cell in a shell and print its output. If a command fails, raise an error with its message."""
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", cell], capture_output=True, text=True)
    print(done.stdout, end="")
    if done.returncode:
        raise RuntimeError(done.stderr)


def load_ipython_extension(shell: Any) -> None:
    """Register the magic; IPython calls this function."""
    os.environ |= {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    shell.register_magic_function(bash, magic_kind="cell", magic_name="bash")
