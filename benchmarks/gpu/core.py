"""Checks of `attnmixup` on the device: results as on a CPU, dtypes, draws, one compiled graph, no waiting host."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from attnmixup import AttnMixup, SemanticKLLoss
from attnmixup.options import Preset
from attnmixup.sampling import MixupPlan
from benchmarks.gpu.findings import Findings
from benchmarks.gpu.setting import Setting
from benchmarks.workload import distance, leave_out_dropout, plan_to_device

# Embeddings, images, targets and mask.
Batch = tuple[Tensor, Tensor, Tensor, Tensor | None]
CPU = torch.device("cpu")
PRESETS: tuple[Preset, ...] = ("paper", "release", "recommended")
ROWS, LENGTH, DIM, IMAGE_DIM, CLASSES = 8, 6, 32, 24, 5
# Largest relative difference of the loss and of the gradients to those of float32.
TOLERANCES = {torch.float64: (1e-5, 1e-4), torch.bfloat16: (0.05, 0.2), torch.float16: (0.01, 0.05)}


class Modules(nn.Module):
    """AttnMixup, the semantic loss and a head."""

    def __init__(self, preset: Preset, device: torch.device = CPU) -> None:
        super().__init__()
        self.mixer = AttnMixup(DIM, preset=preset, device=device)
        self.semantic = SemanticKLLoss(DIM, IMAGE_DIM, device=device)
        self.head = nn.Linear(DIM, CLASSES, device=device)

    def forward(self, h: Tensor, image: Tensor, y: Tensor, mask: Tensor | None, plan: MixupPlan | None) -> Tensor:
        """Return the loss of a batch."""
        mixed = self.mixer(h, y, mask=mask, plan=plan)
        loss: Tensor = mixed.loss(F.cross_entropy, self.head(mixed.embeddings))
        loss = loss + self.semantic(h, image, mask=mask, sample_mask=torch.ones(len(h), device=h.device) > 0)
        return loss


def core(setting: Setting, findings: Findings) -> None:
    """Check every preset, for vectors and for sequences."""
    # TF32 is checked with the whole model, in the section parity.
    torch.set_float32_matmul_precision("highest")
    for preset in PRESETS:
        for sequences in (False, True):
            name = f"{preset}, {'sequences' if sequences else 'vectors'}"
            torch.manual_seed(0)
            modules, batch = Modules(preset), make_batch(sequences)
            leave_out_dropout(modules)
            plan = modules.mixer.draw(ROWS, targets=batch[2])
            expected = loss_and_gradients(modules, batch, plan)
            modules = modules.to(setting.device)
            there = to(batch, setting.device), plan_to_device(plan, setting.device)
            compare(findings, f"{name}: as on a CPU", loss_and_gradients(modules, *there), expected, (1e-5, 1e-4))
            for dtype, tolerances in TOLERANCES.items():
                found = loss_and_gradients(deepcopy(modules).to(dtype), to(there[0], dtype), there[1])
                compare(findings, f"{name}: {dtype} as float32", found, expected, tolerances)
            check_waiting(setting, findings, name, modules, there[0], preset)
            if not setting.reduced or name == "paper, vectors":
                torch._dynamo.reset()
                # It is a module, although its type says a function.
                compiled: Any = torch.compile(modules, fullgraph=True, backend=setting.backend)
                found = loss_and_gradients(compiled, *there)
                compare(findings, f"{name}: one compiled graph", found, expected, (1e-4, 1e-3))
    check_draws(setting, findings)


def make_batch(sequences: bool) -> Batch:
    """Return embeddings, images, targets and mask on the CPU."""
    shape = (ROWS, LENGTH) if sequences else (ROWS,)
    mask = torch.arange(LENGTH) < 1 + torch.arange(ROWS)[:, None] % LENGTH if sequences else None
    return torch.randn(*shape, DIM), torch.randn(ROWS, IMAGE_DIM), torch.randint(CLASSES, shape), mask


def to(batch: Batch, where: torch.device | torch.dtype) -> Batch:
    """Return a batch on another device, or with its embeddings and images in another dtype."""
    h, image, y, mask = batch
    if isinstance(where, torch.dtype):
        return h.to(where), image.to(where), y, mask
    return h.to(where), image.to(where), y.to(where), None if mask is None else mask.to(where)


def loss_and_gradients(modules: nn.Module, batch: Batch, plan: MixupPlan | None) -> tuple[float, Tensor]:
    """Return the loss, and the flattened gradients of embeddings and parameters, on the CPU in float32."""
    embeddings = batch[0].detach().clone().requires_grad_()
    inputs = [embeddings, *modules.parameters()]
    if plan is not None:
        plan = replace(plan, lam=plan.lam.to(embeddings.dtype))
    loss = modules(embeddings, *batch[1:], plan)
    gradients = torch.autograd.grad(loss, inputs, allow_unused=True)
    row = [torch.zeros_like(x) if g is None else g for x, g in zip(inputs, gradients, strict=True)]
    return float(loss.detach()), torch.cat([part.flatten().float().cpu() for part in row])


def compare(
    findings: Findings,
    name: str,
    found: tuple[float, Tensor],
    expected: tuple[float, Tensor],
    tolerances: tuple[float, float],
) -> None:
    """Check a loss and its gradients against the expected ones."""
    findings.check_near(f"{name}, loss", abs(found[0] / expected[0] - 1), tolerances[0])
    findings.check_near(f"{name}, gradients", distance(found[1], expected[1]), tolerances[1])


def check_waiting(
    setting: Setting, findings: Findings, name: str, modules: Modules, batch: Batch, preset: Preset
) -> None:
    """Check that a step with new draws never makes the host wait for the device.

    Without CUDA, the forward pass runs on fake tensors, which have a device but no values. Reading a value raises.
    """
    if setting.is_cuda:
        findings.check(f"{name}: the host never waits", *attempt(partial(one_step, modules, batch), guarded=True))
        return
    with FakeTensorMode():
        fake = torch.device("cuda")
        shapes = [None if t is None else torch.empty(t.shape, dtype=t.dtype, device=fake) for t in batch]
        step = partial(Modules(preset, fake), *shapes, None)
        findings.check(f"{name}: the forward pass reads no value", *attempt(step))


def one_step(modules: Modules, batch: Batch) -> None:
    """Run forward and backward."""
    modules(*batch, None).backward()


def attempt(step: Callable[[], object], *, guarded: bool = False) -> tuple[bool, str]:
    """Return whether a step succeeds, and the error if it fails.

    With `guarded`, one step runs first as a warm-up. In the next step, waiting for the device raises an error.
    """
    if guarded:
        step()
    try:
        with raising_at_waits() if guarded else nullcontext():
            step()
    except Exception as error:  # any error is a finding to report
        return False, f"{type(error).__name__}: {error}".split("\n")[0]
    return True, ""


@contextmanager
def raising_at_waits() -> Iterator[None]:
    """Make CUDA raise an error where the host would wait for the device."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def check_draws(setting: Setting, findings: Findings) -> None:
    """Check that plans are drawn on the device by its own generator, and that a seed always gives the same plan."""
    for preset in PRESETS:
        mixer = AttnMixup(DIM, preset=preset, device=setting.device)
        targets = torch.arange(ROWS, device=setting.device) % CLASSES
        plans = []
        for _ in range(2):
            generator = torch.Generator(setting.device).manual_seed(1)
            plans.append(mixer.draw(ROWS, targets=targets, generator=generator))
        parts = [[part for part in vars(plan).values() if isinstance(part, Tensor)] for plan in plans]
        there = all(part.device.type == setting.device.type for part in parts[0])
        same = all(torch.equal(a, b) for a, b in zip(*parts, strict=True))
        findings.check(f"{preset}: plans are drawn on the device, by its generator", there and same)
