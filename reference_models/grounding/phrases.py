"""Phrases for detectors: the noun phrases of a sentence, or the two entities of a relation."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from reference_models.data.samples import Sample
from reference_models.errors import UserError

EMPTY = ("DET", "PRON", "PUNCT", "SYM", "SPACE")  # parts of speech that name nothing in an image


def load_pipeline(name: str) -> Any:
    """Load a spaCy pipeline by name or from a folder.

    Raises:
        UserError: If spaCy or the pipeline is not installed, or the pipeline cannot find noun phrases.
    """
    try:
        import spacy
    except ImportError as error:
        raise UserError(
            "noun phrases need spaCy; install it, in the folder of the repository: pip install '.[grounding]'"
        ) from error
    try:
        pipeline = spacy.load(name)
    except (OSError, ValueError) as error:
        raise UserError(
            f"grounding.phrases: expected the name or folder of a spaCy pipeline, got {name!r}, which cannot be loaded "
            f"({error}); `python -m spacy download en_core_web_sm` installs a suitable one"
        ) from error
    if not {"parser", "tagger"} <= set(pipeline.pipe_names):
        raise UserError(
            f"grounding.phrases: expected a pipeline with a tagger and a parser, {name!r} has {pipeline.pipe_names}"
        )
    return pipeline


def entity_phrases(sample: Sample) -> tuple[str, ...]:
    """Return the words of the head and the tail entity, without repetitions."""
    spans = (span for span in (sample.head, sample.tail) if span is not None)
    return tuple(dict.fromkeys(" ".join(sample.words[slice(*span)]) for span in spans))


def noun_phrases(samples: Iterable[Sample], pipeline: Any) -> list[tuple[str, ...]]:
    """Find the noun phrases of each sentence with a spaCy pipeline, in order and without repetitions.

    Articles, pronouns, links, account names, "RT" and words without letters are removed from a phrase. Empty phrases
    are dropped.
    """
    documents = pipeline.pipe(" ".join(sample.words) for sample in samples)
    return [tuple(dict.fromkeys(filter(None, map(_phrase, document.noun_chunks)))) for document in documents]


def _phrase(chunk: Iterable[Any]) -> str:
    return " ".join(
        token.text
        for token in chunk
        if token.pos_ not in EMPTY
        and any(map(str.isalpha, token.text))
        and token.text != "RT"
        and not token.text.startswith(("@", "http"))
    )
