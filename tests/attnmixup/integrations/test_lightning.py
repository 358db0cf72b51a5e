"""The steps of a LightningModule, with a stand-in for Lightning and with Lightning if it is installed."""

import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from attnmixup import AttnMixup
from attnmixup.integrations.lightning import AttnMixupSteps
from attnmixup.integrations.loop import MixedModel


class Recorder(nn.Module):
    """The part of a LightningModule that the steps use."""

    def __init__(self) -> None:
        super().__init__()
        self.global_step = 0
        self.logged: dict[str, float] = {}
        self.trainer = SimpleNamespace(log_every_n_steps=2, optimizers=[])

    def log(self, name: str, value: Tensor, batch_size: int | None = None) -> None:
        self.logged[name] = value.item()

    def log_dict(self, values: dict[str, float]) -> None:
        self.logged |= values


def model() -> MixedModel:
    torch.manual_seed(0)
    return MixedModel(nn.Linear(4, 8), nn.Linear(8, 2), AttnMixup(8, heads=2))


def batch() -> dict[str, Tensor]:
    return {"inputs": torch.randn(6, 4), "targets": torch.arange(6) % 2}


def test_training_and_validation_steps() -> None:
    class Module(AttnMixupSteps, Recorder):
        pass

    module = Module(model(), learning_rate=0.5, shape="linear", ramp_steps=4)
    optimizer = module.configure_optimizers()
    assert optimizer.defaults["lr"] == 0.5
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(module.parameters()))
    parts = [torch.optim.SGD(part.parameters()) for part in (module.model.head, module.model.encoder)]
    module.trainer.optimizers = parts
    with pytest.warns(UserWarning, match=r"not in the optimizer.*: mixer\.attention"):
        module.on_train_start()
    module.trainer.optimizers = [*parts, torch.optim.SGD(module.model.mixer.parameters())]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        module.on_train_start()
    module.global_step = 1
    module.training_step(batch(), 0)
    assert "train/rows/original" not in module.logged
    module.global_step = 2
    loss = module.training_step(batch(), 0)
    assert loss.requires_grad
    assert module.model.mixer.strength == 0.5
    assert module.logged["train/loss"] == loss
    assert module.logged["train/rows/original"] == 6
    module.trainer.log_every_n_steps, module.logged = 0, {}
    module.training_step(batch(), 0)
    assert list(module.logged) == ["train/loss"]
    module.eval()
    module.validation_step(batch(), 0)
    assert module.logged["val/loss"] > 0


def test_strength_is_constant_without_a_schedule() -> None:
    class Module(AttnMixupSteps, Recorder):
        pass

    module = Module(model())
    module.model.mixer.set_strength(0.25)
    module.training_step(batch(), 0)
    assert module.model.mixer.strength == 0.25


def test_lightning_trainer_trains_the_module(tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning")

    kind = type("Module", (AttnMixupSteps, lightning.LightningModule), {})
    module = kind(model(), shape="cosine", ramp_steps=2)
    before = [parameter.detach().clone() for parameter in module.parameters()]
    trainer = lightning.Trainer(
        max_steps=3,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        default_root_dir=tmp_path,
    )
    loader: DataLoader[dict[str, Tensor]] = DataLoader([batch()] * 3, batch_size=None)
    trainer.fit(module, loader, loader)
    assert float(trainer.callback_metrics["val/loss"]) > 0
    assert module.model.mixer.strength == 1.0
    assert not any(torch.equal(old, new) for old, new in zip(before, module.parameters(), strict=True))
