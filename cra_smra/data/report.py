"""What a check of a data set says: its findings, and the text that is printed."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

# The kinds of findings, the most important first: "stop" is what training fails at, "warning" what its results suffer
# from, "note" what is harmless.
KINDS = {
    "root": "stop",  # no folder, a file, empty, or not allowed to be read
    "archive": "stop",
    "set": "stop",  # another set than the ones that are read, or an incomplete one
    "several": "stop",
    "room": "stop",
    "layout": "stop",  # lists that contradict themselves or each other
    "missing": "stop",
    "unreadable": "stop",
    "few": "stop",
    "conflict": "warning",  # one image under two labels
    "leak": "warning",  # one image in two splits
    "repeated": "warning",
    "split": "warning",  # class folders that were made of an official set
    "counts": "warning",
    "scarce": "warning",
    "unlisted": "warning",
    "packed": "note",
    "part": "note",
    "doubled": "note",
    "packaging": "note",
    "gaps": "note",
    "validation": "note",
    "grey": "note",
    "16-bit": "note",
    "cmyk": "note",
    "alpha": "note",
    "palette": "note",
    "small": "note",
    "suffix": "note",
}
SHOWN = 3  # so many of a long list are named, then the rest is counted


@dataclass(frozen=True)
class Finding:
    """One thing that was found. ``kind`` is one of KINDS, ``text`` a line that says what it is and what to do,
    ``files`` are all files that it is about, below the root.
    """

    kind: str
    text: str
    files: tuple[str, ...] = ()

    @property
    def level(self) -> str:
        """ "stop", "warning" or "note"."""
        return KINDS[self.kind]


@dataclass
class Report:
    """What ``check`` found; as text, with ``str``, it ends with what to do.

    ``root`` is as it was given; ``set`` is the name of the set, or None where none was recognised; ``folder`` is where
    it lies. ``classes`` and ``official_classes`` are numbers of classes, ``per_class[split][name]`` is the number of
    images of a class, ``official`` the number of images of the complete set for each split, ``official_per_class`` the
    least and the most of a class. ``images`` are the files that were looked at, ``sides`` the smallest and the largest
    side in pixels; with ``fast`` headers alone were read. ``batch`` is the largest batch that the training images
    allow, where that is less than the recipe's. ``findings`` are in the order of KINDS.
    """

    root: str
    set: str | None = None
    title: str = ""
    folder: str = ""
    fast: bool = False
    classes: int = 0
    official_classes: int = 0
    per_class: dict[str, dict[str, int]] = field(default_factory=dict)
    official: dict[str, int] = field(default_factory=dict)
    official_per_class: dict[str, tuple[int, int]] = field(default_factory=dict)
    images: int = 0
    sides: tuple[int, int] | None = None
    batch: int | None = None
    findings: list[Finding] = field(default_factory=list)

    def add(self, kind: str, text: str, files: Iterable[str] = ()) -> None:
        """Put a finding where it belongs in the order."""
        self.findings.append(Finding(kind, text, tuple(files)))
        self.findings.sort(key=lambda finding: list(KINDS).index(finding.kind))  # stable

    def of(self, kind: str) -> list[Finding]:
        """The findings of a kind."""
        return [finding for finding in self.findings if finding.kind == kind]

    @property
    def counts(self) -> dict[str, int]:
        """Split -> number of images."""
        return {split: sum(numbers.values()) for split, numbers in self.per_class.items()}

    @property
    def can_train(self) -> bool:
        """Whether a training with the default recipe gets its images, as far as was looked."""
        return self.set is not None and all(finding.level != "stop" for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Everything, ready for JSON."""
        findings = [{"level": finding.level} | asdict(finding) for finding in self.findings]
        return {"can_train": self.can_train, "counts": self.counts} | asdict(self) | {"findings": findings}

    def __str__(self) -> str:
        lines = []
        if self.set:
            lines.append(f"{self.title} in {self.folder}" + (f": {self.classes} classes" if self.classes else ""))
        lines += [self._counts(split) for split in self.per_class]
        if self.sides:
            images = number(self.images, "image")
            what = f"the headers of {images} read" if self.fast else f"{images} decoded"
            lines.append(f"  {what}, sides of {span(self.sides)} pixels")
        lines += [f"{finding.level}: {finding.text}" for finding in self.findings]
        stops = sum(finding.level == "stop" for finding in self.findings)
        if self.can_train:
            batch = f" --batch-size {self.batch}" if self.batch else ""
            command = f"cra-smra train {self.set} --root {shlex.quote(self.root)}{batch}"
            lines.append(f"training can start{', as far as headers tell' if self.fast else ''}: {command}")
        elif stops == 1:
            lines.append("training cannot start: put right the line that says stop, then check again")
        else:
            lines.append(f"training cannot start: put right the {stops} lines that say stop, then check again")
        return "\n".join(lines)

    def _counts(self, split: str) -> str:
        """The line of a split."""
        text = f"  {split:5} {self.counts[split]:6,} images, {span(self.per_class[split].values())} a class"
        if split in self.official:
            text += f"; the complete set has {self.official[split]:,}"
            if split in self.official_per_class:
                text += f", {span(self.official_per_class[split])} a class"
        return text


def span(numbers: Collection[int]) -> str:
    """ "3 to 5", or "3" where all are the same."""
    low, high = min(numbers), max(numbers)
    return f"{low}" if low == high else f"{low} to {high}"


def some(names: Iterable[str]) -> str:
    """The first names of a list, then how many more there are."""
    names = list(names)
    rest = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + rest


def number(count: int, thing: str) -> str:
    """ "1 image", "1,200 images"."""
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def below(root: Path, path: Path) -> str:
    """A path as it is seen from the root, with slashes."""
    return path.relative_to(root).as_posix()
