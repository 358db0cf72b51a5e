"""AttnMixup: attention across the batch, then mixup of original and transformed samples (Eq. 8-16)."""

from typing import Any, Literal

import torch
from torch import Generator, Tensor, nn

from attnmixup import functional, sampling
from attnmixup.checks import check_choice, check_embeddings, check_mask, check_ratio
from attnmixup.mixed_batch import MixedBatch, Origin
from attnmixup.sample_attention import AttentionScore, SampleAttention, Sequence
from attnmixup.sampling import MixupPlan, Partner

Sampling = Literal["random", "slice"]
Lam = Literal["sample", "batch"]
Final = Literal["sample", "slice", "weight"]
Averaging = Literal["together", "apart"]
Preset = Literal["paper", "release"]

PRESETS: dict[str, dict[str, Any]] = {
    "paper": {
        "score": "additive",
        "feed_forward": 0,
        "sampling": "random",
        "lam": "sample",
        "final": "sample",
        "averaging": "together",
    },
    "release": {
        "score": "dot",
        "feed_forward": 2048,
        "sampling": "slice",
        "lam": "batch",
        "final": "slice",
        "averaging": "apart",
    },
}


class AttnMixup(nn.Module):
    """Transform a batch by attention across its samples, then mix the two pairwise: AttnMixup (Eq. 8-16).

    In training, B samples become the final set of Eq. 16: the originals, a share of the transformed samples H* (with
    the labels of their originals), and synthetic ones interpolated between samples of H and H*. In evaluation the very
    same tensor comes back, nothing is drawn, and nothing is computed.

    Options that are None take their value from the preset: ``"paper"`` (the default) or ``"release"``, which is what
    the code published with the paper meant to do.

    Args:
        dim: Width C of the embeddings.
        heads: Attention heads.
        score: Score of the attention: ``"additive"`` (paper), ``"shared"`` or ``"dot"`` (release), see
            :class:`SampleAttention`.
        sequence: How sequences are attended, ``"pooled"`` or ``"position"``, see :class:`SampleAttention`.
        sample_ratio: delta of Eq. 13, the share of H in the set from which pairs are taken.
        transformed_ratio: Delta of Eq. 16, the share of H* in what is added to H.
        alpha: lambda is drawn from Beta(alpha, alpha).
        lam: Draw one lambda per synthetic ``"sample"`` (paper) or per ``"batch"`` (release).
        dropout: Rate in the attention.
        feed_forward: Hidden width of a feed-forward block after the attention, 0 (paper) or 2048 (release).
        sampling: Eq. 13. ``"random"`` (paper): round(delta B) samples drawn at random stand as they are, the other
            samples transformed. ``"slice"`` (release): the first round(delta B) rows of H and the last of H*.
        final: Eq. 16. ``"sample"`` (paper): round(Delta B) rows drawn from H*, and synthetic ones up to B, so 2B rows
            in all. ``"slice"`` (release): the first Delta of H* and the first 1 - Delta of the mixed rows.
            ``"weight"``: all rows of H, H* and the mixed set, weighted 1, Delta and 1 - Delta.
        averaging: The loss is the mean over all rows ``"together"`` (paper), or over real and synthetic rows
            ``"apart"``, and the two means added (release).
        partner: Second of a pair: ``"uniform"`` is a random permutation, ``"other_class"`` a sample of another class,
            ``"balanced"`` one whose class is uniform over the classes present.
        global_batch: Under ``torch.distributed``, attention and pairs span the batches of all ranks.
        preset: Source of what is None.

    Attributes:
        strength: How much transformed and synthetic rows count in the loss, 0 (the plain loss of the originals) to 1. A
            buffer, saved with the state; set it by :meth:`set_strength`.

    Example:
        >>> mixer = AttnMixup(dim=16)
        >>> mixed = mixer(torch.randn(10, 16), torch.arange(10))
        >>> mixed.embeddings.shape
        torch.Size([20, 16])
    """

    strength: Tensor

    def __init__(
        self,
        dim: int,
        *,
        heads: int = 4,
        score: AttentionScore | None = None,
        sequence: Sequence = "pooled",
        sample_ratio: float = 0.7,
        transformed_ratio: float = 0.6,
        alpha: float = 1.0,
        lam: Lam | None = None,
        dropout: float = 0.2,
        feed_forward: int | None = None,
        sampling: Sampling | None = None,
        final: Final | None = None,
        averaging: Averaging | None = None,
        partner: Partner = "uniform",
        global_batch: bool = False,
        preset: Preset | None = None,
    ) -> None:
        super().__init__()
        check_choice("preset", preset or "paper", Preset)
        given = PRESETS[preset or "paper"]
        self.lam: Lam = lam or given["lam"]
        self.sampling: Sampling = sampling or given["sampling"]
        self.final: Final = final or given["final"]
        self.averaging: Averaging = averaging or given["averaging"]
        self.partner: Partner = partner
        check_choice("lam", self.lam, Lam)
        check_choice("sampling", self.sampling, Sampling)
        check_choice("final", self.final, Final)
        check_choice("averaging", self.averaging, Averaging)
        check_choice("partner", self.partner, Partner)
        check_ratio("sample_ratio", sample_ratio)
        check_ratio("transformed_ratio", transformed_ratio)
        if alpha <= 0:
            raise ValueError(f"alpha must be positive, got {alpha}.")
        self.dim, self.alpha, self.global_batch = dim, alpha, global_batch
        self.sample_ratio, self.transformed_ratio = sample_ratio, transformed_ratio
        self.attention = SampleAttention(
            dim,
            heads=heads,
            score=score or given["score"],
            sequence=sequence,
            dropout=dropout,
            feed_forward=given["feed_forward"] if feed_forward is None else feed_forward,
        )
        self.register_buffer("strength", torch.tensor(1.0))

    def forward(
        self,
        embeddings: Tensor,
        targets: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        target_mask: Tensor | None = None,
        group: Tensor | None = None,
        plan: MixupPlan | None = None,
        generator: Generator | None = None,
        need_attention: bool = False,
    ) -> MixedBatch:
        """Mix a batch; in evaluation mode, wrap it unchanged.

        Args:
            embeddings: H, shape ``(B, C)`` or ``(B, L, C)``.
            targets: Any tensor of B rows: class indices ``(B,)``, soft or multi-label ``(B, K)``, values ``(B,)``, tags
                ``(B, L)``.
            mask: Boolean, True for what is real: samples ``(B,)``, or tokens ``(B, L)`` of a sequence.
            target_mask: Boolean, shape ``targets.shape[:2]``, where the targets' tokens are not those of ``mask``.
            group: Integer, shape ``(B,)``: samples of different groups (label spaces) are never mixed.
            plan: Mix by this plan instead of drawing one; see :meth:`draw`.
            generator: Source of all random numbers, on the device of the embeddings.
            need_attention: Keep the attention weights in the result.
        """
        check_embeddings(embeddings, self.dim, mask)
        if targets is not None and targets.shape[:1] != embeddings.shape[:1]:
            raise ValueError(
                f"targets must have one row per sample, got {tuple(targets.shape)} for embeddings "
                f"{tuple(embeddings.shape)}."
            )
        if target_mask is not None:
            if targets is None or targets.ndim < 2:
                raise ValueError("target_mask goes with targets of shape (B, L, ...).")
            check_mask("target_mask", target_mask, targets.shape[:2])
        token_mask = _token_mask(targets, mask, target_mask)
        valid = _valid(embeddings, mask)
        size = len(embeddings)
        rows = torch.arange(size, device=embeddings.device)
        if not self.training:
            return MixedBatch(
                embeddings=embeddings,
                targets_a=targets,
                targets_b=targets,
                lam=torch.ones_like(valid),
                mask=mask if embeddings.ndim == 3 else None,
                mask_a=token_mask,
                mask_b=token_mask,
                weight=valid / valid.sum().clamp_min(1),
                origin=torch.full_like(rows, Origin.ORIGINAL),
                index_a=rows,
                index_b=rows,
                num_originals=size,
                num_synthetic=0,
            )
        transformed, attention = self.attention(
            embeddings, mask=mask, generator=generator, need_attention=need_attention
        )
        if plan is None:
            plan = self.draw(size, targets=targets, valid=valid, group=group, generator=generator, device=rows.device)
        pool = torch.cat([embeddings, transformed])
        first, second = plan.first % size, plan.second % size
        sequence_mask = mask if embeddings.ndim == 3 else None
        synthetic = functional.interpolate(
            pool[plan.first],
            pool[plan.second],
            plan.lam,
            first_mask=_pick(sequence_mask, first),
            second_mask=_pick(sequence_mask, second),
        )
        index_a = torch.cat([rows, plan.transformed, first])
        index_b = torch.cat([rows, plan.transformed, second])
        counts = [size, len(plan.transformed), len(plan.first)]
        return MixedBatch(
            embeddings=torch.cat([embeddings, transformed[plan.transformed], synthetic]),
            targets_a=_pick(targets, index_a),
            targets_b=_pick(targets, index_b),
            lam=torch.cat([plan.lam.new_ones(counts[0] + counts[1]), plan.lam]),
            mask=None if sequence_mask is None else sequence_mask[index_a] | sequence_mask[index_b],
            mask_a=_pick(token_mask, index_a),
            mask_b=_pick(token_mask, index_b),
            weight=self._weight(valid[index_a], counts),
            origin=torch.cat(
                [torch.full_like(rows[:1], origin).expand(n) for origin, n in zip(Origin, counts, strict=True)]
            ),
            index_a=index_a,
            index_b=index_b,
            num_originals=size,
            num_synthetic=counts[2],
            attention=attention,
        )

    def draw(
        self,
        size: int,
        *,
        targets: Tensor | None = None,
        valid: Tensor | None = None,
        group: Tensor | None = None,
        generator: Generator | None = None,
        device: torch.device | str | None = None,
    ) -> MixupPlan:
        """Draw what is random about mixing ``size`` samples: change it as you like, and pass it as ``plan``.

        Args:
            size: Number of samples B.
            targets: Class labels, which ``partner="other_class"`` and ``"balanced"`` need.
            valid: Shape ``(B,)``, 0 for a padding sample; those are mixed among themselves only.
            group: Integer, shape ``(B,)``; samples of different groups are never mixed.
            generator: Source of the random numbers.
            device: Where to draw.
        """
        draws: dict[str, Any] = {"generator": generator, "device": device}
        rows = torch.arange(size, device=device)
        from_original = round(self.sample_ratio * size)
        if self.sampling == "random":
            pairing_set = rows + size * (torch.randperm(size, **draws) >= from_original)
        else:
            pairing_set = torch.cat([rows[:from_original], rows[size - from_original :] + size])
        sources = pairing_set % size
        group = torch.zeros_like(rows) if group is None else group
        group = group if valid is None else 2 * group + valid.long()
        if self.partner == "uniform":
            partner = sampling.draw_permutation(group[sources], generator=generator)
        else:
            choose = sampling.draw_other_class if self.partner == "other_class" else sampling.draw_balanced
            partner = choose(group[sources], sampling.class_of(targets)[sources], generator=generator)

        num_transformed = round(self.transformed_ratio * size)
        if self.final == "sample":
            transformed = sampling.draw_rows(size, num_transformed, **draws)
            chosen = sampling.draw_rows(len(pairing_set), size - num_transformed, **draws)
        elif self.final == "slice":
            transformed = rows[:num_transformed]
            chosen = torch.arange(round((1 - self.transformed_ratio) * len(pairing_set)), device=device)
        else:
            transformed = rows
            chosen = torch.arange(len(pairing_set), device=device)
        lam = sampling.draw_lam(self.alpha, len(chosen) if self.lam == "sample" else 1, **draws).expand(len(chosen))
        return MixupPlan(transformed, pairing_set[chosen], pairing_set[partner[chosen]], lam)

    def set_strength(self, strength: float) -> None:
        """Let transformed and synthetic rows count this much in the loss, from 0 (not at all) to 1 (fully)."""
        check_ratio("strength", strength)
        self.strength.fill_(strength)

    def extra_repr(self) -> str:
        """The options that decide how pairs are made."""
        return (
            f"sample_ratio={self.sample_ratio}, transformed_ratio={self.transformed_ratio}, alpha={self.alpha}, "
            f"lam={self.lam!r}, sampling={self.sampling!r}, final={self.final!r}, averaging={self.averaging!r}, "
            f"partner={self.partner!r}, global_batch={self.global_batch}"
        )

    def _weight(self, valid: Tensor, counts: list[int]) -> Tensor:
        originals, transformed, synthetic = torch.split(valid, counts)
        strength = self.strength.to(valid.dtype)
        if self.final == "weight":
            transformed, synthetic = transformed * self.transformed_ratio, synthetic * (1 - self.transformed_ratio)
        real = torch.cat([originals, strength * transformed])
        if self.averaging == "together":
            together = torch.cat([real, strength * synthetic])
            return together / together.sum().clamp_min(1)
        num_valid = valid[counts[0] + counts[1] :].sum().clamp_min(1)
        return torch.cat([real / real.sum().clamp_min(1), strength * synthetic / num_valid])


def _pick(tensor: Tensor | None, index: Tensor) -> Tensor | None:
    return None if tensor is None else tensor[index]


def _valid(embeddings: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return torch.ones(len(embeddings), device=embeddings.device)
    return (mask if mask.ndim == 1 else mask.any(1)).float()


def _token_mask(targets: Tensor | None, mask: Tensor | None, target_mask: Tensor | None) -> Tensor | None:
    # An embedding mask also masks targets that are made of the same tokens: tags (B, L) or vectors (B, L, K).
    if target_mask is not None or targets is None or mask is None:
        return target_mask
    by_token = targets.ndim - targets.is_floating_point() == 2 and targets.shape[:2] == mask.shape
    return mask if by_token else None
