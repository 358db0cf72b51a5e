"""The computed plan for a GPU: counts grow with the model as expected."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from benchmarks import gpu_plan
from benchmarks.workload import SIZES, TINY_TEXT, make_model


def test_each_layer_adds_the_same_number_of_kernels() -> None:
    sizes = [replace(SIZES["tiny"], text=TINY_TEXT | {"num_hidden_layers": depth}) for depth in (1, 2, 3)]
    one, two, three = (gpu_plan.launches("re", size) for size in sizes)
    assert three - two == pytest.approx(two - one, abs=5)
    assert two - one > 30


def test_operations_of_the_first_step_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[Tensor] = []

    def step(*_: object) -> None:
        steps.append(torch.zeros(3) if steps else torch.zeros(3) + 1 + 1)

    monkeypatch.setattr(gpu_plan, "training_step", step)
    assert gpu_plan.launches("re", replace(SIZES["tiny"], text=TINY_TEXT)) == 1
    assert len(steps) == 2


def test_memory_counts_weights_and_activations() -> None:
    with torch.device("meta"):
        model = make_model("re", SIZES["tiny"])
    trained = sum(p.numel() for name, p in model.named_parameters() if not name.startswith("vision."))
    frozen = sum(p.numel() for p in model.vision.parameters())
    assert gpu_plan.memory(model, 0) == 16 * trained + 4 * frozen
    assert gpu_plan.memory(model, 10) - gpu_plan.memory(model, 0) == 34 * 48 * 2 * 10


def test_plan_has_a_line_for_every_batch(capsys: pytest.CaptureFixture[str]) -> None:
    gpu_plan.main()
    rows = [line.split("|") for line in capsys.readouterr().out.splitlines()[2:]]
    assert [(row[1].strip(), int(row[3])) for row in rows][::2] == [("ner", 8), ("ner", 8), ("re", 16), ("re", 16)]
    for row in rows:
        floor, launching, expected = (float(cell) for cell in row[7:10])
        assert expected >= max(floor, launching)
