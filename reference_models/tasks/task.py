"""Interface of a task, and the registry of tasks."""

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

Answer = Any  # a JSON value whose type depends on the task: one tag per word, or a relation
Span = tuple[int, int, str]
Item = dict[str, Any]
AnyTask = TypeVar("AnyTask", bound="type[Task]")

_TASKS: Registry[type[Task]] = Registry("task")


def register(name: str) -> Callable[[AnyTask], AnyTask]:
    """Register a subclass of `Task` under a name.

    Args:
        name: Name of the task, as in the setting `data.task` and in the configuration of a model.

    Returns:
        A decorator that returns the class unchanged.

    Raises:
        ValueError: If another task has this name.
    """

    def add(task: AnyTask) -> AnyTask:
        _TASKS.add(name, task)
        task.name = name
        return task

    return add


def get_task(name: str) -> type[Task]:
    """Return the class of a task by its name.

    Raises:
        UserError: If the name is unknown.
    """
    return _TASKS.find(name)


def list_tasks() -> list[str]:
    """Return the names of all tasks in alphabetical order."""
    return list(_TASKS)


@dataclass(frozen=True)
class Prediction:
    """The prediction of a model for one sample.

    Attributes:
        answer: One tag per word, or the relation.
        probabilities: Probability of each predicted entity (start, end, type), or of all relations in the order of the
            labels. Empty if probabilities were not requested.
    """

    answer: Answer
    probabilities: Mapping[Any, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Line:
    """A line in the display of a sample: its sentence with marked spans, a text, or both.

    Attributes:
        name: Name of the line, such as "true". Empty for a line without a name.
        marks: Spans to mark in the sentence, with their labels. None for a line without the sentence.
        expected: Spans that are correct. None if marks are neither correct nor wrong.
        text: Text next to the sentence.
        right: Whether the text is correct. None if it is neither correct nor wrong.
    """

    name: str = ""
    marks: Sequence[Span] | None = None
    expected: frozenset[Span] | None = None
    text: str | None = None
    right: bool | None = None


class HeadSettings(Protocol):
    """Fields of a model configuration that a task reads.

    Attributes:
        labels: Labels in the order of their ids.
        head_dropout: Dropout probability before the linear layer of the head.
        tag_head: "crf" or "softmax", for heads that tag words.
        pair: "mean" or "marker", for tasks with two entities.
    """

    labels: Sequence[str]
    head_dropout: float
    tag_head: str
    pair: str


class Task(ABC):
    """Base class of tasks. A model needs only the class, and a processor needs an object with labels.

    Args:
        labels: Labels in the order of their ids.

    Attributes:
        name: Name in the registry.
        title: Title in the plural, such as "named entities".
        noun: Name of a labelled item, such as "entity".
        special_tokens: Tokens that `encode` adds to sentences.
        pairs: Whether a sample is a relation of two entities.
        post_keys: Keys of a post that this task needs in addition to the text.
        missed, spurious: Names in the confusion matrix of the column for items that were not predicted, and of the row
            for predictions without a true item.
        note: Note on the confusion matrix.
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

    # Model

    @classmethod
    @abstractmethod
    def width(cls, hidden: int) -> int:
        """Return the width of `h`, given the width of the hidden states."""

    @classmethod
    @abstractmethod
    def gather(
        cls, hidden: Tensor, batch: Mapping[str, Tensor], settings: HeadSettings
    ) -> tuple[Tensor, Tensor | None]:
        """Compute the input `h` of the head from hidden states.

        Args:
            hidden: Hidden states of the sub-words, (B, L, C).
            batch: Mini-batch from `Processor.collate`.
            settings: Settings of the model.

        Returns:
            `h` (B, words, C) with its mask (B, words), True for a real word; or `h` (B, width) and None.
        """

    @classmethod
    @abstractmethod
    def make_head(cls, width: int, settings: HeadSettings) -> LinearHead:
        """Create the head for an `h` of the given width."""

    # Labels and tensors

    @classmethod
    @abstractmethod
    def from_data(cls, samples: Iterable[Sample], declared: Sequence[str] | None, settings: DataConfig) -> Self:
        """Create the task with the labels of a data set.

        Args:
            samples: Samples of all splits.
            declared: Labels listed in a separate file of the data set, in the order of their ids; None without one.
            settings: Data settings.

        Returns:
            The task.

        Raises:
            UserError: If there are no labels, or the settings do not match the task.
        """

    def settings(self) -> dict[str, Any]:
        """Return the arguments of the constructor as plain types for `json.dump`."""
        return {"labels": self.labels}

    @abstractmethod
    def encode(self, sample: Sample, subwords: Subwords) -> Item:
        """Encode the text of a sample as ids, and its labels if they are known.

        Returns:
            `input_ids`; `words_cut`, the number of words at the end that the length limit removes; `labels` if they are
            known; and further entries for `collate`.

        Raises:
            TooLongError: If a required part of the sample is beyond the length limit.
            UserError: If a label is unknown, or the sample lacks something that the task needs.
        """

    def words_read(self, sample: Sample) -> list[str]:
        """Return the words as `encode` passes them to the tokenizer, including markers."""
        return list(sample.words)

    @abstractmethod
    def collate(self, items: Sequence[Item], length: int) -> dict[str, Tensor]:
        """Return the tensors that the task adds to a mini-batch of `length` sub-words, with `labels` if known."""

    @abstractmethod
    def decode(self, sample: Sample, ids: Any, subwords: Subwords) -> Answer:
        """Convert a row of the output of the head's `decode`, as plain numbers, to an answer."""

    @abstractmethod
    def probabilities(
        self, samples: Sequence[Sample], ids: Tensor, scores: Tensor, head: Any, subwords: Subwords
    ) -> list[dict[Any, float]]:
        """Compute the probabilities of the predictions, see `Prediction`.

        Args:
            samples: Samples of a mini-batch.
            ids: Output of `head.decode`.
            scores: Logits from `head`.
            head: Head of the model.
            subwords: Sub-word splitter of the processor.

        Returns:
            One dictionary per sample.
        """

    # Scores

    @abstractmethod
    def true_answer(self, sample: Sample) -> Answer:
        """Return the true answer of a sample, from its labels."""

    def unanswered(self) -> Answer:
        """Return the answer for a sample that could not be encoded; it counts as missed."""
        return None

    @abstractmethod
    def score(self, true: Sequence[Answer], predicted: Sequence[Answer]) -> dict[str, float]:
        """Compute the scores of answers, fractions from 0 to 1, with at least `precision`, `recall` and `f1`."""

    @abstractmethod
    def found(self, answer: Answer) -> list[tuple[Any, ...]]:
        """Return the items in an answer (entities or a relation), each as a tuple that ends with its class."""

    def class_scores(self, true: Iterable[Answer], predicted: Iterable[Answer]) -> dict[str, dict[str, float]]:
        """Compute precision, recall, F1 and support of each class, see `metrics.class_scores`."""
        sides = ([(n, *item) for n, answer in enumerate(a) for item in self.found(answer)] for a in (true, predicted))
        return class_scores(*sides)

    def outcomes(self, true: Answer, predicted: Answer) -> list[tuple[str | None, str | None]]:
        """Return (true class, predicted class) for each position with a true or predicted item; None if it has none."""
        sides = ({item[:-1]: item[-1] for item in self.found(answer)} for answer in (true, predicted))
        ours, theirs = sides
        return [(ours.get(place), theirs.get(place)) for place in sorted(ours | theirs)]

    # Display and files

    def read_post(self, post: Mapping[str, Any], words: Sequence[str]) -> dict[str, Any]:
        """Convert the `post_keys` of a post to fields of `Sample`.

        Raises:
            UserError: If a value does not match the words.
        """
        return {}

    def to_post(self, sample: Sample) -> dict[str, Any]:
        """Return the `post_keys` of a sample with known entities, the inverse of `read_post`."""
        return {}

    def to_row(self, sample: Sample, predicted: Answer) -> dict[str, Any]:
        """Return the fields of a row of predictions in addition to the id, the words and the image."""
        return {"predicted": predicted, "true": self.true_answer(sample)}

    @abstractmethod
    def to_json(self, sample: Sample, prediction: Prediction, text: str | None = None) -> dict[str, Any]:
        """Return a prediction as plain types for `json.dump`.

        Args:
            sample: Sample of the prediction.
            prediction: Prediction to convert.
            text: Original text of the sample, for character positions.

        Returns:
            A dictionary with string keys.
        """

    @abstractmethod
    def describe(self, sample: Sample, answer: Answer) -> str:
        """Return an answer as one line of text."""

    def likeliest(self, sample: Sample, prediction: Prediction) -> list[tuple[str, float]]:
        """Return everything that has a probability as (text, probability), most probable first."""
        ordered = sorted(prediction.probabilities.items(), key=lambda item: item[1], reverse=True)
        return [(self.name_of(sample, key), probability) for key, probability in ordered]

    def name_of(self, sample: Sample, key: Any) -> str:
        """Return a key of `Prediction.probabilities` as text."""
        return str(key)

    @abstractmethod
    def lines(self, row: Mapping[str, Any]) -> list[Line]:
        """Return the lines that show the true and the predicted answer in a row of `to_row`."""

    @abstractmethod
    def line(self, row: Mapping[str, Any], side: str) -> Line:
        """Return the sentence of a row of `to_row` with the answer of one side, "true" or "predicted"."""
