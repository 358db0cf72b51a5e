"""Registries: one object per name, and a helpful message for an unknown name."""

from pathlib import Path

import pytest

from reference_models.errors import UserError
from reference_models.names import Registry, suggest, suggest_path, unknown


class Apple:
    pass


def pear() -> None:
    pass


def make_registry() -> Registry[object]:
    fruits: Registry[object] = Registry("fruit")
    fruits.add("pear", pear)
    fruits.add("apple", Apple())
    return fruits


def test_registry_finds_by_name_and_is_sorted() -> None:
    fruits = make_registry()
    assert (list(fruits), len(fruits)) == (["apple", "pear"], 2)
    assert fruits.find("pear") is pear
    assert isinstance(fruits["apple"], Apple)


def test_duplicate_name_raises_unless_it_is_the_same_class() -> None:
    fruits = make_registry()
    again = Apple()
    fruits.add("apple", again)
    assert fruits.find("apple") is again
    with pytest.raises(ValueError, match="the fruit 'apple' is already registered: Apple"):
        fruits.add("apple", pear)
    with pytest.raises(ValueError, match="the fruit 'pear' is already registered: pear"):
        fruits.add("pear", Apple())
    assert fruits.find("pear") is pear


def test_same_class_name_in_another_module_raises() -> None:
    fruits = make_registry()
    with pytest.raises(ValueError, match="fruit 'apple' is already registered"):
        fruits.add("apple", type("Apple", (), {"__module__": "elsewhere"}))


def test_unknown_name_error_lists_names_and_the_nearest() -> None:
    with pytest.raises(UserError, match=r"^unknown fruit 'paer', expected one of apple, pear; did you mean pear\?$"):
        make_registry().find("paer")
    with pytest.raises(UserError, match=r"^unknown fruit 'x', expected one of apple, pear$"):
        make_registry().find("x")
    assert str(unknown("fruit", "x", ["fig"], "a path")) == "unknown fruit 'x', expected one of fig, or a path"


def test_only_a_similar_name_is_suggested() -> None:
    assert suggest("hvpnett", ["bert", "hvpnet"]) == "; did you mean hvpnet?"
    assert suggest("zzz", ["bert", "hvpnet"]) == ""


def test_a_file_of_a_similar_name_in_the_same_folder_is_suggested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs" / "demo").mkdir(parents=True)
    (tmp_path / "birds.yaml").touch()
    monkeypatch.chdir(tmp_path)
    assert suggest_path(Path("birdz.yaml")) == "; did you mean birds.yaml?"
    assert suggest_path(Path("runs/demmo")) == "; did you mean runs/demo?"
    assert suggest_path(tmp_path / "runs" / "demmo") == f"; did you mean {tmp_path}/runs/demo?"
    for path in ("runs/demo", "runs/birds.yaml", "run/demo", "runs"):  # it exists, or nothing beside it is similar
        assert suggest_path(Path(path)) == ""
