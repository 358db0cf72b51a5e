"""Sections of the report that need the trained model: the gap between the modalities, and the attention."""

from collections.abc import Sequence

from attnmixup.diagnostics import findings
from reference_models.analysis.modality_gap import batch_attention, measure_gap, project, semantic_sides
from reference_models.report.charts import IMAGE, TEXT, curve_chart, projection_chart
from reference_models.report.markup import Markup, element, heat_map, join, table
from reference_models.systems.base import System
from reference_models.tasks.dataset import EncodedSplit
from reference_models.training.figure import History, points

STATS = {
    "norm/originals": "mean norm of the rows of H",
    "norm/transformed": "mean norm of the rows of H*",
    "norm/update": "mean norm of what the attention adds to H",
    "attention/entropy": "entropy of the attention, as a share of the maximum",
    "attention/common": "share of the update that is the same for all samples",
    "attention/same_class": "weight on samples of the same class, relative to chance",
}
DIVERGENCES = {
    "text_to_image": "KL(text || image)",
    "image_to_text": "KL(image || text)",
    "symmetric": "Jensen-Shannon divergence",
}


def gap(model: System, split: EncodedSplit, history: History, batch_size: int) -> Markup:
    """Show the semantic loss, and the distance between the text and image distributions that it compares."""
    if model.semantic is None:
        return _note("The run was trained without the semantic loss, so there are no distributions to compare.")
    text, image = semantic_sides(model, split, batch_size)
    if len(text) < 2:
        return _note(f"{len(text)} of {len(split)} test samples have an image: too few to compare the modalities.")
    measured = measure_gap(text, image, model.semantic)
    divergence = DIVERGENCES[model.semantic.direction]
    of_text, of_image = measured.spread
    rows = [
        [f"{divergence}, each text and its own image", f"{measured.own:.4g} nats"],
        [f"{divergence}, each text and the image of another sample", f"{measured.other:.4g} nats"],
        [f"{divergence} of the mean distributions", f"{measured.means:.4g} nats"],
        ["distance between the mean log-probabilities", f"{measured.distance:.4g}"],
        ["mean distance of a text from the mean of the texts", f"{of_text:.4g}"],
        ["mean distance of an image from the mean of the images", f"{of_image:.4g}"],
        [f"effective number of features of a text (of {text.shape[1]})", f"{measured.features[0]:.1f}"],
        [f"effective number of features of an image (of {text.shape[1]})", f"{measured.features[1]:.1f}"],
    ]
    losses = [loss for _, loss in points(history, "semantic_loss")]
    over_time = [
        curve_chart(history, key, title, colour)
        for key, title, colour in (
            ("eval_gap_own", f"{divergence}, own image", TEXT),
            ("eval_gap_other", f"{divergence}, another image", IMAGE),
            ("eval_gap_distance", "distance between the means", TEXT),
        )
        if points(history, key)
    ]
    placed_text, placed_image, shares = project(text, image)
    return join(
        [
            element(
                "p",
                f"During training the semantic loss went from {losses[0]:.4g} to {losses[-1]:.4g} nats (see Training). "
                f"The chart shows the final model in evaluation mode on {len(text)} test samples with an image: the "
                "log-probabilities that the loss compares, projected onto their first two principal components. A "
                "cross marks the mean of each modality.",
            ),
            element("div", projection_chart({"text": placed_text, "image": placed_image}, shares), class_="charts"),
            element("p", "The gap over the epochs, measured on the first validation samples in evaluation mode:"),
            element("div", *over_time, class_="charts"),
            table(["gap", "final model"], rows),
            *map(_note, findings({"semantic/own": measured.own, "semantic/other": measured.other})),
            _note("A distribution that spreads over all features is flat."),
        ]
    )


def attention(model: System, batch: EncodedSplit, sentences: Sequence[Markup]) -> Markup:
    """Show the AttnMixup attention between the samples of a batch, with their sentences."""
    if model.mixer is None:
        return _note("The run was trained without AttnMixup, so there is no attention between samples.")
    weights, stats = batch_attention(model, batch)
    strongest = weights.max().item()
    names = [str(number) for number in range(1, len(batch) + 1)]
    cells = [[(f"{100 * weight:.1f}", weight / strongest) for weight in line] for line in weights.tolist()]
    return join(
        [
            element(
                "p",
                f"AttnMixup attention in a batch of {len(batch)} test samples: the percentage that each sample (row) "
                f"takes from each sample (column), averaged over {model.mixer.attention.heads} heads. "
                f"Uniform attention is {100 / len(batch):.1f}. AttnMixup runs only in training and does not change "
                "predictions.",
            ),
            heat_map("takes \\ from", names, names, cells),
            table(["this batch", "final model"], [[STATS[name], f"{value:.3g}"] for name, value in stats.items()]),
            *map(_note, findings(stats)),
            element("ol", *(element("li", sentence) for sentence in sentences), class_="sentences"),
        ]
    )


def _note(text: str) -> Markup:
    return element("p", text, class_="note")
