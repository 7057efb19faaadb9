"""Small sets of drawn aircraft and cars in the official layouts of FGVC-Aircraft and Stanford Cars."""

from __future__ import annotations

from pathlib import Path
from random import Random

import numpy as np
from PIL import Image, ImageDraw
from scipy.io import savemat

from cra_smra.data.aircraft import BANNER
from cra_smra.data.cars import LABELS
from cra_smra.data.made_birds import save

Box = tuple[int, int, int, int]  # left, top, right, bottom: first and last column and row, from 0
COLOURS = ("firebrick", "navy", "seagreen", "darkorange", "purple", "teal", "goldenrod", "dimgray")
# Odd names of the official sets, which the first made classes bear.
ODD_AIRCRAFT = ("F-16A/B", "F/A-18")
ODD_CAR = "Ram C/V Cargo Van Minivan 2012"


def draw_aircraft(kind: int, size: int, random: Random) -> tuple[Image.Image, Box]:
    """An aircraft from the side, size x size. ``kind`` sets fin, windows, engine and stripe; all else is chance."""
    u = size / 100 * random.uniform(0.75, 1.0)
    x, y = random.uniform(2, size - 2 - 90 * u), random.uniform(4, size - 4 - 45 * u)
    image = Image.new("RGB", (size, size), (random.randint(130, 200), random.randint(170, 220), 235))
    draw = ImageDraw.Draw(image)

    def at(*points: tuple[float, float]) -> list[tuple[float, float]]:
        return [(x + u * a, y + u * b) for a, b in points]

    fin = (((2, 0), (12, 0), (22, 22)), ((0, 4), (6, 0), (24, 22)), ((8, 0), (16, 0), (18, 22)))[kind % 3]
    draw.polygon(at(fin[0], fin[1], fin[2], (8, 24)), fill=COLOURS[kind % len(COLOURS)])
    draw.ellipse(at((0, 18), (90, 34)), fill="white", outline="gray")
    draw.line(at((6, 28), (84, 28)), fill=COLOURS[kind // 3 % len(COLOURS)], width=max(1, round(2 * u)))
    for window in range(4 + kind % 5 * 2):
        draw.rectangle(at((22 + 4 * window, 22), (24 + 4 * window, 24)), fill="black")
    draw.polygon(at((38, 28), (54, 28), (34, 45), (28, 45)), fill="lightgray", outline="gray")
    place = (40, 60)[kind // 2 % 2]
    draw.ellipse(at((place, 34), (place + 12, 40)), fill="dimgray")
    left, top, right, bottom = x, y, x + 90 * u, y + 45 * u
    return image, (round(left), round(top), round(right), round(bottom))


def draw_car(kind: int, size: int, random: Random) -> tuple[Image.Image, Box]:
    """A car from the side, size x size. ``kind`` sets roof, rims, lamp, stripe and spoiler, all else is chance."""
    u = size / 100 * random.uniform(0.75, 1.0)
    x, y = random.uniform(2, size - 2 - 90 * u), random.uniform(2, size - 4 - 44 * u)
    image = Image.new("RGB", (size, size), tuple(random.randint(150, 210) for _ in range(3)))
    draw = ImageDraw.Draw(image)

    def at(*points: tuple[float, float]) -> list[tuple[float, float]]:
        return [(x + u * a, y + u * b) for a, b in points]

    paint = tuple(random.randint(60, 230) for _ in range(3))
    roof = (((18, 18), (30, 0), (62, 0), (74, 18)), ((10, 18), (14, 0), (70, 0), (78, 18)),
            ((24, 18), (40, 4), (56, 4), (80, 18)))[kind % 3]
    draw.polygon(at(*roof), fill="lightblue", outline=paint)
    draw.rounded_rectangle(at((0, 16), (90, 36)), radius=4 * u, fill=paint)
    if kind // 3 % 2:
        draw.line(at((2, 26), (88, 26)), fill="white", width=max(1, round(2 * u)))
    for wheel in (12, 62):
        draw.ellipse(at((wheel, 28), (wheel + 16, 44)), fill="black")
        draw.ellipse(at((wheel + 4, 32), (wheel + 12, 40)), fill=COLOURS[kind // 2 % len(COLOURS)])
    draw.rectangle(at((84, 19), (90, 19 + 3 * (1 + kind % 3))), fill="gold")
    if kind // 48 % 2:  # a spoiler: the rest repeats itself after 48
        draw.rectangle(at((1, 11), (10, 15)), fill="black")
    return image, (round(x), round(y), round(x + 90 * u), round(y + 44 * u))


def fill_aircraft(folder: Path, *, num_classes: int, train_per_class: int, test_per_class: int, size: int,
                  seed: int) -> None:
    """FGVC-Aircraft 2013b below ``folder``: images of size x (size + 20), the last 20 rows a banner; variants.txt
    begins with a header line; two variants make a family, two families a manufacturer.
    """
    names = sorted([*ODD_AIRCRAFT, *(f"{700 + 7 * k}-{100 + k} ER" for k in range(num_classes))][:num_classes])
    above = {"family": [f"Family {k // 2 + 1}" for k in range(num_classes)],
             "manufacturer": [f"Maker & Sons {k // 4 + 1}" for k in range(num_classes)]}
    levels = {"variant": names, **above}
    (folder / "data" / "images").mkdir(parents=True)
    order = list(range(num_classes * (train_per_class + test_per_class)))
    Random(f"aircraft {seed}").shuffle(order)  # the official numbers follow no class
    rows: dict[str, list[str]] = {"box": []}
    for k in range(num_classes):
        for j in range(train_per_class + test_per_class):
            split = "test" if j >= train_per_class else ("train", "val")[j % 2]
            image, (left, top, right, bottom) = draw_aircraft(k, size, Random(f"aircraft {seed} {k} {j}"))
            number = f"{34309 + 17 * order[k * (train_per_class + test_per_class) + j]:07d}"
            whole = Image.new("RGB", (size, size + BANNER), "black")
            whole.paste(image)
            ImageDraw.Draw(whole).text((2, size + 4), "(c) a photographer", fill="white")
            save(whole, folder / "data" / "images" / f"{number}.jpg")
            rows["box"].append(f"{number} {left + 1} {top + 1} {right + 1} {bottom + 1}")
            for level, labels in levels.items():
                for part in (split, *(() if split == "test" else ("trainval",))):
                    rows.setdefault(f"{level}_{part}", []).append(f"{number} {labels[k]}")
                for part in ("train", "val", "trainval", "test"):
                    rows.setdefault(f"{level}_{part}", [])  # val is empty with one training image of a class
    for name, lines in rows.items():
        (folder / "data" / f"images_{name}.txt").write_text("\n".join(sorted(lines)) + "\n")
    for level, file in (("variant", "variants"), ("family", "families"), ("manufacturer", "manufacturers")):
        lines = ["variant names"] * (level == "variant") + list(dict.fromkeys(levels[level]))
        (folder / "data" / f"{file}.txt").write_text("\n".join(lines) + "\n")


def fill_cars(folder: Path, *, num_classes: int, train_per_class: int, test_per_class: int, size: int, seed: int,
              packaging: str = "new") -> None:
    """Stanford Cars in ``folder``, in the packaging "new" or "old", which show the same cars under other numbers; the
    first image of every third class is grey. The official order of the classes is not that of the alphabet.
    """
    classes = [*([ODD_CAR] if num_classes > 1 else []), *(f"Zeta Model {k} Sedan 2012" for k in range(99, 0, -1))]
    classes = classes[:num_classes]
    pictures = []  # split, class from 0, image, box
    for k in range(num_classes):
        for j in range(train_per_class + test_per_class):
            image, box = draw_car(k, size, Random(f"cars {seed} {k} {j}"))
            image = image.convert("L") if j == 0 and k % 3 == 0 else image
            pictures.append(("train" if j < train_per_class else "test", k, image, box))
    Random(f"cars {seed}").shuffle(pictures)
    names = np.empty((1, num_classes), object)
    names[0, :] = classes
    rows: dict[str, list[tuple]] = {"train": [], "test": []}
    old: list[tuple] = []
    for number, (split, k, image, box) in enumerate(pictures, start=1):
        one = tuple(float(v + 1) for v in box)
        if packaging == "old":
            name = f"car_ims/{number:06d}.jpg"
            old.append((name, *one, float(k + 1), float(split == "test")))
        else:
            name = f"cars_{split}/{len(rows[split]) + 1:05d}.jpg"
            rows[split].append((*one, float(k + 1), name.rpartition("/")[2]))
        save(image, folder / name)
    corners = ["bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2"]
    if packaging == "old":
        table = struct(old, ["relative_im_path", *corners, "class", "test"])
        savemat(folder / "cars_annos.mat", {"annotations": table, "class_names": names})
        return
    (folder / "devkit").mkdir()
    savemat(folder / "devkit" / "cars_meta.mat", {"class_names": names})
    for split, file in (("train", folder / "devkit" / "cars_train_annos.mat"), ("test", folder / LABELS)):
        savemat(file, {"annotations": struct(rows[split], [*corners, "class", "fname"])})
    without = [(*row[:4], row[5]) for row in rows["test"]]
    savemat(folder / "devkit" / "cars_test_annos.mat", {"annotations": struct(without, [*corners, "fname"])})


def struct(rows: list[tuple], fields: list[str]) -> np.ndarray:
    """Rows as MATLAB's struct array of shape (1, N)."""
    table = np.empty((1, len(rows)), dtype=[(field, object) for field in fields])
    for i, row in enumerate(rows):
        table[0, i] = row
    return table
