"""The measured training step: all variants give the same results, and operation counts match a counter."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from attnmixup import attn_mixup
from benchmarks import step, variants, workload
from benchmarks.batches import BIN, HISTOGRAM, LIMIT, Task, length_groups, shuffled, text_batch
from benchmarks.counts import encoder_flops, necessary_flops, state_bytes
from benchmarks.variants import FAST, HVPNET, OURS, RELEASE, computing, ladder, loss_of, make_optimizers
from benchmarks.workload import SIZES, make_model, make_work, results_without_chance
from reference_models.systems.i2srm import I2SRM
from reference_models.training import products

TINY = SIZES["tiny"]


@pytest.mark.parametrize("task", ["ner", "re"])
def test_all_variants_give_loss_and_gradients_of_published_code(task: Task) -> None:
    variants = ladder(task)
    results = results_without_chance(task, TINY, length_groups(task, 6, 2)[0], variants)
    (loss, _), *_ = results.values()
    with_modules = results.pop("both modules, in float32") if task == "ner" else None
    in_bfloat16 = results.pop("+ bfloat16")
    assert len(results) == 12
    for other, difference in results.values():
        assert other == pytest.approx(loss, rel=1e-5)
        assert difference < 1e-4
    assert in_bfloat16[0] == pytest.approx(loss, rel=1e-2)
    assert in_bfloat16[0] != loss
    assert 1e-4 < in_bfloat16[1] < 0.2
    if with_modules:
        assert with_modules[0] > loss
        assert with_modules[1] > in_bfloat16[1]


def test_gradients_of_words_by_rows_are_compared_with_those_of_published_code(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def double(model: I2SRM) -> None:
        model.text_encoder.body.embeddings.word_embeddings.weight.register_hook(lambda gradient: 2 * gradient)

    monkeypatch.setattr(workload, "write_used_rows", double)
    ways = {"first": replace(OURS, rows=False), "by rows": OURS, "without": replace(OURS, rows=False, kept=False)}
    results = results_without_chance("re", TINY, torch.tensor([8, 9, 10]), ways)
    assert results["by rows"][1] > 1e-3
    assert results["without"] == (results["first"][0], 0)


def test_cached_features_are_computed_without_faster_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(variants, "keeps_float32", lambda device: True)
    model = make_model("re", TINY)
    seen: list[str] = []
    model.vision.register_forward_hook(lambda *_: seen.append(torch.get_float32_matmul_precision()))
    make_work(model, torch.tensor([8, 9, 10]), TINY.side)
    assert seen == ["highest"]


def test_unfused_optimizer_is_pytorchs_default() -> None:
    model = make_model("re", TINY)
    optimizers = make_optimizers(model)
    for name in ("fused", "foreach"):
        assert optimizers[False].defaults[name] is None  # only with both, PyTorch chooses foreach on a GPU
    assert optimizers[True].defaults["fused"] is True


def test_release_computes_unused_gradients_and_updates_batch_statistics() -> None:
    model = make_model("re", TINY)
    work = make_work(model, torch.tensor([8, 9, 10]), TINY.side)
    before = {name: buffer.clone() for name, buffer in model.vision.named_buffers() if name.endswith("running_mean")}
    for variant, moves, wasted in ((OURS, False, False), (HVPNET, True, False), (RELEASE, True, True)):
        with computing(model, variant):
            loss_of(model, work.batch(variant), variant).backward()
        assert any(p.grad is not None for p in model.vision.parameters()) is wasted
        moved = {
            name for name, buffer in model.vision.named_buffers() if name in before and (buffer != before[name]).any()
        }
        assert (moved == before.keys()) is moves
    with computing(model, OURS):
        assert not any(p.requires_grad for p in model.vision.parameters())
    assert model.mixer is not None
    assert "forward" not in model.prefix.mixer.__dict__


@pytest.mark.parametrize("task", ["ner", "re"])
def test_operation_count_matches_flop_counter(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    # All rows of H* are counted, as a GPU computes them; a CPU leaves out those that the plan does not use.
    monkeypatch.setattr(attn_mixup, "used_rows", lambda plan: torch.arange(plan.size))
    model = make_model(task, TINY)
    lengths = torch.full((5,), 12)
    batch = make_work(model, lengths, TINY.side).batch(OURS)
    with computing(model, OURS), FlopCounterMode(display=False) as counter:
        loss_of(model, batch, OURS).backward()
    counted = counter.get_total_flops()
    assert necessary_flops(model, lengths, cached=True, side=TINY.side) == pytest.approx(counted, rel=0.01)
    with torch.no_grad(), FlopCounterMode(display=False) as images:
        model.vision(torch.zeros(20, 3, TINY.side, TINY.side, dtype=torch.uint8))
    counted += images.get_total_flops()
    assert necessary_flops(model, lengths, cached=False, side=TINY.side) == pytest.approx(counted, rel=0.01)


@pytest.mark.parametrize("cached", [True, False])
def test_operations_are_counted_on_the_device_of_the_model(cached: bool) -> None:
    lengths = torch.tensor([8, 12])
    counts = {
        necessary_flops(make_model("re", TINY).to(device), lengths, cached=cached, side=TINY.side)
        for device in ("cpu", "meta")
    }
    assert len(counts) == 1


def test_encoder_operations_are_counted_without_padding() -> None:
    model = make_model("re", TINY)
    lengths = torch.tensor([8, 30, 11])
    alone = sum(encoder_flops(model, length[None]) for length in lengths)
    assert encoder_flops(model, lengths) == alone < encoder_flops(model, torch.full((3,), 30))


def test_length_groups_follow_the_histogram() -> None:
    for task, counts in HISTOGRAM.items():
        groups = torch.stack(length_groups(task, 16, 40)).float()
        middles = torch.arange(len(counts)) * BIN + (BIN - 1) / 2
        mean = (middles * torch.tensor(counts)).sum() / sum(counts)
        assert groups.mean() == pytest.approx(float(mean), rel=0.02)
        assert (groups.max(dim=1).values - groups.min(dim=1).values).median() <= BIN
        assert groups.max() < LIMIT


def test_shuffled_batches_have_the_same_sentences_in_mixed_lengths() -> None:
    grouped = length_groups("re", 8, 5)
    mixed = shuffled(grouped)
    assert torch.equal(torch.cat(mixed).sort().values, torch.cat(grouped).sort().values)
    assert [len(batch) for batch in mixed] == [8] * 5
    spread = [sum(int(batch.max() - batch.min()) for batch in batches) for batches in (grouped, mixed)]
    assert spread[0] < spread[1]


@pytest.mark.parametrize("task", ["ner", "re"])
def test_padding_does_not_change_a_text(task: Task) -> None:
    lengths = torch.tensor([8, 15, 11])
    short, long = (
        text_batch(task, lengths, torch.Generator().manual_seed(1), vocabulary=90, padded=padded)
        for padded in (15, LIMIT)
    )
    for name, value in short.items():
        rest = long[name][:, value.shape[1] :] if value.ndim == 2 else long[name][:0]
        assert torch.equal(value, long[name][:, : value.shape[1]] if value.ndim == 2 else long[name])
        assert not rest.any() or name == "input_ids"
    assert short["attention_mask"].sum(dim=1).tolist() == lengths.tolist()


@pytest.mark.parametrize("task", ["ner", "re"])
def test_benchmark_prints_a_row_for_each_variant(
    task: Task, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--against", "published", "--size", "tiny", "--groups", "1", "--tasks", task]
    monkeypatch.setattr("sys.argv", ["step", *options])
    monkeypatch.setattr(step, "in_fresh_process", lambda function, *arguments: function(*arguments))
    monkeypatch.setattr(step, "PEAK_SIZES", ((64, 64, 64),))
    monkeypatch.setattr(step, "ladder", lambda task: dict(list(ladder(task).items())[::5]))
    step.main()
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split("|")[1].strip() for line in lines if line.startswith("| ")]
    assert rows[1:] == [*ladder(task)][::5]
    assert lines[-1].startswith("Both modules take ")


def test_fast_products_are_left_out_if_they_lose_accuracy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(products, "medium_error", lambda device: 2e-3)
    monkeypatch.setattr(
        "sys.argv", ["step", "--against", "published", "--size", "tiny", "--groups", "1", "--tasks", "re"]
    )
    monkeypatch.setattr(step, "in_fresh_process", lambda function, *arguments: function(*arguments))
    monkeypatch.setattr(step, "PEAK_SIZES", ((64, 64, 64),))
    monkeypatch.setattr(
        step, "ladder", lambda task: {name: way for name, way in ladder(task).items() if name == f"+ {FAST}"}
    )
    step.main()
    assert FAST not in capsys.readouterr().out
    with computing(make_model("re", TINY), OURS):
        assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.parametrize("option", ["--groups", "--repeats"])
def test_zero_groups_or_repeats_are_rejected(
    option: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["step", option, "0"])
    with pytest.raises(SystemExit, match="2"):
        step.main()
    assert f"{option} must be at least 1, got 0" in capsys.readouterr().err


def test_each_variant_runs_the_requested_steps_on_each_batch() -> None:
    model = make_model("re", TINY)
    work = [make_work(model, torch.tensor(lengths), TINY.side) for lengths in ([8, 9], [10, 11])]
    times = step.time_steps(model, work, {"ours": OURS, "another": OURS}, repeats=3)
    assert [len(values) for values in times.values()] == [6, 6]


def test_clock_runs_inside_the_computation_of_each_variant(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model("re", TINY)
    work = [make_work(model, torch.tensor([8, 9]), TINY.side)]
    replaced: list[None] = []
    once: list[bool] = []
    monkeypatch.setattr(variants, "replace_dropout", lambda *_: replaced.append(None))

    def clock(call: Callable[[], object]) -> float:
        before = len(replaced)
        once.append(model.vision.frozen)
        call()
        assert len(replaced) == before, "the step prepares the model while the clock runs"
        return 1.0

    monkeypatch.setattr(step, "seconds", clock)
    step.time_steps(model, work, {"ours": OURS, "release": RELEASE}, repeats=1)
    assert once == [True, False, True, False]


def test_state_bytes_match_the_tensors_held_after_a_step() -> None:
    model = make_model("re", TINY)
    batch = make_work(model, torch.tensor([8, 9, 10]), TINY.side).batch(OURS)
    optimizer = make_optimizers(model)[True]
    with computing(model, OURS):
        loss_of(model, batch, OURS).backward()
    optimizer.step()
    moments = [state[name] for state in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    held = sum(4 * tensor.numel() for tensor in [*model.parameters(), *gradients, *moments])
    assert state_bytes(model) == pytest.approx(held, rel=1e-3)
