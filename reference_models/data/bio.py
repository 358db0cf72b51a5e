"""Conversion between entity spans and BIO tags."""

from collections.abc import Iterable, Sequence

from reference_models.errors import UserError

Entity = tuple[int, int, str]


def is_tag(tag: str) -> bool:
    """Return whether a string is a valid tag: "O", "B-TYPE" or "I-TYPE"."""
    return tag == "O" or (tag[:2] in ("B-", "I-") and len(tag) > 2)


def check_tag(tag: str, where: str) -> str:
    """Return the tag unchanged if it is valid.

    Raises:
        UserError: If the tag is not valid. The message begins with `where`, the location of the tag.
    """
    if not is_tag(tag):
        raise UserError(f"{where}: unknown tag {tag!r}, expected O, B-TYPE or I-TYPE, as in B-PER")
    return tag


def spans(tags: Sequence[str]) -> set[Entity]:
    """Return the entities of a tagged sentence as (start, end, type), with `end` exclusive.

    As in the CoNLL scorer, an I- tag that does not continue an entity of its type starts a new one. A tag with neither
    B- nor I- counts as outside.
    """
    found = set()
    start, kind = 0, ""
    for position, tag in enumerate([*tags, "O"]):
        prefix, _, tag_kind = tag.partition("-")
        if kind and (prefix, tag_kind) != ("I", kind):
            found.add((start, position, kind))
            kind = ""
        if not kind and prefix in ("B", "I"):
            start, kind = position, tag_kind
    return found


def tags_of_spans(length: int, entities: Iterable[Entity], where: str) -> tuple[str, ...]:
    """Return the BIO tags of a sentence of `length` words with entities (start, end, type), `end` exclusive.

    Raises:
        UserError: If two entities overlap, or an entity is empty or not inside the sentence. The message begins with
            `where`, the location of the sentence.
    """
    tags = ["O"] * length
    for start, end, kind in entities:
        if not 0 <= start < end <= length:
            raise UserError(
                f"{where}: the entity [{start}, {end}] ({kind}) is empty or not inside the sentence of {length} words "
                "(start counts from 0, end is exclusive)"
            )
        if any(tag != "O" for tag in tags[start:end]):
            raise UserError(
                f"{where}: the entity [{start}, {end}] ({kind}) overlaps another entity; a word can have only one tag, "
                "so remove one of the two entities"
            )
        tags[start:end] = [f"B-{kind}", *[f"I-{kind}"] * (end - start - 1)]
    return tuple(tags)
