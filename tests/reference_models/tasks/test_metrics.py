"""Scores compared with hand-computed values, a slow second implementation, and scikit-learn."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, precision_recall_fscore_support

from reference_models.data.bio import spans
from reference_models.tasks.metrics import class_scores, more_scores, ner_scores, register_metric, relation_scores
from reference_models.tasks.ner import tags_of

TAGS = tuple(tags_of(("PER", "LOC", "ORG", "MISC")))

TYPES = ("PER", "LOC", "ORG", "MISC")
SENTENCES = st.lists(st.lists(st.sampled_from(TAGS), max_size=8), max_size=6)
RELATIONS = st.lists(st.tuples(*[st.sampled_from(["None", "peer", "part_of", "contain"])] * 2), max_size=20)


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("", set()),
        ("O O", set()),
        ("B-PER", {(0, 1, "PER")}),
        ("B-PER I-PER O B-LOC", {(0, 2, "PER"), (3, 4, "LOC")}),
        ("B-PER B-PER I-PER", {(0, 1, "PER"), (1, 3, "PER")}),
        ("O I-LOC I-LOC", {(1, 3, "LOC")}),
        ("B-PER I-LOC", {(0, 1, "PER"), (1, 2, "LOC")}),
        ("I-PER O I-PER", {(0, 1, "PER"), (2, 3, "PER")}),
        ("B-PER X I-PER", {(0, 1, "PER"), (2, 3, "PER")}),
    ],
)
def test_spans_match_hand_made_examples(tags: str, expected: set[tuple[int, int, str]]) -> None:
    assert spans(tags.split()) == expected


@given(st.lists(st.sampled_from(TAGS)))
def test_spans_match_brute_force(tags: list[str]) -> None:
    def opens(i: int) -> bool:
        before = tags[i - 1][2:] if i else ""
        return tags[i][0] == "B" or (tags[i][0] == "I" and before != tags[i][2:])

    expected = {
        (start, end, tags[start][2:])
        for start in range(len(tags))
        for end in range(start + 1, len(tags) + 1)
        if opens(start)
        and all(tags[i] == "I-" + tags[start][2:] for i in range(start + 1, end))
        and (end == len(tags) or tags[end] != "I-" + tags[start][2:])
    }
    assert spans(tags) == expected


def test_ner_scores_match_hand_computed_values() -> None:
    true = [["B-PER", "I-PER", "O", "B-LOC"], ["B-ORG", "O"]]
    predicted = [["B-PER", "I-PER", "B-LOC", "I-LOC"], ["B-ORG", "B-ORG"]]
    # right: PER and the first ORG; 4 predicted; 3 true
    assert ner_scores(true, predicted, TYPES) == pytest.approx(
        {
            "precision": 2 / 4,
            "recall": 2 / 3,
            "f1": 4 / 7,
            "PER_f1": 1.0,
            "LOC_f1": 0.0,
            "ORG_f1": 2 / 3,
            "MISC_f1": 0.0,
        }
    )


def test_same_span_in_another_sentence_is_not_a_match() -> None:
    assert ner_scores([["B-PER"], ["O"]], [["O"], ["B-PER"]])["f1"] == 0.0


def test_words_beyond_the_length_limit_count_as_missed() -> None:
    scores = ner_scores([["B-PER", "O", "B-LOC", "I-LOC"]], [["B-PER", "O", "B-LOC"]])
    assert (scores["precision"], scores["recall"]) == (1 / 2, 1 / 2)
    assert ner_scores([["B-PER"]], [[]])["recall"] == 0.0


@given(SENTENCES)
def test_truncated_prediction_equals_padding_with_outside(true: list[list[str]]) -> None:
    halves = [tags[: len(tags) // 2] for tags in true]
    filled = [half + ["O"] * (len(tags) - len(half)) for half, tags in zip(halves, true, strict=True)]
    assert ner_scores(true, halves) == ner_scores(true, filled)


@given(SENTENCES, st.randoms(use_true_random=False))
def test_ner_scores_match_scikit_learn(true: list[list[str]], random: random.Random) -> None:
    predicted = [[tag if random.random() < 0.6 else random.choice(TAGS) for tag in tags] for tags in true]
    scores = ner_scores(true, predicted, TYPES)
    true_spans = {(i, *span) for i, tags in enumerate(true) for span in spans(tags)}
    predicted_spans = {(i, *span) for i, tags in enumerate(predicted) for span in spans(tags)}
    for kinds, prefix in [(TYPES, ""), *[((kind,), f"{kind}_") for kind in TYPES]]:
        every = [span for span in sorted(true_spans | predicted_spans) if span[-1] in kinds] + [None]
        precision, recall, f1, _ = precision_recall_fscore_support(
            [span in true_spans for span in every],
            [span in predicted_spans for span in every],
            average="binary",
            zero_division=0,
        )
        assert scores[f"{prefix}f1"] == pytest.approx(f1)
        if not prefix:
            assert (scores["precision"], scores["recall"]) == pytest.approx((precision, recall))


@given(SENTENCES)
def test_perfect_and_empty_predictions(true: list[list[str]]) -> None:
    any_entity = any(spans(tags) for tags in true)
    perfect = ner_scores(true, true)
    assert perfect["f1"] == perfect["precision"] == perfect["recall"] == float(any_entity)
    assert set(ner_scores(true, [[] for _ in true]).values()) == {0.0}


def test_mismatched_lengths_raise() -> None:
    with pytest.raises(ValueError, match="got 1 for 2 sentences"):
        ner_scores([["O"], ["O"]], [["O"]])
    with pytest.raises(ValueError, match=r"sentence 1: .*got 2 predicted tags for 1 words"):
        ner_scores([["O"], ["O"]], [["O"], ["O", "O"]])
    with pytest.raises(ValueError, match="got 2 for 1 pairs"):
        relation_scores(["None"], ["None", "None"])


def test_relation_scores_match_hand_computed_values() -> None:
    true = ["None", "peer", "peer", "part_of", "None"]
    predicted = ["None", "peer", "part_of", "None", "peer"]
    assert relation_scores(true, predicted) == pytest.approx(
        {"precision": 1 / 3, "recall": 1 / 3, "f1": 1 / 3, "accuracy": 2 / 5}
    )
    assert relation_scores(true, predicted, none="peer")["recall"] == pytest.approx(1 / 3)
    assert relation_scores([], []) == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "accuracy": 0.0}


@given(RELATIONS)
def test_relation_scores_match_scikit_learn(pairs: list[tuple[str, str]]) -> None:
    true, predicted = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    scores = relation_scores(true, predicted)
    if not pairs:
        return
    precision, recall, f1, _ = precision_recall_fscore_support(
        true, predicted, labels=["peer", "part_of", "contain"], average="micro", zero_division=0
    )
    assert scores == pytest.approx(
        {"precision": precision, "recall": recall, "f1": f1, "accuracy": accuracy_score(true, predicted)}
    )


def test_class_scores_match_scikit_learn() -> None:
    rng = random.Random(0)
    names = ["None", "a", "b", "c"]
    true, predicted = (rng.choices(names, k=200) for _ in range(2))
    pairs = [[(number, name) for number, name in enumerate(side) if name != "None"] for side in (true, predicted)]
    found = class_scores(*pairs)
    expected = precision_recall_fscore_support(true, predicted, labels=list(found), zero_division=0.0)
    assert set(found) == {"a", "b", "c"}
    for place, scores in enumerate(found.values()):
        assert list(scores.values()) == pytest.approx([part[place] for part in expected])


def test_class_without_gold_examples_comes_last() -> None:
    assert class_scores([(0, "b"), (1, "b")], [(0, "a"), (1, "b")]) == {
        "b": {"precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3), "support": 2},
        "a": {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0},
    }


def test_metric_is_registered_once_per_task() -> None:
    def share(true: list[str], predicted: list[str]) -> float:
        return len(predicted) / len(true)

    assert register_metric("share", "a task")(share) is share
    assert more_scores("a task", ["a", "b"], ["a"]) == {"share": 0.5}
    assert more_scores("another task", ["a"], ["a"]) == {}
    with pytest.raises(ValueError, match="the metric of the task a task 'share' is already registered"):
        register_metric("share", "a task")(lambda true, predicted: 0.0)
