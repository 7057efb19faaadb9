"""Make the page book/ledger.md from book/ledger.yml."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import yaml

BOOK = Path(__file__).resolve().parents[1]
SOURCE, PAGE = BOOK / "ledger.yml", BOOK / "ledger.md"

HEAD = """# The ledger

Every equation and every open point of the paper, with the reading taken. *Reading* is what the package does by default;
*switch* is the argument or the recipe field that chooses another; *test* is what fails when the reading changes.

No displayed equation of the paper was at hand, only the prose around it: every equation below is reconstructed.
"""
SECTIONS = {
    "equations": "## Equations",
    "open": "## What the paper leaves open",
    "ours": "## What is ours\n\nRemedies that the paper does not have, off by default.",
    "slips": "## Slips in the paper\n\nWhere the paper contradicts itself or a source, and how we read it.",
}
LABELS = {
    "paper": "The paper",
    "reading": "Reading",
    "other": "Other readings",
    "why": "Why",
    "switch": "Switch",
    "section": "Chapter",
    "code": "Code",
    "test": "Test",
}


def line(key: str, row: dict[str, str]) -> str:
    """One item of an entry, with its value as text, link or code."""
    value = row[key]
    if key == "section":
        chapter = value.split("#")[0].removesuffix(".ipynb").replace("_", " ", 1)
        value = f"[{chapter}]({value})"
    elif key == "code":
        value = f"[{value}](#cra_smra.{value})"
    elif key in ("switch", "test"):
        value = ", ".join(f"`{name}`" for name in value.split(", "))
    return f"- {LABELS[key]}: {value}"


def page() -> str:
    """The whole page as Markdown."""
    ledger = yaml.safe_load(SOURCE.read_text())
    parts = [HEAD]
    for section, heading in SECTIONS.items():
        parts.append(heading + "\n")
        for row in ledger[section]:
            point = row["point"][0].upper() + row["point"][1:]
            items = "\n".join(line(key, row) for key in LABELS if key in row)
            parts.append(f"### {point}\n\n{items}\n")
    return "\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit with 1 when the page is not up to date")
    check = parser.parse_args().check
    if check and (not PAGE.is_file() or PAGE.read_text() != page()):
        sys.exit("book/ledger.md is not what book/ledger.yml makes: run python book/_tools/ledger.py")
    if not check:
        PAGE.write_text(page())


if __name__ == "__main__":
    main()
