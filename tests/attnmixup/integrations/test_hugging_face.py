"""Models from transformers, trained by an unchanged Trainer."""

import copy
import inspect
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    DebertaConfig,
    DebertaForSequenceClassification,
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    DistilBertForTokenClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    PreTrainedModel,
    RobertaConfig,
    RobertaForSequenceClassification,
    Trainer,
    TrainingArguments,
    ViTConfig,
    ViTForImageClassification,
    Wav2Vec2Config,
    Wav2Vec2ForAudioFrameClassification,
    Wav2Vec2ForSequenceClassification,
)
from transformers.utils import ModelOutput

from attnmixup import AttnMixup, MixedBatch, SemanticKLLoss
from attnmixup.integrations import hugging_face
from attnmixup.integrations.hugging_face import AttnMixupForClassification, StrengthCallback

Problem = Literal["regression", "multi_label_classification"]
SMALL: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "num_labels": 3,
    "max_position_embeddings": 20,
}
DISTIL: dict[str, Any] = {"vocab_size": 50, "dim": 8, "n_layers": 1, "n_heads": 2, "hidden_dim": 8, "num_labels": 3}
IMAGE: dict[str, Any] = {key: SMALL[key] for key in SMALL if key != "vocab_size"} | {"image_size": 8, "patch_size": 4}
AUDIO: dict[str, Any] = {key: SMALL[key] for key in SMALL if key != "max_position_embeddings"} | {
    "conv_dim": (4, 4),
    "conv_kernel": (4, 4),
    "conv_stride": (4, 4),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "classifier_proj_size": 8,
    "mask_time_prob": 0.0,
    "layerdrop": 0.0,
}
# The name depends on the version of transformers.
NAMES = ("activation_checkpointing", "gradient_checkpointing")
CHECKPOINTING = next(name for name in NAMES if hasattr(PreTrainedModel, f"{name}_enable"))
MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "vectors": lambda: BertForSequenceClassification(BertConfig(**SMALL)),
    "head on tokens": lambda: RobertaForSequenceClassification(RobertaConfig(**SMALL)),
    "tags": lambda: BertForTokenClassification(BertConfig(**SMALL)),
    "distil": lambda: DistilBertForSequenceClassification(DistilBertConfig(**DISTIL)),
    "distil tags": lambda: DistilBertForTokenClassification(DistilBertConfig(**DISTIL)),
    "deberta": lambda: DebertaForSequenceClassification(DebertaConfig(**SMALL)),
    "deberta v2": lambda: DebertaV2ForSequenceClassification(DebertaV2Config(**SMALL)),
    "image": lambda: ViTForImageClassification(ViTConfig(**IMAGE)),
    "audio": lambda: Wav2Vec2ForSequenceClassification(Wav2Vec2Config(**AUDIO)),
    "audio frames": lambda: Wav2Vec2ForAudioFrameClassification(Wav2Vec2Config(**AUDIO)),
}


def wrapped_of(kind: str, model: PreTrainedModel | None = None, **options: Any) -> AttnMixupForClassification:
    torch.manual_seed(0)
    return AttnMixupForClassification(model or MODELS[kind](), AttnMixup(8, heads=2), **options)


def inputs_of(kind: str, row: int, generator: Generator) -> dict[str, Tensor]:
    if kind == "image":
        return {"pixel_values": torch.randn(3, 8, 8, generator=generator)}
    if kind.startswith("audio"):
        mask = (torch.arange(160) < 160 - 32 * (row % 2)).long()
        return {"input_values": torch.randn(160, generator=generator) * mask, "attention_mask": mask}
    inputs = {
        "input_ids": torch.randint(5, 50, (5,), generator=generator),
        "attention_mask": torch.tensor([1, 1, 1, 1, row % 2]),
    }
    if not kind.startswith("distil"):
        inputs["token_type_ids"] = torch.zeros(5, dtype=torch.long)
    return inputs


def labels_of(kind: str, row: int, generator: Generator) -> Tensor:
    if kind.endswith("tags"):
        return torch.tensor([-100, 0, 1, 2, -100] if row % 3 else [-100, 2, -100, -100, -100])
    if kind == "audio frames":
        return F.one_hot(torch.randint(3, (10,), generator=generator), 3).float()
    return torch.tensor(row % 3)


def samples(kind: str, count: int = 8) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [inputs_of(kind, row, generator) | {"labels": labels_of(kind, row, generator)} for row in range(count)]


def batch_of(kind: str) -> dict[str, Tensor]:
    rows = samples(kind)
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def record_head_inputs(wrapped: AttnMixupForClassification) -> list[Tensor]:
    given: list[Tensor] = []
    wrapped.model.get_submodule(wrapped.head).register_forward_hook(
        lambda module, inputs, output: given.append(inputs[0])
    )
    return given


def mask_of_mixer(wrapped: AttnMixupForClassification, batch: dict[str, Tensor]) -> Tensor | None:
    masks: list[Tensor | None] = []
    wrapped.mixer.register_forward_pre_hook(
        lambda module, arguments, options: masks.append(options["mask"]), with_kwargs=True
    )
    wrapped(**batch)
    return masks[0]


def arguments_of(tmp_path: Path, **options: Any) -> TrainingArguments:
    defaults: dict[str, Any] = {
        "max_steps": 4,
        "per_device_train_batch_size": 4,
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "save_strategy": "no",
        "logging_strategy": "no",
    }
    return TrainingArguments(str(tmp_path), **defaults | options)


@pytest.mark.parametrize("kind", MODELS)
def test_evaluation_equals_the_unwrapped_model(kind: str) -> None:
    wrapped, batch = wrapped_of(kind).eval(), batch_of(kind)
    output, expected = wrapped(**batch), wrapped.model(**batch)
    torch.testing.assert_close(output.logits, expected.logits)
    # The rows have different numbers of tags.
    torch.testing.assert_close(output.loss, expected.loss)
    del batch["labels"]
    assert "loss" not in wrapped(**batch)


@pytest.mark.parametrize("kind", MODELS)
def test_training_mixes_the_input_of_the_head(kind: str) -> None:
    wrapped, batch = wrapped_of(kind), batch_of(kind)
    given = record_head_inputs(wrapped)
    output = wrapped(**batch)
    assert len(given[0]) == 16
    assert len(output.logits) == 8
    output.loss.backward()
    assert not [
        name for name, parameter in wrapped.named_parameters() if parameter.grad is None and gets_gradient(name)
    ]


def gets_gradient(name: str) -> bool:
    # wav2vec2 has an embedding for masked frames, but no frame is masked here.
    return "masked_spec_embed" not in name


def test_ignored_tags_are_left_out_of_the_loss() -> None:
    wrapped, batch = wrapped_of("tags"), batch_of("tags")
    logits: list[Tensor] = []
    mixed: list[MixedBatch] = []
    wrapped.model.classifier.register_forward_hook(lambda module, inputs, output: logits.append(output))
    wrapped.mixer.register_forward_hook(lambda module, inputs, output: mixed.append(output))
    loss = wrapped(**batch)["loss"].item()
    (final,) = mixed
    lams = final.lam.tolist()
    assert any(0 < lam < 1 for lam in lams)
    total = count = 0.0
    for row, scores in enumerate(logits[0].log_softmax(-1).tolist()):
        for source, share in ((final.index_a[row], lams[row]), (final.index_b[row], 1 - lams[row])):
            for token, tag in enumerate(batch["labels"][source].tolist()):
                if tag != -100:
                    total -= share * scores[token][tag]
                    count += share
    assert loss == pytest.approx(total / count, rel=1e-5)


@pytest.mark.parametrize(
    ("num_labels", "labels", "problem_type"),
    [
        (3, torch.tensor([0, 1, 2, 0, 1, 2, 0, 1]), None),
        (3, torch.arange(24).reshape(8, 3).remainder(2).float(), None),
        (3, torch.arange(24).reshape(8, 3).remainder(2).float(), "multi_label_classification"),
        (1, torch.linspace(-1, 1, 8), None),
        (1, torch.linspace(-1, 1, 8).unsqueeze(1), "regression"),
        (3, torch.linspace(-1, 1, 24).reshape(8, 3), "regression"),
        # As many labels as tokens.
        (5, torch.arange(40).reshape(8, 5).remainder(2).float(), None),
    ],
)
@pytest.mark.parametrize("kind", ["vectors", "head on tokens", "distil", "deberta", "deberta v2", "image"])
def test_loss_follows_the_problem_type(
    kind: str, num_labels: int, labels: Tensor, problem_type: Problem | None
) -> None:
    model = MODELS[kind]()
    config = copy.deepcopy(model.config)
    config.num_labels, config.problem_type = num_labels, problem_type
    wrapped = wrapped_of(kind, type(model)(config))
    batch = batch_of(kind) | {"labels": labels}
    output = wrapped(**batch)
    output.loss.backward()
    assert output.logits.shape == (8, num_labels)
    wrapped.eval()
    torch.testing.assert_close(wrapped(**batch).loss, wrapped.model(**batch).loss)


def test_unknown_problem_type_raises() -> None:
    wrapped = wrapped_of("vectors")
    wrapped.config.__dict__["problem_type"] = "ranking"
    with pytest.raises(ValueError, match=r"config\.problem_type must be one of regression, .*, got 'ranking'"):
        wrapped(**batch_of("vectors"))


@pytest.mark.parametrize("criterion", [F.mse_loss, nn.MSELoss(), nn.HuberLoss()])
def test_regression_targets_need_no_label_axis(criterion: Callable[[Tensor, Tensor], Tensor]) -> None:
    model = BertForSequenceClassification(BertConfig(**SMALL | {"num_labels": 1}))
    wrapped = wrapped_of("vectors", model, criterion=criterion).eval()
    labels = torch.linspace(-1, 1, 8)
    output = wrapped(**batch_of("vectors") | {"labels": labels})
    torch.testing.assert_close(output.loss, criterion(output.logits.squeeze(1), labels))


def test_custom_criterion_is_used() -> None:
    labels = torch.rand(8, 3).round()
    wrapped = wrapped_of("vectors", criterion=F.binary_cross_entropy_with_logits).eval()
    output = wrapped(**batch_of("vectors") | {"labels": labels})
    expected = F.binary_cross_entropy_with_logits(output["logits"], labels)
    torch.testing.assert_close(output["loss"], expected)


def test_the_semantic_loss_is_added_in_training_only() -> None:
    wrapped = wrapped_of("tags", semantic=SemanticKLLoss(8, 4), semantic_weight=1.0)
    batch, image = batch_of("tags"), torch.randn(8, 4)
    losses = []
    for semantic, extra in ((None, {}), (wrapped.semantic, {"image_embeddings": image})):
        wrapped.semantic = semantic
        torch.manual_seed(0)
        losses.append(wrapped(**batch, **extra)["loss"])
    assert losses[1] > losses[0]
    with pytest.raises(ValueError, match=r"^The semantic loss needs image_embeddings in training, got None: "):
        wrapped(**batch)
    with pytest.raises(ValueError, match=r"^Got image_embeddings without a semantic loss: "):
        wrapped_of("tags")(**batch, image_embeddings=image)
    wrapped.eval()
    assert wrapped(**batch, image_embeddings=image)["loss"] == wrapped(**batch)["loss"]


def test_semantic_loss_ignores_samples_without_an_image() -> None:
    wrapped = wrapped_of("vectors", semantic=SemanticKLLoss(8, 4))
    batch, image = batch_of("vectors"), torch.randn(8, 4)
    sample_mask = torch.tensor([1, 1, 0, 1, 0, 1, 1, 0])
    losses = []
    for value in (0.0, float("nan")):
        torch.manual_seed(0)
        given = image.masked_fill(sample_mask.unsqueeze(1) == 0, value)
        losses.append(wrapped(**batch, image_embeddings=given, sample_mask=sample_mask).loss)
    assert losses[0] == losses[1]


@pytest.mark.parametrize("kind", MODELS)
def test_a_trainer_trains_resumes_and_predicts(kind: str, tmp_path: Path) -> None:
    wrapped, data = wrapped_of(kind), samples(kind)
    arguments = arguments_of(tmp_path, save_strategy="steps", save_steps=2, gradient_accumulation_steps=2)
    callback = StrengthCallback(wrapped.mixer, ramp=1.0)
    trainer = Trainer(wrapped, arguments, train_dataset=data, eval_dataset=data, callbacks=[callback])
    assert not trainer.model_accepts_loss_kwargs  # accumulated steps are averaged
    before = [parameter.detach().clone() for parameter in wrapped.parameters()]
    trainer.train()
    assert wrapped.mixer.strength == 0.75
    changed = [not torch.equal(old, new) for old, new in zip(before, wrapped.parameters(), strict=True)]
    assert sum(changed) > 0.9 * len(changed)
    assert trainer.evaluate()["eval_loss"] > 0
    assert len(trainer.predict(data).predictions) == 8
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert trainer.state.global_step == 4


def test_checkpoints_contain_the_mixer(tmp_path: Path) -> None:
    wrapped, data = wrapped_of("vectors"), samples("vectors")
    arguments = arguments_of(tmp_path, save_strategy="steps", save_steps=4)
    Trainer(wrapped, arguments, train_dataset=data).train()
    other = wrapped_of("vectors")
    trainer = Trainer(other, arguments, train_dataset=data)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    for old, new in zip(wrapped.parameters(), other.parameters(), strict=True):
        assert torch.equal(old, new)


@pytest.mark.parametrize("with_state", [False, True])
def test_save_pretrained_saves_only_the_model(with_state: bool, tmp_path: Path) -> None:
    wrapped, batch = wrapped_of("vectors").eval(), batch_of("vectors")
    state = {"state_dict": wrapped.state_dict()} if with_state else {}
    wrapped.save_pretrained(tmp_path, **state)
    alone, report = AutoModelForSequenceClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert type(alone) is BertForSequenceClassification
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    torch.testing.assert_close(alone.eval()(**batch).logits, wrapped(**batch).logits)


def test_device_dtype_and_main_input_name_of_the_model() -> None:
    wrapped = wrapped_of("image")
    assert wrapped.device == torch.device("cpu")
    assert wrapped.dtype == torch.float32
    assert wrapped.main_input_name == "pixel_values"


@pytest.mark.parametrize("options", [{"label_smoothing_factor": 0.1}, {}])
def test_trainer_that_removes_the_labels_raises(options: dict[str, Any], tmp_path: Path) -> None:
    wrapped, data = wrapped_of("vectors"), samples("vectors")
    own: dict[str, Any] = (
        {} if options else {"compute_loss_func": lambda outputs, labels, **_: F.cross_entropy(outputs.logits, labels)}
    )
    trainer = Trainer(wrapped, arguments_of(tmp_path, **options), train_dataset=data, eval_dataset=data, **own)
    with pytest.raises(ValueError, match=r"In training the model needs labels.*partial\(F\.cross_entropy"):
        trainer.train()
    assert trainer.evaluate()["eval_loss"] > 0


def test_trainer_with_its_own_compute_loss_raises(tmp_path: Path) -> None:
    class Own(Trainer):
        def compute_loss(
            self,
            model: nn.Module,
            inputs: dict[str, Tensor],
            return_outputs: bool = False,
            num_items_in_batch: Tensor | int | None = None,
        ) -> Tensor | tuple[Tensor, Any]:
            labels = inputs.pop("labels")
            outputs = model(**inputs)
            loss = F.cross_entropy(outputs.logits, labels)
            return (loss, outputs) if return_outputs else loss

    data = samples("vectors")
    trainer = Own(wrapped_of("vectors"), arguments_of(tmp_path), train_dataset=data, eval_dataset=data)
    with pytest.raises(ValueError, match="In training the model needs labels"):
        trainer.train()
    assert trainer.evaluate()["eval_loss"] > 0


def test_trainer_that_ignores_the_loss_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Own(Trainer):
        def compute_loss(
            self,
            model: nn.Module,
            inputs: dict[str, Tensor],
            return_outputs: bool = False,
            num_items_in_batch: Tensor | int | None = None,
        ) -> Tensor | tuple[Tensor, Any]:
            logits.append(model(**inputs).logits)
            return F.cross_entropy(logits[-1], inputs["labels"])

    monkeypatch.setattr(hugging_face, "PATIENCE", 3)
    options = arguments_of(tmp_path, max_steps=8, per_device_train_batch_size=1)
    logits: list[Tensor] = []
    data = samples("vectors")
    with pytest.raises(RuntimeError, match=r"The last 3 losses .* were not used for training.*allow_unused_loss=True"):
        Own(wrapped_of("vectors"), options, train_dataset=data).train()
    assert len(logits) == 3
    Own(wrapped_of("vectors", allow_unused_loss=True), options, train_dataset=data).train()
    assert len(logits) == 3 + 8


def test_only_losses_in_a_row_count_as_unused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hugging_face, "PATIENCE", 3)
    wrapped, batch = wrapped_of("vectors"), batch_of("vectors")
    for _ in range(2):
        sum(wrapped(**batch).loss for _ in range(3)).backward()
    wrapped.eval()
    for _ in range(4):
        assert wrapped(**batch).loss.requires_grad
    wrapped.train()
    with torch.no_grad():
        for _ in range(4):
            wrapped(**batch)
    for _ in range(2):
        for _ in range(3):
            loss = wrapped(**batch).loss
        with pytest.raises(RuntimeError, match="not used for training"):
            wrapped(**batch)
    loss.backward()


def test_criterion_can_smooth_labels() -> None:
    smoothed = partial(F.cross_entropy, label_smoothing=0.1)
    wrapped, batch = wrapped_of("tags", criterion=smoothed).eval(), batch_of("tags")
    output = wrapped(**batch)
    expected = smoothed(output.logits.flatten(0, 1), batch["labels"].flatten())
    torch.testing.assert_close(output.loss, expected)


@pytest.mark.parametrize("kind", ["vectors", "head on tokens", "image", "audio"])
def test_a_trainer_checkpoints_activations(kind: str, tmp_path: Path) -> None:
    wrapped, data = wrapped_of(kind), samples(kind)
    given = record_head_inputs(wrapped)
    arguments = arguments_of(tmp_path, gradient_checkpointing=True)
    Trainer(wrapped, arguments, train_dataset=data).train()
    assert getattr(wrapped.model, f"is_{CHECKPOINTING}")
    assert [len(rows) for rows in given] == [8] * 4


@pytest.mark.parametrize("kind", ["vectors", "tags", "audio"])
def test_checkpointing_does_not_change_gradients(kind: str) -> None:
    gradients = []
    for checkpointed in (False, True):
        wrapped, batch = wrapped_of(kind), batch_of(kind)
        if checkpointed:
            getattr(wrapped, f"{CHECKPOINTING}_enable")()
        torch.manual_seed(1)
        wrapped(**batch).loss.backward()
        gradients.append([parameter.grad for parameter in wrapped.parameters()])
    torch.testing.assert_close(*gradients)


class CheckpointedHead(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.rows: list[int] = []

    def run(self, rows: Tensor) -> Tensor:
        self.rows.append(len(rows))
        output: Tensor = self.layer(rows)
        return output

    def forward(self, rows: Tensor) -> Tensor:
        output: Tensor = checkpoint(self.run, rows, use_reentrant=False)
        return output


def test_recomputed_head_is_not_mixed_again() -> None:
    model = MODELS["vectors"]()
    model.classifier = CheckpointedHead(model.classifier)
    wrapped = wrapped_of("vectors", model)
    model.classifier.rows.clear()
    wrapped(**batch_of("vectors")).loss.backward()
    assert model.classifier.rows == [16, 16]


def test_whole_model_can_be_checkpointed() -> None:
    wrapped, batch = wrapped_of("vectors"), batch_of("vectors")
    loss = checkpoint(lambda: wrapped(**batch).loss, use_reentrant=False)
    loss.backward()
    assert all(parameter.grad is not None for parameter in wrapped.parameters())


def test_threads_can_share_one_model() -> None:
    wrapped, batch = wrapped_of("vectors").eval(), batch_of("vectors")
    parts = [{name: tensor[rows] for name, tensor in batch.items()} for rows in (slice(0, 3), slice(3, 8))]
    expected = [wrapped(**part).loss for part in parts]
    together = threading.Barrier(2, timeout=60)

    def meet(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        together.wait()

    wrapped.model.dropout.register_forward_pre_hook(meet)
    with ThreadPoolExecutor(2) as pool:
        outputs = list(pool.map(lambda part: wrapped(**part), parts))
    assert [len(output.logits) for output in outputs] == [3, 5]
    torch.testing.assert_close([output.loss for output in outputs], expected)


def test_wrapped_model_is_unchanged_and_can_have_two_wrappers() -> None:
    wrapped, batch = wrapped_of("vectors"), batch_of("vectors")
    given = record_head_inputs(wrapped)
    wrapped.model(**batch)
    AttnMixupForClassification(wrapped.model, AttnMixup(8, heads=2))(**batch)
    wrapped(**batch)
    assert [len(rows) for rows in given] == [8, 16, 16]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda wrapped: pickle.loads(pickle.dumps(wrapped))])
def test_copied_wrapper_still_mixes(copied: Callable[[AttnMixupForClassification], AttnMixupForClassification]) -> None:
    wrapped, batch = copied(wrapped_of("vectors")), batch_of("vectors")
    given = record_head_inputs(wrapped)
    wrapped(**batch).loss.backward()
    assert len(given[0]) == 16
    assert all(parameter.grad is not None for parameter in wrapped.parameters())


@pytest.mark.parametrize("training", [True, False])
def test_loss_is_the_first_output(training: bool) -> None:
    wrapped, batch = wrapped_of("vectors").train(training), batch_of("vectors")
    output = wrapped(**batch, output_hidden_states=True)
    assert list(output) == ["loss", "logits", "hidden_states"]
    assert output[0] is output.loss
    assert output[1] is output.logits
    assert len(output.hidden_states) == 2
    as_tuple = wrapped(**batch, return_dict=False)
    assert type(as_tuple) is tuple
    assert as_tuple[0].shape == ()


@pytest.mark.parametrize("kind", MODELS)
def test_a_trainer_keeps_the_columns_of_the_model(kind: str, tmp_path: Path) -> None:
    wrapped = wrapped_of(kind)
    trainer = Trainer(wrapped, arguments_of(tmp_path))
    trainer._set_signature_columns_if_needed()
    assert {*samples(kind)[0], "image_embeddings", "sample_mask"} <= set(trainer._signature_columns)
    assert trainer.label_names == ["labels"]
    of_model = list(inspect.signature(wrapped.model.forward).parameters)
    assert [name for name in inspect.signature(wrapped.forward).parameters if name in of_model] == of_model


def test_other_columns_are_removed(tmp_path: Path) -> None:
    wrapped = wrapped_of("image", semantic=SemanticKLLoss(8, 4))
    extra = {"image_embeddings": torch.randn(4), "sample_mask": True, "file": torch.tensor(1)}
    data = [row | extra for row in samples("image")]
    Trainer(wrapped, arguments_of(tmp_path), train_dataset=data).train()


def test_inputs_can_be_positional() -> None:
    wrapped, batch = wrapped_of("vectors").eval(), batch_of("vectors")
    output = wrapped(batch["input_ids"], batch["attention_mask"], labels=batch["labels"])
    del batch["token_type_ids"]
    torch.testing.assert_close(output.loss, wrapped.model(**batch).loss)


def test_extra_or_duplicate_arguments_raise() -> None:
    wrapped, batch = wrapped_of("distil").eval(), batch_of("distil")
    for arguments, options, message in (
        ([batch["input_ids"]], {"input_ids": batch["input_ids"]}, "multiple values for argument 'input_ids'"),
        ([batch["input_ids"], *[None] * 20], {}, "too many positional arguments"),
    ):
        with pytest.raises(TypeError, match=message):
            wrapped(*arguments, **options)


def test_missing_attributes_come_from_the_model() -> None:
    wrapped = wrapped_of("vectors")
    assert wrapped.get_input_embeddings() is wrapped.model.bert.embeddings.word_embeddings
    assert wrapped.num_parameters() == wrapped.model.num_parameters()
    with pytest.raises(AttributeError, match="'BertForSequenceClassification' object has no attribute 'nothing'"):
        wrapped.nothing()
    with pytest.raises(AttributeError, match="has no attribute 'model'"):
        AttnMixupForClassification.__new__(AttnMixupForClassification).model()


@pytest.mark.parametrize(("kind", "frames"), [("audio", None), ("audio frames", [10, 8] * 4)])
def test_audio_mask_is_downsampled_to_frames(kind: str, frames: list[int] | None) -> None:
    wrapped, batch = wrapped_of(kind), batch_of(kind)
    mask = mask_of_mixer(wrapped, batch)
    assert mask is None if frames is None else mask.sum(1).tolist() == frames


@pytest.mark.parametrize("kind", ["tags", "distil tags"])
def test_attention_mask_is_the_mask_of_the_mixer(kind: str) -> None:
    wrapped, batch = wrapped_of(kind), batch_of(kind)
    mask = mask_of_mixer(wrapped, batch)
    assert not batch["attention_mask"].all()
    assert torch.equal(mask, batch["attention_mask"].bool())


def test_mask_of_wrong_length_raises() -> None:
    wrapped = wrapped_of("tags")

    def shorten(model: nn.Module, arguments: tuple[Any, ...], output: ModelOutput) -> ModelOutput:
        output["last_hidden_state"] = output["last_hidden_state"][:, :3]
        return output

    wrapped.model.bert.register_forward_hook(shorten)
    batch = batch_of("tags")
    batch["labels"] = batch["labels"][:, :3]
    with pytest.raises(ValueError, match=r"The attention mask \(8, 5\) must be as long as the embeddings \(8, 3, 8\)"):
        wrapped(**batch)


class TwoTokenHead(nn.Module):
    """Head that reads the first two tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        output: Tensor = self.layer(tokens[:, :2].mean(1))
        return output


def test_only_the_token_read_by_the_head_is_mixed() -> None:
    wrapped, batch = wrapped_of("head on tokens"), batch_of("head on tokens")
    given = record_head_inputs(wrapped)
    wrapped(**batch)
    assert wrapped.first_token_only
    assert given[0].shape == (16, 1, 8)
    given.clear()
    whole = wrapped_of("head on tokens", first_token_only=False)
    given = record_head_inputs(whole)
    whole(**batch)
    assert given[0].shape == (16, 5, 8)


@pytest.mark.parametrize("kind", [kind for kind in MODELS if kind != "head on tokens"])
def test_other_heads_get_all_tokens(kind: str) -> None:
    assert not wrapped_of(kind).first_token_only


def test_head_that_reads_two_tokens_gets_all_tokens() -> None:
    model = MODELS["head on tokens"]()
    model.classifier = TwoTokenHead()
    assert not wrapped_of("head on tokens", model).first_token_only
    # Zero weights do not show which tokens the head reads.
    nn.init.zeros_(model.classifier.layer.weight)
    assert not wrapped_of("head on tokens", model).first_token_only


def test_detecting_first_token_only_draws_nothing() -> None:
    model, mixer = MODELS["head on tokens"](), AttnMixup(8, heads=2)
    state = torch.get_rng_state()
    wrapped = AttnMixupForClassification(model, mixer)
    assert torch.equal(torch.get_rng_state(), state)
    assert wrapped.model.classifier.training is model.training


def test_semantic_loss_gets_all_tokens() -> None:
    seen: list[torch.Size] = []
    semantic = SemanticKLLoss(8, 4)
    semantic.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape))
    wrapped = wrapped_of("head on tokens", semantic=semantic)
    wrapped(**batch_of("head on tokens"), image_embeddings=torch.randn(8, 4))
    assert seen == [(8, 5, 8)]


def test_batch_norm_statistics_come_from_originals_only() -> None:
    model = MODELS["vectors"]()
    norm = nn.BatchNorm1d(8, momentum=1.0)
    model.classifier = nn.Sequential(norm, nn.Linear(8, 3))
    wrapped = wrapped_of("vectors", model)
    given = record_head_inputs(wrapped)
    wrapped(**batch_of("vectors"))
    torch.testing.assert_close(norm.running_mean, given[0][:8].mean(0))
    assert norm.num_batches_tracked == 1


def test_head_that_runs_twice_raises() -> None:
    model = MODELS["vectors"]()
    model.classifier = nn.Sequential(nn.BatchNorm1d(8), nn.Linear(8, 8))
    model.dropout.register_forward_hook(lambda module, inputs, output: model.classifier(output))
    with pytest.raises(ValueError, match=r"BertForSequenceClassification\.classifier must run once"):
        wrapped_of("vectors", model)(**batch_of("vectors"))


@pytest.mark.parametrize("kind", ["head on tokens", "tags"])
def test_wrapper_compiles_to_one_graph(kind: str) -> None:
    torch.compiler.reset()
    wrapped, batch = wrapped_of(kind), batch_of(kind)
    compiled = torch.compile(wrapped, backend="eager", fullgraph=True)
    compiled(**batch).loss.backward()
    assert all(parameter.grad is not None for parameter in wrapped.parameters())
    wrapped.eval()
    for shift in (0, 1):
        batch["labels"] = batch["labels"].roll(shift, 0)
        torch.testing.assert_close(compiled(**batch).loss, wrapped(**batch).loss)


def test_threads_that_share_a_batch_norm_update_it_once_each() -> None:
    model = MODELS["vectors"]()
    norm = nn.BatchNorm1d(8)
    model.classifier = nn.Sequential(norm, nn.Linear(8, 3))
    wrapped, batch = wrapped_of("vectors", model), batch_of("vectors")
    given: list[int] = []
    norm.register_forward_hook(lambda module, inputs, output: given.append(len(inputs[0])))
    with ThreadPoolExecutor(4) as pool:
        assert len(list(pool.map(lambda _: wrapped(**batch), range(8)))) == 8
    assert norm.num_batches_tracked == 8
    assert given == [16] * 8


def test_parameters_missing_from_the_optimizer_are_named(tmp_path: Path) -> None:
    wrapped, data = wrapped_of("vectors"), samples("vectors")
    optimizer = torch.optim.SGD(wrapped.model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.ConstantLR(optimizer)
    callbacks = [StrengthCallback(wrapped.mixer)]
    trainer = Trainer(
        wrapped, arguments_of(tmp_path), train_dataset=data, callbacks=callbacks, optimizers=(optimizer, scheduler)
    )
    with pytest.warns(UserWarning, match=r"mixer\.attention"):
        trainer.train()


def test_complete_optimizer_causes_no_warning(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    wrapped, data = wrapped_of("vectors"), samples("vectors")
    callback = StrengthCallback(wrapped.mixer)
    Trainer(wrapped, arguments_of(tmp_path), train_dataset=data, callbacks=[callback]).train()
    # Other training loops may not pass their optimizer to the callback.
    callback.on_train_begin(None, None, None, model=wrapped)
    assert not [warning for warning in recwarn if "optimizer" in str(warning.message)]


def test_head_called_with_a_keyword_argument_raises() -> None:
    wrapped = wrapped_of("vectors")

    def call_by_name(module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> Tensor:
        logits: Tensor = wrapped.model.classifier(input=output)
        return logits

    wrapped.model.dropout.register_forward_hook(call_by_name)
    with pytest.raises(ValueError, match="gets its input by keyword"):
        wrapped(**batch_of("vectors"))


def test_head_with_other_rows_than_the_logits_raises() -> None:
    config = GPT2Config(vocab_size=50, n_embd=8, n_layer=1, n_head=2, num_labels=3, pad_token_id=0, eos_token_id=1)
    config.bos_token_id = 1
    wrapped = AttnMixupForClassification(GPT2ForSequenceClassification(config), AttnMixup(8, heads=2), head="score")
    batch = batch_of("vectors")
    del batch["token_type_ids"]
    with pytest.raises(ValueError, match=r"GPT2ForSequenceClassification\.score must run once"):
        wrapped(**batch)
