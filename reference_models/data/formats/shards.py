"""Files of a split: one file, or numbered shards as data sets on the Hugging Face Hub have them."""

import re
from pathlib import Path

from reference_models.data.samples import Split
from reference_models.errors import UserError


def split_files(root: Path, split: Split, suffix: str) -> tuple[Path, ...]:
    """Return the files of a split, in order: `train.jsonl`, or `train-00000-of-00002.jsonl` and so on.

    Args:
        root: Folder of the data set.
        split: Name of the split.
        suffix: Suffix of the files, such as ".jsonl".

    Returns:
        The shards if there are any; otherwise the single file, which may not exist.
    """
    name = re.compile(rf"{split}-\d{{5}}-of-\d{{5}}{re.escape(suffix)}")
    shards = sorted(path for path in root.glob(f"{split}-*{suffix}") if name.fullmatch(path.name))
    return tuple(shards) or (root / f"{split}{suffix}",)


def check_shards(files: tuple[Path, ...]) -> None:
    """Check that no shard of a split is missing and that there is no single file besides the shards.

    Args:
        files: The files from `split_files`.

    Raises:
        UserError: If a shard is missing or superfluous, or there is a single file too.
    """
    first = files[0]
    split, separator, rest = first.name.partition("-")
    if not separator:
        return
    count = int(rest[9:14])
    expected = [f"{split}-{number:05}-of-{count:05}{first.suffix}" for number in range(count)]
    found = [path.name for path in files]
    for name in [*expected, *found]:
        if (name in expected) != (name in found):
            problem = "is missing" if name in expected else f"does not belong to the shards of {first.name}"
            raise UserError(f"{first.parent / name}: expected {count} shards of {split!r}, but this file {problem}")
    if (whole := first.with_name(f"{split}{first.suffix}")).exists():
        raise UserError(f"{whole}: expected one file or shards of {split!r}, but there are both; remove one of them")
