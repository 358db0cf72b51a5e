"""AttnMixup: attention across the batch, then mixup of original and transformed samples (Eq. 8-16)."""

import torch
from torch import Generator, Tensor, nn

from attnmixup import distributed
from attnmixup.batch import Batch
from attnmixup.checks import check_choice, check_embeddings, check_ratio
from attnmixup.final_set import final_set, unmixed
from attnmixup.mixed_batch import MixedBatch
from attnmixup.options import PRESETS, Averaging, Final, Lam, MixupOptions, Partner, Preset, Sampling
from attnmixup.sample_attention import AttentionScore, SampleAttention, Sequence
from attnmixup.sampling import MixupPlan, draw_plan


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
        preset = preset or "paper"
        check_choice("preset", preset, Preset)
        defaults = PRESETS[preset]
        self.dim, self.global_batch = dim, global_batch
        self.options = MixupOptions(
            sample_ratio=sample_ratio,
            transformed_ratio=transformed_ratio,
            alpha=alpha,
            sampling=sampling or defaults["sampling"],
            partner=partner,
            lam=lam or defaults["lam"],
            final=final or defaults["final"],
            averaging=averaging or defaults["averaging"],
        )
        self.attention = SampleAttention(
            dim,
            heads=heads,
            score=score or defaults["score"],
            sequence=sequence,
            dropout=dropout,
            feed_forward=defaults["feed_forward"] if feed_forward is None else feed_forward,
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
            mask: Boolean, True for what is real: samples ``(B,)``, or the tokens ``(B, L)`` of a sequence. It also
                masks targets of the same tokens: integers ``(B, L)`` or floating point ``(B, L, K)``.
            target_mask: Boolean, shape ``targets.shape[:2]``, if the targets have tokens of their own.
            group: Integer, shape ``(B,)``: samples of different groups (label spaces) are never mixed.
            plan: Mix by this plan instead of drawing one, see :meth:`draw`. With ``global_batch`` the plan of rank 0
                counts, and it is one for the samples of all ranks.
            generator: Source of all random numbers, on the device of the embeddings.
            need_attention: Keep the attention weights in the result.

        Raises:
            ValueError: If shapes do not go together.
            TypeError: If a mask is not boolean or the embeddings are not floating point.
        """
        check_embeddings(embeddings, self.dim, mask)
        batch = Batch(embeddings, targets, mask, target_mask, group)
        if not self.training:
            return unmixed(batch)
        everywhere = self.global_batch and distributed.is_distributed()
        sizes = [batch.size]
        if everywhere:
            batch, sizes = distributed.gather_batch(batch)
        transformed, attention = self.attention(
            batch.embeddings, mask=batch.mask, generator=generator, need_attention=need_attention
        )
        if plan is None:
            plan = self.draw(
                batch.size,
                targets=batch.targets,
                group=batch.pairing_group,
                generator=generator,
                device=embeddings.device,
            )
        if everywhere:
            plan = distributed.broadcast_plan(plan)
        mixed = final_set(batch, transformed, plan, self.options, self.strength, attention)
        return distributed.own_share(mixed, sizes) if everywhere else mixed

    def draw(
        self,
        size: int,
        *,
        targets: Tensor | None = None,
        group: Tensor | None = None,
        generator: Generator | None = None,
        device: torch.device | None = None,
    ) -> MixupPlan:
        """Draw what is random about mixing ``size`` samples: change it as you like, and pass it as ``plan``.

        Args:
            size: Number of samples B.
            targets: Class labels, which ``partner="other_class"`` and ``"balanced"`` need.
            group: Integer, shape ``(B,)``; samples of different groups are never mixed.
            generator: Source of the random numbers.
            device: Where to draw.
        """
        return draw_plan(self.options, size, targets=targets, group=group, generator=generator, device=device)

    def set_strength(self, strength: float) -> None:
        """Let transformed and synthetic rows count this much in the loss, from 0 (not at all) to 1 (fully)."""
        check_ratio("strength", strength)
        self.strength.fill_(strength)

    def extra_repr(self) -> str:
        """The options, for ``print(mixer)``."""
        return f"{self.options}, global_batch={self.global_batch}"
