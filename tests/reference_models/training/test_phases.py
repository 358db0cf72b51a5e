"""Seconds of each phase of a run."""

from types import SimpleNamespace

import pytest

from reference_models.training.phases import Phases, summary


def test_seconds_of_a_phase_are_added_up_also_where_it_ends_with_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_summary_gives_the_whole_and_the_longest_phase_first() -> None:
    assert summary({"reading": 1.0, "training": 3.04}) == "4.0 s: training 3.0 s (75%), reading 1.0 s (25%)"
