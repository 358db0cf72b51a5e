"""The table of data set sizes: one line per size, in both formats."""

import argparse
import sys

import pytest

from benchmarks import scaling_data


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
@pytest.mark.parametrize("format", ["mnre", "twitter"])
def test_table_has_a_line_for_each_number_of_rows(
    format: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(scaling_data, "in_fresh_process", lambda function, *arguments: function(*arguments))
    monkeypatch.setattr(scaling_data, "IMAGES", 3)
    monkeypatch.setattr(scaling_data, "DRAWN", 20)
    scaling_data.data(argparse.Namespace(rows=[40, 10], format=format))
    lines = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [line[0].strip() for line in lines] == ["rows", "10", "40"]
    for line in lines[1:]:
        assert all(float(cell.replace(",", "")) > 0 for cell in line[1:7])
