"""Build the HTML of the book from a staged copy, so that no committed file is ever touched.

The copy gets what must not stand twice in the repository: its address and the links to Colab, from
pyproject.toml, and for each exported cell the file of the package that holds the same code.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from chapters import ROOT, ChapterError, chapter_paths, execute, read_notebook, write_notebook

BRANCH = "main"
# What is no part of a page; the twins hold the same cells as the notebooks and would be pages of their own.
IGNORED = shutil.ignore_patterns("_tools", "__pycache__", ".*", "[0-9][0-9]_*.md")


def repository(root: Path) -> str:
    """Return the address of the repository, which stands in pyproject.toml only."""
    with (root / "pyproject.toml").open("rb") as file:
        urls = tomllib.load(file)["project"].get("urls", {})
    if "Repository" not in urls:
        raise ChapterError("pyproject.toml: [project.urls] names no Repository")
    return urls["Repository"]


def settings(root: Path) -> dict[str, Any]:
    """Return the settings in _config.yml, with the repository and the launch buttons added."""
    config = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))
    config["repository"] = {"url": repository(root), "path_to_book": "", "branch": BRANCH}
    config["launch_buttons"] = {"colab_url": "https://colab.research.google.com"}
    config["html"]["use_repository_button"] = True
    config["sphinx"]["config"]["html_css_files"].append("exported.css")
    return config


def label_exported(book: Path) -> str:
    """Tag each exported cell of the staged chapters with its file; return the style sheet that shows it."""
    files: dict[str, str] = {}
    for path in chapter_paths(book):
        notebook, changed = read_notebook(path), False
        for cell in notebook.cells:
            file = cell.metadata.get("cra_smra", {}).get("file")
            if file and "export" in cell.metadata.get("tags", []):
                files[file] = "in_" + re.sub(r"\W", "_", file)
                cell.metadata.tags.append(files[file])
                changed = True
        if changed:
            write_notebook(notebook, path)
    rule = '.cell.tag_export.tag_%s::before { content: "in the package: cra_smra/%s"; }\n'
    return "".join(rule % (tag, file) for file, tag in sorted(files.items()))


def stage(root: Path, source: Path, run: bool) -> None:
    """Copy what the pages need into ``source``; with ``run`` the chapters are executed copies."""
    shutil.rmtree(source, ignore_errors=True)
    source.mkdir(parents=True)
    shutil.copy(root / "_toc.yml", source)
    # The code too, since pages link to it.
    for folder in ("book", "cra_smra"):
        shutil.copytree(root / folder, source / folder, ignore=IGNORED)
    (source / "_config.yml").write_text(yaml.safe_dump(settings(root), sort_keys=False), encoding="utf-8")
    if run:
        execute(chapter_paths(root / "book"), source / "book")
    style = label_exported(source / "book")
    (source / "book" / "_static" / "exported.css").write_text(style, encoding="utf-8")


def build(root: Path, out: Path, run: bool) -> Path:
    """Build the book into ``out``; return the path of its first page."""
    source = out / "source"
    stage(root, source, run)
    # From nothing each time: Sphinx repeats no warning of a page that it does not read again.
    shutil.rmtree(out / "_build", ignore_errors=True)
    print("building the HTML ...", flush=True)
    program = Path(sys.executable).with_name("jupyter-book")
    command = [program, "build", source, "--path-output", out, "-W", "-n", "--keep-going"]
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    page = out / "_build" / "html" / "index.html"
    if result.returncode or not page.is_file():
        print(result.stdout)
        raise ChapterError("the build of the book failed or warned, see above")
    return page


def main(arguments: Sequence[str] | None = None) -> int:
    """Build the book; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--execute", action="store_true", help="execute copies of the chapters first")
    parser.add_argument("--out", type=Path, default=ROOT / "build", metavar="DIR", help="by default build")
    options = parser.parse_args(arguments)
    try:
        page = build(ROOT, options.out.resolve(), options.execute)
    except (ChapterError, OSError, yaml.YAMLError, tomllib.TOMLDecodeError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"the book: {page.as_uri()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
