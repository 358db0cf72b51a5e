"""Entities as BIO tags of words, and back."""

from collections.abc import Iterable, Sequence

from reference_models.errors import UserError

Entity = tuple[int, int, str]


def is_tag(tag: str) -> bool:
    """Whether a tag is "O", or "B-" or "I-" and a type."""
    return tag == "O" or (tag[:2] in ("B-", "I-") and len(tag) > 2)


def check_tag(tag: str, where: str) -> str:
    """The tag, if it is one.

    Raises:
        UserError: it is none; `where` says whose it is.
    """
    if not is_tag(tag):
        raise UserError(f"{where}: unknown tag {tag!r}, expected O, B-TYPE or I-TYPE, as in B-PER")
    return tag


def spans(tags: Sequence[str]) -> set[Entity]:
    """The entities of a tagged sentence as (start, end, type), end not included.

    As in CoNLL's scorer, an I- that continues no entity of its own type opens one. Whatever is neither B- nor I- is
    outside.
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
    """The tags of a sentence of `length` words with entities (start, end, type), end not included.

    Raises:
        UserError: two entities overlap, or one is empty or not inside the sentence; `where` says whose they are.
    """
    tags = ["O"] * length
    for start, end, kind in entities:
        if not 0 <= start < end <= length:
            raise UserError(
                f"{where}: the entity [{start}, {end}] ({kind}) is empty or not inside the sentence of {length} words"
            )
        if any(tag != "O" for tag in tags[start:end]):
            raise UserError(
                f"{where}: the entity [{start}, {end}] ({kind}) overlaps another one; a word has one tag only"
            )
        tags[start:end] = [f"B-{kind}", *[f"I-{kind}"] * (end - start - 1)]
    return tuple(tags)
