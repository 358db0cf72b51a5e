"""Arms: what stands between body and head. Options of AttnMixup, or the control without attention."""

from typing import Any

import torch
from torch import Generator, Tensor, nn

from attnmixup import AttnMixup
from reference_models.errors import UserError

CONTROLS = ("layer_norm",)


class NormOnly(nn.Module):
    """The control: LayerNorm of the same rows in the place of H*, with no attention and no other sample."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)

    def forward(
        self,
        embeddings: Tensor,
        *,
        mask: Tensor | None = None,
        rows: Tensor | None = None,
        generator: Generator | None = None,
        need_attention: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Take what :class:`attnmixup.SampleAttention` takes and give back ``LN(H)`` of the rows; no weights."""
        if rows is None:
            rows = torch.arange(embeddings.shape[0])
        chosen = embeddings[rows]
        normed: Tensor = self.norm(chosen)
        if mask is not None:
            normed = torch.where(mask[rows].unsqueeze(-1), normed, chosen)
        return normed, None


def make_mixer(options: dict[str, Any] | None, dim: int) -> AttnMixup | None:
    """Make the mixer of an arm.

    Args:
        options: None for plain training; else options of :class:`attnmixup.AttnMixup`, and ``control: layer_norm`` to
            put ``LN(H)`` in the place of H*.
        dim: Width of the embeddings.

    Raises:
        UserError: If AttnMixup has no such option, or not such a value.
    """
    if options is None:
        return None
    arguments = dict(options)
    control = arguments.pop("control", None)
    if control is not None and control not in CONTROLS:
        raise UserError(f"expected control to be one of {', '.join(CONTROLS)}, got {control!r}")
    try:
        mixer = AttnMixup(dim, **arguments)
    except (TypeError, ValueError) as error:
        raise UserError(f"not options of AttnMixup: {options} ({error})") from error
    if control == "layer_norm":
        mixer.attention = NormOnly(dim)
    return mixer


def partners_need_classes(options: dict[str, Any] | None) -> bool:
    """Whether partners are chosen by class, which sentences with a tag per word do not have."""
    return options is not None and options.get("partner") in ("balanced", "other_class")
