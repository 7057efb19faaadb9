"""Make the page book/status.md: with what, where and how long the stored outputs were made."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path

BOOK = Path(__file__).resolve().parents[1]
PACKAGES = ("cra_smra", "torch", "torchvision", "accelerate", "numpy", "matplotlib")

HEAD = """# Status of the outputs

Every chapter was executed from top to bottom by `make execute`, which writes this page. `make test` executes them
again and compares the outputs, but for the cells listed in `tests/test_book.py`, whose numbers depend on the machine.
"""


def record(chapter: str, seconds: float, book: Path = BOOK) -> None:
    """Note that ``chapter`` has just been executed, in so many seconds, and write the page anew."""
    source = book / "status.json"
    status = json.loads(source.read_text()) if source.is_file() else {}
    status[chapter] = {
        "seconds": round(seconds),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "versions": {name: version(name) for name in PACKAGES},
    }
    source.write_text(json.dumps(dict(sorted(status.items())), indent=2) + "\n")
    (book / "status.md").write_text(page(book))


def page(book: Path = BOOK) -> str:
    """The page as Markdown."""
    status = json.loads((book / "status.json").read_text())
    rows = ["| chapter | seconds | Python | torch | machine |", "|---|---|---|---|---|"]
    for chapter, entry in status.items():
        link = f"[{chapter.replace('_', ' ')}]({chapter}.ipynb)"
        rows.append(
            f"| {link} | {entry['seconds']} | {entry['python']} | {entry['versions']['torch']} | {entry['machine']} |"
        )
    other = sorted({f"{name} {number}" for entry in status.values() for name, number in entry["versions"].items()})
    return f"{HEAD}\n" + "\n".join(rows) + f"\n\nVersions: {', '.join(other)}.\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit with 1 when the page is not up to date")
    check = parser.parse_args().check
    if check and (BOOK / "status.md").read_text() != page():
        sys.exit("book/status.md is not what book/status.json makes: run python book/_tools/status.py")
    if not check:
        (BOOK / "status.md").write_text(page())


if __name__ == "__main__":
    main()
