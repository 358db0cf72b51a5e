"""Phrases that detectors search for in an image, with a fake spaCy pipeline."""

import sys
from collections.abc import Iterable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from reference_models.data.samples import Sample
from reference_models.errors import UserError
from reference_models.grounding.phrases import entity_phrases, load_pipeline, noun_phrases

SPEECH = {"the": "DET", "it": "PRON", "--a--": "PUNCT"}


class Pipeline:
    """Fake spaCy pipeline: text between commas is a noun phrase, and `SPEECH` gives the parts of speech."""

    def pipe(self, texts: Iterable[str]) -> Iterator[Any]:
        for text in texts:
            chunks = [
                [SimpleNamespace(text=word, pos_=SPEECH.get(word, "NOUN")) for word in part.split()]
                for part in text.split(",")
            ]
            yield SimpleNamespace(noun_chunks=chunks)


def test_noun_phrases_drop_pronouns_mentions_urls_and_numbers() -> None:
    sentences = ["the big dog , it , RT @me Paris , http://x.y 12 !", "house , the house , --a--", "it"]
    samples = [Sample(f"a:{number}", tuple(sentence.split())) for number, sentence in enumerate(sentences)]
    assert noun_phrases(samples, Pipeline()) == [("big dog", "Paris"), ("house",), ()]


def test_phrases_of_a_relation_are_its_entities() -> None:
    words = ("Ann", "Lee", "and", "Rome", ",", "Rome")
    assert entity_phrases(Sample("a", words, head=(3, 4), tail=(0, 2))) == ("Rome", "Ann Lee")
    assert entity_phrases(Sample("a", words, head=(3, 4), tail=(5, 6))) == ("Rome",)


def test_missing_spacy_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(UserError, match=r"pip install '\.\[grounding\]'"):
        load_pipeline("en_core_web_sm")


def test_pipeline_must_exist_and_have_a_tagger_and_a_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str) -> Any:
        if name == "missing":
            raise OSError("[E050] Can't find model 'missing'")
        return SimpleNamespace(pipe_names=["tok2vec", "tagger", "parser"] if name == "whole" else [])

    monkeypatch.setitem(sys.modules, "spacy", SimpleNamespace(load=load))
    assert load_pipeline("whole").pipe_names
    with pytest.raises(UserError, match=r"grounding\.phrases: expected the name or folder .* got 'missing'.*E050"):
        load_pipeline("missing")
    with pytest.raises(UserError, match=r"with a tagger and a parser, 'blank' has \[\]"):
        load_pipeline("blank")
