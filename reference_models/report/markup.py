"""HTML from Python: text is escaped, unless it is markup already."""

from collections.abc import Sequence
from html import escape

VOID = ("img", "meta")
LEVEL = 4  # characters that fit above a column of a heat map


class Markup(str):
    """Text that is HTML; any other text is escaped when it becomes part of an element."""

    __slots__ = ()


def join(parts: Sequence[str]) -> Markup:
    """One piece of markup from several pieces of text or markup."""
    return Markup("".join(part if isinstance(part, Markup) else escape(part) for part in parts))


def element(tag: str, /, *children: str, **attributes: str) -> Markup:
    """An element; an attribute whose name is a word of Python ends in an underscore, as in `class_`."""
    written = "".join(f' {key.rstrip("_")}="{escape(value)}"' for key, value in attributes.items())
    return Markup(f"<{tag}{written}>" if tag in VOID else f"<{tag}{written}>{join(children)}</{tag}>")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Markup:
    """A table whose first column names the rows; it scrolls by itself where it is wider than the page."""
    top = element("tr", *(element("th", cell, scope="col") for cell in head))
    body = [
        element("tr", element("th", name, scope="row"), *(element("td", cell) for cell in cells))
        for name, *cells in rows
    ]
    return _scrolling(element("table", element("thead", top), element("tbody", *body)))


def heat_map(
    corner: str, rows: Sequence[str], columns: Sequence[str], cells: Sequence[Sequence[tuple[str, float]]]
) -> Markup:
    """A table whose cells are a text and a share from 0 to 1, shown as the strength of the colour behind it."""
    looks = "turned" if max(map(len, columns)) > LEVEL else "level"
    top = [element("th", element("span", name), scope="col", class_=looks) for name in columns]
    body = [
        element(
            "tr",
            element("th", name, scope="row"),
            *(element("td", text, style=f"--heat:{round(100 * share)}%") for text, share in line),
        )
        for name, line in zip(rows, cells, strict=True)
    ]
    head = element("thead", element("tr", element("th", corner, class_="corner"), *top))
    return _scrolling(element("table", head, element("tbody", *body), class_="heat"))


def _scrolling(content: Markup) -> Markup:
    return element("div", content, class_="scrolling")
