"""Parquet files for your own data: the columns are the keys of the JSON Lines format."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from reference_models.data.formats.base import DataFormat, register_format
from reference_models.data.formats.jsonl import Jsonl
from reference_models.data.samples import Sample, Split
from reference_models.errors import UserError


@register_format("parquet")
class Parquet(Jsonl):
    """Files `{train,valid,test}.parquet`, or shards such as `train-00000-of-00002.parquet`.

    The columns are the keys of `Jsonl`, and a null value is the same as a missing key. The files are read in batches of
    rows, so they can be larger than the memory. Needs pyarrow (`pip install '.[parquet]'`).
    """

    suffix = ".parquet"

    def objects(self, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
        """See `Jsonl`; rows are numbered from 1."""
        import pyarrow
        from pyarrow.parquet import ParquetFile

        try:
            with ParquetFile(path) as file:
                rows = (row for batch in file.iter_batches(batch_size=1024) for row in batch.to_pylist())
                for number, row in enumerate(rows, start=1):
                    yield number, _without_nulls(row)
                if not file.metadata.num_rows:
                    raise UserError(f"{path}: expected one row or more, got an empty file")
        except (pyarrow.ArrowException, OSError) as error:
            raise UserError(f"{path}: expected a Parquet file, but it cannot be read ({error})") from error

    def write(self, root: Path, samples: Mapping[Split, Sequence[Sample]], labels: Sequence[str] | None = None) -> None:
        """See `DataFormat`; this format is read-only."""
        DataFormat.write(self, root, samples, labels)


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(part) for key, part in value.items() if part is not None}
    return [_without_nulls(part) for part in value] if isinstance(value, list) else value
