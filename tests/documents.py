"""What the pages of docs/ name."""

import re
from pathlib import Path

PAGES = Path(__file__).resolve().parents[1] / "docs"


def documented(title: str) -> set[str]:
    """Keys in the first columns of the tables below ``## title``, on whichever page it is."""
    (text,) = [page.read_text() for page in sorted(PAGES.glob("*.md")) if f"\n## {title}\n" in page.read_text()]
    section = re.split(r"^## ", text.split(f"\n## {title}\n")[1], flags=re.MULTILINE)[0]
    return {
        key
        for column in re.findall(r"^\| (`.+?`) \|", section, re.MULTILINE)
        for key in re.findall(r"`([^`]+)`", column)
    }
