"""`load_dataset`, the public function that reads the samples of a split."""

import json
from pathlib import Path

import pytest

import reference_models
from reference_models.errors import UserError


def test_load_dataset_recognises_the_format_and_passes_options(tmp_path: Path) -> None:
    row = {
        "tokens": ["Ann", "sings"],
        "image": "a.jpg",
        "entities": [{"start": 0, "end": 1, "label": "PER"}],
        "relations": [{"head": 0, "tail": [1, 2], "label": "does"}],
    }
    (tmp_path / "test.jsonl").write_text(json.dumps(row))
    [sample] = reference_models.load_dataset(str(tmp_path), "test")
    assert (sample.relation, sample.image) == ("does", tmp_path / "a.jpg")
    [sample] = reference_models.load_dataset(tmp_path, "test", format="jsonl", pairs=False, visual=False)
    assert (sample.tags, sample.image) == (("B-PER", "O"), None)
    with pytest.raises(UserError, match="unknown split 'dev', expected one of train, valid, test"):
        reference_models.load_dataset(tmp_path, "dev")
