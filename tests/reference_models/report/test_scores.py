"""The type tables compared with the scorer on random tags and with hand-computed values."""

import random

from reference_models.report.scores import confusion_map, type_table, types_by_support
from reference_models.tasks import NamedEntities, Relations
from reference_models.tasks.metrics import ner_scores, relation_scores
from reference_models.tasks.ner import tags_of
from tests.reference_models.page_parser import Page

TAGS = tuple(tags_of(("PER", "LOC", "ORG", "MISC")))

NER = NamedEntities(TAGS)


def test_outcomes_of_a_sentence() -> None:
    true = ["B-PER", "I-PER", "O", "B-LOC", "B-ORG", "O"]
    predicted = ["B-PER", "I-PER", "O", "B-ORG", "O"]  # cut off by the length limit
    assert NER.outcomes(true, predicted) == [("PER", "PER"), ("LOC", "ORG"), ("ORG", None)]
    assert NER.outcomes(["O", "O"], ["B-MISC", "O"]) == [(None, "MISC")]


def test_wrong_boundaries_are_missed_and_spurious() -> None:
    assert NER.outcomes(["B-PER", "I-PER"], ["B-PER", "O"]) == [(None, "PER"), ("PER", None)]


def test_outcome_of_a_relation() -> None:
    task = Relations(["NA", "peer"], "NA")
    assert task.outcomes("peer", "NA") == [("peer", None)]
    assert task.outcomes("NA", "NA") == [(None, None)]


def test_entity_table_matches_the_scorer() -> None:
    draw = random.Random(0)
    rows = [{key: draw.choices(TAGS, k=9) for key in ("true", "predicted")} for _ in range(200)]
    types = ("PER", "LOC", "ORG", "MISC")
    scores = ner_scores([row["true"] for row in rows], [row["predicted"] for row in rows], types)
    pairs = [pair for row in rows for pair in NER.outcomes(**row)]
    _, *by_type, of_all = Page(type_table(pairs, "entity")).tables[""][0]
    assert {name: cells[2] for name, *cells in by_type} == {k: f"{100 * scores[f'{k}_f1']:.2f}" for k in types}
    assert of_all[1:4] == [f"{100 * scores[name]:.2f}" for name in ("precision", "recall", "f1")]


def test_relation_table_matches_hand_computed_scores() -> None:
    pairs = [("a", "a"), ("a", "b"), ("a", None), ("b", "b"), (None, "a"), (None, None)]
    rows = Page(type_table(pairs, "relation")).tables[""][0]
    assert rows[1] == ["a", "50.00", "33.33", "40.00", "3", "2"]
    assert rows[2] == ["b", "50.00", "100.00", "66.67", "1", "2"]
    assert rows[3][3] == f"{100 * relation_scores(*zip(*pairs, strict=True), None)['f1']:.2f}"


def test_confusion_map_matches_hand_computed_counts() -> None:
    pairs = [("a", "a"), ("a", "b"), ("a", None), ("a", None), (None, "b")]
    page = Page(confusion_map(pairs, missed="missed", spurious="spurious"))
    assert page.tables[""][0] == [
        ["true \\ predicted", "a", "b", "missed"],
        ["a", "1", "1", "2"],
        ["b", "", "", ""],
        ["spurious", "", "1", ""],
    ]
    assert page.values("style")[:3] == ["--heat:25%", "--heat:25%", "--heat:50%"]


def test_types_with_the_most_samples_come_first() -> None:
    assert types_by_support([("b", "c"), ("b", "b"), ("a", None), (None, "d")]) == ["b", "a", "c", "d"]


def test_type_table_without_relations_is_zero() -> None:
    assert Page(type_table([(None, None)], "relation")).tables[""][0][1] == ["all", "0.00", "0.00", "0.00", "0", "0"]
