"""Images: checked once before training, by a policy the user chooses, and loaded as tensors."""

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

SHORT_SIDE = 256 / 224  # of a centre crop, as a multiple of its size

# Formats by name, because some of Pillow's others call an outside program (EPS calls Ghostscript).
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
MAX_PIXELS = 80_000_000  # a larger one is taken for a decompression bomb; Pillow's own warning begins a little above
RESIZE_VERSION = 2  # raised with every change of what `load_image` makes of a file: features that are kept depend on it


def load_image(path: Path, size: int, resize: Resize = "squash") -> torch.Tensor:
    """An image as uint8 (3, size, size), RGB.

    "squash" makes it a square (bilinear, antialiased), so that nothing at its edges is lost. "centre-crop" is what the
    field's code bases do: they scale the short side to 256, and cut out the middle 224; other sizes in proportion.
    "window" is what other published code does, for test images too: it cuts a square out of the image as it is, at one
    place drawn for the file, and mirrors half of them; a smaller image is scaled up. What is outside is lost.
    Colours are those of Pillow's
    `convert("RGB")`: transparency is dropped, not composed on a background. 16-bit and floating-point grey is scaled
    down (Pillow would clip it). The first frame of an animation counts, and a rotation noted in EXIF is not applied.

    Raises:
        UserError: the file is not an image that can be read to its end.
    """
    try:
        # Twice the size keeps the reduced decoding of a JPEG invisible after the resize.
        image = decode_image(path, None if resize == "window" else 2 * size)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    if resize == "centre-crop":
        image = center_crop(scale_image(image, [round(size * SHORT_SIDE)]), [size, size])
    elif resize == "window":
        if min(image.size) < size:
            image = scale_image(image, [size])
        rng = random.Random(content_key(path))  # the same in each epoch and run
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
    """Decode every image and crop of the samples once, and do with the unreadable ones as the policy says.

    In memory are the paths of different images, and what was found, but no samples.

    Args:
        samples: left as they are.
        policy: "error" stops at the first unreadable image; "blank" goes on without the image or crop; "drop" goes
            on without the whole sample.
        memory: folder where it is kept which contents could be decoded, which are then not decoded again; None keeps
            nothing.
        progress: show a progress bar.

    Returns:
        The samples to go on with (those that were given, if all can be read), and a report of every image that
        could not be read.

    Raises:
        UserError: by policy, naming file, reason and sample; or if "drop" would leave no sample at all.
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
            f"(data.bad_images is {policy!r}; 'blank' goes on without the image, 'drop' without the sample)"
        )
    return kept, BadImages(policy=policy, checked=len(paths), found=tuple(found))


def _listed(sample: Sample) -> list[Path]:
    return [path for path in (sample.image, *sample.crops) if path]


def _usable(samples: Sequence[Sample], bad: dict[str, str], policy: Policy, found: list[BadImage]) -> Iterator[Sample]:
    """The samples to go on with; what is wrong with the others is added to `found`."""
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
        return BLANK  # is never kept, so that `_reason` says what is wrong


def _reason(path: str) -> str | None:
    """Why an image cannot be used; None if it can."""
    try:
        # The smallest scale a JPEG offers is the fastest, and still reads the file to its end.
        decode_image(Path(path), 1)
    except UserError as error:
        return str(error)
    return None


def decode_image(path: Path, least: int | None = None) -> Image.Image:
    """An image in RGB; given `least`, a JPEG at its smallest scale with no side below it.

    Raises:
        UserError: the reason why it cannot be read.
    """
    try:
        if path.stat().st_size == 0:
            raise UserError("the file is empty")
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UserError(f"{image.width} x {image.height} is more than {MAX_PIXELS:,} pixels")
            if least is not None:
                image.draft(None, (least, least))  # does nothing for other formats
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
        raise UserError(f"not an image of a known kind ({', '.join(FORMATS)})") from error
    except Exception as error:  # Pillow's decoders fail on damaged files with almost any exception
        raise UserError(f"cannot be read as an image ({getattr(error, 'strerror', None) or error})") from error


def _grey(values: np.ndarray) -> np.ndarray:
    """Floating-point grey as uint8: 0 to 1, 0 to 255 or 0 to 65,535, whichever holds the largest value."""
    values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    largest = values.max(initial=0.0)
    full = next((full for full in (1.0, 255.0) if largest <= full), 65535.0)
    return (values.clip(0, full) * (255 / full)).round().astype(np.uint8)


@dataclass(frozen=True)
class BadImage:
    """An image that could not be read, in one sample that lists it.

    Attributes:
        file: its path.
        sample: the sample's id.
        reason: what is wrong with the file.
        action: what was done about it.
    """

    file: str
    sample: str
    reason: str
    action: str


@dataclass(frozen=True)
class BadImages:
    """What `check_images` found and did.

    Attributes:
        policy: the policy it followed.
        checked: how many different files were decoded.
        found: one entry for each unreadable file and sample that lists it, in the order of the samples.
    """

    policy: str
    checked: int
    found: tuple[BadImage, ...]

    def summary(self, whole_list: Path | None = None, *, limit: int = 10) -> str:
        """A few lines to log, naming the first `limit` files; `whole_list` is the file where all are written."""
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
        """Everything as plain types, ready for `json.dump`."""
        return asdict(self)
