"""HTML elements from Python; text is escaped unless it is already markup."""

import re
from collections.abc import Sequence
from html import escape

# Control characters, lone surrogates, and characters that change the direction of the following text and even tags.
HIDDEN = re.compile("[\\x00-\\x08\\x0b\\x0c\\x0e-\\x1f\\x7f-\\x9f\\u202a-\\u202e\\u2066-\\u2069\\ud800-\\udfff]")
VOID = ("img", "meta")
LEVEL = 4  # column names of a heat map up to this length are not rotated


class Markup(str):
    """Text that is HTML; any other string is escaped when it becomes part of an element."""

    __slots__ = ()


def plain(text: str) -> str:
    """Escape text for a page, and replace control and invisible characters by their codes."""
    return escape(HIDDEN.sub(lambda match: f"\\u{ord(match[0]):04x}", text))


def join(parts: Sequence[str]) -> Markup:
    """Join pieces of text and markup into one piece of markup."""
    return Markup("".join(part if isinstance(part, Markup) else plain(part) for part in parts))


def element(tag: str, /, *children: str, **attributes: str) -> Markup:
    """Make an element; attribute names that are Python keywords take a trailing underscore, as in `class_`."""
    written = "".join(f' {key.rstrip("_")}="{plain(value)}"' for key, value in attributes.items())
    return Markup(f"<{tag}{written}>" if tag in VOID else f"<{tag}{written}>{join(children)}</{tag}>")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Markup:
    """Make a table whose first column names the rows; it scrolls sideways if it is wider than the page."""
    top = element("tr", *(element("th", cell, scope="col") for cell in head))
    body = [
        element("tr", element("th", name, scope="row"), *(element("td", cell) for cell in cells))
        for name, *cells in rows
    ]
    return _scrolling(element("table", element("thead", top), element("tbody", *body)))


def heat_map(
    corner: str, rows: Sequence[str], columns: Sequence[str], cells: Sequence[Sequence[tuple[str, float]]]
) -> Markup:
    """Make a table of cells (text, share); the share, from 0 to 1, is the strength of the background colour."""
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
    return element("div", content, class_="scrolling", tabindex="0")  # so that the keyboard can scroll it
