"""The registry of tasks, labels from data, and predictions as text, JSON and report lines."""

from typing import Any

import pytest
import torch

from reference_models.config import DataConfig
from reference_models.data.samples import Sample
from reference_models.data.tokenizer import learn_tokenizer
from reference_models.errors import UserError
from reference_models.tasks import NamedEntities, Prediction, Relations, Task, get_task, list_tasks, register
from reference_models.tasks.subwords import Subwords

SAMPLE = Sample("x:1", ("Ann", "Lee", "in", "Rome"), head=(0, 2), tail=(3, 4))
NER, RE = NamedEntities(["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]), Relations(["None", "born"])
SUBWORDS = Subwords(learn_tokenizer([["a", "b"]] * 4, 50), 16)


def tagged(*tags: str) -> Sample:
    return Sample("x:1", tuple("abcdefgh"[: len(tags)]), tags=tags)


def test_tasks_are_registered_by_name() -> None:
    assert list_tasks() == ["ner", "re"]
    assert [get_task(name) for name in list_tasks()] == [NamedEntities, Relations]
    with pytest.raises(UserError, match="unknown task 'nre', expected one of ner, re"):
        get_task("nre")
    with pytest.raises(ValueError, match="the task 'ner' is already registered: NamedEntities"):
        register("ner")(Relations)
    assert register("ner")(NamedEntities) is NamedEntities


def test_tag_unseen_in_training_raises() -> None:
    with pytest.raises(UserError, match="x:1: unknown tag 'B-cat', the model was trained with O, B-PER, I-PER"):
        NER.encode(tagged("O", "B-cat"), SUBWORDS)


def test_tags_from_data_are_sorted_by_type_frequency() -> None:
    samples = [tagged("B-ORG", "I-ORG", "O", "B-PER"), tagged("I-PER", "B-LOC"), tagged("O")]
    task = NamedEntities.from_data(samples, None, DataConfig())
    assert task.labels == ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-ORG", "I-ORG"]
    assert task.types == ["PER", "LOC", "ORG"]
    thirteen = NamedEntities.from_data(samples, None, DataConfig(label_scheme="x13"))
    assert thirteen.labels == ["[PAD]", *task.labels, "X", "[CLS]", "[SEP]"]
    assert thirteen.types == task.types


def test_relation_labels_are_declared_or_found_in_the_data() -> None:
    samples = [Sample("x:1", ("a", "b"), head=(0, 1), tail=(1, 2), relation=name) for name in ("c", "b", "b", "d")]
    task = Relations.from_data(samples, None, DataConfig(no_relation="c"))
    assert (task.labels, task.no_relation) == (["b", "c", "d"], "c")
    task = Relations.from_data(samples, ["d", "c", "b", "e"], DataConfig(no_relation=None))
    assert (task.labels, task.no_relation) == (["d", "c", "b", "e"], None)
    predicted = ["b", task.unanswered()]
    assert predicted[1] is None
    assert task.score(["b", "c"], predicted)["f1"] == pytest.approx(2 / 3)
    assert task.outcomes("b", None) == [("b", None)]
    with pytest.raises(UserError, match=r"data.no_relation is 'None', but the relations are b, c, d; set it to"):
        Relations.from_data(samples, None, DataConfig())


@pytest.mark.parametrize("task", [NamedEntities, Relations])
def test_data_without_labels_raises(task: type[Task]) -> None:
    with pytest.raises(UserError, match=r"data: expected samples with .*, but no sample has one"):
        task.from_data([SAMPLE], None, DataConfig())


def test_x13_labels_for_relations_raise() -> None:
    with pytest.raises(UserError, match=r"label_scheme=x13 is for named entities, but data.format=mnre"):
        Relations.from_data([], ["None"], DataConfig(label_scheme="x13"))


def test_predictions_as_text() -> None:
    assert NER.describe(SAMPLE, ["B-PER", "I-PER", "O", "B-LOC"]) == "Ann Lee [PER], Rome [LOC]"
    assert NER.describe(SAMPLE, ["O"] * 4) == "no entity"
    assert RE.describe(SAMPLE, "born") == "Ann Lee --[born]--> Rome"


def test_likeliest_predictions_come_first() -> None:
    found = Prediction(["B-PER", "I-PER", "O", "B-LOC"], {(0, 2, "PER"): 0.5, (3, 4, "LOC"): 0.75})
    assert NER.likeliest(SAMPLE, found) == [("Rome [LOC]", 0.75), ("Ann Lee [PER]", 0.5)]
    assert RE.likeliest(SAMPLE, Prediction("born", {"None": 0.25, "born": 0.75})) == [("born", 0.75), ("None", 0.25)]


def test_predictions_as_json() -> None:
    entity = {"text": "Ann Lee", "type": "PER", "start": 0, "end": 2}
    tags = ["B-PER", "I-PER", "O", "O"]
    assert NER.to_json(SAMPLE, Prediction(tags)) == {"entities": [entity]}
    entity |= {"probability": 0.25}
    prediction = Prediction(tags, {(0, 2, "PER"): 0.25})
    assert NER.to_json(SAMPLE, prediction, " Ann\tLee in Rome") == {"entities": [{**entity, "characters": [1, 8]}]}
    [chances] = RE.probabilities([SAMPLE], torch.tensor([0]), torch.tensor([[0.0, 0.0]]), None, SUBWORDS)
    assert RE.to_json(SAMPLE, Prediction("born", chances)) == {"relation": "born", "probability": 0.5}


def test_no_relation_label_can_have_any_name() -> None:
    task = Relations(["born", "NA"], "NA")
    assert task.score(["born", "NA", "NA"], ["born", "NA", "born"])["f1"] == pytest.approx(2 / 3)
    assert list(task.class_scores(["born", "NA"], ["NA", "NA"])) == ["born"]
    assert task.unanswered() == "NA"


def test_post_of_a_sample_round_trip() -> None:
    assert NER.to_post(SAMPLE) == NER.read_post({}, SAMPLE.words) == {}
    assert RE.to_post(SAMPLE) == {"head": "Ann Lee", "tail": "Rome"}
    assert RE.read_post(RE.to_post(SAMPLE), SAMPLE.words) == {"head": (0, 2), "tail": (3, 4)}


def test_words_read_include_the_markers_of_the_task() -> None:
    assert NER.words_read(SAMPLE) == ["Ann", "Lee", "in", "Rome"]
    assert RE.words_read(SAMPLE) == ["[HEAD]", "Ann", "Lee", "[/HEAD]", "in", "[TAIL]", "Rome", "[/TAIL]"]


def test_report_line_shows_true_or_predicted_labels() -> None:
    row: dict[str, Any] = {"true": ["B-PER", "I-PER", "O", "O"], "predicted": ["O", "O", "O", "B-LOC"]}
    assert NER.line(row, "true").marks == [(0, 2, "PER")]
    assert NER.line(row, "predicted").marks == [(3, 4, "LOC")]
    row = {"head": (0, 2), "tail": (3, 4), "true": "born", "predicted": "None"}
    assert [RE.line(row, side).text for side in ("true", "predicted")] == ["born", "None"]
    assert RE.line(row, "true").marks == [(0, 2, "head"), (3, 4, "tail")]
