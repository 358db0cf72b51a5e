"""Named entity recognition: one BIO tag per word."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Self

from torch import Tensor

from reference_models.config import DataConfig
from reference_models.data.bio import spans
from reference_models.data.samples import Sample
from reference_models.data.words import split_words
from reference_models.errors import UserError
from reference_models.tasks.heads import LinearHead, SoftmaxTaggingHead, TaggingHead
from reference_models.tasks.metrics import ner_scores
from reference_models.tasks.padding import pad
from reference_models.tasks.subwords import Subwords, word_starts
from reference_models.tasks.task import HeadSettings, Item, Line, Prediction, Task, register

OUTSIDE = "O"
# Additional tags of older baselines, which tag all sub-words: X is the tag of the second and later sub-words of a word.
PADDING, LATER, OPENING, CLOSING = "[PAD]", "X", "[CLS]", "[SEP]"


def tags_of(types: Iterable[str]) -> list[str]:
    """Return the tags of entity types: O, and B- and I- of each type."""
    return [OUTSIDE, *(f"{prefix}-{kind}" for kind in types for prefix in "BI")]


def types_of(samples: Iterable[Sample]) -> list[str]:
    """Return the entity types in the samples, most frequent first; ties are in alphabetical order."""
    counts = Counter(kind for sample in samples for _, _, kind in spans(sample.tags or ()))
    return sorted(counts, key=lambda kind: (-counts[kind], kind))


@register("ner")
class NamedEntities(Task):
    """Tagging of words: the first sub-word represents a word, and a CRF or a softmax predicts the tags.

    Args:
        labels: Tags in the order of their ids.
        label_scheme: "bio" tags words. "x13" tags all sub-words, with additional tags for the later sub-words of a
            word, the start and end of a sentence, and padding.
    """

    title, noun = "named entities", "entity"
    missed, spurious = "missed", "spurious"
    note = (
        "Missed: no entity was predicted at exactly these words. Spurious: an entity was predicted where there is none."
    )

    def __init__(self, labels: Sequence[str], label_scheme: Literal["bio", "x13"] = "bio") -> None:
        super().__init__(labels)
        self.label_scheme = label_scheme
        self.types = [label.removeprefix("B-") for label in labels if label.startswith("B-")]

    @classmethod
    def width(cls, hidden: int) -> int:
        """See `Task`: the width of one hidden state."""
        return hidden

    @classmethod
    def gather(cls, hidden: Tensor, batch: Mapping[str, Tensor], settings: HeadSettings) -> tuple[Tensor, Tensor]:
        """See `Task`: the hidden state of the first sub-word of each word."""
        starts = batch["word_starts"][..., None].expand(-1, -1, hidden.shape[2])
        return hidden.gather(1, starts), batch["word_mask"]

    @classmethod
    def make_head(cls, width: int, settings: HeadSettings) -> LinearHead:
        """See `Task`: a CRF, or a softmax for each word."""
        head = TaggingHead if settings.tag_head == "crf" else SoftmaxTaggingHead
        return head(width, len(settings.labels), settings.head_dropout)

    @classmethod
    def from_data(cls, samples: Iterable[Sample], declared: Sequence[str] | None, settings: DataConfig) -> Self:
        """See `Task`: the tags of all entity types that occur."""
        types = types_of(samples)
        if not types:
            raise UserError(f"{settings.root}: expected samples with entities, but no sample has one")
        tags = tags_of(types)
        if settings.label_scheme == "x13":
            tags = [PADDING, *tags, LATER, OPENING, CLOSING]
        return cls(tags, settings.label_scheme)

    def settings(self) -> dict[str, Any]:
        """See `Task`."""
        return {"labels": self.labels, "label_scheme": self.label_scheme}

    def encode(self, sample: Sample, subwords: Subwords) -> Item:
        """See `Task`; words beyond the length limit have no representation."""
        ids, numbers = subwords(sample.words)
        starts = word_starts(numbers)
        item: Item = {"input_ids": ids, "word_starts": starts, "words_cut": len(sample.words) - len(starts)}
        if self.label_scheme == "x13":
            item["word_starts"] = list(range(len(ids)))
        if sample.tags is None:
            return item
        tags: Sequence[str] = sample.tags[: len(starts)]
        if unknown := [tag for tag in tags if tag not in self.ids]:
            raise UserError(
                f"{sample.id}: unknown tag {unknown[0]!r}, the model was trained with {', '.join(self.labels)}"
            )
        if self.label_scheme == "x13":
            at_start = dict(zip(starts, tags, strict=True))
            ends = [LATER if number is not None else CLOSING if i else OPENING for i, number in enumerate(numbers)]
            tags = [at_start.get(place, tag) for place, tag in enumerate(ends)]
        item["labels"] = [self.ids[tag] for tag in tags]
        return item

    def collate(self, items: Sequence[Item], length: int) -> dict[str, Tensor]:
        """See `Task`: `word_starts`, `word_mask` and, if known, `labels`, all (B, words)."""
        batch = {
            "word_starts": pad([item["word_starts"] for item in items], 0),
            "word_mask": pad([[1] * len(item["word_starts"]) for item in items], 0).bool(),
        }
        if "labels" in items[0]:
            batch["labels"] = pad([item["labels"] for item in items], 0)
        return batch

    def decode(self, sample: Sample, ids: Sequence[int], subwords: Subwords) -> list[str]:
        """See `Task`: one tag for every word, "O" beyond the length limit."""
        tags = [self.labels[number] for number in ids if number >= 0]
        if self.label_scheme == "x13":
            _, numbers = subwords(sample.words)
            further = (PADDING, LATER, OPENING, CLOSING)
            tags = [OUTSIDE if tags[start] in further else tags[start] for start in word_starts(numbers)]
        return tags + [OUTSIDE] * (len(sample.words) - len(tags))

    def probabilities(
        self, samples: Sequence[Sample], ids: Tensor, scores: Tensor, head: Any, subwords: Subwords
    ) -> list[dict[Any, float]]:
        """See `Task`: for each entity, the probability that its words have its tags and that it ends there."""
        lattice = head.lattice(scores.float(), ids >= 0)
        rows = ids.tolist()
        found: list[dict[Any, float]] = []
        for number, sample in enumerate(samples):
            places = self._places(sample, rows[number], subwords)
            entities = self.found(self.decode(sample, rows[number], subwords))
            found.append({})
            for start, end, kind in entities:
                path = rows[number][places[start] : places[end]]
                inside = self.ids[f"I-{kind}"]
                found[-1][start, end, kind] = lattice.probability(number, places[start], path, not_next=inside)
        return found

    def _places(self, sample: Sample, row: Sequence[int], subwords: Subwords) -> list[int]:
        """Return the index in a row of ids where each word starts, and where the last one ends."""
        count = sum(number >= 0 for number in row)
        if self.label_scheme == "bio":
            return list(range(count + 1))
        _, numbers = subwords(sample.words)
        return [*word_starts(numbers), count - 1]  # the last id belongs to the end of the sentence

    def true_answer(self, sample: Sample) -> list[str] | None:
        """See `Task`: the tags."""
        return None if sample.tags is None else list(sample.tags)

    def score(self, true: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> dict[str, float]:
        """See `Task` and `ner_scores`."""
        return ner_scores(true, predicted, self.types)

    def found(self, answer: Sequence[str]) -> list[tuple[Any, ...]]:
        """See `Task`: the spans of the entities."""
        return sorted(spans(answer))

    def to_json(self, sample: Sample, prediction: Prediction, text: str | None = None) -> dict[str, Any]:
        """See `Task`: `entities` with word span [start, end), character span in `text`, and probability."""
        places = None if text is None else split_words(text)
        entities = []
        for start, end, kind in self.found(prediction.answer):
            entity: dict[str, Any] = {"text": " ".join(sample.words[start:end]), "type": kind}
            entity |= {"start": start, "end": end}
            if places is not None:
                entity["characters"] = [places[start].start, places[end - 1].end]
            if (start, end, kind) in prediction.probabilities:
                entity["probability"] = prediction.probabilities[start, end, kind]
            entities.append(entity)
        return {"entities": entities}

    def describe(self, sample: Sample, answer: Sequence[str]) -> str:
        """See `Task`: "Ada Vex [PER], Rome [LOC]"."""
        return ", ".join(self.name_of(sample, entity) for entity in self.found(answer)) or "no entity"

    def name_of(self, sample: Sample, key: tuple[int, int, str]) -> str:
        """See `Task`: "Ada Vex [PER]"."""
        start, end, kind = key
        return f"{' '.join(sample.words[start:end])} [{kind}]"

    def lines(self, row: Mapping[str, Any]) -> list[Line]:
        """See `Task`: the sentence twice, once with the true and once with the predicted entities."""
        true, predicted = spans(row["true"]), spans(row["predicted"])
        return [
            Line("true", sorted(true), frozenset(predicted)),
            Line("predicted", sorted(predicted), frozenset(true)),
        ]

    def line(self, row: Mapping[str, Any], side: str) -> Line:
        """See `Task`."""
        return Line(marks=sorted(spans(row[side])))
