"""Birds in the layouts of CUB-200-2011, Stanford Dogs, class folders and the Grocery Store Dataset.

Each function fills a folder that is there and empty, with the odd cases that the real set has.
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from cra_smra.data.birds import PARTS, Birds, noise

CUB_PARTS: tuple[str, ...] = ("back", "beak", "belly", "breast", "crown", "forehead", "left eye", "left leg",
                              "left wing", "nape", "right eye", "right leg", "right wing", "tail", "throat")
ORIENTATION = 0x0112  # the EXIF entry that says how the camera was held


def draw(num_classes: int, size: int, seed: int, **per_class: int) -> list[Birds]:
    """The birds of each split named in ``per_class``."""
    return [Birds(split, num_classes=num_classes, per_class=n, size=size, seed=seed) for split, n in per_class.items()]


def picture(birds: Birds, label: int, number: int) -> Image.Image:
    """Image ``number`` of class ``label``."""
    return Image.fromarray(birds.images[label * birds.per_class + number].permute(1, 2, 0).numpy())


def save(image: Image.Image, path: Path, **options: object) -> None:
    """Write an image, as JPEG unless ``options`` say otherwise, whatever the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    packed = BytesIO()  # Pillow itself does not notice when the disk is full for the last part of a JPEG
    image.save(packed, **({"format": "JPEG", "quality": 95} | options))
    path.write_bytes(packed.getvalue())


def write_lines(path: Path, lines: list[str]) -> None:
    """Write a list, one line each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")


def fill_cub(folder: Path, *, num_classes: int, train_per_class: int, test_per_class: int, size: int,
             seed: int) -> None:
    """CUB-200-2011. The first image of the first class is grey in both splits; file names do not repeat the folder's
    upper and lower case. A bird facing right shows its right eye, leg and wing; the left ones count as invisible.
    """
    sets = draw(num_classes, size, seed, train=train_per_class, test=test_per_class)
    folders = [f"{k:03d}.{name.replace(' ', '_')}" for k, name in enumerate(sets[0].classes, 1)]
    rows: dict[str, list[str]] = {name: [] for name in (
        "images", "image_class_labels", "train_test_split", "bounding_boxes", "parts/part_locs")}
    number = 0
    for k, name in enumerate(folders):
        for ds, j in ((each, j) for each in sets for j in range(each.per_class)):
            number, i = number + 1, k * ds.per_class + j
            file = f"{name}/{name[4:].title()}_{j:04d}_{number}.jpg"
            image = picture(ds, k, j)
            save(image.convert("L") if k == j == 0 else image, folder / "images" / file)
            rows["images"].append(f"{number} {file}")
            rows["image_class_labels"].append(f"{number} {k + 1}")
            rows["train_test_split"].append(f"{number} {int(ds.split == 'train')}")
            rows["bounding_boxes"].append(" ".join([str(number), *(f"{v:.1f}" for v in ds.boxes[i].tolist())]))
            side = "left " if noise(ds.split, k, j, ds.seed)[0, 0] < 0.5 else "right "  # the first is the flip
            at = dict(zip(PARTS, ds.part_locations[i].tolist(), strict=True))
            for p, part in enumerate(CUB_PARTS, 1):
                x, y, seen = at.get(part.removeprefix(side), (0, 0, 0))
                rows["parts/part_locs"].append(f"{number} {p} {x:.2f} {y:.2f} {int(seen)}")
    rows["classes"] = [f"{k} {name}" for k, name in enumerate(folders, 1)]
    rows["parts/parts"] = [f"{p} {part}" for p, part in enumerate(CUB_PARTS, 1)]
    for name, lines in rows.items():
        write_lines(folder / f"{name}.txt", lines)


def fill_dogs(folder: Path, *, num_classes: int, train_per_class: int, test_per_class: int, size: int,
              seed: int) -> None:
    """Stanford Dogs. In both splits the first image of the first class is a transparent PNG named .jpg, and the
    annotation of the first image of the second class has two objects. Names of breeds have hyphens.
    """
    from scipy.io import savemat  # late, as in read_mat

    rows: dict[str, list[tuple[str, int]]] = {"train": [], "test": []}
    for ds in draw(num_classes, size, seed, train=train_per_class, test=test_per_class):
        for k, name in enumerate(ds.classes):
            synset = f"n{2085620 + 9 * k:08d}"
            breed = f"{synset}-{name.replace(' ', '_')}"
            for j in range(ds.per_class):
                file = f"{breed}/{synset}_{10 * j + (ds.split == 'test')}"
                image = picture(ds, k, j)
                if k == j == 0:
                    image.putalpha(200)
                save(image, folder / "Images" / f"{file}.jpg", **({"format": "PNG"} if k == j == 0 else {}))
                left, top, width, height = map(int, ds.boxes[k * ds.per_class + j].tolist())
                right, bottom = left + width, top + height
                objects = [(left, top, right, bottom)]
                if k == 1 and j == 0:  # one ends below, the other at the right: neither is the whole
                    objects = [(left, top, right - 1, bottom), (left + 1, top + 1, right, bottom - 1)]
                path = folder / "Annotation" / file
                write_lines(path, [annotation(path.name, synset, name, size, objects)])
                rows[ds.split].append((file, k + 1))
    for part in ("file", "train", "test"):
        chosen = sorted(rows["train"] + rows["test"]) if part == "file" else rows[part]
        files = np.array([f"{file}.jpg" for file, _ in chosen], dtype=object)[:, None]
        annotations = np.array([file for file, _ in chosen], dtype=object)[:, None]
        labels = np.array([[label] for _, label in chosen], dtype=np.uint8)
        savemat(folder / f"{part}_list.mat", {"file_list": files, "annotation_list": annotations, "labels": labels})


def annotation(file: str, synset: str, breed: str, size: int, boxes: list[tuple[int, int, int, int]]) -> str:
    """An annotation of Stanford Dogs; ``boxes`` are xmin, ymin, xmax, ymax."""
    objects = "".join(
        f"\t<object>\n\t\t<name>{breed}</name>\n\t\t<pose>Unspecified</pose>\n\t\t<truncated>0</truncated>\n"
        f"\t\t<difficult>0</difficult>\n\t\t<bndbox>\n\t\t\t<xmin>{box[0]}</xmin>\n\t\t\t<ymin>{box[1]}</ymin>\n"
        f"\t\t\t<xmax>{box[2]}</xmax>\n\t\t\t<ymax>{box[3]}</ymax>\n\t\t</bndbox>\n\t</object>\n"
        for box in boxes
    )
    return (
        f"<annotation>\n\t<folder>{synset[1:]}</folder>\n\t<filename>{file}</filename>\n"
        "\t<source>\n\t\t<database>ImageNet database</database>\n\t</source>\n"
        f"\t<size>\n\t\t<width>{size}</width>\n\t\t<height>{size}</height>\n\t\t<depth>3</depth>\n\t</size>\n"
        f"\t<segment>0</segment>\n{objects}</annotation>"
    )


def fill_folder(folder: Path, *, num_classes: int, train_per_class: int, test_per_class: int, size: int,
                seed: int) -> None:
    """Class folders below train and test. In both splits the first image of the first class is grey, that of the
    second lies on its side with a note of the camera; a PNG is named .PNG, and beside the images lie Thumbs.db,
    .DS_Store and README.txt.
    """
    for ds in draw(num_classes, size, seed, train=train_per_class, test=test_per_class):
        for k, name in enumerate(ds.classes):
            for j in range(ds.per_class):
                image, options = picture(ds, k, j), {}
                if k == j == 0:
                    image = image.convert("L")
                elif k == 1 and j == 0:
                    image, options["exif"] = image.transpose(Image.Transpose.ROTATE_90), Image.Exif()
                    options["exif"][ORIENTATION] = 6  # shown after a quarter turn clockwise
                lossless = k > 0 and j == 1
                options |= {"format": "PNG"} if lossless else {}
                save(image, folder / ds.split / name / f"IMG {j:04d}.{'PNG' if lossless else 'jpg'}", **options)
        first = folder / ds.split / ds.classes[0]
        (first / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
        (first / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
        write_lines(first / "README.txt", ["no image"])


def fill_groceries(folder: Path, *, num_classes: int, train_per_class: int, test_per_class: int, size: int,
                   seed: int) -> None:
    """Grocery Store Dataset. Ids have gaps; pairs of fine classes share a coarse one, and an odd last class is alone in
    its; the list "val" has no image of the last class. The first image of the first class is grey in every split.
    """
    data = folder / "dataset"
    header = "Class Name (str),Class ID (int),Coarse Class Name (str),Coarse Class ID (int)"
    rows = {"classes.csv": [f"{header},Iconic Image Path (str),Product Description Path (str)"]}
    few = max(1, train_per_class // 4)
    for ds in draw(num_classes, size, seed, train=train_per_class, val=few, test=test_per_class):
        rows[f"{ds.split}.txt"] = []
        for k, bird in enumerate(ds.classes):
            name, fine, coarse = bird.replace(" ", "-"), 3 * k + k // 2, 2 * (k // 2) + 1
            alone = k % 2 == 0 and k == num_classes - 1
            kind = name if alone else f"Kind-{coarse}"
            place = f"Fruit/{name}" if alone else f"Fruit/{kind}/{name}"
            if ds.split == "train":
                iconic = f"/iconic-images-and-descriptions/{place}/{name}"
                rows["classes.csv"].append(
                    f"{name},{fine},{kind},{coarse},{iconic}_Iconic.jpg,{iconic}_Description.txt")
            for j in range(0 if ds.split == "val" and k == num_classes - 1 else ds.per_class):
                file = f"{ds.split}/{place}/{name}_{j + 1:03d}.jpg"
                image = picture(ds, k, j)
                save(image.convert("L") if k == j == 0 else image, data / file)
                rows[f"{ds.split}.txt"].append(f"{file}, {fine}, {coarse}")
    for name, lines in rows.items():
        write_lines(data / name, lines)
