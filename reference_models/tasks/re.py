"""Relation extraction: one label for a pair of marked entities."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor

from attnmixup.functional import masked_mean
from reference_models.config import DataConfig
from reference_models.data.samples import Sample
from reference_models.errors import UserError
from reference_models.tasks.heads import LinearHead, RelationHead
from reference_models.tasks.metrics import NO_RELATION, relation_scores
from reference_models.tasks.subwords import Subwords, TooLongError, last_word
from reference_models.tasks.task import HeadSettings, Item, Line, Prediction, Span, Task, register

MARKERS = ("[HEAD]", "[/HEAD]", "[TAIL]", "[/TAIL]")
PAIR = ("head", "tail")


def opening_marker(hidden: Tensor, mask: Tensor) -> Tensor:
    """Return the states (B, C) right before the entities, given `hidden` (B, L, C) and the entity masks (B, L)."""
    markers = mask.int().argmax(dim=1) - 1
    return hidden[torch.arange(len(hidden), device=hidden.device), markers]


def find_entity(name: str, entity: str, words: Sequence[str], taken: Span | tuple[int, int] | None) -> tuple[int, int]:
    """Return the first span of an entity in the sentence other than the span of the other entity, `taken`.

    Raises:
        UserError: If the sentence does not contain the entity.
    """
    wanted = entity.split()
    for start in range(len(words) - len(wanted) + 1):
        span = (start, start + len(wanted))
        if wanted and list(words[slice(*span)]) == wanted and span != taken:
            return span
    raise UserError(
        f"the {name} entity {entity!r} is not in the sentence {' '.join(words)!r}; expected consecutive whole words of "
        "the sentence"
    )


@register("re")
class Relations(Task):
    """The relation from a head to a tail entity. Special tokens mark both entities in the sentence.

    Args:
        labels: Relations in the order of their ids.
        no_relation: Label that means "no relation", which the scores exclude. None if every pair has a relation.
    """

    title, noun = "relations", "relation"
    special_tokens, pairs, post_keys = MARKERS, True, PAIR

    def __init__(self, labels: Sequence[str], no_relation: str | None = NO_RELATION) -> None:
        super().__init__(labels)
        self.no_relation = no_relation
        self.missed = self.spurious = no_relation or "no relation"
        self.note = "" if no_relation is None else f"{no_relation} means no relation; the scores above exclude it."

    @classmethod
    def width(cls, hidden: int) -> int:
        """See `Task`: head and tail, concatenated."""
        return 2 * hidden

    @classmethod
    def gather(cls, hidden: Tensor, batch: Mapping[str, Tensor], settings: HeadSettings) -> tuple[Tensor, None]:
        """See `Task`: for each entity, the mean over the sub-words between its markers, or its opening marker."""
        summarise = opening_marker if settings.pair == "marker" else masked_mean
        return torch.cat([summarise(hidden, batch[f"{name}_mask"]) for name in PAIR], dim=-1), None

    @classmethod
    def make_head(cls, width: int, settings: HeadSettings) -> LinearHead:
        """See `Task`: a softmax over the relations."""
        return RelationHead(width, len(settings.labels), settings.head_dropout)

    @classmethod
    def from_data(cls, samples: Iterable[Sample], declared: Sequence[str] | None, settings: DataConfig) -> Self:
        """See `Task`: the declared relations, or else all that occur, most frequent first."""
        if settings.label_scheme == "x13":
            raise UserError(
                f"data.label_scheme=x13 is for named entities, but data.format={settings.format} has relations; use bio"
            )
        counts = Counter(sample.relation for sample in samples if sample.relation is not None)
        if not counts:
            raise UserError(f"{settings.root}: expected samples with relations, but no sample has one")
        labels = sorted(counts, key=lambda name: (-counts[name], name)) if declared is None else declared
        if settings.no_relation is not None and settings.no_relation not in labels:
            raise UserError(
                f"data.no_relation is {settings.no_relation!r}, but the relations are {', '.join(labels)}; set it to "
                "the one that means no relation, or to null if there is none"
            )
        return cls(labels, settings.no_relation)

    def settings(self) -> dict[str, Any]:
        """See `Task`."""
        return {"labels": self.labels, "no_relation": self.no_relation}

    def words_read(self, sample: Sample) -> list[str]:
        """See `Task`."""
        return [word for word, _ in _marked(sample)]

    def encode(self, sample: Sample, subwords: Subwords) -> Item:
        """See `Task`; markers are inserted around the entities."""
        marked = _marked(sample)
        ids, numbers = subwords([word for word, _ in marked])
        kinds = [kind for _, kind in marked]
        item: Item = {"input_ids": ids, "words_cut": kinds[last_word(numbers) + 1 :].count("word")}
        for name, opening, closing in (("head", *MARKERS[:2]), ("tail", *MARKERS[2:])):
            if kinds.index(closing) not in numbers:
                raise TooLongError(
                    f"{sample.id}: the {name} entity at words {list(getattr(sample, name))} is beyond the limit of "
                    f"{subwords.max_length} sub-words; shorten the sentence, or train with a larger data.max_length or "
                    "with data.long_samples=drop"
                )
            item[name] = (numbers.index(kinds.index(opening)) + 1, numbers.index(kinds.index(closing)))
        if sample.relation is not None:
            if sample.relation not in self.ids:
                raise UserError(
                    f"{sample.id}: unknown relation {sample.relation!r}, the model was trained with "
                    f"{', '.join(self.labels)}"
                )
            item["labels"] = self.ids[sample.relation]
        return item

    def collate(self, items: Sequence[Item], length: int) -> dict[str, Tensor]:
        """See `Task`: `head_mask` and `tail_mask` (B, L), and `labels` (B,)."""
        batch, positions = {}, torch.arange(length)
        for name in PAIR:
            start, end = torch.tensor([item[name] for item in items]).T[..., None]
            batch[f"{name}_mask"] = (positions >= start) & (positions < end)
        if "labels" in items[0]:
            batch["labels"] = torch.tensor([item["labels"] for item in items])
        return batch

    def decode(self, sample: Sample, ids: int, subwords: Subwords) -> str:
        """See `Task`: the relation."""
        return self.labels[ids]

    def probabilities(
        self, samples: Sequence[Sample], ids: Tensor, scores: Tensor, head: Any, subwords: Subwords
    ) -> list[dict[Any, float]]:
        """See `Task`: the probabilities of all relations."""
        rows = scores.float().softmax(dim=-1).tolist()
        return [dict(zip(self.labels, row, strict=True)) for row in rows]

    def true_answer(self, sample: Sample) -> str | None:
        """See `Task`: the relation."""
        return sample.relation

    def unanswered(self) -> str | None:
        """See `Task`: no relation."""
        return self.no_relation

    def score(self, true: Sequence[str], predicted: Sequence[str]) -> dict[str, float]:
        """See `Task` and `relation_scores`."""
        return relation_scores(true, predicted, self.no_relation)

    def found(self, answer: str | None) -> list[tuple[Any, ...]]:
        """See `Task`: the relation; empty for no relation."""
        return [] if answer in (None, self.no_relation) else [(answer,)]

    def outcomes(self, true: str, predicted: str) -> list[tuple[str | None, str | None]]:
        """See `Task`: always one outcome, even if both sides are no relation."""
        ours, theirs = (None if name == self.no_relation else name for name in (true, predicted))
        return [(ours, theirs)]

    def read_post(self, post: Mapping[str, Any], words: Sequence[str]) -> dict[str, Any]:
        """See `Task`: the spans of head and tail."""
        head = find_entity("head", post["head"], words, taken=None)
        return {"head": head, "tail": find_entity("tail", post["tail"], words, taken=head)}

    def to_post(self, sample: Sample) -> dict[str, Any]:
        """See `Task`: the words of head and tail."""
        return {name: " ".join(sample.words[slice(*getattr(sample, name))]) for name in PAIR}

    def to_row(self, sample: Sample, predicted: str) -> dict[str, Any]:
        """See `Task`; also the spans of both entities."""
        return {"head": sample.head, "tail": sample.tail, **super().to_row(sample, predicted)}

    def to_json(self, sample: Sample, prediction: Prediction, text: str | None = None) -> dict[str, Any]:
        """See `Task`: the `relation` with its `probability`."""
        return {"relation": prediction.answer, "probability": prediction.probabilities[prediction.answer]}

    def describe(self, sample: Sample, answer: str) -> str:
        """See `Task`: "Ada Vex --[/per/per/peer]--> Kol Brin"."""
        head, tail = (" ".join(sample.words[slice(*span)]) for span in (sample.head, sample.tail) if span is not None)
        return f"{head} --[{answer}]--> {tail}"

    def lines(self, row: Mapping[str, Any]) -> list[Line]:
        """See `Task`: the sentence with both entities, then both relations."""
        right = row["true"] == row["predicted"]
        return [
            Line(marks=_pair(row)),
            Line("true", text=row["true"], right=True),
            Line("predicted", text=row["predicted"], right=right),
        ]

    def line(self, row: Mapping[str, Any], side: str) -> Line:
        """See `Task`."""
        return Line(marks=_pair(row), text=row[side])


def _marked(sample: Sample) -> list[tuple[str, str]]:
    """Return the words, with markers around both entities, each with its kind: "word", or the marker itself.

    The markers of an entity inside the other one are nested. If both entities are the same words, the head is outside.
    """
    if sample.head is None or sample.tail is None:
        raise UserError(f"{sample.id}: expected the spans of a head and a tail entity, got none")
    entities = [(*sample.head, *MARKERS[:2]), (*sample.tail, *MARKERS[2:])]
    entities.sort(key=lambda entity: entity[0] - entity[1])  # the longer one first; of equal ones the head
    marked = []
    for place in range(len(sample.words) + 1):
        marked += [(closing, closing) for _, end, _, closing in reversed(entities) if end == place]
        marked += [(opening, opening) for start, _, opening, _ in entities if start == place]
        marked += [(word, "word") for word in sample.words[place : place + 1]]
    return marked


def _pair(row: Mapping[str, Any]) -> list[Span]:
    return [(*row[name], name) for name in PAIR]
