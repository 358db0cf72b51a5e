"""Everything that is not markup is escaped."""

import pytest

from reference_models.report.markup import Markup, element, heat_map, join, table
from tests.reference_models.page_parser import HOSTILE, Page


def test_text_is_escaped_and_markup_is_not() -> None:
    assert element("p", "a < b", Markup("<b>c</b>")) == "<p>a &lt; b<b>c</b></p>"
    assert join(["<", element("b", "<")]) == "&lt;<b>&lt;</b>"


@pytest.mark.parametrize("character", ["\u202e", "\u2067", "\0", "\x1b", "\x85", "\udcff"])
def test_control_characters_are_shown_by_their_code(character: str) -> None:
    code = f"\\u{ord(character):04x}"
    assert element("p", f"a{character}b", title=character) == f'<p title="{code}">a{code}b</p>'


def test_ordinary_text_is_unchanged() -> None:
    text = "two\nlines\tof שלום, سلام, 漢字 and \N{WAVING HAND SIGN}"
    assert join([text]) == text


def test_attributes_are_escaped() -> None:
    assert element("span", class_='"><', name="x") == '<span class="&quot;&gt;&lt;" name="x"></span>'


def test_void_elements_have_no_end_tag() -> None:
    assert element("img", src="data:,", alt="") == '<img src="data:," alt="">'


def test_markup_plus_string_is_not_markup() -> None:
    assert not isinstance(element("b", "x") + "<script>", Markup)


@pytest.mark.parametrize(
    "make", [table, lambda head, rows: heat_map(head[0], [rows[0][0]], head[1:], [[(HOSTILE, 1)]])]
)
def test_tables_escape_and_keep_their_cells(make: object) -> None:
    page = Page(make([HOSTILE, HOSTILE], [[HOSTILE, HOSTILE]]))
    assert page.tables[""] == [[[HOSTILE, HOSTILE], [HOSTILE, HOSTILE]]]


def test_heat_style_is_the_share_of_a_cell() -> None:
    page = Page(heat_map("", ["a"], ["x", "y"], [[("1", 0.25), ("3", 0.75)]]))
    assert page.values("style") == ["--heat:25%", "--heat:75%"]
