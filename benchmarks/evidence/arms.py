"""Arms: the layer between body and head, AttnMixup with options or a control without attention."""

from typing import Any

import torch
from torch import Generator, Tensor, nn

from attnmixup import AttnMixup
from attnmixup.options import preset_options
from reference_models.errors import UserError

CONTROLS = ("layer_norm",)


class NormOnly(nn.Module):
    """Control without attention: LayerNorm of the same rows instead of H*, without the other samples."""

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
        """Return ``LN(H)`` of the rows and no weights, for the arguments of :class:`attnmixup.SampleAttention`."""
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
        options: Options of :class:`attnmixup.AttnMixup`, plus ``control: layer_norm`` to use ``LN(H)`` instead of H*.
            None for plain training.
        dim: Width of the embeddings.

    Raises:
        UserError: If AttnMixup does not accept the options, or the control is unknown.
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
        raise UserError(f"expected options of AttnMixup, got {options} ({error})") from error
    if control == "layer_norm":
        mixer.register_module("attention", NormOnly(dim))
    return mixer


def full_options(options: dict[str, Any] | None, dim: int) -> dict[str, Any] | None:
    """Return the options of an arm together with those of its preset, so that equal arms have equal options.

    Raises:
        UserError: If the preset is unknown.
    """
    if options is None:
        return None
    given = {name: value for name, value in options.items() if name != "preset"}
    try:
        return preset_options(options.get("preset"), dim, given)
    except ValueError as error:
        raise UserError(f"expected options of AttnMixup, got {options} ({error})") from error


def partners_need_classes(options: dict[str, Any] | None) -> bool:
    """Return whether partners are chosen by class. Sentences with a tag per word have no single class."""
    return options is not None and options.get("partner") in ("balanced", "other_class")
