"""Measurements of training steps: from published code to ours, one measure at a time, and against the computed plan."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from benchmarks import gpu_plan
from benchmarks.batches import Task, length_groups, shuffled
from benchmarks.counts import necessary_flops
from benchmarks.gpu.findings import Findings
from benchmarks.gpu.setting import Setting
from benchmarks.step import BATCH_SIZES
from benchmarks.timing import forget_peak, median_seconds, peak_gib
from benchmarks.variants import KEPT, OURS, RANDOM, ROWS, Variant, computing, ladder, make_optimizers, training_step
from benchmarks.workload import make_work
from reference_models.systems.i2srm import I2SRM

GROUPS = 5  # from short to long sentences
BFLOAT16 = replace(OURS, half=torch.bfloat16)


def steps(setting: Setting, findings: Findings) -> None:
    """Time each variant at the batch sizes of the paper."""
    columns = ("task", "encoder", "variant", "ms", "samples/s", "speed-up", "peak GiB", "TFLOP/s")
    table = findings.table("Training steps, random weights, real sentence lengths", *columns)
    for task, batch_size in BATCH_SIZES.items():
        groups = length_groups(task, batch_size, GROUPS)
        # By `Variant.grouped`: sentences of similar length, from the middle, or of any length.
        batches = {True: groups[GROUPS // 2], False: shuffled(groups)[0]}
        for name, size in setting.sizes.items():
            model = setting.new_model(task, size)
            first = 0.0
            for way, variant in ways(setting, task).items():
                lengths = batches[variant.grouped]
                took, held = time_step(setting, model, lengths, variant, size.side)
                first = first or took
                with computing(model, variant):
                    flops = necessary_flops(model, lengths, cached=variant.cached, side=size.side)
                speed = flops / took / 1e12
                table.add(task, name, way, 1e3 * took, batch_size / took, first / took, held, speed)
            del model


def against_plan(setting: Setting, findings: Findings) -> None:
    """Compare time and memory of our fastest variant with those that `gpu_plan` computes for an H100."""
    columns = ("task", "encoder", "B", "expected ms", "ms", "ms / expected ms", "computed GB", "GB")
    table = findings.table("Steps in bfloat16 with the cache, compared with the plan for an H100", *columns)
    for task, batch_sizes in gpu_plan.BATCH_SIZES.items():
        for name, size in setting.sizes.items():
            kernels = gpu_plan.launches(task, size)
            model = setting.new_model(task, size)
            for samples in batch_sizes[:1] if setting.reduced else batch_sizes:
                lengths = length_groups(task, samples, 1)[0]
                plan = gpu_plan.make_plan(task, size, lengths, kernels)
                took, held = time_step(setting, model, lengths, BFLOAT16, side=64)
                measured = None if held is None else held * 2**30 / 1e9
                expected = 1e3 * plan.expected
                table.add(task, name, samples, expected, 1e3 * took, 1e3 * took / expected, plan.memory / 1e9, measured)
            del model


def ways(setting: Setting, task: Task) -> Mapping[str, Variant]:
    """Return the variants from published code to ours, without those for a CPU only.

    If reduced, return only the first variant and those with the feature cache and bfloat16.
    """
    only_cpu = {f"+ {name}" for name in (RANDOM, ROWS, KEPT)}
    every = {name: way for name, way in ladder(task).items() if name not in only_cpu}
    chosen = (next(iter(every)), "+ feature cache", "+ bfloat16")
    return {name: every[name] for name in chosen} if setting.reduced else every


def time_step(
    setting: Setting, model: I2SRM, lengths: Tensor, variant: Variant, side: int
) -> tuple[float, float | None]:
    """Return the seconds of a training step, and the peak GiB of its tensors."""
    batch = make_work(model, lengths, 64 if variant.cached else side).batch(variant)
    optimizer = make_optimizers(model)[variant.fused]
    forget_peak(setting.device)
    step = partial(training_step, model, optimizer, batch, variant)
    with computing(model, variant):
        took = median_seconds(step, repeats=setting.repeats, warmup=setting.warmup, device=setting.device)
    return took, peak_gib(setting.device)
