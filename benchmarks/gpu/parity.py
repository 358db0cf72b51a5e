"""Compare the whole system on the device with a CPU: float32, TF32, bfloat16, float16, with and without the cache."""

from dataclasses import replace

import torch

from benchmarks.batches import length_groups
from benchmarks.gpu.findings import Findings
from benchmarks.gpu.setting import Setting
from benchmarks.step import BATCH_SIZES
from benchmarks.variants import OURS
from benchmarks.workload import distance, leave_out_dropout, make_model, make_work, on_device, result_without_chance

EXACT = replace(OURS, fast=False)
# Variant, and the largest relative difference of the loss and of the gradients.
WAYS = {
    "float32": (EXACT, 1e-4, 1e-3),
    "float32, images instead of the cache": (replace(EXACT, cached=False), 1e-4, 1e-3),
    "TF32": (OURS, 1e-2, 5e-2),
    "bfloat16": (replace(OURS, half=torch.bfloat16), 2e-2, 0.2),
    "float16": (replace(OURS, half=torch.float16), 5e-3, 5e-2),
}


def parity(setting: Setting, findings: Findings) -> None:
    """Compare loss and gradients of both tasks without dropout. All variants mix the same pairs."""
    if setting.is_cuda:
        torch.backends.cudnn.allow_tf32 = False  # the variant "TF32" uses it for matrix products, not for convolutions
    for task, batch_size in BATCH_SIZES.items():
        lengths = length_groups(task, batch_size, 1)[0]
        model = make_model(task, setting.first_size)
        leave_out_dropout(model)
        loss, gradients = result_without_chance(model, make_work(model, lengths, setting.first_size.side), EXACT)
        model = on_device(model, setting.device)
        work = make_work(model, lengths, setting.first_size.side)
        for name, (way, of_loss, of_gradients) in WAYS.items():
            found, there = result_without_chance(model, work, way)
            findings.check_near(f"{task}: loss in {name}", abs(found / loss - 1), of_loss)
            findings.check_near(f"{task}: gradients in {name}", distance(there, gradients), of_gradients)
