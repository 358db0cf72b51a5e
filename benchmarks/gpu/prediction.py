"""Measurements of prediction: samples per second of the forward pass and decoding, with features and with pixels."""

from functools import partial

import torch

from benchmarks.batches import length_groups
from benchmarks.gpu.findings import Findings
from benchmarks.gpu.setting import Setting
from benchmarks.step import BATCH_SIZES
from benchmarks.timing import forget_peak, median_seconds, peak_gib
from benchmarks.variants import OURS
from benchmarks.workload import make_work


def prediction(setting: Setting, findings: Findings) -> None:
    """Time batches of the size that `i2srm evaluate` uses."""
    columns = ("task", "encoder", "dtype", "images", "B", "samples/s", "peak GiB")
    table = findings.table("Prediction", *columns)
    for task, batch_size in BATCH_SIZES.items():
        lengths = length_groups(task, batch_size if setting.reduced else 4 * batch_size, 1)[0]
        for name, size in setting.sizes.items():
            model = setting.new_model(task, size)
            work = make_work(model, lengths, size.side)
            model.train(False)  # as `eval`, which has no types in transformers
            text = {key: value for key, value in work.batch(OURS).items() if key != "labels"}
            for half in (None, torch.bfloat16):
                for source, images in (("features", work.cache), ("pixels", work.images)):
                    forget_peak(setting.device)
                    with torch.inference_mode(), torch.autocast(setting.device.type, half, enabled=half is not None):
                        took = median_seconds(
                            partial(model, **(text | images)),
                            repeats=setting.repeats,
                            warmup=setting.warmup,
                            device=setting.device,
                        )
                    dtype = "float32" if half is None else "bfloat16"
                    held = peak_gib(setting.device)
                    table.add(task, name, dtype, source, len(lengths), len(lengths) / took, held)
            del model
