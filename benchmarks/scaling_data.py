"""Measure how time and memory grow with the rows of a data set: reading, checking, encoding, caching and loading.

Memory is the anonymous memory of the process beyond the imports. File pages, including those of temporary files, are
not counted, because the system drops them when it needs the space. The peak is that of all resident memory, including
mapped files.
"""

import argparse
import json
import random
import string
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import torch
from PIL import Image
from torch.utils.data import DataLoader

from benchmarks.timing import timed
from reference_models.data.formats import get_format
from reference_models.data.images import check_images
from reference_models.data.samples import Sample, spooled
from reference_models.data.tokenizer import learn_tokenizer
from reference_models.encoders.vision import VisionBackbone
from reference_models.tasks import get_task
from reference_models.tasks.dataset import EncodedSplit
from reference_models.tasks.ner import tags_of
from reference_models.tasks.processor import Processor
from reference_models.training.feature_cache import fill_cache

TAGS = tuple(tags_of(("PER", "LOC", "ORG", "MISC")))

Result = TypeVar("Result")

WORDS = ["".join(random.Random(seed).choices(string.ascii_lowercase, k=2 + seed % 8)) for seed in range(5000)]
RELATIONS = ("None", "/per/per/peer")
IMAGES = 200  # shared by all rows
IMAGE_SIZE = 32  # small, so that decoding does not hide the rest
BATCH = 16
DRAWN = 20_000  # samples loaded, drawn from the whole set


def in_fresh_process(function: Callable[..., Result], *arguments: object) -> Result:
    """Call a function in a new process, so that its memory use can be measured alone."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def memory(name: str) -> float:
    """Return the memory of this process in MB: "Anonymous" (not file-backed), "VmRSS" (resident) or "VmHWM" (peak)."""
    file = Path("/proc/self/smaps_rollup" if name == "Anonymous" else "/proc/self/status")
    return next(int(line.split()[1]) for line in file.read_text().splitlines() if line.startswith(name)) * 1024 / 1e6


def write_set(format: str, root: Path, rows: int) -> None:
    """Write a training split of random words, with the sentence lengths of tweets and a few noise images."""
    place, draw = get_format(format).layout(root, "train"), random.Random(0)
    for folder in (place.labels[0].parent, place.images):
        folder.mkdir(parents=True)
    for number in range(IMAGES):
        Image.effect_noise((64, 64), 64).save(place.images / f"{number}.jpg")
    (root / "ours_rel2id.json").write_text(json.dumps({name: number for number, name in enumerate(RELATIONS)}))
    write_row = {"twitter": twitter_row, "mnre": mnre_row}[format]
    with place.labels[0].open("w") as file:
        for number in range(rows):
            file.write(write_row(draw.choices(WORDS, k=draw.randint(10, 30)), number % IMAGES, draw))


def twitter_row(words: list[str], image: int, draw: random.Random) -> str:
    lines = [f"{word}\t{draw.choice(TAGS)}\n" for word in words]
    return f"IMGID:{image}\n{''.join(lines)}\n"


def mnre_row(words: list[str], image: int, draw: random.Random) -> str:
    head, tail = ({"name": words[place], "pos": [place, place + 1]} for place in (1, 5))
    row = {"token": words, "h": head, "t": tail, "img_id": f"{image}.jpg", "relation": draw.choice(RELATIONS)}
    return f"{row}\n"


def measure_data(format: str, root: Path) -> dict[str, float]:
    """Return the rows per second of each step over one data set, and the memory used."""
    tokenizer, kind = learn_tokenizer([WORDS], 2000), get_format(format)
    labels = TAGS if format == "twitter" else RELATIONS
    processor = Processor(tokenizer, get_task(kind.task)(labels), image_size=IMAGE_SIZE)
    backbone = VisionBackbone("tiny", frozen=True).eval()
    before, resident = memory("Anonymous"), memory("VmRSS")
    samples: Sequence[Sample]
    samples, reading = timed(lambda: spooled(kind.read(root, "train", max_crops=0)))
    after_reading = memory("Anonymous")
    (samples, _), checking = timed(lambda: check_images(samples, "error", progress=False))
    split, encoding = timed(lambda: EncodedSplit(samples, processor))
    order = torch.randint(len(split), (DRAWN,), generator=torch.Generator().manual_seed(0)).tolist()
    loader = DataLoader(split, BATCH, sampler=order, collate_fn=processor.collate)
    pixels = timed(lambda: exhaust(loader))[1]
    split.features, caching = timed(
        lambda: fill_cache(root / "features", backbone, split, {"cells": "all"}, progress=False)
    )
    features = timed(lambda: exhaust(loader))[1]
    return {
        "read": len(split) / reading,
        "checked": len(split) / checking,
        "encoded": len(split) / encoding,
        "cached": len(split) / caching,
        "loaded with pixels": DRAWN / pixels,
        "loaded with features": DRAWN / features,
        "MB after reading": after_reading - before,
        "MB at the end": memory("Anonymous") - before,
        "peak MB": memory("VmHWM") - resident,
    }


def exhaust(values: Iterable[object]) -> None:
    for _ in values:
        pass


def data(options: argparse.Namespace) -> None:
    """Print a table with one line per number of rows; the last column is the growth of the memory at the end."""
    print(f"{options.format}, {IMAGES} images at {IMAGE_SIZE} pixels, batches of {BATCH}, rows per second\n")
    before: tuple[int, float] | None = None
    for rows in sorted(options.rows):
        with TemporaryDirectory() as folder:
            root = Path(folder) / "set"
            write_set(options.format, root, rows)
            found = in_fresh_process(measure_data, options.format, root)
        if before is None:
            print(f"| rows | {' | '.join(found)} | bytes per additional row |\n|{'---|' * (len(found) + 2)}")
        at_end = found["MB at the end"]
        more = "-" if before is None else f"{1e6 * (at_end - before[1]) / (rows - before[0]):.0f}"
        print(f"| {rows:,} | {' | '.join(f'{number:,.0f}' for number in found.values())} | {more} |", flush=True)
        before = rows, at_end
