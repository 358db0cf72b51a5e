"""torch.compile: graph breaks of the whole training step and of the text encoder, and the speed-up of compiling."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from benchmarks.batches import Task, length_groups
from benchmarks.gpu.findings import Findings, Table
from benchmarks.gpu.setting import Setting
from benchmarks.step import BATCH_SIZES
from benchmarks.timing import median_seconds
from benchmarks.variants import OURS, computing, make_optimizers, training_step
from benchmarks.workload import make_work

# Fast dropout is for a CPU, and causes graph breaks there.
WAY = replace(OURS, half=torch.bfloat16, fast_dropout=False)


def compiling(setting: Setting, findings: Findings) -> None:
    """Count graph breaks, and time a step with the text encoder compiled as `training.compile` does."""
    breaks = findings.table("Graph breaks", "task", "part", "graphs", "breaks", "the most frequent reason")
    times = findings.table("A step in bfloat16 with the cache", "task", "eager ms", "compiled ms", "speed-up")
    tasks: Iterable[Task] = ("ner",) if setting.reduced else BATCH_SIZES
    for task in tasks:
        lengths = length_groups(task, BATCH_SIZES[task], 1)[0]
        model = setting.new_model(task, setting.first_size)
        batch = make_work(model, lengths, side=64).batch(WAY)
        with computing(model, WAY):
            features = model.image_features(batch, attend_absent=True)
            prefix = model.prefix(features.rows["cells"], features.seen["cells"])
            shift = prefix.mask.shape[1]  # as in the release
            text = explain(model.text_encoder, batch["input_ids"], batch["attention_mask"], prefix, shift=shift)
            add_breaks(breaks, task, "text encoder", text)
            findings.check(f"{task}: the text encoder is one graph", text.graph_break_count == 0)
            if setting.reduced:
                continue
            add_breaks(breaks, task, "whole step", explain(model, **batch))
            torch._dynamo.reset()
            step = partial(training_step, model, make_optimizers(model)[True], batch, WAY)
            time = partial(median_seconds, repeats=setting.repeats, warmup=setting.warmup, device=setting.device)
            eager = time(step)
            model.text_encoder.compile(dynamic=True)
            compiled = time(step)
        times.add(task, 1e3 * eager, 1e3 * compiled, eager / compiled)


def add_breaks(table: Table, task: Task, part: str, found: Any) -> None:
    """Add a table row with the result of `explain`."""
    reasons = Counter(str(reason.reason).split("\n")[0].replace("|", "/")[:100] for reason in found.break_reasons)
    most_frequent = reasons.most_common(1)[0][0] if reasons else ""
    table.add(task, part, found.graph_count, found.graph_break_count, most_frequent)


def explain(call: Any, *args: Any, **kwargs: Any) -> Any:
    """Return the graphs and graph breaks of a call, as found by `torch._dynamo.explain`."""
    torch._dynamo.reset()
    return torch._dynamo.explain(call)(*args, **kwargs)
