"""Image loading as tensors, and the check of all images before training."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import compress
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torchvision.transforms.functional import center_crop
from torchvision.transforms.functional import resize as scale_image
from tqdm import tqdm

from reference_models.config import Policy, Resize
from reference_models.data.checked import add_checked, read_checked
from reference_models.data.features import BLANK, KEY, content_key
from reference_models.data.samples import Sample, spooled
from reference_models.data.threads import map_ahead
from reference_models.errors import UserError

SHORT_SIDE = 256 / 224  # short side of the image before a centre crop, relative to the crop size

# An explicit list, because some other formats of Pillow call an external program (EPS calls Ghostscript).
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
MAX_PIXELS = 80_000_000  # larger images count as decompression bombs; Pillow's own warning starts a little higher
RESIZE_VERSION = 2  # increase when the output of `load_image` changes, because cached features depend on it


def load_image(path: Path, size: int, resize: Resize = "squash") -> torch.Tensor:
    """Load an image as an RGB tensor, uint8 (3, size, size).

    Colours are converted with Pillow's `convert("RGB")`: transparency is dropped, not blended with a background. 16-bit
    and floating-point grey is scaled down (Pillow would clip it). Only the first frame of an animation is used. EXIF
    rotation is not applied.

    Args:
        path: Path of the image.
        size: Side of the output in pixels.
        resize: How the image becomes a square. "squash" resizes it without keeping the aspect ratio (bilinear,
            antialiased), so that the edges are kept. "centre-crop" follows most published code: it scales the short
            side to 256 and cuts out the central 224 pixels (other sizes in proportion). "window" follows other
            published code, which does this for test images too: it cuts a square out of the image at its original
            scale, at a random position that is fixed per file, and flips half of the images horizontally. An image
            smaller than the square is scaled up first.

    Returns:
        The pixels, uint8 (3, size, size).

    Raises:
        UserError: If the file is not an image or cannot be decoded completely.
    """
    try:
        # Decoding a JPEG at a reduced scale is not visible after the resize if the scale is at least twice the size.
        image = decode_image(path, None if resize == "window" else 2 * size)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    if resize == "centre-crop":
        image = center_crop(scale_image(image, [round(size * SHORT_SIDE)]), [size, size])
    elif resize == "window":
        if min(image.size) < size:
            image = scale_image(image, [size])
        rng = random.Random(content_key(path))  # the same position in each epoch and run
        left, top = (rng.randint(0, side - size) for side in image.size)
        image = image.crop((left, top, left + size, top + size))
        if rng.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    else:
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    pixels = np.array(image)
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def check_images(
    samples: Sequence[Sample], policy: Policy, *, memory: Path | None = None, progress: bool = True
) -> tuple[Sequence[Sample], BadImages]:
    """Decode every image and crop of the samples once, and apply a policy to the unreadable ones.

    Only the distinct paths and the results are held in memory, not the samples.

    Args:
        samples: Samples to check; they are not changed.
        policy: "error" raises an error if an image is unreadable; "blank" keeps the sample without the image or crop;
            "drop" removes the whole sample.
        memory: Folder with the record of images that were decoded successfully before; these are not decoded again.
            None keeps no record.
        progress: Whether to show a progress bar.

    Returns:
        The samples to use (the given object if all images can be read), and a report of all unreadable images.

    Raises:
        UserError: If the policy is "error" and an image is unreadable, or "drop" would remove all samples. The message
            names the file, the reason and the sample.
    """
    if policy not in get_args(Policy):
        raise UserError(f"unknown policy for bad images {policy!r}, expected one of {', '.join(get_args(Policy))}")
    paths = list(dict.fromkeys(str(path) for sample in samples for path in _listed(sample)))
    keys = np.full(len(paths), BLANK, KEY) if memory is None else np.fromiter(map_ahead(_content_key, paths), KEY)
    known = np.zeros(len(paths), bool) if memory is None else np.isin(keys, read_checked(memory))
    new = list(compress(paths, ~known))
    reasons = list(tqdm(map_ahead(_reason, new), total=len(new), desc="checking images", disable=not progress))
    bad = {path: reason for path, reason in zip(new, reasons, strict=True) if reason}
    if memory is not None and len(bad) < len(new):
        add_checked(memory, keys[~known][[reason is None for reason in reasons]])
    found: list[BadImage] = []
    kept = spooled(_usable(samples, bad, policy, found)) if bad else samples
    if found and (policy == "error" or not kept):
        first = found[0]
        more = f"; {len(bad) - 1} more of {len(paths)} images cannot be used" if len(bad) > 1 else ""
        left = "" if policy == "error" else "no sample is left: "
        raise UserError(
            f"{left}{first.file}: {first.reason}; sample {first.sample} lists it{more} "
            f"(data.bad_images is {policy!r}; 'blank' continues without the image, 'drop' without the sample)"
        )
    return kept, BadImages(policy=policy, checked=len(paths), found=tuple(found))


def _listed(sample: Sample) -> list[Path]:
    return [path for path in (sample.image, *sample.crops) if path]


def _usable(samples: Sequence[Sample], bad: dict[str, str], policy: Policy, found: list[BadImage]) -> Iterator[Sample]:
    """Yield the samples to use, and append every unreadable image to `found`."""
    for sample in samples:
        broken = [path for path in _listed(sample) if str(path) in bad]
        for path in broken:
            blanked = "image blanked" if path == sample.image else "crop left out"
            action = {"error": "stopped", "blank": blanked, "drop": "sample dropped"}[policy]
            found.append(BadImage(file=str(path), sample=sample.id, reason=bad[str(path)], action=action))
        if not broken:
            yield sample
        elif policy == "blank":
            image = None if sample.image in broken else sample.image
            yield replace(sample, image=image, crops=tuple(crop for crop in sample.crops if crop not in broken))


def _content_key(path: str) -> bytes:
    try:
        return content_key(Path(path))
    except OSError:
        return BLANK  # never recorded as checked, so `_reason` reads the file and reports the error


def _reason(path: str) -> str | None:
    """Return why an image cannot be used; None if it can."""
    try:
        # Decoding a JPEG at its smallest scale is fastest and still reads the whole file.
        decode_image(Path(path), 1)
    except UserError as error:
        return str(error)
    return None


def decode_image(path: Path, least: int | None = None) -> Image.Image:
    """Decode an image to RGB.

    Args:
        path: Path of the image.
        least: Minimum side in pixels. A JPEG is decoded at the smallest scale with no side below it. None decodes at
            full size.

    Returns:
        The image.

    Raises:
        UserError: If the image cannot be read. The message is the reason, without the path.
    """
    try:
        if path.stat().st_size == 0:
            raise UserError("the file is empty")
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UserError(f"{image.width} x {image.height} pixels are above the limit of {MAX_PIXELS:,} pixels")
            if least is not None:
                image.draft(None, (least, least))  # a no-op for other formats
            if image.mode == "F":
                return Image.fromarray(_grey(np.array(image))).convert("RGB")
            if image.mode.startswith("I"):
                return Image.fromarray((np.array(image).clip(0, 65535) >> 8).astype(np.uint8)).convert("RGB")
            if image.mode == "P" and "transparency" in image.info:
                return image.convert("RGBA").convert("RGB")
            return image.convert("RGB")
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError("the file does not exist") from error
    except UnidentifiedImageError as error:
        raise UserError(f"not an image in a supported format ({', '.join(FORMATS)})") from error
    except Exception as error:  # Pillow's decoders fail on damaged files with almost any exception
        raise UserError(f"cannot be read as an image ({getattr(error, 'strerror', None) or error})") from error


def _grey(values: np.ndarray) -> np.ndarray:
    """Convert floating-point grey to uint8; the range is the smallest of 0-1, 0-255 and 0-65,535 that fits."""
    values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    largest = values.max(initial=0.0)
    full = next((full for full in (1.0, 255.0) if largest <= full), 65535.0)
    return (values.clip(0, full) * (255 / full)).round().astype(np.uint8)


@dataclass(frozen=True)
class BadImage:
    """An unreadable image of one sample.

    Attributes:
        file: Path of the image.
        sample: Id of the sample.
        reason: Why the file cannot be read.
        action: What `check_images` did.
    """

    file: str
    sample: str
    reason: str
    action: str


@dataclass(frozen=True)
class BadImages:
    """Report of `check_images`.

    Attributes:
        policy: Policy that was applied.
        checked: Number of distinct files that were checked.
        found: One entry per sample and unreadable file, in the order of the samples.
    """

    policy: str
    checked: int
    found: tuple[BadImage, ...]

    def summary(self, whole_list: Path | None = None, *, limit: int = 10) -> str:
        """Return a few lines for the log with the first `limit` files; `whole_list` is the file that lists all."""
        files = {bad.file for bad in self.found}
        if not files:
            return f"{self.checked} images checked, all can be read"
        actions = Counter(bad.action for bad in self.found if bad.action != "sample dropped")
        if dropped := {bad.sample for bad in self.found if bad.action == "sample dropped"}:
            actions["sample dropped"] = len(dropped)
        counts = ", ".join(f"{action}: {count}" for action, count in actions.items())
        lines = [f"{len(files)} of {self.checked} images cannot be used ({counts})"]
        lines += [f"  {bad.file} of {bad.sample}: {bad.reason}; {bad.action}" for bad in self.found[:limit]]
        if len(self.found) > limit:
            where = f"; all are in {whole_list}" if whole_list else ""
            lines.append(f"  and {len(self.found) - limit} more{where}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain types for `json.dump`."""
        return asdict(self)
