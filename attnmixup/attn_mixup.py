"""AttnMixup: attention across the batch, then mixup of original and transformed samples (Eq. 8-16)."""

import warnings
from typing import Any

import torch
import torch.distributed as dist
from torch import Generator, Tensor, nn

from attnmixup import diagnostics, distributed, functional
from attnmixup.batch import Batch
from attnmixup.checks import check_embeddings, check_ratio
from attnmixup.final_set import final_set, unmixed, used_rows
from attnmixup.mixed_batch import MixedBatch
from attnmixup.options import Averaging, Counts, Final, Lam, MixupOptions, Partner, Preset, Sampling, preset_options
from attnmixup.sample_attention import AttentionScore, SampleAttention, Sequence
from attnmixup.sampling import MixupPlan, draw_plan

# Training steps after which parameters that never changed are worth a warning, whatever gradients are accumulated.
PATIENCE = 500


class AttnMixup(nn.Module):
    """Transform a batch by attention across its samples, then mix the two pairwise: AttnMixup (Eq. 8-16).

    In training, B samples become the final set of Eq. 16: the originals, a share of the transformed samples H* (with
    the labels of their originals), and synthetic ones interpolated between samples of H and H*. In evaluation the very
    same tensor comes back, nothing is drawn, and nothing is computed.

    Options that are None take their value from the preset. ``"paper"`` (the default) is the equations, ``"release"``
    what the code published with the paper meant to do, ``"recommended"`` what helps most on our benchmark. Neighbours
    that are settings of these options: ``"manifold_mixup"`` (pairs of hidden states, Verma et al. 2019),
    ``"batchformer"`` (a transformer layer across the batch, no pairs, Hou et al. 2022) and ``"nearest_mixup"`` (pairs
    of near samples, as in LADA, Chen et al. 2020).

    Args:
        dim: Width C of the embeddings.
        heads: Attention heads.
        score: Score of the attention: ``"additive"`` (paper), ``"shared"``, ``"dot"`` (release) or ``"cosine"``
            (recommended), see :class:`SampleAttention`.
        sequence: How sequences are attended, ``"pooled"`` (paper), ``"position"`` or ``"sample"`` (recommended), see
            :class:`SampleAttention`.
        sample_ratio: delta of Eq. 13, the share of H in the set from which pairs are taken; 0.7 (paper), 0.85
            (recommended).
        transformed_ratio: Delta of Eq. 16, the share of H* in what is added to H; 0.6 (paper), 0 (recommended).
        alpha: lambda is drawn from Beta(alpha, alpha).
        lam: Draw one lambda per synthetic ``"sample"`` (paper) or per ``"batch"`` (release).
        dropout: Rate in the attention; 0.2 (paper).
        gate: Let the update of each feature start at 0 (recommended) or not (paper), see :class:`SampleAttention`.
        feed_forward: Hidden width of a feed-forward block after the attention, 0 (paper) or 2048 (release).
        sampling: Eq. 13. ``"random"`` (paper): round(delta B) samples drawn at random stand as they are, the other
            samples transformed. ``"balanced"`` (recommended): the same of B samples drawn with replacement, each class
            of the batch as likely as any other; tags and values, of which no sample has one class, as ``"random"``.
            ``"slice"`` (release): the first round(delta B) rows of H and the last of H*.
        final: Eq. 16. ``"sample"`` (paper): round(Delta B) rows drawn from H*, and synthetic ones up to B, so 2B rows
            in all. ``"slice"`` (release): the first Delta of H* and the first 1 - Delta of the mixed rows.
            ``"weight"``: all rows of H, H* and the mixed set, weighted 1, Delta and 1 - Delta. ``"mixed"``: the mixed
            rows; the originals are there and weigh nothing.
        averaging: The loss is the mean over all rows ``"together"`` (paper), or over real and synthetic rows
            ``"apart"``, and the two means added (release).
        counts: Shares of a batch are rounded half up (``"round"``, paper) or down (``"truncate"``, release).
        partner: Second of a pair: ``"uniform"`` is a random permutation, ``"derangement"`` one that gives no sample
            itself, ``"other_class"`` a sample of another class, ``"balanced"`` one whose class is uniform over the
            classes present, ``"nearest"`` one of the ``neighbours`` nearest ones.
        neighbours: Number of nearest samples from which ``partner="nearest"`` draws.
        global_batch: Under ``torch.distributed``, attention and pairs span the batches of all ranks.
        process_group: The ranks of the global batch; None for all.
        preset: Source of what is None.
        device: Of the parameters.
        dtype: Of the parameters.

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
        # On the CPU and no buffer: it is read without waiting, and whoever fills a module that was made on the meta
        # device leaves it alone. A tensor all the same, so that torch.compile does not compile anew for each value.
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
            mask: Boolean, True for what is real: samples ``(B,)``, or the tokens ``(B, L)`` of a sequence. It also
                masks targets of the same tokens: integers ``(B, L)`` or floating point ``(B, L, K)``.
            target_mask: Boolean, shape ``targets.shape[:2]``, if the targets have tokens of their own.
            group: Integer, shape ``(B,)``: samples of different groups (label spaces) are never mixed.
            plan: Mix by this plan instead of drawing one, see :meth:`draw`. With ``global_batch`` the plan of rank 0
                counts, and it is one for the samples of all ranks.
            generator: Source of all random numbers, on the device of the embeddings.
            need_attention: Keep the attention weights in the result.

        Returns:
            The final set. In evaluation and at strength 0, the batch itself.

        Raises:
            ValueError: If shapes, or the modes and arguments of the ranks of a global batch, do not go together.
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
            return unmixed(batch.replace_embeddings(self._tied(embeddings)))
        _refuse_recomputation(generator)
        if everywhere:
            batch = distributed.gather_batch(batch, headers, self.ranks.group)
        batch = batch.replace_embeddings(functional.finite_padding(batch.embeddings, batch.mask))
        given = plan is not None
        if not self._acts:
            # The originals alone, weighted as parts of the global batch.
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
            plan.check(batch.size)
        share = None
        if everywhere:
            share = distributed.share_of(plan, [header.size for header in headers], self.ranks)
        transformed, rows, attention = self._transform(batch, share.plan if share else plan, generator, need_attention)
        return final_set(batch, transformed, rows, plan, self.options, self._strength, share=share, attention=attention)

    def _transform(
        self, batch: Batch, plan: MixupPlan, generator: Generator | None, need_attention: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Rows of H* that the plan uses, which rows these are, and the weights of all rows if asked for."""
        rows = used_rows(plan)
        if need_attention:
            rows = torch.arange(batch.size, device=rows.device)
        elif rows.shape[0] == 0 or self.options.never_transforms(plan.size):
            return self._tied(batch.embeddings[:0]), rows[:0], None
        self._notice_untrained()
        transformed, attention = self.attention(
            batch.embeddings, mask=batch.mask, rows=rows, generator=generator, need_attention=need_attention
        )
        return transformed, rows, attention

    def _tied(self, embeddings: Tensor) -> Tensor:
        """The embeddings, and under torch.distributed a gradient of 0 for all parameters, which DDP waits for."""
        if not distributed.is_distributed():
            return embeddings
        tied: Tensor = _ZeroGradients.apply(embeddings, *self.parameters())
        return tied

    def _notice_untrained(self) -> None:
        """Warn once if a parameter has not changed for many steps.

        A counter that most optimizers advance tells without waiting for the device; fused ones do not advance it, so
        that values are compared, once, before the warning.
        """
        if torch.compiler.is_compiling() or distributed.is_distributed() or self._steps_unchanged >= PATIENCE:
            return
        parameter = next(self.attention.parameters())
        if not isinstance(parameter, nn.Parameter):  # torch.func calls with tensors of its own
            return
        changed = parameter._version != self._version or not (parameter.requires_grad and torch.is_grad_enabled())
        self._version, self._steps_unchanged = parameter._version, 0 if changed else self._steps_unchanged + 1
        if self._steps_unchanged == 1:
            self._value = parameter.detach().clone()
        elif self._steps_unchanged == PATIENCE and torch.equal(parameter, self._value.to(parameter.device)):
            warnings.warn(
                f"The parameters of AttnMixup have not changed in {PATIENCE} training steps: are they in the "
                "optimizer? attnmixup.training.missing_parameters(model, optimizer) lists what is not.",
                stacklevel=6,
            )

    def draw(
        self,
        size: int,
        *,
        targets: Tensor | None = None,
        embeddings: Tensor | None = None,
        group: Tensor | None = None,
        generator: Generator | None = None,
        device: torch.device | None = None,
    ) -> MixupPlan:
        """Draw what is random about mixing ``size`` samples: change it as you like, and pass it as ``plan``.

        Args:
            size: Number of samples B.
            targets: Class labels, which ``sampling="balanced"`` and ``partner="other_class"`` and
                ``"balanced"`` need.
            embeddings: One vector of each sample, shape ``(B, C)``, which ``partner="nearest"`` needs.
            group: Integer, shape ``(B,)``; samples of different groups are never mixed.
            generator: Source of the random numbers.
            device: Where to draw; None is where ``targets`` or ``group`` are.
        """
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
        """What the attention does to a batch, without dropout or gradient: to be looked at every so often.

        :func:`attnmixup.diagnostics.findings` says in words what is wrong with the numbers.

        Args:
            embeddings: H, shape ``(B, C)`` or ``(B, L, C)``, with two or more real samples.
            targets: Class indices ``(B,)``, for ``attention/same_class``.
            mask: As in :meth:`forward`.

        Returns:
            ``norm/originals`` and ``norm/transformed``: mean length of the rows of H and H*. ``attention/entropy``: of
            the weights over that of uniform ones; 1 if every sample receives the mean of the batch.
            ``attention/common``: share of the squared update that is one vector for all samples.
            ``attention/same_class``: weight on other samples of the receiver's class over what chance would give them;
            left out where no two samples share a class.
        """
        check_embeddings(embeddings, self.dim, mask)
        return diagnostics.attention_stats(self.attention, embeddings, targets, mask=mask)

    @property
    def strength(self) -> float:
        """How much transformed and synthetic rows count in the loss: 0 is the plain loss of the originals, 1 all.

        Saved with the state; changed by :meth:`set_strength`.
        """
        return float(self._strength)

    def set_strength(self, strength: float) -> None:
        """Let transformed and synthetic rows count this much in the loss, from 0 (not at all) to 1 (fully).

        At 0 nothing is drawn and nothing transformed; the mixer gives back the batch as in evaluation.

        Raises:
            ValueError: If it is not within [0, 1].
        """
        check_ratio("strength", strength)
        self._strength = torch.tensor(strength, dtype=torch.float32, device="cpu")
        self._acts = strength > 0

    def reset_parameters(self) -> None:
        """Set the strength to 1; the parameters belong to layers of their own, each with this method."""
        self.set_strength(1.0)

    def get_extra_state(self) -> Tensor:
        """The strength, for ``state_dict``."""
        return self._strength.clone()

    def set_extra_state(self, state: Any) -> None:
        """Take the strength from a ``state_dict``."""
        self.set_strength(float(state))

    def extra_repr(self) -> str:
        """The options, for ``print(mixer)``."""
        return f"{self.options}, global_batch={self.global_batch}"


class _ZeroGradients(torch.autograd.Function):
    """The first of the tensors; the others receive a gradient of 0."""

    @staticmethod
    def forward(ctx: Any, first: Tensor, *others: Tensor) -> Tensor:
        ctx.save_for_backward(*others)
        return first.view_as(first)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        return gradient, *(torch.zeros_like(other) for other in ctx.saved_tensors)


def _refuse_recomputation(generator: Generator | None) -> None:
    """Raise if activation checkpointing runs the forward pass again, which draws other numbers from a generator."""
    if generator is not None and not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1:
        raise RuntimeError(
            "AttnMixup runs again within a backward pass (activation checkpointing), where its generator would draw "
            "other numbers than in the forward pass: leave out generator= (the global random state is restored), or "
            "keep the mixer out of the checkpointed part."
        )
