"""A strict HTML parser that requires elements to close in order, and a word of HTML that a page must escape."""

from html.parser import HTMLParser

HOSTILE = "<script>alert('&')</script>\"<b\u2028c"
VOID = {"img", "meta"}


class Page(HTMLParser):
    """The attributes of a page by name, its tables by section (rows of cells), and its text by section."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.tables: dict[str, list[list[list[str]]]] = {}
        self.text: dict[str, str] = {}
        self.section = ""
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "section":
            self.section = dict(attrs)["id"] or ""
        tables = self.tables.setdefault(self.section, [])
        if tag == "table":
            tables.append([])
        elif tag == "tr":
            tables[-1].append([])
        elif tag in ("th", "td"):
            tables[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text[self.section] = self.text.get(self.section, "") + data
        if "table" in self.open:
            self.tables[self.section][-1][-1][-1] += data

    def values(self, name: str) -> list[str]:
        return [value for key, value in self.attributes if key == name]
