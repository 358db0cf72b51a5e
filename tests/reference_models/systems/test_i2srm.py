"""The complete I2SRM: which inputs change its output, which parameters learn, saving and loading."""

import copy
import logging
import socket
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModel

from attnmixup.functional import masked_mean
from reference_models.config import SLOTS
from reference_models.encoders.text import checkpoint_activations
from reference_models.systems.base import System
from reference_models.systems.bert import BERT
from reference_models.systems.i2srm import I2SRM, RELEASE
from tests.reference_models.tiny_models import FAMILIES, make_batch, make_model, text_config

TASKS = ("ner", "re")
PUBLISHED = {"prefix": "release", "scramble_heads": True, "attend_absent": True}
READINGS = [
    pytest.param({}, id="paper"),
    pytest.param(PUBLISHED, id="release"),
    pytest.param({"fusion": "concat"}, id="concat"),
    pytest.param(PUBLISHED | {"fusion": "concat", "attention": "eager"}, id="release-concat-eager"),
]
each_task = pytest.mark.parametrize("task", TASKS)
each_reading = pytest.mark.parametrize("options", READINGS)


def scores(model: System, batch: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        found: Tensor = model.eval()(**{name: value for name, value in batch.items() if name != "labels"}).scores
    return found


def replace_image(batch: dict[str, Tensor], sample: int, slot: int) -> dict[str, Tensor]:
    """Return the batch with one image replaced."""
    pixels = batch["pixel_values"].clone()
    pixels[sample, slot] = 255 - pixels[sample, slot]
    return batch | {"pixel_values": pixels}


@each_task
@each_reading
def test_every_trainable_parameter_receives_a_gradient(task: str, options: dict[str, Any]) -> None:
    model = make_model(task=task, mixup={"dropout": 0.0}, **options).train()
    model(**make_batch(task)).loss.backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    # The same number added to all keys of a query cancels in the softmax over them; so does one added to all samples.
    assert [name for name in silent if not name.endswith(("self.key.bias", "key.bias"))] == []
    assert {name.split(".")[0] for name, _ in model.named_parameters()} == {
        *("text_encoder", "vision", "prefix", "head", "mixer", "semantic")
    }


def test_release_with_class_logits_trains_every_parameter() -> None:
    model = make_model(vision="resnet18", **RELEASE).train()
    assert model.mixer.options.final == "slice"
    assert model.semantic.image_projection.weight.shape == (64, 1000)
    model(**make_batch()).loss.backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert [name for name in silent if not name.endswith(("key.bias", "gates.bias"))] == []


def test_classifier_is_omitted_without_the_semantic_loss() -> None:
    model = make_model(vision="resnet18", image_signal="logits", semantic_weight=0.0)
    assert not any(name.startswith("vision.body.fc") for name, _ in model.named_parameters())


@each_task
@each_reading
def test_crop_changes_only_its_sample_and_absent_crops_nothing(task: str, options: dict[str, Any]) -> None:
    model, batch = make_model(task=task, **options), make_batch(task)
    base = scores(model, batch)
    moved = (scores(model, replace_image(batch, 0, 2)) - base).abs().flatten(1).amax(dim=1)
    assert moved[0] > 1e-5
    assert (moved[1:] < 1e-6).all()
    for sample, slot in ((1, 1), (2, 0), (2, 3), (3, 3)):
        assert torch.equal(scores(model, replace_image(batch, sample, slot)), base), (sample, slot)


@pytest.mark.parametrize(("prefix", "moves"), [("paper", False), ("release", True)])
def test_only_the_release_prefix_uses_the_whole_image(prefix: str, moves: bool) -> None:
    model, batch = make_model(prefix=prefix), make_batch()
    assert (not torch.equal(scores(model, replace_image(batch, 0, 0)), scores(model, batch))) == moves


def test_attend_absent_treats_absent_crops_as_zero_images() -> None:
    """The release uses an image of the mean colour for an absent crop."""
    batch = make_batch(present=[[1, 1, 0, 0]] * 4)
    grey = batch["pixel_values"].clone()
    grey[:, 2:] = torch.tensor([124, 116, 104], dtype=torch.uint8)[:, None, None]
    all_present = batch | {"pixel_values": grey, "image_mask": torch.ones(4, 4, dtype=torch.bool)}
    for attend_absent in (False, True):
        model = make_model(prefix="release", attend_absent=attend_absent)
        with torch.no_grad():
            for parameter in model.prefix.parameters():
                parameter.mul_(3)
        assert torch.allclose(scores(model, batch), scores(model, all_present), atol=1e-2) == attend_absent


@each_task
@each_reading
def test_sample_without_images_is_encoded_as_text_only(task: str, options: dict[str, Any]) -> None:
    model, batch = make_model(task=task, **options), make_batch(task)
    bare = make_model(BERT, task=task)
    bare.load_state_dict(model.state_dict(), strict=False)
    alone = {name: value for name, value in batch.items() if name not in ("pixel_values", "image_mask")}
    both, text = scores(model, batch), scores(bare, alone)
    torch.testing.assert_close(both[1], text[1], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(both[0], text[0], atol=1e-3)


@each_task
@each_reading
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_batch_without_images_works(task: str, options: dict[str, Any], mode: str) -> None:
    model = make_model(task=task, **options).train(mode == "train")
    statistics = {name: value.clone() for name, value in model.vision.named_buffers()}
    batch = make_batch(task, present=[[0] * 4] * 4)
    output = model(**batch)
    assert output.loss.isfinite()
    torch.testing.assert_close(dict(model.vision.named_buffers()), statistics, rtol=0, atol=0)
    if mode == "train":
        assert output.semantic_loss == 0
        output.loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.vision.parameters())


@pytest.mark.parametrize("family", FAMILIES)
@each_task
def test_every_family_trains_and_predicts(family: str, task: str) -> None:
    model = make_model(task=task, text_config=text_config(family)).train()
    model(**make_batch(task)).loss.backward()
    assert model.prefix.mixer.gates.grad.abs().sum() > 0
    assert model.prefix.mixer.gates.shape[0] == model.text_encoder.layers == text_config(family).num_hidden_layers
    assert scores(model, make_batch(task)).isfinite().all()


@pytest.mark.parametrize("freeze", [True, False])
def test_frozen_backbone_does_not_change_in_training(freeze: bool) -> None:
    model = make_model(freeze_image_backbone=freeze).train()
    before = {name: value.clone() for name, value in model.vision.state_dict().items()}
    model(**make_batch()).loss.backward()
    learns = [p.grad is not None for p in model.vision.parameters()]
    assert all(learns) != freeze
    assert any(learns) != freeze
    same = all(torch.equal(value, before[name]) for name, value in model.vision.state_dict().items())
    assert same == freeze
    assert model.prefix.mixer.gates.grad.abs().sum() > 0


def test_words_and_pairs_are_gathered_from_the_hidden_states() -> None:
    for task in TASKS:
        model, batch = make_model(BERT, task=task).eval(), make_batch(task)
        with torch.no_grad():
            hidden = model.text_encoder(batch["input_ids"], batch["attention_mask"])
            encoded = model.encode(batch)
        for sample in range(4):
            if task == "ner":
                words = [hidden[sample, i] for i in batch["word_starts"][sample].tolist()]
                expected = torch.stack(words)
                assert torch.equal(encoded.mask, batch["word_mask"])
            else:
                expected = torch.cat([hidden[sample, 1:3].mean(dim=0), hidden[sample, 4:6].mean(dim=0)])
            torch.testing.assert_close(encoded.h[sample], expected)


@pytest.mark.parametrize("prefix", ["paper", "release"])
def test_semantic_signal_is_the_embedding_of_each_whole_image(prefix: str) -> None:
    model, batch = make_model(prefix=prefix).train(), make_batch()
    model.vision.eval()
    encoded = model.encode(batch)
    assert encoded.has_image.tolist() == [True, False, False, True]
    for sample in (0, 3):
        alone = model.vision(batch["pixel_values"][sample, :1])["pooled"][0]
        torch.testing.assert_close(encoded.image[sample], alone, atol=1e-5, rtol=1e-5)


@each_task
@each_reading
@pytest.mark.parametrize("mode", ["train", "eval"])
def test_cached_features_replace_the_backbone_pass(
    task: str, options: dict[str, Any], mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(task=task, freeze_image_backbone=True, **options).train(mode == "train")
    batch = make_batch(task)
    features = model.vision(batch["pixel_values"].flatten(0, 1), batch["image_mask"].flatten())
    read = {name: value for name, value in batch.items() if name != "pixel_values"}
    slots = SLOTS[model.settings.inputs.images["cells"]]
    read["image_cells"] = features["cells"].unflatten(0, (4, 4))[:, slots]
    read["image_pooled"] = features["pooled"].unflatten(0, (4, 4))[:, :1]
    torch.manual_seed(0)
    computed = model(**batch)
    monkeypatch.setattr(model.vision, "forward", None)
    torch.manual_seed(0)
    assert (computed.semantic_loss is not None) == (mode == "train")
    for name, value in model(**read).items():
        torch.testing.assert_close(value, computed[name], atol=1e-5, rtol=1e-5)


def test_masked_mean_averages_the_masked_positions() -> None:
    hidden = torch.randn(2, 4, 3)
    mask = torch.tensor([[0, 1, 1, 0], [1, 0, 0, 0]]).bool()
    expected = torch.stack([(hidden[0, 1] + hidden[0, 2]) / 2, hidden[1, 0]])
    torch.testing.assert_close(masked_mean(hidden, mask), expected)


@each_task
@pytest.mark.parametrize("family", ["bert", "roberta", "modernbert"])
@each_reading
def test_saved_model_loads_identically_without_network(
    task: str, family: str, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> NoReturn:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    model, batch = make_model(task=task, text_config=text_config(family), **options).eval(), make_batch(task)
    model.save_pretrained(tmp_path)
    expected = scores(model, batch)
    for kind in (I2SRM, AutoModel):
        loaded = kind.from_pretrained(tmp_path)
        assert type(loaded) is I2SRM
        assert not loaded.training
        torch.testing.assert_close(loaded.state_dict(), model.state_dict(), rtol=0, atol=0)
        assert torch.equal(scores(loaded, batch), expected)
    config = AutoConfig.from_pretrained(tmp_path)
    assert config.prefix == options.get("prefix", "paper")
    assert type(config.text_config) is type(text_config(family))
    assert list(config.labels) == list(model.config.labels)


def test_saved_mixup_strength_is_restored(tmp_path: Path) -> None:
    model = make_model()
    model.mixer.set_strength(0.25)
    model.save_pretrained(tmp_path)
    assert I2SRM.from_pretrained(tmp_path).mixer.strength == 0.25


@each_task
@pytest.mark.parametrize("vision", ["resnet18", "mobilenet_v2"])
def test_model_loaded_without_training_modules_gives_the_same_scores(
    task: str, vision: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, batch = make_model(task=task, vision=vision, image_signal="logits").eval(), make_batch(task)
    model.save_pretrained(tmp_path)
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    loaded = I2SRM.from_pretrained(tmp_path, attn_mixup=False, semantic_weight=0.0)
    assert caplog.messages == []
    gone = model.state_dict().keys() - loaded.state_dict().keys()
    assert {".".join(name.split(".")[:3]) for name in gone if name.startswith("vision.")} in (
        {"vision.body.fc"},
        {"vision.body.classifier"},
    )
    assert {name.split(".")[0] for name in gone} == {"mixer", "semantic", "vision"}
    assert torch.equal(scores(loaded, batch), scores(model, batch))


@each_task
def test_model_loaded_in_bfloat16_keeps_a_float32_crf(task: str, tmp_path: Path) -> None:
    model, batch = make_model(task=task), make_batch(task)
    model.save_pretrained(tmp_path)
    loaded = I2SRM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert loaded.text_encoder.body.dtype == loaded.vision.body.dtype == torch.bfloat16
    if task == "ner":
        assert loaded.head.crf.transitions.dtype == torch.float32
    torch.testing.assert_close(scores(loaded, batch).float(), scores(model, batch), atol=0.1, rtol=0.1)


@each_task
def test_autocast_trains_and_is_close_to_full_precision(task: str) -> None:
    model, batch = make_model(task=task).eval(), make_batch(task)
    exact = scores(model, batch)
    with torch.autocast("cpu", torch.bfloat16):
        near = scores(model, batch)
        loss = model.train()(**batch).loss
    torch.testing.assert_close(near.float(), exact, atol=0.1, rtol=0.1)
    loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@each_task
@each_reading
def test_gradient_checkpointing_does_not_change_gradients(task: str, options: dict[str, Any]) -> None:
    model, batch = make_model(task=task, attn_mixup=False, **options), make_batch(task)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    other = copy.deepcopy(model)
    checkpoint_activations(other)
    for each in (model, other):
        for layer in each.text_encoder.body.encoder.layer:
            layer.attention.self.dropout.p = 0.0
        each.train()(**batch).loss.backward()
    for (name, one), (_, two) in zip(model.named_parameters(), other.named_parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, atol=1e-5, rtol=1e-4, msg=name)


def test_model_can_be_compiled() -> None:
    model, batch = make_model(), make_batch()
    model.eval()
    batch.pop("labels")
    with torch.no_grad():
        output = torch.compile(model, backend="eager")(**batch)
    torch.testing.assert_close(output.scores, scores(model, batch), atol=1e-5, rtol=1e-5)
    torch.compiler.reset()


def test_pair_is_the_span_means_or_the_opening_markers(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = torch.randn(4, 10, 32)
    for pair, places in (("mean", ([1, 2], [4, 5])), ("marker", ([0], [3]))):
        model = make_model(BERT, pair=pair)
        monkeypatch.setattr(model.text_encoder, "forward", lambda *_: hidden)
        encoded = model.encode(make_batch())
        expected = torch.cat([hidden[:, place].mean(dim=1) for place in places], dim=-1)
        torch.testing.assert_close(encoded.h, expected)
