"""Write the address of the repository where a package index needs it: `python .ci/set_address.py ADDRESS`.

Links and images of the README become absolute, and pyproject.toml gets `[project.urls]`.
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"(!?)\[([^]]*)\]\((?!https?:|#)([^)]+)\)")
PAGES = {
    "Homepage": "",
    "Source": "",
    "Documentation": "/blob/main/docs/index.md",
    "Changelog": "/blob/main/CHANGELOG.md",
    "Issues": "/issues",
}


def absolute_links(text: str, address: str) -> str:
    """Return Markdown text in which relative links and images point to the main branch of the repository."""

    def absolute(match: re.Match[str]) -> str:
        mark, label, path = match.groups()
        return f"{mark}[{label}]({address}/{'raw' if mark else 'blob'}/main/{path})"

    return LINK.sub(absolute, text)


def add_urls(text: str, address: str) -> str:
    """Return the text of pyproject.toml with `[project.urls]`, in place of an earlier one."""
    urls = "".join(f'{name} = "{address}{path}"\n' for name, path in PAGES.items())
    text = re.sub(r"^\[project\.urls\]\n(?:\w.*\n)*\n", "", text, flags=re.MULTILINE)
    return text.replace("[project.scripts]\n", f"[project.urls]\n{urls}\n[project.scripts]\n")


def main() -> None:
    """Change README.md and pyproject.toml."""
    address = sys.argv[1].rstrip("/") if len(sys.argv) == 2 else ""
    if not re.fullmatch(r"https://[^/\s]+/[^/\s]+/[^/\s]+", address):
        sys.exit(
            "expected the address of the repository, as in python .ci/set_address.py https://github.com/OWNER/NAME"
        )
    for name, change in (("README.md", absolute_links), ("pyproject.toml", add_urls)):
        path = ROOT / name
        path.write_text(change(path.read_text(), address))


if __name__ == "__main__":
    main()
