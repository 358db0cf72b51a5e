"""The interface of a task, and the registry of tasks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, Self, TypeVar

from torch import Tensor

from reference_models.config import DataConfig
from reference_models.data.samples import Sample
from reference_models.names import Registry
from reference_models.tasks.heads import LinearHead
from reference_models.tasks.metrics import class_scores
from reference_models.tasks.subwords import Subwords

Answer = Any  # one tag a word, or a relation: each task has its own kind, a JSON value
Span = tuple[int, int, str]
Item = dict[str, Any]
AnyTask = TypeVar("AnyTask", bound="type[Task]")

_TASKS: Registry[type[Task]] = Registry("task")


def register(name: str) -> Callable[[AnyTask], AnyTask]:
    """Make a subclass of `Task` known under a name.

    Args:
        name: as in `data.task` and in the configuration of a model.

    Returns:
        A decorator that gives the class back.

    Raises:
        ValueError: another task has this name.
    """

    def add(task: AnyTask) -> AnyTask:
        _TASKS.add(name, task)
        task.name = name
        return task

    return add


def get_task(name: str) -> type[Task]:
    """The class of a task by its name.

    Raises:
        UserError: there is none of that name.
    """
    return _TASKS.find(name)


def list_tasks() -> list[str]:
    """The names of all tasks, in the order of the alphabet."""
    return list(_TASKS)


@dataclass(frozen=True)
class Prediction:
    """What a model predicts for one sample.

    Attributes:
        answer: one tag a word, or the relation.
        probabilities: of each entity (start, end, type) that was found, or of all relations in the order of the labels;
            empty where they were not asked for.
    """

    answer: Answer
    probabilities: Mapping[Any, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Line:
    """A line of what a reader is shown of a sample: its sentence with marked spans, a text, or both.

    Attributes:
        name: of the line, such as "true"; empty for none.
        marks: spans to mark in the sentence, with their labels; None for a line without the sentence.
        expected: spans that are right; None where marks are neither right nor wrong.
        text: what is said beside the sentence.
        right: whether the text is right; None where it is neither.
    """

    name: str = ""
    marks: Sequence[Span] | None = None
    expected: frozenset[Span] | None = None
    text: str | None = None
    right: bool | None = None


class HeadSettings(Protocol):
    """What a task reads of a model's configuration.

    Attributes:
        labels: in the order of their ids.
        head_dropout: dropout before the linear layer of the head.
        tag_head: "crf" or "softmax", of heads that tag words.
        pair: "mean" or "marker", of tasks with two entities.
    """

    labels: Sequence[str]
    head_dropout: float
    tag_head: str
    pair: str


class Task(ABC):
    """Everything that differs between tasks. A model needs the class alone, and a processor an object with labels.

    Args:
        labels: in the order of their ids.

    Attributes:
        name: in the registry.
        title: in the plural, as in "named entities".
        noun: what has a class, as in "entity".
        special_tokens: tokens that `encode` adds to sentences.
        pairs: whether a sample is a relation of two entities.
        post_keys: keys of a post that this task needs beside its text.
        missed, spurious: in a table of what was taken for what, the names of the column of predicted nothing and of
            the row of true nothing.
        note: one sentence about that table.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    noun: ClassVar[str]
    special_tokens: ClassVar[tuple[str, ...]] = ()
    pairs: ClassVar[bool] = False
    post_keys: ClassVar[tuple[str, ...]] = ()
    missed: str
    spurious: str
    note: str

    def __init__(self, labels: Sequence[str]) -> None:
        self.labels = list(labels)
        self.ids = {label: number for number, label in enumerate(self.labels)}

    # What a model needs

    @classmethod
    @abstractmethod
    def width(cls, hidden: int) -> int:
        """Features of `h`, given the width of the hidden states."""

    @classmethod
    @abstractmethod
    def gather(
        cls, hidden: Tensor, batch: Mapping[str, Tensor], settings: HeadSettings
    ) -> tuple[Tensor, Tensor | None]:
        """Turn hidden states into what the head scores.

        Args:
            hidden: (B, L, C), of sub-words.
            batch: of `Processor.collate`.
            settings: of the model.

        Returns:
            `h` (B, words, C) with its mask (B, words), True = real word; or `h` (B, width) and None.
        """

    @classmethod
    @abstractmethod
    def make_head(cls, width: int, settings: HeadSettings) -> LinearHead:
        """The output layer for an `h` of `width` features."""

    # Labels and tensors

    @classmethod
    @abstractmethod
    def from_data(cls, samples: Iterable[Sample], declared: Sequence[str] | None, settings: DataConfig) -> Self:
        """The task with the labels of a data set.

        Args:
            samples: of all splits.
            declared: labels that the data set lists beside its samples, in the order of their ids; None without one.
            settings: of the data.

        Returns:
            The task.

        Raises:
            UserError: there are no labels, or settings that this task does not have.
        """

    def settings(self) -> dict[str, Any]:
        """The arguments of the constructor, ready for `json.dump`."""
        return {"labels": self.labels}

    @abstractmethod
    def encode(self, sample: Sample, subwords: Subwords) -> Item:
        """The text of a sample as ids, and its labels where they are known.

        Returns:
            `input_ids`; `words_cut`, the number of its last words that the length limit cuts off; `labels` if they are
            known; and what `collate` needs.

        Raises:
            TooLongError: what the sample cannot do without lies behind the length limit.
            UserError: an unknown label, or a sample without what the task needs.
        """

    def words_read(self, sample: Sample) -> list[str]:
        """The words as `encode` gives them to the tokenizer, markers included."""
        return list(sample.words)

    @abstractmethod
    def collate(self, items: Sequence[Item], length: int) -> dict[str, Tensor]:
        """What the task adds to a batch of `length` sub-words, with `labels` if they are known."""

    @abstractmethod
    def decode(self, sample: Sample, ids: Any, subwords: Subwords) -> Answer:
        """The answer that a row of the head's `decode` stands for, as plain numbers."""

    @abstractmethod
    def probabilities(
        self, samples: Sequence[Sample], ids: Tensor, scores: Tensor, head: Any, subwords: Subwords
    ) -> list[dict[Any, float]]:
        """Probabilities of what was predicted for each sample, see `Prediction`.

        Args:
            samples: of a batch.
            ids: of `head.decode`.
            scores: of `head`.
            head: of the model.
            subwords: of the processor.

        Returns:
            One dictionary for each sample.
        """

    # Scores

    @abstractmethod
    def true_answer(self, sample: Sample) -> Answer:
        """The labels of a sample."""

    def unanswered(self) -> Answer:
        """The answer of a sample that could not be encoded; it counts as missed."""
        return None

    @abstractmethod
    def score(self, true: Sequence[Answer], predicted: Sequence[Answer]) -> dict[str, float]:
        """Scores of answers, fractions from 0 to 1, with at least `precision`, `recall` and `f1`."""

    @abstractmethod
    def found(self, answer: Answer) -> list[tuple[Any, ...]]:
        """What an answer says is there, each as a tuple that ends with its class."""

    def class_scores(self, true: Iterable[Answer], predicted: Iterable[Answer]) -> dict[str, dict[str, float]]:
        """Precision, recall, F1 and support of each class, see `metrics.class_scores`."""
        sides = ([(n, *item) for n, answer in enumerate(a) for item in self.found(answer)] for a in (true, predicted))
        return class_scores(*sides)

    def outcomes(self, true: Answer, predicted: Answer) -> list[tuple[str | None, str | None]]:
        """The true and the predicted class of each place where one of both is; None where there is nothing."""
        sides = ({item[:-1]: item[-1] for item in self.found(answer)} for answer in (true, predicted))
        ours, theirs = sides
        return [(ours.get(place), theirs.get(place)) for place in sorted(ours | theirs)]

    # What people read

    def read_post(self, post: Mapping[str, Any], words: Sequence[str]) -> dict[str, Any]:
        """What a post with `post_keys` gives a `Sample` beside its words and images.

        Raises:
            UserError: a value that does not fit the words.
        """
        return {}

    def to_post(self, sample: Sample) -> dict[str, Any]:
        """What `read_post` reads, of a sample whose entities are known."""
        return {}

    def to_row(self, sample: Sample, predicted: Answer) -> dict[str, Any]:
        """What a line of predictions says beside the id, the words and the image."""
        return {"predicted": predicted, "true": self.true_answer(sample)}

    @abstractmethod
    def to_json(self, sample: Sample, prediction: Prediction, text: str | None = None) -> dict[str, Any]:
        """A prediction as plain types, ready for `json.dump`.

        Args:
            sample: what was predicted for.
            prediction: what was predicted.
            text: where the words of the sample come from, for places in it.

        Returns:
            A dictionary with string keys.
        """

    @abstractmethod
    def describe(self, sample: Sample, answer: Answer) -> str:
        """An answer as one line of text."""

    def likeliest(self, sample: Sample, prediction: Prediction) -> list[tuple[str, float]]:
        """What has a probability, as one line of text each, the likeliest first."""
        ordered = sorted(prediction.probabilities.items(), key=lambda item: item[1], reverse=True)
        return [(self.name_of(sample, key), probability) for key, probability in ordered]

    def name_of(self, sample: Sample, key: Any) -> str:
        """A key of `Prediction.probabilities` as text."""
        return str(key)

    @abstractmethod
    def lines(self, row: Mapping[str, Any]) -> list[Line]:
        """What is true and what was predicted in a row of `to_row`, to be shown."""

    @abstractmethod
    def line(self, row: Mapping[str, Any], side: str) -> Line:
        """The sentence of a row of `to_row` with what one side, "true" or "predicted", says of it."""
