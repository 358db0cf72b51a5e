"""Seconds of each phase of a run."""

from types import SimpleNamespace

import pytest

from reference_models.training.phases import Phases, summary


def test_phase_seconds_add_up_even_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 5.0, 7.0, 7.0, 10.0])
    monkeypatch.setattr("reference_models.training.phases.time", SimpleNamespace(perf_counter=lambda: next(clock)))
    phases = Phases()
    with phases("reading"):
        pass
    with phases("training"):
        pass
    with pytest.raises(ValueError, match="broken"), phases("reading"):
        raise ValueError("broken")
    assert phases.seconds == {"reading": 4.0, "training": 2.0}


def test_summary_lists_the_total_and_the_longest_phase_first() -> None:
    assert summary({"reading": 1.0, "training": 3.04}) == "4.0 s: training 3.0 s (75%), reading 1.0 s (25%)"
