"""A system as ONNX graphs, for ONNX Runtime and for programs without PyTorch."""

import copy
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import onnxruntime
import torch
from torch import Tensor, nn
from torch.export import Dim

from reference_models.config import SLOTS, View
from reference_models.data.samples import Sample
from reference_models.encoders.vision import VisionBackbone
from reference_models.errors import UserError
from reference_models.files import readable, writable
from reference_models.systems.base import System, SystemOutput
from reference_models.tasks.heads import Head
from reference_models.tasks.processor import Processor

SCORES, IMAGES = "scores.onnx", "images.onnx"
MADE_FROM = "attnmixup.model"  # in the graphs' metadata
TOLERANCE = 1e-4
Batch = Mapping[str, Tensor]


class OnnxSystem:
    """The graphs of a system in its place, computed by ONNX Runtime on the CPU.

    Args:
        system: whose head decodes the scores.
        folder: of the graphs, see `export_system`.
        made_from: what tells the system's model from others.

    Raises:
        UserError: no graphs are there, or they are of another model.
    """

    device = torch.device("cpu")

    def __init__(self, system: System, folder: Path, made_from: str) -> None:
        self.head: Head = system.head
        self._settings = system.settings
        self._scores = _open(folder / SCORES, made_from)
        self._images = _open(folder / IMAGES, made_from) if system.vision is not None else None

    def __call__(self, **batch: Tensor) -> SystemOutput:
        """Predictions and scores, as `System.forward` gives them without labels."""
        if self._images is not None:
            batch = self._look(batch)
        scores, *mask = _run(self._scores, batch)
        predictions = self.head.decode(scores, mask[0] if mask else None)
        return SystemOutput(predictions=predictions, scores=scores)

    def _look(self, batch: Batch) -> dict[str, Tensor]:
        """The batch with views of its images instead of pixels."""
        seen = batch["image_mask"]
        rows = seen.any(dim=1)  # an absent image of a sample that has another one may be attended to, as a mean colour
        pixels = batch["pixel_values"][rows].flatten(0, 1)
        views = _run(self._images, {"pixels": pixels, "shown": seen[rows].flatten()})
        looked = {key: value for key, value in batch.items() if key != "pixel_values"}
        for (view, slots), values in zip(self._settings.image_views.items(), views, strict=True):
            padded = values.new_zeros(*seen.shape, *values.shape[1:])
            padded[rows] = values.unflatten(0, (-1, seen.shape[1]))
            looked[f"image_{view}"] = padded[:, SLOTS[slots]]
        return looked


class _Scores(nn.Module):
    """From the tensors of a batch, in the order of `names`, to the scores and, for tags, the mask of the words."""

    def __init__(self, system: System, names: Sequence[str]) -> None:
        super().__init__()
        self.system, self.names = system, names

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        encoded = self.system.encode(dict(zip(self.names, values, strict=True)))
        scores = self.system.head(encoded.h)
        return (scores,) if encoded.mask is None else (scores, encoded.mask)


class _Images(nn.Module):
    """From pixels, and where they are shown, to the views in the order of the settings."""

    def __init__(self, vision: VisionBackbone, views: Sequence[View]) -> None:
        super().__init__()
        self.vision, self.views = copy.copy(vision), views
        self.vision.frozen = False  # all images at once, whatever their number

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        views = self.vision(*values)
        return tuple(views[view] for view in self.views)


@torch.no_grad()
def export_system(system: System, processor: Processor, folder: Path, made_from: str) -> list[Path]:
    """Write a system as ONNX graphs, and check them with ONNX Runtime.

    `scores.onnx` goes from the batch of the processor, with views of the images in the place of pixels, to the scores
    (B, words, labels) and the mask (B, words) of tags, or (B, labels) of relations. `images.onnx`, of a system that
    reads images, goes from `pixels` (N, 3, size, size), uint8 RGB, and `shown` (N,) to these views. B, N and all
    lengths are free. The CRF is left to the reader: its transitions are in the model.

    Args:
        system: in evaluation mode, on the CPU.
        processor: of the system.
        folder: for the graphs.
        made_from: what tells the model from others; it is kept in the graphs.

    Returns:
        The files.

    Raises:
        UserError: an operation of the system has no form in ONNX, the graphs compute something else, or the folder
            cannot be written.
    """
    batch, paths = _example(processor, ("one", "two", "three"), 2), []
    if system.vision is not None:
        images = _Images(system.vision, list(system.settings.image_views))
        pixels = batch.pop("pixel_values").flatten(0, 1)
        inputs = {"pixels": pixels, "shown": torch.ones(len(pixels), dtype=torch.bool)}
        names = [f"image_{view}" for view in images.views]
        paths.append(_write(images, inputs, names, folder / IMAGES, made_from))
        for name, slots, values in zip(
            names, system.settings.image_views.values(), images(*inputs.values()), strict=True
        ):
            batch[name] = values.unflatten(0, batch["image_mask"].shape)[:, SLOTS[slots]]
    paths.append(_write(_Scores(system, list(batch)), batch, ["scores", "mask"], folder / SCORES, made_from))
    other = _example(processor, ("one", "two", "three", "four"), 3)
    given = system(**other).scores - OnnxSystem(system, folder, made_from)(**other).scores
    if not (difference := given.abs().max().item()) <= TOLERANCE:
        for path in paths:
            path.unlink()
        raise UserError(f"the graphs gave other scores than the model, by {difference:.1e}, and were deleted")
    return paths


def _example(processor: Processor, words: tuple[str, ...], size: int) -> dict[str, Tensor]:
    """A batch of one post, so many times, with noise for its image and crops."""
    texts = tuple((kind, " ".join(words)) for kind in processor.texts)
    sample = Sample("example", words, head=(0, 1), tail=(1, 2), image_texts=texts)
    item = processor.encode(sample)
    if processor.image_size is not None:
        item["pixels"] = processor.pixels(sample)
    batch = processor.collate([item] * size)
    batch.pop("labels", None)
    if processor.image_size is not None:
        noise = torch.Generator().manual_seed(0)
        batch["pixel_values"] = torch.randint(256, batch["pixel_values"].shape, generator=noise, dtype=torch.uint8)
        batch["image_mask"] = torch.ones_like(batch["image_mask"])
    return batch


def _write(module: nn.Module, inputs: Batch, outputs: Sequence[str], path: Path, made_from: str) -> Path:
    """Write a module as a graph; all lengths of its inputs are free but for the sizes of images and of their views."""
    free = tuple(
        dict.fromkeys(range(1 if name == "pixels" or name.startswith("image_") else value.ndim), Dim.DYNAMIC)
        for name, value in inputs.items()
    )
    import onnxscript  # noqa: F401 - the exporter's own, looked for here so that a lack of it is said plainly

    count = len(module.eval()(*inputs.values()))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about names of axes, say
            exported = torch.onnx.export(
                module,
                tuple(inputs.values()),
                dynamo=True,
                dynamic_shapes=(free,),
                input_names=list(inputs),
                output_names=outputs[:count],
                verbose=False,
            )
            program = cast(torch.onnx.ONNXProgram, exported)
    except Exception as error:  # an operation without a form in ONNX can fail with almost any exception
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        reason = next(iter(str(cause).strip().splitlines()), type(cause).__name__)
        raise UserError(f"this system cannot be written as ONNX ({reason})") from error
    program.model.metadata_props[MADE_FROM] = made_from
    with writable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        program.save(path)
    return path


def _open(path: Path, made_from: str) -> onnxruntime.InferenceSession:
    if not path.is_file():
        raise UserError(f"{path}: there is no such file; i2srm export MODEL {path.parent} writes it")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    with readable(path, "export the model again"):
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    if session.get_modelmeta().custom_metadata_map.get(MADE_FROM) != made_from:
        raise UserError(f"{path} was made from another model; export this one")
    return session


def _run(session: onnxruntime.InferenceSession, batch: Batch) -> list[Tensor]:
    """The outputs of a graph; it may not need all of the batch."""
    given = {wanted.name: batch[wanted.name].numpy() for wanted in session.get_inputs()}
    return [torch.from_numpy(output) for output in session.run(None, given)]
