"""The address of the repository makes the links of the README absolute."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILES = (".ci/set_address.py", "README.md", "pyproject.toml")
ADDRESS = "https://host.example/owner/name"


def set_address(folder: Path, address: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(folder / ".ci" / "set_address.py"), address]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_links_and_urls_of_a_copy_are_absolute(tmp_path: Path) -> None:
    (tmp_path / ".ci").mkdir()
    for name in FILES:
        shutil.copy(ROOT / name, tmp_path / name)
    before, project = (tmp_path / "README.md").read_text(), tomllib.loads((tmp_path / "pyproject.toml").read_text())

    wrong = set_address(tmp_path, "github.com/owner")
    assert wrong.returncode == 1
    assert "expected the address of the repository" in wrong.stderr
    assert (tmp_path / "README.md").read_text() == before

    for _ in range(2):  # the second time changes nothing
        assert set_address(tmp_path, f"{ADDRESS}/").returncode == 0
        links = re.findall(r"\]\(([^)]+)\)", after := (tmp_path / "README.md").read_text())
        assert len(links) == before.count("](")
        assert all(link.startswith("https://") for link in links)
        assert f"]({ADDRESS}/raw/main/docs/_static/post.png)" in after
        assert f"[recipes]({ADDRESS}/blob/main/docs/how-to/recipes.md)" in after
        changed = tomllib.loads((tmp_path / "pyproject.toml").read_text())
        urls = changed["project"].pop("urls")
        assert {"Homepage", "Documentation", "Source", "Issues", "Changelog"} == urls.keys()
        assert all(url.startswith(ADDRESS) for url in urls.values())
        project["project"].pop("urls", None)
        assert changed == project
