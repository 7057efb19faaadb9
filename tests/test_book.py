"""The book: its chapters, the tools in book/_tools, and the built pages."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
from pathlib import Path

import nbformat
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

import build
import chapters
import mirror

ROOT = Path(__file__).resolve().parents[1]
CHAPTERS = chapters.chapter_paths()

# The code cells (counted from 1) that nbval runs without comparing, or does not run, for each chapter.
# Keep this short: what stands here is not tested.
NOT_COMPARED: dict[str, list[int]] = {
    "06_training": [10, 12, 17],
    "07_cub": [17],
    "08_aircraft": [13],
    "09_cars": [13],
    "10_dogs": [13],
    "11_groceries": [14],
}
NOT_RUN: dict[str, list[int]] = {}

# Shown as raw text in Colab, JupyterLab and on GitHub.
NOT_PORTABLE = {
    "a directive": r"^\s*(```+|~~~+|:::+)\s*\{",
    "a comment of MyST, which is not shown": r"^\s*%(\s|$)",
    "a role": r"\{[a-z:_-]+\}`",
    "a target": r"^\([\w-]+\)=\s*$",
    "an HTML admonition": r"""<div\s+class=["']admonition""",
    "a substitution": r"\{\{",
}

every_chapter = pytest.mark.parametrize(
    "path", [path for path in CHAPTERS if path.is_file()], ids=lambda path: path.stem
)


def code_cells(path: Path) -> list[nbformat.NotebookNode]:
    return [cell for cell in chapters.read_notebook(path).cells if cell.cell_type == "code"]


def tagged(path: Path, tag: str) -> list[int]:
    return [i for i, cell in enumerate(code_cells(path), start=1) if tag in cell.metadata.get("tags", [])]


# --- the chapters


def test_notebook_and_twin_hold_the_same_cells():
    assert [line for path in CHAPTERS for line in chapters.differences(path)] == []


@every_chapter
def test_notebook_is_in_normal_form(path):
    """Otherwise somebody's editor wrote it: make sync puts that right."""
    notebook = chapters.read_notebook(path)
    chapters.normalise(notebook)
    assert nbformat.writes(notebook) + "\n" == path.read_text(encoding="utf-8")


@every_chapter
def test_notebook_was_executed_from_top_to_bottom(path):
    """nbval compares nothing where outputs were cleared."""
    cells = code_cells(path)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert any(cell.outputs for cell in cells)


@every_chapter
def test_outputs_are_the_same_everywhere(path):
    """No warnings, no errors, no addresses in memory."""
    for number, cell in enumerate(code_cells(path), start=1):
        for output in cell.outputs:
            assert output.output_type != "error", f"cell {number}"
            assert output.get("name") != "stderr", f"cell {number}: {output.text}"
            text = output.get("text", "") + str(output.get("data", {}).get("text/plain", ""))
            assert not re.search(r" at 0x[0-9a-f]+", text), f"cell {number}: {text}"


@every_chapter
def test_no_cell_ends_with_a_semicolon(path):
    for number, cell in enumerate(code_cells(path), start=1):
        assert not cell.source.rstrip().endswith(";"), f"cell {number}"


@every_chapter
def test_markdown_is_portable(path):
    for number, cell in enumerate(chapters.read_notebook(path).cells, start=1):
        if cell.cell_type == "markdown":
            for what, pattern in NOT_PORTABLE.items():
                found = re.search(pattern, without_code_and_formulas(cell.source), re.MULTILINE)
                assert not found, f"cell {number} has {what}: {found.group()}"


def without_code_and_formulas(text: str) -> str:
    """Remove what may hold braces: plain code blocks, formulas, inline code not preceded by a brace."""
    for pattern in (r"^```+\w*\n.*?^```+$", r"\$\$.*?\$\$", r"\$[^$\n]+\$", r"(?<!\})`[^`\n]+`"):
        text = re.sub(pattern, "", text, flags=re.MULTILINE | re.DOTALL)
    return text


@every_chapter
def test_first_code_cell_installs_the_package_where_it_is_missing(path):
    first = code_cells(path)[0].source
    assert 'find_spec("cra_smra")' in first and "%pip install" in first
    address = re.search(r"git\+(\S+)", first)
    assert address and address.group(1) == build.repository(ROOT)
    assert not re.search(r"[=<>]=\s*[0-9]", first), "a pinned version breaks what is installed"
    assert first == code_cells(CHAPTERS[0])[0].source, "not the same as in the first chapter"


@every_chapter
def test_chapters_that_train_ask_colab_for_a_gpu_and_no_others(path):
    trains = any(re.search(r"(?<![.\w])train\(|cra-smra train", cell.source) for cell in code_cells(path))
    metadata = chapters.read_notebook(path).metadata
    assert (metadata.get("accelerator"), "colab" in metadata) == (("GPU", True) if trains else (None, False))


@every_chapter
def test_cells_that_are_not_tested_are_listed(path):
    tags = {tag for cell in code_cells(path) for tag in cell.metadata.get("tags", [])}
    known = {"nbval-ignore-output", "nbval-skip"}
    assert {tag for tag in tags if tag.lower().replace("_", "-").startswith("nbval")} <= known
    assert tagged(path, "nbval-ignore-output") == NOT_COMPARED.get(path.stem, [])
    assert tagged(path, "nbval-skip") == NOT_RUN.get(path.stem, [])
    assert not tags & {"raises-exception", "skip-execution"}


def test_lists_name_chapters_that_exist():
    assert {*NOT_COMPARED, *NOT_RUN, *chapters.NOT_TESTED} <= {path.stem for path in CHAPTERS}


def test_contents_name_every_chapter_and_nothing_that_is_missing():
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    entries = [toc["root"], *toc_files(toc)]
    missing = [e for e in entries if not any((ROOT / f"{e}{end}").is_file() for end in (".ipynb", ".md"))]
    assert missing == []
    assert {f"book/{path.stem}" for path in CHAPTERS} <= set(entries)


def toc_files(node: object) -> list[str]:
    """Return the pages below one node of the table of contents."""
    if isinstance(node, list):
        return [file for item in node for file in toc_files(item)]
    if isinstance(node, dict):
        own = [node["file"]] if "file" in node else []
        return own + [file for value in node.values() for file in toc_files(value)]
    return []


def test_chapters_hold_the_code_of_the_package():
    assert mirror.check() == []


# --- book/_tools/mirror.py, on a made-up book

SOURCE = '''"""A module."""

import math

RATE = 0.5  # a half


# Equation (1).
def double(x: float) -> float:
    """Twice."""
    return 2 * x  # exact
    # the end


class Gate:
    """A gate."""

    def __call__(self, x):
        return x


def _helper():
    pass
'''
DOUBLE = SOURCE[SOURCE.index("# Equation") : SOURCE.index("\n\n\nclass")]
GATE = SOURCE[SOURCE.index("class") : SOURCE.index("\n\n\ndef _helper")]


def exported(source: str, file: str = "gate.py") -> nbformat.NotebookNode:
    return new_code_cell(source, metadata={"tags": ["export"], "cra_smra": {"file": file}})


@pytest.fixture
def made_up(tmp_path):
    """A function that writes a book of one chapter with the given cells beside a package of one module."""
    book, package = tmp_path / "book", tmp_path / "cra_smra"
    book.mkdir()
    package.mkdir()
    (package / "gate.py").write_text(SOURCE)

    def write(*cells: nbformat.NotebookNode, name: str = "01_gate") -> tuple[Path, Path]:
        path = book / f"{name}.ipynb"
        chapters.write_notebook(new_notebook(cells=[new_markdown_cell("# Gate"), *cells]), path)
        chapters.write_twin(chapters.read_notebook(path), path.with_suffix(".md"))
        return book, package

    return write


def test_mirror_accepts_equal_texts(made_up):
    assert mirror.check(*made_up(exported(DOUBLE), exported(GATE), new_code_cell("double(1)"))) == []
    assert mirror.check(*made_up(exported(DOUBLE), exported(GATE), exported("RATE = 0.5  # a half"))) == []


def test_mirror_accepts_a_book_without_exported_cells(made_up):
    assert mirror.check(*made_up(new_code_cell("1"))) == []


@pytest.mark.parametrize(
    ("cells", "lines"),
    [
        ([DOUBLE.replace("exact", "about"), GATE], ["01_gate: cell 2: double differs"]),
        ([DOUBLE.replace("    # the end", ""), GATE], ["01_gate: cell 2: double differs"]),
        ([DOUBLE.replace("# Equation (1).\n", ""), GATE], ["01_gate: cell 2: double differs"]),
        ([DOUBLE], ["cra_smra/gate.py: Gate is exported by no chapter"]),
        ([DOUBLE, GATE, DOUBLE], ["01_gate: cell 4: double is exported already by 01_gate: cell 2"]),
        ([DOUBLE, GATE, "def new():\n    pass"], ["01_gate: cell 4: cra_smra/gate.py does not define new"]),
    ],
)
def test_mirror_finds_a_difference(made_up, cells, lines):
    found = mirror.check(*made_up(*map(exported, cells)))
    assert len(found) == len(lines)
    assert all(line.startswith(start) for line, start in zip(found, lines, strict=True)), found


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (exported(f"{DOUBLE}\n\n\n{GATE}"), "does not hold exactly one definition"),
        (exported(f"import math\n{GATE}"), "does not hold exactly one definition"),
        (exported("def broken(:"), "cell 2"),
        (exported(GATE, "nowhere.py"), "there is no cra_smra/nowhere.py"),
        (new_code_cell(GATE, metadata={"tags": ["export"]}), "lack cra_smra"),
    ],
)
def test_mirror_refuses_a_cell_without_a_home(made_up, cell, message):
    with pytest.raises(chapters.ChapterError, match=re.escape(message)) as caught:
        mirror.check(*made_up(cell))
    assert "\n" not in str(caught.value)


def test_mirror_copies_both_ways(made_up):
    changed = DOUBLE.replace("2 * x", "x + x")
    book, package = made_up(exported(changed), exported(GATE), exported("def new():\n    return 1"))
    assert len(mirror.to_package(book, package)) == 2
    text = (package / "gate.py").read_text()
    assert text == SOURCE.replace("2 * x", "x + x") + "\n\ndef new():\n    return 1\n"
    assert mirror.check(book, package) == [] == mirror.to_package(book, package)

    (package / "gate.py").write_text(text.replace("return 1", "return 2"))
    assert len(mirror.to_book(book, package)) == 1
    assert mirror.check(book, package) == [] == mirror.to_book(book, package)
    assert chapters.differences(book / "01_gate.ipynb") == []


# --- book/_tools/chapters.py, on a made-up book

TRAINING = """\
import sys, time
from tqdm import tqdm

for epoch in tqdm(range(3), desc="epoch"):
    time.sleep(0.05)
for epoch in range(3):
    print("epoch", epoch, flush=True)
    time.sleep(0.05)"""


def test_execution_gives_the_same_bytes_again_and_shows_progress(made_up, tmp_path, capsys):
    book, _ = made_up(new_code_cell(TRAINING), new_code_cell("{'b': 1, 'a': epoch}"))
    path, copies = book / "01_gate.ipynb", tmp_path / "copies"
    copies.mkdir()
    before = path.read_bytes()
    chapters.execute([path], into=copies)
    assert path.read_bytes() == before
    chapters.execute([path])
    assert path.read_bytes() == (copies / "01_gate.ipynb").read_bytes() != before
    first, second = code_cells(path)
    assert [output.name for output in first.outputs] == ["stdout"]
    assert first.outputs[0].text == "epoch 0\nepoch 1\nepoch 2\n"
    assert (first.execution_count, second.execution_count) == (1, 2)
    assert chapters.differences(path) == []
    shown = capsys.readouterr().out
    assert "[1/1] 01_gate" in shown and "done in" in shown


def test_failed_cell_is_named(made_up):
    book, _ = made_up(new_code_cell("1"), new_code_cell("1 / 0"))
    with pytest.raises(chapters.ChapterError, match="^01_gate: cell 2 failed with ZeroDivisionError$"):
        chapters.execute([book / "01_gate.ipynb"])


def test_pair_keeps_the_outputs_of_unchanged_cells(made_up):
    book, _ = made_up(new_code_cell("f(1)"), new_code_cell("f(2)"))
    path = book / "01_gate.ipynb"
    notebook = chapters.read_notebook(path)
    for count, cell in enumerate(notebook.cells[1:], start=1):
        cell.execution_count = count
        cell.outputs = [nbformat.v4.new_output("stream", text=f"{count}\n")]
    chapters.write_notebook(notebook, path)
    assert chapters.pair(path) == ""

    twin = path.with_suffix(".md")
    twin.write_text(twin.read_text().replace("f(2)", "f((2,))").replace("# Gate", "# Gates"))
    assert chapters.differences(path) != []
    assert "1 new cells" in chapters.pair(path)
    assert chapters.differences(path) == []
    assert [len(cell.outputs) for cell in code_cells(path)] == [1, 0]

    notebook = chapters.read_notebook(path)
    notebook.cells[0].source = "# Edited in JupyterLab"
    chapters.write_notebook(notebook, path)
    chapters.pair(path, from_notebook=True)
    assert "# Edited in JupyterLab" in twin.read_text()


@pytest.mark.parametrize("arguments", [["execute", "99_nowhere"], ["execute", "--into", "nowhere"]])
def test_bad_arguments_give_one_line(arguments, capsys):
    assert chapters.main(arguments) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_a_file_that_is_no_notebook_gives_one_line(tmp_path):
    (tmp_path / "01_gate.ipynb").write_text("{")
    with pytest.raises(chapters.ChapterError, match="^01_gate.ipynb cannot be read as a notebook") as caught:
        chapters.read_notebook(tmp_path / "01_gate.ipynb")
    assert "\n" not in str(caught.value)


def test_tools_have_help_and_docstrings(capsys):
    for tool in (build, chapters, mirror):
        with pytest.raises(SystemExit) as caught:
            tool.main(["--help"])
        assert caught.value.code == 0
        tree = ast.parse(Path(tool.__file__).read_text(encoding="utf-8"))
        assert all(ast.get_docstring(n) for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef))
    assert "usage" in capsys.readouterr().out


# --- built pages

FORMULA = r"$$ S = \begin{cases} 1 - \omega & I > \delta \\ 1 & \text{else} \end{cases} \tag{5} $$"


@pytest.fixture(scope="module")
def small_book(tmp_path_factory):
    """A book of two pages with the settings, the style and the tools of the real one."""
    root = tmp_path_factory.mktemp("small")
    shutil.copytree(ROOT / "book" / "_static", root / "book" / "_static")
    for name in ("pyproject.toml", "_config.yml"):
        shutil.copy(ROOT / name, root)
    (root / "cra_smra").mkdir()
    (root / "cra_smra" / "gate.py").write_text(SOURCE)
    (root / "_toc.yml").write_text("format: jb-book\nroot: book/index\nchapters:\n- file: book/01_gate\n")
    (root / "book" / "index.md").write_text("# A book\n\nThe file cram.py.\n")
    cells = [new_markdown_cell(f"# Gate\n\n{FORMULA}\n\nIn a line: $\\boldsymbol{{x}}$."), exported(GATE)]
    path = root / "book" / "01_gate.ipynb"
    chapters.write_notebook(new_notebook(cells=cells), path)
    chapters.write_twin(chapters.read_notebook(path), path.with_suffix(".md"))
    return root


@pytest.fixture(scope="module")
def page(small_book) -> Path:
    """The page of its chapter."""
    return build.build(small_book, small_book / "build", run=False).parent / "book" / "01_gate.html"


def test_page_links_to_colab_and_labels_exported_cells(page):
    text = page.read_text(encoding="utf-8")
    address = build.repository(ROOT)
    assert f"https://colab.research.google.com/{address.removeprefix('https://').replace('.com', '')}" in text
    assert 'class="cell tag_export tag_in_gate_py' in text
    assert "in the package: cra_smra/gate.py" in (page.parents[1] / "_static" / "exported.css").read_text()
    assert "cdn" not in re.search(r'<script[^>]*tex-chtml[^>]*>', text).group()
    assert "http://cram.py" not in (page.parent / "index.html").read_text(encoding="utf-8")


@pytest.mark.skipif(not shutil.which("chromium"), reason="needs chromium")
def test_formula_is_typeset_without_network(page, tmp_path):
    command = ["chromium", "--headless", "--disable-gpu", "--disable-background-networking"]
    command += ["--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=20000"]
    command += [f"--user-data-dir={tmp_path}", "--dump-dom", page.as_uri()]
    if os.getuid() == 0:
        command.append("--no-sandbox")
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    assert dom.count("<mjx-container") == 2
    assert "<mjx-labels" in dom, "the number of the equation is not typeset"
    assert "data-mjx-error" not in dom


def test_warning_fails_the_build(small_book, page, capsys):
    index = small_book / "book" / "index.md"
    index.write_text(index.read_text() + "\n[nowhere](nowhere.md)\n")
    with pytest.raises(chapters.ChapterError, match="failed or warned"):
        build.build(small_book, small_book / "build", run=False)
    assert "nowhere" in capsys.readouterr().out
