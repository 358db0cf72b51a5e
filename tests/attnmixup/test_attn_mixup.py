"""AttnMixup compared with its oracle for every kind of label, and tests of each option and preset."""

import re
import warnings
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from attnmixup import AttnMixup, MixedBatch, MixupPlan, Origin, attn_mixup
from attnmixup.options import PAPER, PRESETS, Preset
from tests.attnmixup import oracles
from tests.attnmixup.strategies import DIM, Case, cases, lengths, seeds, sizes, tensors

FINALS = ("sample", "slice", "weight", "mixed")


def mixer_of(seed: int = 0, **options: Any) -> AttnMixup:
    torch.manual_seed(seed)
    return AttnMixup(DIM, heads=2, dropout=options.pop("dropout", 0.0), **options).double()


def rows_of(plan: MixupPlan, size: int) -> list[tuple[str, int, int, float]]:
    """Return the rows of the final set as (letter, first, second, lambda); rows of H* are numbered from ``size``."""
    rows = [("o", row, row, 1.0) for row in range(size)]
    rows += [("t", size + row, size + row, 1.0) for row in plan.transformed.tolist()]
    pairs = zip(plan.first.tolist(), plan.second.tolist(), plan.lam.tolist(), strict=True)
    return rows + [("s", *pair) for pair in pairs]


@pytest.mark.parametrize("final", FINALS)
@given(case=cases(), averaging=st.sampled_from(["together", "apart"]), strength=st.floats(1e-6, 1))
def test_final_set_matches_oracle(final: str, case: Case, averaging: str, strength: float) -> None:
    mixer = mixer_of(final=final, averaging="together" if final == "mixed" else averaging)
    mixer.set_strength(strength)
    size = len(case.embeddings)
    plan = mixer.draw(size, mask=case.mask, generator=case.generator)
    mixed = mixer(case.embeddings, case.targets, mask=case.mask, plan=plan)

    transformed = mixer.attention(case.embeddings, mask=case.mask)[0]
    pool = case.embeddings.tolist() + transformed.tolist()
    rows = rows_of(plan, size)
    for number, (kind, first, second, lam) in enumerate(rows):
        a, b = first % size, second % size
        if case.embeddings.ndim == 2:
            expected: oracles.Nested = oracles.interpolate(pool[first], pool[second], lam)
        else:
            masks = case.mask[a].tolist(), case.mask[b].tolist()
            expected = oracles.interpolate_tokens(pool[first], pool[second], lam, *masks)
            assert torch.equal(mixed.mask[number], case.mask[a] | case.mask[b])
        torch.testing.assert_close(mixed.embeddings[number].tolist(), expected)
        assert torch.equal(mixed.targets_a[number], case.targets[a])
        assert torch.equal(mixed.targets_b[number], case.targets[b])
        assert (int(mixed.index_a[number]), int(mixed.index_b[number])) == (a, b)
        assert float(mixed.lam[number]) == lam
        assert Origin(int(mixed.origin[number])).name[0].lower() == kind
        if case.kind == "tags":
            assert torch.equal(mixed.mask_a[number], case.mask[a])
            assert torch.equal(mixed.mask_b[number], case.mask[b])
    assert len(mixed.embeddings) == len(rows)
    assert (mixed.mask_a is None) == (case.kind != "tags")

    valid = [1.0] * size if case.mask is None else case.mask.any(1).double().tolist()
    expected = oracles.row_weights(
        [valid[first % size] for _, first, _, _ in rows],
        [kind for kind, *_ in rows],
        strength,
        0.6 if final == "weight" else None,
        mixer.options.averaging == "apart",
        1 - strength if final == "mixed" else 1,
    )
    torch.testing.assert_close(mixed.weight.tolist(), expected, atol=1e-6, rtol=1e-5)


@given(case=cases(), seed=seeds)
def test_counts_of_the_paper(case: Case, seed: int) -> None:
    size = len(case.embeddings)
    mixed = mixer_of(seed)(case.embeddings, case.targets, mask=case.mask)
    counts = torch.bincount(mixed.origin, minlength=3).tolist()
    kept = oracles.rounded_share(0.6, size)
    assert counts == [size, kept, size - kept]
    assert torch.equal(mixed.embeddings[:size], case.embeddings)
    assert (mixed.num_originals, mixed.num_synthetic) == (size, counts[2])


@given(size=sizes, seed=seeds)
def test_final_set_of_the_release(size: int, seed: int) -> None:
    mixer = AttnMixup(DIM, heads=2, preset="release")
    assert mixer.attention.score == "dot"
    assert mixer.attention.feed_forward.expand.out_features == 2048
    embeddings = torch.randn(size, DIM)
    mixed = mixer(embeddings, torch.arange(size), generator=torch.Generator().manual_seed(seed))
    taken, left, kept = 7 * size // 10, 3 * size // 10, 6 * size // 10
    made = 4 * (taken + size - left) // 10
    assert torch.bincount(mixed.origin, minlength=3).tolist() == [size, kept, made]
    firsts = (list(range(taken)) + list(range(left, size)))[:made]
    assert mixed.targets_a.tolist() == list(range(size)) + list(range(kept)) + firsts
    assert len(set(mixed.lam[size + kept :].tolist())) <= 1
    torch.testing.assert_close(mixed.weight[: size + kept].sum(), torch.tensor(1.0))
    if made:
        torch.testing.assert_close(mixed.weight[size + kept :], torch.full((made,), 1 / made))


OF_THE_RELEASE = {
    "sampling": "slice",
    "lam": "batch",
    "final": "slice",
    "averaging": "apart",
    "counts": "truncate",
}


@pytest.mark.parametrize("option", OF_THE_RELEASE)
def test_options_override_single_values_of_a_preset(option: str) -> None:
    paper, release = AttnMixup(DIM), AttnMixup(DIM, preset="release")
    alone = AttnMixup(DIM, **{option: OF_THE_RELEASE[option]})
    assert alone.options == replace(paper.options, **{option: OF_THE_RELEASE[option]})
    back = AttnMixup(DIM, preset="release", **{option: getattr(paper.options, option)})
    assert back.options == replace(release.options, **{option: getattr(paper.options, option)})
    assert {name: getattr(release.options, name) for name in OF_THE_RELEASE} == OF_THE_RELEASE


def test_options_override_the_attention_of_a_preset() -> None:
    release = AttnMixup(DIM, preset="release", score="additive", feed_forward=0).attention
    assert (release.score, release.feed_forward) == ("additive", None)
    paper = AttnMixup(DIM, preset="paper", score="dot", feed_forward=5).attention
    assert (paper.score, paper.feed_forward.expand.out_features) == ("dot", 5)
    assert AttnMixup(DIM).attention.score == AttnMixup(DIM, preset="paper").attention.score == "additive"
    assert AttnMixup(DIM).options == AttnMixup(DIM, preset="paper").options


@pytest.mark.parametrize("preset", PRESETS)
def test_module_has_the_options_of_its_preset(preset: Preset) -> None:
    mixer = AttnMixup(DIM, preset=preset)
    for name, value in (PAPER | PRESETS[preset]).items():
        attention = mixer.attention
        found = {
            "score": attention.score,
            "sequence": attention.sequence,
            "gate": attention.gate is not None,
            "feed_forward": 0 if attention.feed_forward is None else attention.feed_forward.expand.out_features,
            "dropout": attention.dropout.rate,
        }.get(name, getattr(mixer.options, name, None))
        assert found == (DIM if value == "dim" else value), name


def batch_of(size: int = 8) -> tuple[Tensor, Tensor, torch.nn.Linear]:
    return tensors(0, size, DIM), torch.arange(size) % 3, torch.nn.Linear(DIM, 3).double()


def test_manifold_mixup_preset_matches_the_published_method() -> None:
    """Verma et al. 2019: mix each sample with its partner in a permutation, and average the losses."""
    embeddings, targets, head = batch_of()
    mixer = mixer_of(preset="manifold_mixup", alpha=2.0)
    plan = mixer.draw(8, generator=torch.Generator().manual_seed(0))
    mixed = mixer(embeddings, targets, plan=plan)
    lam, expected = float(plan.lam[0]), 0.0
    assert sorted(plan.first.tolist()) == sorted(plan.second.tolist()) == list(range(8))
    assert (plan.lam == plan.lam[0]).all()
    for first, second in zip(plan.first.tolist(), plan.second.tolist(), strict=True):
        logits = head(lam * embeddings[first] + (1 - lam) * embeddings[second]).tolist()
        expected += lam * oracles.cross_entropy(logits, targets[first])
        expected += (1 - lam) * oracles.cross_entropy(logits, targets[second])
    loss = mixed.loss(torch.nn.functional.cross_entropy, head(mixed.embeddings))
    assert float(loss.detach()) == pytest.approx(expected / 8, rel=1e-6)


def test_batchformer_preset_matches_the_published_method() -> None:
    """Hou et al. 2022: the rows and the output of a transformer layer across the batch share one classifier."""
    embeddings, targets, head = batch_of()
    mixer = mixer_of(preset="batchformer")
    layer = torch.nn.TransformerEncoderLayer(DIM, 2, DIM, 0.0).double()
    attention = mixer.attention
    with torch.no_grad():
        state, parts = attention.state_dict(), ("query", "key", "value")
        layer.self_attn.in_proj_weight.copy_(torch.cat([state[f"project_{part}.weight"] for part in parts]))
        layer.self_attn.in_proj_bias.copy_(torch.cat([state[f"project_{part}.bias"] for part in parts]))
    layer.self_attn.out_proj.load_state_dict(attention.project_output.state_dict())
    layer.linear1.load_state_dict(attention.feed_forward.expand.state_dict())
    layer.linear2.load_state_dict(attention.feed_forward.contract.state_dict())
    both = torch.cat([embeddings, layer(embeddings.unsqueeze(1)).squeeze(1)])
    expected = torch.nn.functional.cross_entropy(head(both), torch.cat([targets, targets]))
    mixed = mixer(embeddings, targets)
    loss = mixed.loss(torch.nn.functional.cross_entropy, head(mixed.embeddings))
    torch.testing.assert_close(loss, expected, atol=1e-6, rtol=1e-6)


def test_nearest_mixup_pairs_near_samples() -> None:
    """As in LADA (Chen et al. 2020), the distance of two sequences is that of their token means."""
    places = torch.tensor([0.0, 0.1, 0.2, 0.3, 9.0, 9.1, 9.2, 9.3]).double()
    embeddings = places[:, None, None].repeat(1, 3, DIM)
    embeddings[:, 2] = 100 * torch.arange(8)[:, None] % 7
    mask = torch.tensor([True, True, False]).repeat(8, 1)
    mixer = mixer_of(preset="nearest_mixup")
    for _ in range(20):
        mixed = mixer(embeddings, torch.arange(8), mask=mask)
        assert torch.equal(mixed.index_a // 4, mixed.index_b // 4)
        assert (mixed.index_a != mixed.index_b)[mixed.origin == Origin.SYNTHETIC].all()
        assert torch.bincount(mixed.origin).tolist() == [8, 0, 8]


@given(case=cases(), seed=seeds)
def test_evaluation_returns_the_same_tensor_and_draws_nothing(case: Case, seed: int) -> None:
    mixer = mixer_of(seed, dropout=0.5).eval()
    before = torch.get_rng_state()
    drawn = torch.Generator().manual_seed(seed)
    mixed = mixer(case.embeddings, case.targets, mask=case.mask, generator=drawn)
    assert mixed.embeddings is case.embeddings
    assert mixed.targets_a is mixed.targets_b is case.targets
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(drawn.get_state(), torch.Generator().manual_seed(seed).get_state())
    assert mixed.lam.tolist() == [1.0] * len(case.embeddings)
    assert mixed.origin.tolist() == [Origin.ORIGINAL] * len(case.embeddings)
    assert mixed.index_a.tolist() == list(range(len(case.embeddings)))


@given(case=cases(), seed=seeds, final=st.sampled_from(FINALS))
def test_inputs_are_not_changed_in_place(case: Case, seed: int, final: str) -> None:
    given_tensors = [t for t in (case.embeddings, case.targets, case.mask) if t is not None]
    copies = [tensor.clone() for tensor in given_tensors]
    versions = [tensor._version for tensor in given_tensors]
    mixer_of(seed, final=final, dropout=0.2)(case.embeddings, case.targets, mask=case.mask)
    assert [tensor._version for tensor in given_tensors] == versions
    assert all(torch.equal(tensor, copy) for tensor, copy in zip(given_tensors, copies, strict=True))


@given(size=sizes, length=lengths, seed=seeds)
def test_padding_samples_are_neither_mixed_nor_counted(size: int, length: int, seed: int) -> None:
    for shape in ((size, DIM), (size, length, DIM)):
        embeddings = tensors(seed, *shape)
        padded = torch.cat([embeddings, tensors(seed + 1, 2, *shape[1:])])
        real = torch.arange(size + 2) < size
        mask = real if len(shape) == 2 else real[:, None].expand(-1, length)
        for group in (None, torch.arange(size + 2) % 2):
            mixed = mixer_of(seed, final="weight")(padded, torch.arange(size + 2), mask=mask, group=group)
            assert torch.equal(real[mixed.index_a], real[mixed.index_b])
            assert (mixed.weight[~real[mixed.index_a]] == 0).all()
            torch.testing.assert_close(mixed.weight.sum(), torch.tensor(1.0))


def test_groups_are_never_mixed() -> None:
    group = torch.arange(12) % 3
    for partner in ("uniform", "other_class", "balanced"):
        mixed = mixer_of(partner=partner, final="weight")(tensors(0, 12, DIM), torch.arange(12), group=group)
        assert torch.equal(group[mixed.index_a], group[mixed.index_b])
    ungrouped = mixer_of(final="weight")(tensors(0, 12, DIM), torch.arange(12))
    assert not torch.equal(group[ungrouped.index_a], group[ungrouped.index_b])


def test_partners_can_be_of_another_class() -> None:
    targets = torch.tensor([0, 0, 0, 0, 1, 2])
    for classes in (targets, torch.nn.functional.one_hot(targets).double()):
        mixed = mixer_of(partner="other_class", final="weight")(tensors(0, 6, DIM), classes)
        synthetic = mixed.origin == Origin.SYNTHETIC
        assert (targets[mixed.index_a] != targets[mixed.index_b])[synthetic].all()


@pytest.mark.parametrize(
    ("option", "value", "other"),
    [
        ("sample_ratio", 0.0, 1.0),
        ("transformed_ratio", 0.2, 0.8),
        ("alpha", 0.01, 100.0),
        ("lam", "sample", "batch"),
        ("score", "additive", "shared"),
        ("score", "additive", "dot"),
        ("sequence", "pooled", "position"),
        ("sequence", "pooled", "sample"),
        ("heads", 1, 3),
        ("dropout", 0.0, 0.5),
        ("feed_forward", 0, 4),
        ("sampling", "random", "slice"),
        ("final", "sample", "slice"),
        ("final", "sample", "weight"),
        ("final", "weight", "mixed"),
        ("gate", False, True),
        ("score", "additive", "cosine"),
        ("sampling", "random", "balanced"),
        ("partner", "uniform", "nearest"),
        ("averaging", "together", "apart"),
        ("partner", "uniform", "derangement"),
        ("partner", "uniform", "other_class"),
        ("partner", "uniform", "balanced"),
    ],
)
def test_every_option_changes_the_loss(option: str, value: float | str, other: float | str) -> None:
    embeddings, targets = tensors(0, 8, 3, DIM), torch.tensor([0, 0, 0, 0, 0, 0, 1, 2])
    losses = []
    for chosen in (value, other):
        torch.manual_seed(0)
        mixed = AttnMixup(DIM, **{option: chosen}).double()(
            embeddings, targets, generator=torch.Generator().manual_seed(1)
        )
        losses.append(mixed.loss(torch.nn.functional.cross_entropy, mixed.embeddings.mean(1)).item())
    assert losses[0] != pytest.approx(losses[1], rel=1e-9)


def test_need_attention() -> None:
    mixer = mixer_of()
    embeddings = tensors(0, 4, DIM)
    assert mixer(embeddings).attention is None
    torch.testing.assert_close(
        mixer(embeddings, need_attention=True).attention, mixer.attention(embeddings, need_attention=True)[1]
    )


def test_an_edited_plan_is_used() -> None:
    mixer, embeddings = mixer_of(), tensors(0, 5, DIM)
    plan = mixer.draw(5)
    ends = [
        mixer(embeddings, plan=replace(plan, lam=torch.full_like(plan.lam, end))).embeddings[-2:] for end in (1.0, 0.0)
    ]
    pool = torch.cat([embeddings, mixer.attention(embeddings)[0]])
    torch.testing.assert_close(ends[0], pool[plan.first])
    torch.testing.assert_close(ends[1], pool[plan.second])
    swapped = replace(plan, first=plan.second, second=plan.first, transformed=torch.tensor([4]))
    mixed = mixer(embeddings, torch.arange(5), plan=swapped)
    assert mixed.targets_a.tolist() == [0, 1, 2, 3, 4, 4, *(plan.second % 5).tolist()]


@pytest.mark.parametrize(
    ("final", "averaging"),
    [*((final, "together") for final in FINALS), *((final, "apart") for final in FINALS if final != "mixed")],
)
def test_strength_0_gives_the_plain_loss(final: str, averaging: str) -> None:
    mixer, head = mixer_of(final=final, averaging=averaging), torch.nn.Linear(DIM, 3).double()
    embeddings, targets = tensors(0, 7, DIM), torch.arange(7) % 3
    losses = []
    for strength in (0.0, 0.5, 1.0):
        mixer.set_strength(strength)
        mixed = mixer(embeddings, targets, generator=torch.Generator().manual_seed(0))
        losses.append(mixed.loss(torch.nn.functional.cross_entropy, head(mixed.embeddings)).detach())
    plain = torch.nn.functional.cross_entropy(head(embeddings), targets)
    torch.testing.assert_close(losses[0], plain.detach(), atol=1e-7, rtol=1e-7)
    assert min(losses[0], losses[2]) < losses[1] < max(losses[0], losses[2])


@given(
    case=cases(kinds=("class", "soft", "tags")), seed=seeds, preset=st.sampled_from(["paper", "release", "recommended"])
)
def test_every_parameter_receives_a_gradient(case: Case, seed: int, preset: Preset) -> None:
    assume(preset != "recommended" or len(case.embeddings) > 3)  # otherwise round(0.15 B) = 0 rows of H* are used
    assume(preset != "release" or len(case.embeddings) > 1)  # otherwise 0.6 B rounds down to 0 rows of H*
    torch.manual_seed(seed)
    mixer = AttnMixup(DIM, heads=2, preset=preset).double()
    mixed = mixer(case.embeddings.requires_grad_(), case.targets, mask=case.mask, generator=case.generator)
    mixed.embeddings.square().sum().backward()
    for parameter in (case.embeddings, *mixer.parameters()):
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()


def test_gradients_match_finite_differences() -> None:
    mixer, mask = mixer_of(), torch.tensor([[True, True], [True, False], [True, False]])
    plan = mixer.draw(3, generator=torch.Generator().manual_seed(0))
    embeddings = tensors(0, 3, 2, DIM).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: mixer(x, mask=mask, plan=plan).embeddings, (embeddings,))


def test_resuming_from_state_dicts_gives_identical_training() -> None:
    def steps(mixer: AttnMixup, optimizer: torch.optim.Optimizer, generator: torch.Generator, count: int) -> None:
        for _ in range(count):
            mixed = mixer(tensors(0, 6, DIM), torch.arange(6), generator=generator)
            optimizer.zero_grad()
            mixed.loss(torch.nn.functional.cross_entropy, mixed.embeddings).backward()
            optimizer.step()
            mixer.set_strength(float(mixer.strength) / 2)

    straight, generator = mixer_of(dropout=0.2), torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(straight.parameters())
    steps(straight, optimizer, generator, 2)
    saved = deepcopy((straight.state_dict(), optimizer.state_dict(), generator.get_state()))
    resumed, other = mixer_of(seed=1, dropout=0.2), torch.Generator()
    resumed.load_state_dict(saved[0])
    optimizer_of_resumed = torch.optim.AdamW(resumed.parameters())
    optimizer_of_resumed.load_state_dict(saved[1])
    other.set_state(saved[2])
    steps(straight, optimizer, generator, 2)
    steps(resumed, optimizer_of_resumed, other, 2)
    assert float(resumed.strength) == 1 / 16
    for name, tensor in straight.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_repr_shows_the_options() -> None:
    text = repr(AttnMixup(DIM, partner="balanced"))
    assert "partner='balanced'" in text
    assert "global_batch=False" in text


def test_without_a_process_group_the_global_batch_is_local() -> None:
    embeddings = tensors(0, 5, DIM)
    mixed = [
        mixer_of(global_batch=everywhere)(embeddings, generator=torch.Generator().manual_seed(0))
        for everywhere in (False, True)
    ]
    assert torch.equal(mixed[0].embeddings, mixed[1].embeddings)


def test_only_used_rows_are_transformed(monkeypatch: pytest.MonkeyPatch) -> None:
    mixer, embeddings = mixer_of(), tensors(0, 20, 3, DIM)
    seen = []
    attend = mixer.attention.forward

    def watch(*arguments: Any, **options: Any) -> tuple[Tensor, Tensor | None]:
        seen.append(options["rows"])
        return attend(*arguments, **options)

    monkeypatch.setattr(mixer.attention, "forward", watch)
    plan = mixer.draw(20)
    mixer(embeddings, plan=plan)
    pairs = torch.cat([plan.first, plan.second])
    used = {*plan.transformed.tolist(), *(pairs[pairs >= 20] - 20).tolist()}
    assert seen.pop().tolist() == sorted(used)
    assert len(used) < 20
    mixer(embeddings, plan=plan, need_attention=True)
    assert seen.pop().tolist() == list(range(20))
    mixup = mixer_of(sample_ratio=1.0, transformed_ratio=0.0)
    monkeypatch.setattr(mixup.attention, "forward", lambda *a, **o: pytest.fail("nothing to transform"))
    assert len(mixup(embeddings).embeddings) == 40


def test_at_strength_0_nothing_is_computed_or_drawn() -> None:
    mixer, embeddings = mixer_of(dropout=0.5), tensors(0, 5, DIM)
    with torch.no_grad():
        mixer.attention.project_output.weight.fill_(float("nan"))
    mixer.set_strength(0.0)
    before = torch.get_rng_state()
    mixed = mixer(embeddings, torch.arange(5))
    assert mixed.embeddings is embeddings
    assert torch.equal(torch.get_rng_state(), before)
    mixer.set_strength(0.5)
    assert mixer(embeddings).embeddings[5:].isnan().any()


def test_plan_that_does_not_fit_the_batch_raises() -> None:
    mixer, embeddings = mixer_of(), tensors(0, 5, DIM)
    plan = mixer.draw(5)
    for other, message in (
        (mixer.draw(4), "The plan is for 4 samples, but the batch has 5: draw a new plan with draw(5)."),
        (replace(plan, transformed=plan.transformed + 5), "The plan's transformed must be rows from 0 to 4."),
        (replace(plan, first=plan.first + 10), "The plan's first must be rows from 0 to 9."),
        (replace(plan, second=plan.second - 10), "The plan's second must be rows from 0 to 9."),
        (replace(plan, lam=plan.lam + 2), "The plan's lam must be between 0 and 1."),
    ):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            mixer(embeddings, plan=other)
    across = replace(plan, first=torch.tensor([0, 1]), second=torch.tensor([4, 2]))
    for apart in ({"mask": torch.arange(5) < 4}, {"group": torch.tensor([0, 1, 1, 1, 128], dtype=torch.uint8)}):
        with pytest.raises(ValueError, match=r"^The plan pairs real samples with padding, .* mask and group to draw"):
            mixer(embeddings, plan=across, **apart)
        for _ in range(20):
            mixer(embeddings, plan=mixer.draw(5, **apart), **apart)
    tokens = torch.arange(3) < torch.tensor([[3], [1], [0], [2], [0]])
    sequences = tensors(0, 5, 3, DIM)
    for _ in range(20):
        mixer(sequences, mask=tokens, plan=mixer.draw(5, mask=tokens), generator=torch.Generator())
    with pytest.raises(ValueError, match=r"first, second and lam \(M,\), got \(3,\), \(2,\), \(2,\) and \(1,\)"):
        mixer(embeddings, plan=replace(plan, lam=plan.lam[:1]))


def test_unchanged_parameters_cause_one_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attn_mixup, "PATIENCE", 3)
    mixer, embeddings = AttnMixup(DIM), torch.randn(4, DIM)
    trained = AttnMixup(DIM)
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.1)
    mixup = AttnMixup(DIM, sample_ratio=1.0, transformed_ratio=0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(6):
            mixup(embeddings)
            optimizer.zero_grad()
            trained(embeddings).embeddings.sum().backward()
            optimizer.step()
            with torch.no_grad():
                mixer(embeddings)
    for _ in range(2):
        mixer(embeddings)
    message = (
        "The parameters of AttnMixup have not changed in 3 training steps: check that they are in the "
        "optimizer. attnmixup.training.missing_parameters(model, optimizer) lists the missing parameters."
    )
    with pytest.warns(UserWarning, match=f"^{re.escape(message)}$"):
        mixer(embeddings)
    # The warning is given only once, even if parameters change later.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            with torch.no_grad():
                next(mixer.attention.parameters()).add_(1)
            for _ in range(6):
                mixer(embeddings)


@pytest.mark.parametrize("options", [{"fused": True}, {"fused": False, "foreach": True}, {"fused": False}])
def test_fused_and_foreach_optimizers_cause_no_warning(
    options: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attn_mixup, "PATIENCE", 3)
    mixer, embeddings = AttnMixup(DIM), torch.randn(4, DIM)
    optimizer = torch.optim.AdamW(mixer.parameters(), **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(8):
            optimizer.zero_grad()
            mixer(embeddings).embeddings.square().sum().backward()
            optimizer.step()


def test_plan_can_use_transformed_rows_that_the_options_never_use() -> None:
    embeddings = tensors(0, 6, DIM)
    mixer = AttnMixup(DIM, preset="manifold_mixup").double().train()
    plan = mixer.draw(6)
    transformed = replace(plan, transformed=torch.tensor([2]), second=plan.second % 6 + 6)
    mixed = mixer(embeddings, plan=transformed, need_attention=False, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    star = mixer.attention(embeddings, rows=torch.arange(6), generator=torch.Generator().manual_seed(0))[0]
    torch.testing.assert_close(mixed.embeddings[6], star[2])
    expected = (
        transformed.lam[:, None] * embeddings[plan.first] + (1 - transformed.lam[:, None]) * star[plan.second % 6]
    )
    torch.testing.assert_close(mixed.embeddings[7:], expected.double())


def test_targets_must_be_tensors() -> None:
    for name in ("targets", "target_mask", "group"):
        with pytest.raises(TypeError, match=r"^targets, target_mask and group must be tensors\."):
            mixer_of()(tensors(0, 3, DIM), **{name: [0, 1, 2]})


def test_ensemble_under_vmap_draws_independently() -> None:
    mixers = [AttnMixup(DIM, dropout=0.0) for _ in range(3)]
    parameters, buffers = torch.func.stack_module_state(mixers)
    embeddings, targets = torch.randn(5, DIM), torch.arange(5)

    def of_one(parameters: dict[str, Tensor], buffers: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        mixed = torch.func.functional_call(mixers[0], (parameters, buffers), (embeddings, targets))
        return mixed.embeddings, mixed.lam

    rows, lam = torch.func.vmap(of_one, randomness="different")(parameters, buffers)
    assert rows.shape == (3, 10, DIM)
    assert not torch.equal(lam[0], lam[1])


def test_torch_func_tensors_cause_no_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attn_mixup, "PATIENCE", 3)
    mixer, embeddings = AttnMixup(DIM), torch.randn(4, DIM)
    tensors = {name: parameter.detach() for name, parameter in mixer.named_parameters()}

    def loss(tensors: dict[str, Tensor]) -> Tensor:
        mixed: MixedBatch = torch.func.functional_call(mixer, tensors, (embeddings,))
        return mixed.embeddings.square().sum()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(6):
            gradients = torch.func.grad(loss)(tensors)
    assert all(gradient.isfinite().all() for gradient in gradients.values())


WRONG_OPTIONS = {
    f"preset must be one of {', '.join(map(repr, PRESETS))}, got 'both'.": {"preset": "both"},
    "sample_ratio must be between 0 and 1, got 1.1.": {"sample_ratio": 1.1},
    "transformed_ratio must be between 0 and 1, got -0.1.": {"transformed_ratio": -0.1},
    "alpha must be positive and finite, got nan.": {"alpha": float("nan")},
    "alpha must be positive and finite, got inf.": {"alpha": float("inf")},
    "alpha must be positive and finite, got 0.0.": {"alpha": 0.0},
    "neighbours must be at least 1, got 0.": {"neighbours": 0},
    "lam must be one of 'sample', 'batch', got 'row'.": {"lam": "row"},
    "sampling must be one of 'random', 'balanced', 'slice', got 'all'.": {"sampling": "all"},
    "final must be one of 'sample', 'slice', 'weight', 'mixed', got 'all'.": {"final": "all"},
    "averaging must be one of 'together', 'apart', got 'no'.": {"averaging": "no"},
    "partner must be one of 'uniform', 'derangement', 'other_class', 'balanced', 'nearest', got 'best'.": {
        "partner": "best"
    },
    'final="mixed" trains only on synthetic rows: use averaging="together".': {"final": "mixed", "averaging": "apart"},
}


@pytest.mark.parametrize("message", WRONG_OPTIONS)
def test_invalid_options_raise(message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        AttnMixup(DIM, **WRONG_OPTIONS[message])


def test_errors() -> None:
    mixer, embeddings = AttnMixup(DIM), torch.zeros(3, DIM)
    with pytest.raises(ValueError, match=r"^strength must be between 0 and 1, got 2\.$"):
        mixer.set_strength(2)
    with pytest.raises(ValueError, match=r"got \(3, 5\)\.$"):
        mixer(torch.zeros(3, 5))
    with pytest.raises(ValueError, match=r"^targets must have one row for each of 3 samples"):
        mixer(embeddings, torch.zeros(4))
    generator = torch.Generator()
    message = (
        "AttnMixup ran again in a backward pass (activation checkpointing), where the generator would draw different "
        "numbers: leave out generator= (checkpointing restores the global random state), or keep the mixer outside the "
        "checkpointed part."
    )
    leaf = torch.zeros(3, DIM, requires_grad=True)
    loss = checkpoint(lambda rows: mixer(rows, generator=generator).embeddings.sum(), leaf, use_reentrant=False)
    with pytest.raises(RuntimeError, match=f"^{re.escape(message)}$"):
        loss.backward()


def test_mixup_without_attention_refuses_a_generator_under_checkpointing_too() -> None:
    mixer = AttnMixup(DIM, preset="manifold_mixup")
    generator = torch.Generator().manual_seed(0)
    leaf = torch.randn(6, DIM, requires_grad=True)
    loss = checkpoint(lambda rows: mixer(rows, generator=generator).embeddings.sum(), leaf, use_reentrant=False)
    with pytest.raises(RuntimeError, match=r"^AttnMixup ran again in a backward pass"):
        loss.backward()


def test_defaults_are_four_heads_and_uniform_lambda() -> None:
    mixer = AttnMixup(20)
    assert (mixer.attention.heads, mixer.options.alpha) == (4, 1)


def test_strength_is_float32_on_the_cpu_for_every_number_and_default_device() -> None:
    for before in (AttnMixup(DIM), AttnMixup(DIM, device="meta")):
        assert before.get_extra_state().dtype == torch.float32
    with torch.device("meta"):
        mixer = AttnMixup(DIM)
        mixer.set_strength(1)
    assert (mixer.strength, mixer.get_extra_state().dtype) == (1, torch.float32)


def test_drawn_pairs_keep_groups_apart_where_a_mask_is_given() -> None:
    group, mask = torch.tensor([0, 1, 0, 1, 0, 1]), torch.tensor([True, True, True, True, True, False])
    mixer = AttnMixup(DIM)
    for _ in range(20):
        plan = mixer.draw(6, mask=mask, group=group)
        first, second = plan.first % 6, plan.second % 6
        assert torch.equal(group[first], group[second])
        assert torch.equal(mask[first], mask[second])


def test_stats_check_the_mask() -> None:
    with pytest.raises(ValueError, match=r"^mask must have shape \(4,\), got \(3,\)\.$"):
        AttnMixup(DIM).stats(torch.randn(4, DIM), mask=torch.ones(3, dtype=torch.bool))


def test_unchanged_parameters_cause_no_warning_in_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attn_mixup, "PATIENCE", 2)
    mixer = AttnMixup(DIM)
    monkeypatch.setattr("attnmixup.distributed.is_distributed", lambda: True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(5):
            mixer._warn_if_untrained()
