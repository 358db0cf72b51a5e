"""Measurements of filling the feature cache, from JPEG files to features on disk, and of the backbone alone."""

from functools import partial

import torch

from benchmarks.feature_cache import SIDE, SLOTS, VIEWS, make_split
from benchmarks.gpu.findings import Findings
from benchmarks.gpu.setting import Setting
from benchmarks.timing import median_seconds, timed
from reference_models.encoders.vision import VisionBackbone
from reference_models.training.feature_cache import fill_cache


def images(setting: Setting, findings: Findings) -> None:
    """Measure images per second in float32, the precision of the cache."""
    samples = 1 if setting.reduced else 200
    folder = setting.folder / "images"
    folder.mkdir()
    split = make_split(folder, samples)
    backbone = VisionBackbone(setting.first_size.vision, frozen=True).eval().to(setting.device)
    table = findings.table(f"{backbone.name} on {SIDE} x {SIDE} pixels", "operation", "images", "images/s")
    for batch in (2,) if setting.reduced else (16, 64, 256):
        pixels = torch.randint(256, (batch, 3, SIDE, SIDE), dtype=torch.uint8, device=setting.device)
        with torch.inference_mode():
            took = median_seconds(
                partial(backbone, pixels), repeats=setting.repeats, warmup=setting.warmup, device=setting.device
            )
        table.add(f"backbone alone, batches of {batch}", batch, batch / took)
    fill = partial(fill_cache, folder / "cache", backbone, split, VIEWS, progress=False)
    count = SLOTS * samples
    for name in ("filled", "already full"):
        _, took = timed(fill, device=setting.device)
        table.add(f"cache {name}", count, count / took)
