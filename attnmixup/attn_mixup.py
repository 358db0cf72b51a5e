"""AttnMixup: attention across the batch, then mixup of original and transformed samples (Eq. 8-16)."""

import warnings
from typing import Any

import torch
import torch.distributed as dist
from torch import Generator, Tensor, nn

from attnmixup import diagnostics, distributed
from attnmixup.batch import Batch, pairing_group
from attnmixup.checks import check_embeddings, check_ratio, refuse_recomputation
from attnmixup.final_set import final_set, unmixed, used_rows
from attnmixup.functional import finite_padding
from attnmixup.mixed_batch import MixedBatch
from attnmixup.options import Averaging, Counts, Final, Lam, MixupOptions, Partner, Preset, Sampling, preset_options
from attnmixup.sample_attention import AttentionScore, SampleAttention, Sequence
from attnmixup.sampling import MixupPlan, draw_plan

# Number of unchanged training steps before a warning; larger than any usual number of gradient accumulation steps.
PATIENCE = 500


class AttnMixup(nn.Module):
    """AttnMixup: attention across the samples of a batch, then mixup of original and transformed samples (Eq. 8-16).

    In training, B samples become the final set of Eq. 16: the originals, a share of the transformed samples H* (with
    the labels of their originals), and synthetic samples interpolated between rows of H and H*. In evaluation the
    module returns the same tensor and draws nothing. With ``global_batch`` and gradients, the ranks still compare their
    modes.

    Options that are None take their value from the preset. ``"paper"`` (the default) follows the equations,
    ``"release"`` follows the intention of the code published with the paper, and ``"recommended"`` works best on our
    benchmark. Three presets are related methods from the literature: ``"manifold_mixup"`` (pairs of hidden states,
    Verma et al. 2019), ``"batchformer"`` (a transformer layer across the batch, no pairs, Hou et al. 2022) and
    ``"nearest_mixup"`` (pairs of near samples, as in LADA, Chen et al. 2020).

    Args:
        dim: Width C of the embeddings.
        heads: Number of attention heads.
        score: Score function of the attention: ``"additive"`` (paper), ``"shared"``, ``"dot"`` (release) or
            ``"cosine"`` (recommended), see :class:`SampleAttention`.
        sequence: Attention on sequences: ``"pooled"`` (paper), ``"position"`` or ``"sample"`` (recommended), see
            :class:`SampleAttention`.
        sample_ratio: delta of Eq. 13, the share of H in the set from which pairs are taken; 0.7 (paper), 0.85
            (recommended).
        transformed_ratio: Delta of Eq. 16, the share of H* in the rows added to H; 0.6 (paper), 0 (recommended).
        alpha: lambda is drawn from Beta(alpha, alpha).
        lam: Draw one lambda per synthetic ``"sample"`` (paper) or per ``"batch"`` (release).
        dropout: Dropout rate after the attention and in the feed-forward block; 0.2 (paper).
        gate: Whether the update of each feature starts at 0 (recommended) or not (paper), see
            :class:`SampleAttention`.
        feed_forward: Hidden width of a feed-forward block after the attention, 0 (paper) or 2048 (release).
        sampling: The set from which pairs are taken (Eq. 13). ``"random"`` (paper): all B samples, a random
            round(delta B) of them from H and the others from H*. ``"balanced"`` (recommended): the same with B samples
            drawn with replacement, where each class of the batch is equally likely; tags and values, which give a
            sample no single class, are treated as in ``"random"``. ``"slice"`` (release): the first delta B rows of H
            and the last delta B rows of H*.
        final: The final set (Eq. 16). ``"sample"`` (paper): H, round(Delta B) rows drawn from H*, and
            B - round(Delta B) synthetic rows, so 2B rows in total. ``"slice"`` (release): H, the first Delta B rows of
            H* and the first 1 - Delta of the mixed rows. ``"weight"``: all rows of H, H* and the mixed set, weighted 1,
            Delta and 1 - Delta. ``"mixed"``: the mixed rows; the originals are kept with weight 0 at full strength.
        averaging: The loss is the mean over all rows ``"together"`` (paper), or the sum of the means over real and over
            synthetic rows ``"apart"`` (release).
        counts: Shares of a batch are rounded half up (``"round"``, paper) or down (``"truncate"``, release).
        partner: Second sample of a pair: ``"uniform"`` is a random permutation, ``"derangement"`` a permutation that
            pairs no sample with itself, ``"other_class"`` a sample of another class, ``"balanced"`` a sample whose
            class is uniform over the classes present, ``"nearest"`` one of the ``neighbours`` nearest samples.
        neighbours: Number of nearest samples from which ``partner="nearest"`` draws.
        global_batch: Under ``torch.distributed``, attention and pairs span the batches of all ranks.
        process_group: The ranks of the global batch; None for all.
        preset: Preset that fills the options that are None; None is ``"paper"``.
        device: Device of the parameters.
        dtype: Dtype of the parameters.

    Example:
        >>> mixer = AttnMixup(dim=16)
        >>> mixed = mixer(torch.randn(10, 16), torch.arange(10))
        >>> mixed.embeddings.shape
        torch.Size([20, 16])
    """

    def __init__(
        self,
        dim: int,
        *,
        heads: int = 4,
        score: AttentionScore | None = None,
        sequence: Sequence | None = None,
        sample_ratio: float | None = None,
        transformed_ratio: float | None = None,
        alpha: float = 1.0,
        lam: Lam | None = None,
        dropout: float | None = None,
        feed_forward: int | None = None,
        gate: bool | None = None,
        sampling: Sampling | None = None,
        final: Final | None = None,
        averaging: Averaging | None = None,
        counts: Counts | None = None,
        partner: Partner | None = None,
        neighbours: int = 3,
        global_batch: bool = False,
        process_group: dist.ProcessGroup | None = None,
        preset: Preset | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        of_pairs = {
            "sample_ratio": sample_ratio,
            "transformed_ratio": transformed_ratio,
            "sampling": sampling,
            "partner": partner,
            "lam": lam,
            "final": final,
            "averaging": averaging,
            "counts": counts,
        }
        of_attention = {
            "score": score,
            "sequence": sequence,
            "dropout": dropout,
            "feed_forward": feed_forward,
            "gate": gate,
        }
        options = preset_options(preset, dim, of_pairs | of_attention)
        self.dim, self.global_batch = dim, global_batch
        self.ranks = distributed.GroupReference(process_group)
        self.options = MixupOptions(alpha=alpha, neighbours=neighbours, **{name: options[name] for name in of_pairs})
        self.attention = SampleAttention(
            dim,
            heads=heads,
            device=device,
            dtype=dtype,
            **{name: options[name] for name in of_attention},
        )
        # Not a buffer: reading a CPU tensor never waits for the device, and code that fills a module created on the
        # meta device does not overwrite it. A tensor, because torch.compile would recompile for each new float.
        self._strength = torch.tensor(1.0, dtype=torch.float32, device="cpu")
        self._acts = True
        self._steps_unchanged = 0
        self._version = 0
        self._value = torch.empty(0)

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
            mask: Boolean, True for real samples ``(B,)`` or for the real tokens ``(B, L)`` of a sequence. It also masks
                targets of the same tokens: integers ``(B, L)`` or floating point ``(B, L, K)``. Multi-label targets
                ``(B, K)`` must therefore be floating point where K may equal L.
            target_mask: Boolean, shape ``targets.shape[:2]``, if the targets have other tokens than the embeddings.
            group: Integer, shape ``(B,)``: samples of different groups (label spaces) are never mixed.
            plan: Use this plan instead of drawing one, see :meth:`draw`. With ``global_batch`` the plan of rank 0 is
                used; it must cover the samples of all ranks.
            generator: Source of all random numbers, on the device of the embeddings.
            need_attention: Keep the attention weights in the result.

        Returns:
            The final set. In evaluation and at strength 0, the unchanged batch.

        Raises:
            ValueError: If shapes do not match, or if the ranks of a global batch differ in mode or arguments.
            TypeError: If a mask is not boolean or the embeddings are not floating point.
            RuntimeError: If activation checkpointing runs it again with a generator, or a rank does not take part.
        """
        everywhere = self.global_batch and distributed.is_distributed()
        check_embeddings(embeddings, self.dim, mask, may_be_empty=everywhere)
        batch = Batch(embeddings, targets, mask, target_mask, group)
        if everywhere and (self.training or torch.is_grad_enabled()):
            headers = distributed.exchange(
                batch, training=self.training, plan=plan, strength=self.strength, group=self.ranks.group
            )
        if not self.training:
            return unmixed(batch)
        if not self._acts and not everywhere:
            return unmixed(batch.replace_embeddings(self._with_zero_gradients(finite_padding(embeddings, mask))))
        refuse_recomputation(generator)
        if everywhere:
            batch = distributed.gather_batch(batch, headers, self.ranks.group)
        batch = batch.replace_embeddings(finite_padding(batch.embeddings, batch.mask))
        given = plan is not None
        if not self._acts:
            # Only the originals, weighted as parts of the global batch.
            none = torch.arange(0, device=embeddings.device)
            plan, given = MixupPlan(none, none, none, none.float(), batch.size), False
        if plan is None:
            plan = self.draw(
                batch.size,
                targets=batch.targets,
                embeddings=batch.pooled if self.options.partner == "nearest" else None,
                group=batch.pairing_group,
                generator=generator,
                device=embeddings.device,
            )
        if everywhere and self._acts:
            plan = distributed.broadcast_plan(plan, headers, embeddings.device, self.ranks.group)
        if given:
            plan.check(batch.pairing_group)
        share = None
        if everywhere:
            share = distributed.share_of(plan, [header.size for header in headers], self.ranks)
        # The options can rule out H* without looking at the plan, except at a plan of the caller.
        rows = plan.first[:0]
        if given or not self.options.never_transforms(plan.size):
            rows = used_rows(share.plan if share else plan)
        transformed, rows, attention = self._transform(batch, rows, generator, need_attention)
        return final_set(
            batch,
            transformed,
            rows,
            plan,
            self.options,
            self._strength,
            token_mask=mask if embeddings.ndim == 3 else None,
            share=share,
            attention=attention,
        )

    def _transform(
        self, batch: Batch, rows: Tensor, generator: Generator | None, need_attention: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return these rows of H* and their numbers; if the attention is requested, all rows, and their weights."""
        if need_attention:
            rows = torch.arange(batch.size, device=rows.device)
        elif rows.shape[0] == 0:
            return self._with_zero_gradients(batch.embeddings[:0]), rows, None
        self._warn_if_untrained()
        transformed, attention = self.attention(
            batch.embeddings, mask=batch.mask, rows=rows, generator=generator, need_attention=need_attention
        )
        return transformed, rows, attention

    def _with_zero_gradients(self, embeddings: Tensor) -> Tensor:
        """Return the embeddings; under torch.distributed all parameters get a gradient of 0, which DDP waits for."""
        if not distributed.is_distributed():
            return embeddings
        tied: Tensor = _ZeroGradients.apply(embeddings, *self.parameters())
        return tied

    def _warn_if_untrained(self) -> None:
        """Warn once if a parameter has not changed for many steps.

        Most optimizers advance the version counter of a parameter, which can be read without waiting for the device.
        Fused optimizers do not, so the values are compared once before the warning.
        """
        if torch.compiler.is_compiling() or distributed.is_distributed() or self._steps_unchanged >= PATIENCE:
            return
        parameter = next(self.attention.parameters())
        if not isinstance(parameter, nn.Parameter):  # torch.func replaces parameters by plain tensors
            return
        changed = parameter._version != self._version or not (parameter.requires_grad and torch.is_grad_enabled())
        self._version, self._steps_unchanged = parameter._version, 0 if changed else self._steps_unchanged + 1
        if self._steps_unchanged == 1:
            self._value = parameter.detach().clone()
        elif self._steps_unchanged == PATIENCE and torch.equal(parameter, self._value.to(parameter.device)):
            warnings.warn(
                f"The parameters of AttnMixup have not changed in {PATIENCE} training steps: check that they are in "
                "the optimizer. attnmixup.training.missing_parameters(model, optimizer) lists the missing parameters.",
                stacklevel=6,
            )

    def draw(
        self,
        size: int,
        *,
        targets: Tensor | None = None,
        embeddings: Tensor | None = None,
        mask: Tensor | None = None,
        group: Tensor | None = None,
        generator: Generator | None = None,
        device: torch.device | None = None,
    ) -> MixupPlan:
        """Draw the random part of mixing ``size`` samples.

        Args:
            size: Number of samples B.
            targets: Class labels, required by ``sampling="balanced"``, ``partner="other_class"`` and
                ``partner="balanced"``.
            embeddings: One vector per sample, shape ``(B, C)``, required by ``partner="nearest"``.
            mask: Boolean, shape ``(B,)`` or ``(B, L)``; real samples and padding are never mixed.
            group: Integer, shape ``(B,)``; samples of different groups are never mixed.
            generator: Source of the random numbers.
            device: Device of the plan; None is the device of ``targets``, ``group``, ``mask`` or ``embeddings``.

        Returns:
            A plan for B samples, which can be changed and passed as ``plan``.

        Raises:
            ValueError: If a tensor does not have B rows, or the options need one that is None.
        """
        if mask is not None:
            group = pairing_group(mask if mask.ndim == 1 else mask.any(1), group)
        return draw_plan(
            self.options,
            size,
            targets=targets,
            embeddings=embeddings,
            group=group,
            generator=generator,
            device=device,
        )

    def stats(
        self, embeddings: Tensor, targets: Tensor | None = None, *, mask: Tensor | None = None
    ) -> dict[str, float]:
        """Measure what the attention does to a batch, without dropout or gradient, for occasional monitoring.

        :func:`attnmixup.diagnostics.findings` describes problems that these numbers show.

        Args:
            embeddings: H, shape ``(B, C)`` or ``(B, L, C)``, with two or more real samples.
            targets: Class indices ``(B,)``, for ``attention/same_class``.
            mask: As in :meth:`forward`.

        Returns:
            ``norm/originals``, ``norm/transformed`` and ``norm/update``: mean norm of the rows of H, of H*, and of what
            the attention adds to H before the LayerNorm. ``attention/entropy``: entropy of the weights divided by the
            entropy of uniform weights; 1 if every sample receives the mean of the batch; absent if each sample can
            attend to one sample only. ``attention/common``: share of the squared update that is one vector for all
            samples. ``attention/same_class``: weight on other samples of the receiver's class divided by the weight
            expected by chance; absent if no two samples share a class.
        """
        check_embeddings(embeddings, self.dim, mask)
        return diagnostics.attention_stats(self.attention, embeddings, targets, mask=mask)

    @property
    def strength(self) -> float:
        """Weight of transformed and synthetic rows in the loss: 0 is the plain loss of the originals, 1 is full weight.

        It is saved in the ``state_dict``. :meth:`set_strength` changes it.
        """
        return float(self._strength)

    def set_strength(self, strength: float) -> None:
        """Set the weight of transformed and synthetic rows in the loss, from 0 (none) to 1 (full).

        At 0 the mixer draws and transforms nothing and returns the batch as in evaluation.

        Raises:
            ValueError: If ``strength`` is not in [0, 1].
        """
        check_ratio("strength", strength)
        self._strength = torch.tensor(strength, dtype=torch.float32, device="cpu")
        self._acts = strength > 0

    def reset_parameters(self) -> None:
        """Set the strength to 1. The parameters belong to submodules that have their own ``reset_parameters``."""
        self.set_strength(1.0)

    def get_extra_state(self) -> Tensor:
        """Return the strength, for ``state_dict``."""
        return self._strength.clone()

    def set_extra_state(self, state: Any) -> None:
        """Set the strength from a ``state_dict``."""
        self.set_strength(float(state))

    def extra_repr(self) -> str:
        """Return the options, for ``print(mixer)``."""
        return f"{self.options}, global_batch={self.global_batch}"


class _ZeroGradients(torch.autograd.Function):
    """Return the first tensor; the others receive a gradient of 0."""

    @staticmethod
    def forward(ctx: Any, first: Tensor, *others: Tensor) -> Tensor:
        ctx.save_for_backward(*others)
        return first.view_as(first)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        return gradient, *(torch.zeros_like(other) for other in ctx.saved_tensors)
