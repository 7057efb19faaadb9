"""Stanford Dogs: 120 breeds, 20,580 photographs, with boxes. Every image comes from ImageNet."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from xml.etree import ElementTree

import torch

from cra_smra.data.archives import Archive
from cra_smra.data.files import Official, forbidden, locate, read_mat
from cra_smra.data.photographs import Listing

ADDRESS = "http://vision.stanford.edu/aditya86/ImageNetDogs"
DOGS = Official(
    name="dogs",
    title="Stanford Dogs",
    folder="StanfordDogs",  # the official archives have no folder of their own
    marks=("Images", "train_list.mat", "test_list.mat"),
    archives=(
        Archive("images.tar", f"{ADDRESS}/images.tar", size=793_579_520),
        Archive("annotation.tar", f"{ADDRESS}/annotation.tar"),
        Archive("lists.tar", f"{ADDRESS}/lists.tar"),
    ),
    source=f"Get images.tar, annotation.tar and lists.tar from {ADDRESS} and put them, unpacked or not, into the root",
    classes=120,
    counts={"train": 12000, "test": 8580},
    per_class={"train": (100, 100), "test": (48, 152)},
    traps={
        "images/Images": "this is a copy without the official lists; lists.tar has them",
        "train": "these are class folders that somebody has split already; use the official archives, or "
        "the data set 'folder'",
    },
)


def read_dogs(root: str | Path, split: str) -> Listing | None:
    """The images of the official split "train" or "test", with boxes (N, 4); None for "val", which the set has not.

    ``root`` is the folder with Images, Annotation and the lists, the one above it when it is called StanfordDogs, or
    one that holds images.tar, annotation.tar and lists.tar, which are then unpacked. Labels count from 0 in the order
    of the folders' names. An image with several dogs has the box that encloses all of them; boxes are as they were
    drawn, and some reach past the image's border. Without the folder Annotation, which only boxes need, ``boxes`` is
    None. Raises ValueError for anything that is not the official layout.
    """
    if split not in ("train", "val", "test"):
        raise ValueError(f"split must be 'train', 'val' or 'test', got {split!r}")
    folder = locate(root, DOGS)
    if split == "val":
        return None
    lists = {part: read_list(folder / f"{part}_list.mat") for part in ("train", "test")}
    if both := sorted(lists["train"].keys() & lists["test"].keys()):
        raise ValueError(f"{folder}: image {both[0]} stands in both of train_list.mat and test_list.mat")
    breeds = check_labels(folder, lists["train"] | lists["test"])
    place = {breed: k for k, breed in enumerate(breeds)}
    names = sorted(lists[split])
    listing = Listing(
        folder=folder / "Images",
        paths=tuple(names),
        targets=torch.tensor([place[name.split("/")[0]] for name in names]),
        classes=tuple(breed.partition("-")[2].replace("_", " ") for breed in breeds),
        boxes=read_boxes(folder / "Annotation", names) if (folder / "Annotation").exists() else None,
    )
    DOGS.check_counts(split, len(breeds), len(names), folder)
    listing.check_classes(split)
    return listing


def read_list(path: Path) -> dict[str, int]:
    """A list of the set: path below Images -> label from 1."""
    found = read_mat(path, "file_list", "labels")
    try:
        # .item() of each cell: NumPy turns no array into a number or a text unasked.
        files = [str(cell.item()) for cell in found["file_list"].ravel()]
        numbers = [float(label) for label in found["labels"].ravel()]
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not the official list: file_list or labels has another form") from error
    if not files or len(files) != len(numbers):
        raise ValueError(f"{path} has {len(files)} files and {len(numbers)} labels: it is not the official list")
    labels: dict[str, int] = {}
    for name, number in zip(files, numbers, strict=True):
        if not (number >= 1 and number.is_integer()):
            raise ValueError(f"{path}: image {name!r:.80} has label {number:g}, but labels are whole and count from 1")
        if name in labels:
            raise ValueError(f"{path}: image {name!r:.80} stands there twice")
        folder, _, file = name.partition("/")
        if not file or "/" in file or not folder.partition("-")[2]:
            raise ValueError(f"{path}: {name!r:.80} is not of the form 'nXXXXXXXX-Breed/image.jpg'")
        labels[name] = int(number)
    return labels


def check_labels(folder: Path, labels: dict[str, int]) -> list[str]:
    """The folders of the breeds, sorted. Raises ValueError unless labels number them in this order."""
    number: dict[str, int] = {}  # folder -> label
    for name, label in labels.items():
        breed = name.split("/")[0]
        if number.setdefault(breed, label) != label:
            raise ValueError(f"{folder}: the lists say {number[breed]} and {label} of images in {breed}")
    breeds = sorted(number)
    for before, after in zip(breeds, breeds[1:], strict=False):
        if number[before] >= number[after]:
            raise ValueError(
                f"{folder}: {before} has label {number[before]} and {after} has {number[after]}: labels are to follow "
                "the order of the folders; get the official lists again"
            )
    return breeds


def read_boxes(folder: Path, names: list[str]) -> torch.Tensor:
    """Boxes (N, 4) left, top, width, height of the images ``names``, one annotation file each."""
    with ThreadPoolExecutor(8) as pool:  # thousands of small files, each waited for: the threads wait together
        return torch.tensor(list(pool.map(read_box, (folder / name.removesuffix(".jpg") for name in names))))


def read_box(path: Path) -> tuple[float, float, float, float]:
    """Left, top, width, height of the box that encloses every object of an annotation."""
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing: unpack annotation.tar again") from error
    except PermissionError as error:
        raise forbidden(error) from error
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}): unpack annotation.tar again") from error
    # Entities may nest until they fill the memory; the official files declare none.
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data:
        raise ValueError(f"{path} is refused: it declares a document type, which the official annotations do not")
    try:
        text = data.decode()  # in another encoding the words above would not have been found
        found = ElementTree.fromstring(text).findall("object/bndbox")
        corners = [[float(box.findtext(key)) for key in ("xmin", "ymin", "xmax", "ymax")] for box in found]
    except (ElementTree.ParseError, ValueError, TypeError) as error:
        raise ValueError(f"{path} is no annotation that can be read ({error}): unpack annotation.tar again") from error
    if not corners:
        raise ValueError(f"{path} has no object with a box: unpack annotation.tar again")
    if wrong := [box for box in corners if not (box[0] <= box[2] and box[1] <= box[3])]:
        raise ValueError(f"{path}: {wrong[0]} is no box: xmin ymin xmax ymax, with min at most max")
    lefts, tops, rights, bottoms = zip(*corners, strict=True)
    return min(lefts), min(tops), max(rights) - min(lefts), max(bottoms) - min(tops)
