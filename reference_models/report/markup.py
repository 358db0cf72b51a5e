"""HTML from Python: text is escaped, unless it is markup already."""

import re
from collections.abc import Sequence
from html import escape

# Control characters, half characters, and those that reverse the direction of all that follows, names of tags included.
HIDDEN = re.compile("[\\x00-\\x08\\x0b\\x0c\\x0e-\\x1f\\x7f-\\x9f\\u202a-\\u202e\\u2066-\\u2069\\ud800-\\udfff]")
VOID = ("img", "meta")
LEVEL = 4  # characters that fit above a column of a heat map


class Markup(str):
    """Text that is HTML; any other text is escaped when it becomes part of an element."""

    __slots__ = ()


def plain(text: str) -> str:
    """Text for a page: escaped, and with the code of a character in place of one that would act or not be seen."""
    return escape(HIDDEN.sub(lambda match: f"\\u{ord(match[0]):04x}", text))


def join(parts: Sequence[str]) -> Markup:
    """One piece of markup from several pieces of text or markup."""
    return Markup("".join(part if isinstance(part, Markup) else plain(part) for part in parts))


def element(tag: str, /, *children: str, **attributes: str) -> Markup:
    """An element; an attribute whose name is a word of Python ends in an underscore, as in `class_`."""
    written = "".join(f' {key.rstrip("_")}="{plain(value)}"' for key, value in attributes.items())
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
    return element("div", content, class_="scrolling", tabindex="0")  # for the keyboard
