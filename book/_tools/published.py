"""Make the page book/comparison.md from the results that are kept with the package."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from cra_smra.comparison import paper_numbers, published, published_table

PAGE = Path(__file__).resolve().parents[1] / "comparison.md"

HEAD = """# Published numbers, the paper's, and ours

Top-1 in percent on the four data sets. A number can be compared with another one only if the backbone, the size of the
input, the pretraining and the choice of the epoch are the same, so these stand beside it. An empty cell is a number
that this table does not have; *not run* is a training of ours that has not been run.

Most rows report the best epoch on the test set, which is an upper bound and no estimate:
[chapter 1](01_fine_grained.ipynb) shows what the choice among 200 equal epochs is worth. Ours are chosen on held-out
images. The paper's numbers are inferred from its text, or bounds that follow from it; the chapters of the sets, from
[7](07_cub.ipynb) on, say how.

"""
NOTES = """
On Stanford Dogs every number of a backbone that was pretrained on ImageNet is a number on images that it has seen.
"""


def page() -> str:
    """The whole page as Markdown."""
    sources = [
        f"- **{method['name']}**: [{method['title']}]({method['link']}). Choice of the epoch: {method['read']}."
        for method in published()
    ]
    paper = f"- **the paper**: {paper_numbers()['source']}."
    return f"{HEAD}{published_table()}\n{NOTES}\n## Sources\n\n" + "\n".join([*sources, paper]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit with 1 when the page is not up to date")
    check = parser.parse_args().check
    if check and (not PAGE.is_file() or PAGE.read_text() != page()):
        sys.exit("book/comparison.md is not what the results make: run python book/_tools/published.py")
    if not check:
        PAGE.write_text(page())


if __name__ == "__main__":
    main()
