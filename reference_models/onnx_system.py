"""Export of a system to ONNX graphs, and prediction with ONNX Runtime."""

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
MADE_FROM = "attnmixup.model"  # key in the metadata of the graphs
TOLERANCE = 1e-4
Batch = Mapping[str, Tensor]


class OnnxSystem:
    """A drop-in for a system in evaluation mode that runs its graphs with ONNX Runtime on the CPU.

    Args:
        system: The system; its head decodes the scores.
        folder: Folder of the graphs, see `export_system`.
        made_from: Fingerprint of the model files.

    Raises:
        UserError: If the graphs do not exist or belong to another model.
    """

    device = torch.device("cpu")

    def __init__(self, system: System, folder: Path, made_from: str) -> None:
        self.head: Head = system.head
        self._settings = system.settings
        self._scores = _open(folder / SCORES, made_from)
        self._images = _open(folder / IMAGES, made_from) if system.vision is not None else None

    def __call__(self, **batch: Tensor) -> SystemOutput:
        """Compute predictions and scores, as `System.forward` does without labels."""
        if self._images is not None:
            batch = self._compute_views(batch)
        scores, *mask = _run(self._scores, batch)
        predictions = self.head.decode(scores, mask[0] if mask else None)
        return SystemOutput(predictions=predictions, scores=scores)

    def _compute_views(self, batch: Batch) -> dict[str, Tensor]:
        """Replace the pixels of a batch by views of its images."""
        seen = batch["image_mask"]
        rows = seen.any(dim=1)  # an absent image of a sample with another one may be attended to, as the mean colour
        pixels = batch["pixel_values"][rows].flatten(0, 1)
        views = _run(self._images, {"pixels": pixels, "shown": seen[rows].flatten()})
        looked = {key: value for key, value in batch.items() if key != "pixel_values"}
        for (view, slots), values in zip(self._settings.image_views.items(), views, strict=True):
            padded = values.new_zeros(*seen.shape, *values.shape[1:])
            padded[rows] = values.unflatten(0, (-1, seen.shape[1]))
            looked[f"image_{view}"] = padded[:, SLOTS[slots]]
        return looked


class _Scores(nn.Module):
    """Maps the tensors of a batch, in the order of `names`, to the scores and, for tags, the mask of the words."""

    def __init__(self, system: System, names: Sequence[str]) -> None:
        super().__init__()
        self.system, self.names = system, names

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        encoded = self.system.encode(dict(zip(self.names, values, strict=True)))
        scores = self.system.head(encoded.h)
        return (scores,) if encoded.mask is None else (scores, encoded.mask)


class _Images(nn.Module):
    """Maps pixels and the mask of present images to the views, in the order of the settings."""

    def __init__(self, vision: VisionBackbone, views: Sequence[View]) -> None:
        super().__init__()
        self.vision, self.views = copy.copy(vision), views
        self.vision.frozen = False  # a frozen backbone splits large batches, which a graph cannot do

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        views = self.vision(*values)
        return tuple(views[view] for view in self.views)


@torch.no_grad()
def export_system(system: System, processor: Processor, folder: Path, made_from: str) -> list[Path]:
    """Export a system to ONNX graphs and check them with ONNX Runtime.

    `scores.onnx` maps a batch of the processor, with views of the images instead of pixels, to the scores. For tags
    these are scores (B, words, labels) and a mask (B, words); for relations, scores (B, labels). `images.onnx`, written
    for systems that read images, maps `pixels` (N, 3, size, size), uint8 RGB, and `shown` (N,) to the views. B, N and
    all lengths are dynamic. The graphs do not include CRF decoding; the transitions are stored in the model.

    Args:
        system: The system, in evaluation mode, on the CPU.
        processor: Processor of the system.
        folder: Folder for the graphs.
        made_from: Fingerprint of the model files, stored in the graphs.

    Returns:
        Paths of the written files.

    Raises:
        UserError: If an operation of the system cannot be exported to ONNX, the scores of the graphs differ from the
            model's, or the folder cannot be written.
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
        raise UserError(f"the scores of the graphs differ from the model's by {difference:.1e}; they were deleted")
    return paths


def _example(processor: Processor, words: tuple[str, ...], size: int) -> dict[str, Tensor]:
    """Make a batch that repeats one post `size` times, with noise as its image and crops."""
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
    """Export a module to a graph; all input lengths are dynamic, except the sizes of images and of their views."""
    free = tuple(
        dict.fromkeys(range(1 if name == "pixels" or name.startswith("image_") else value.ndim), Dim.DYNAMIC)
        for name, value in inputs.items()
    )
    import onnxscript  # noqa: F401 - the exporter needs it; importing it here gives a clear error if it is missing

    count = len(module.eval()(*inputs.values()))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as warnings about axis names
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
    except Exception as error:  # an unsupported operation can fail with almost any exception
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        reason = next(iter(str(cause).strip().splitlines()), type(cause).__name__)
        raise UserError(f"this system cannot be exported to ONNX ({reason})") from error
    program.model.metadata_props[MADE_FROM] = made_from
    with writable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        program.save(path)
    return path


def _open(path: Path, made_from: str) -> onnxruntime.InferenceSession:
    if not path.is_file():
        raise UserError(f"{path}: the file does not exist; write it with i2srm export MODEL {path.parent}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    with readable(path, "export the model again"):
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    if session.get_modelmeta().custom_metadata_map.get(MADE_FROM) != made_from:
        raise UserError(f"{path} was made from another model; export this model")
    return session


def _run(session: onnxruntime.InferenceSession, batch: Batch) -> list[Tensor]:
    """Run a graph on the tensors of the batch that it needs, and return its outputs."""
    given = {wanted.name: batch[wanted.name].numpy() for wanted in session.get_inputs()}
    return [torch.from_numpy(output) for output in session.run(None, given)]
