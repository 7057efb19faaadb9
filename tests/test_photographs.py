"""Images of every mode and every damage, and what a listing refuses."""

from __future__ import annotations

import os
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from conftest import refused, without_rights
from cra_smra.data.photographs import Listing, Photographs, decode

ORIENTATION = 0x0112
RNG = np.random.default_rng(0)
COLOURS = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)  # 5 rows, 7 columns
GREY = COLOURS[..., 0]


def channels(pixels: np.ndarray) -> torch.Tensor:
    """(H, W, 3) -> (3, H, W)"""
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def grey(values: np.ndarray) -> torch.Tensor:
    """(H, W) -> (3, H, W)"""
    return torch.from_numpy(np.stack([values] * 3))


def with_alpha(pixels: np.ndarray) -> np.ndarray:
    return np.dstack([pixels, np.arange(35, dtype=np.uint8).reshape(5, 7)])


def listing(folder: Path, count: int = 3, **changes) -> Listing:
    facts = {"folder": folder, "paths": tuple(f"{k}.png" for k in range(count)),
             "targets": torch.arange(count) % 2, "classes": ("a", "b")}
    return Listing(**(facts | changes))


def photographs(folder: Path, count: int = 3, **changes) -> Photographs:
    for k in range(count):
        Image.fromarray(COLOURS + np.uint8(k)).save(folder / f"{k}.png")
    return Photographs(listing(folder, count, **changes))


# modes

BITS = GREY > 127
SIXTEEN = np.array([[0, 255, 256, 32767, 32768, 65535]], np.uint16)
MODES = {
    "RGB": (Image.fromarray(COLOURS), channels(COLOURS)),
    "L": (Image.fromarray(GREY), grey(GREY)),
    "1": (Image.fromarray(BITS), grey(BITS.astype(np.uint8) * 255)),
    "RGBA": (Image.fromarray(with_alpha(COLOURS)), channels(COLOURS)),  # the colour, also where it does not show
    "LA": (Image.fromarray(with_alpha(GREY)), grey(GREY)),
    "I;16": (Image.fromarray(SIXTEEN), grey(np.array([[0, 0, 1, 127, 128, 255]], np.uint8))),
}


@pytest.mark.parametrize("mode", MODES)
def test_a_png_of_each_mode_has_the_values_worked_out_by_hand(tmp_path, mode):
    image, expected = MODES[mode]
    assert image.mode == mode
    image.save(tmp_path / "a.jpg", format="PNG")  # under the wrong suffix
    pixels = decode(tmp_path / "a.jpg")
    assert pixels.dtype == torch.uint8 and torch.equal(pixels, expected)
    assert torch.equal(decode(tmp_path / "a.jpg", upright=True), expected)  # without a note nothing is turned
    pixels += 1  # it can be written to, and the file is not touched
    assert torch.equal(decode(str(tmp_path / "a.jpg")), expected)


@pytest.mark.parametrize("mode", ["I", "I;16B"])
def test_other_kinds_of_sixteen_bits_are_scaled_too(tmp_path, mode):
    if mode == "I":
        image = Image.fromarray(SIXTEEN.astype(np.int32))
    else:
        image = Image.frombytes(mode, (6, 1), SIXTEEN.astype(">u2").tobytes())
    image.save(tmp_path / "a.tif")
    assert decode(tmp_path / "a.tif")[1].tolist() == [[0, 0, 1, 127, 128, 255]]


@pytest.mark.parametrize("transparent", [{}, {"transparency": 1}, {"transparency": bytes([0, 128, 255])}])
def test_a_palette_gives_its_colours_transparent_or_not(tmp_path, transparent):
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.putdata([0, 1, 2])
    image.save(tmp_path / "a.png", **transparent)
    with Image.open(tmp_path / "a.png") as found, warnings.catch_warnings():
        assert found.mode == "P"
        warnings.simplefilter("error")  # Pillow warns when a transparent palette is turned into RGB directly
        assert decode(tmp_path / "a.png").permute(1, 2, 0).tolist() == [[[10, 20, 30], [40, 50, 60], [70, 80, 90]]]


def test_cmyk_is_turned_into_its_colours(tmp_path):
    inks = np.zeros((8, 32, 4), np.uint8)
    inks[:, 8:16, 0], inks[:, 16:24, 3], inks[:, 24:, 1:3] = 255, 255, 255  # paper, cyan, black, red
    Image.fromarray(inks, "CMYK").save(tmp_path / "a.jpg", quality=100)
    with Image.open(tmp_path / "a.jpg") as found:
        assert found.mode == "CMYK"
    middles = decode(tmp_path / "a.jpg")[:, 4, 4::8].T.float()
    expected = torch.tensor([[255.0, 255, 255], [0, 255, 255], [0, 0, 0], [255, 0, 0]])
    assert (middles - expected).abs().max() <= 4


def test_a_grey_jpeg_has_three_equal_channels_and_an_animation_its_first_picture(tmp_path):
    Image.fromarray(GREY).save(tmp_path / "a.jpg")
    pixels = decode(tmp_path / "a.jpg")
    assert pixels.shape == (3, 5, 7) and (pixels == pixels[:1]).all()
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert decode(tmp_path / "a.gif")[:, 0, 0].tolist() == [255, 0, 0]


def test_floating_point_pixels_are_refused(tmp_path):
    Image.fromarray(np.float32([[0.5]])).save(tmp_path / "a.tif")
    refused("floating-point numbers", decode, tmp_path / "a.tif")


# how the camera was held; what the notes mean, from the standard: where row 0 and column 0 of the file belong
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: a.transpose(1, 0, 2)[:, ::-1],
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: a.transpose(1, 0, 2)[::-1],
}


@pytest.mark.parametrize("note", UPRIGHT)
@pytest.mark.parametrize("suffix", ["png", "webp", "tif"])
def test_images_are_turned_as_the_camera_noted_only_if_asked_for(tmp_path, note, suffix):
    exif = Image.Exif()
    exif[ORIENTATION] = note
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(COLOURS).save(path, exif=exif, **({"lossless": True} if suffix == "webp" else {}))
    if suffix != "tif":  # a TIFF is turned by Pillow itself, and must not be turned once more
        assert torch.equal(decode(path), channels(COLOURS))
    assert torch.equal(decode(path, upright=True), channels(UPRIGHT[note](COLOURS)))


# damage


def damaged(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_a_file_that_is_no_image_is_named_with_what_is_wrong(tmp_path):
    Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(tmp_path / "whole.jpg")
    whole = (tmp_path / "whole.jpg").read_bytes()
    assert decode(tmp_path / "whole.jpg").shape == (3, 64, 64)
    refused("zero.jpg is empty: put the original back", decode, damaged(tmp_path / "zero.jpg", b""))
    refused("text.jpg cannot be decoded", decode, damaged(tmp_path / "text.jpg", b"no image\n" * 50))
    refused("page.jpg cannot be decoded", decode, damaged(tmp_path / "page.jpg", b"<!DOCTYPE html>\n<html>\n"))
    refused("cut.jpg cannot be decoded .*truncated", decode, damaged(tmp_path / "cut.jpg", whole[: len(whole) // 2]))
    refused("head.jpg cannot be decoded", decode, damaged(tmp_path / "head.jpg", whole[:30]))
    refused("none.jpg is not there", decode, tmp_path / "none.jpg")
    (tmp_path / "folder.jpg").mkdir()
    refused("folder.jpg cannot be decoded", decode, tmp_path / "folder.jpg")


def test_an_image_too_large_to_be_true_is_refused(tmp_path, monkeypatch):
    Image.new("1", (300, 300)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    refused("bomb.png cannot be decoded .*decompression bomb", decode, tmp_path / "bomb.png")


def test_an_image_that_may_not_be_read_is_one_line(open_folder):
    path = open_folder / "a.png"
    Image.fromarray(COLOURS).save(path)
    with without_rights(path):
        refused("a.png may not be read: its permissions", decode, path)
    with without_rights(open_folder):
        refused("may not be read: its permissions", listing(open_folder, 1).check_files)


@given(st.sampled_from(["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"]), st.booleans(),
       st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=4))
@settings(max_examples=150, deadline=None)
def test_whatever_the_bytes_there_is_an_image_or_one_line(form, cut, changes):
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path, exif = Path(folder) / "a.jpg", Image.Exif()
        exif[ORIENTATION] = 6
        Image.fromarray(COLOURS).save(path, format=form, **({"exif": exif} if form not in ("GIF", "BMP") else {}))
        data = bytearray(path.read_bytes())
        for place, value in changes:
            data[int(place * (len(data) - 1))] = value
        path.write_bytes(data[: int(changes[0][0] * len(data))] if cut else data)
        try:
            pixels = decode(path, upright=True)
        except ValueError as error:
            assert "\n" not in str(error) and str(path) in str(error)
        else:
            assert pixels.dtype == torch.uint8 and pixels.shape[0] == 3


# listings


@pytest.mark.parametrize(("changes", "message"), [
    ({"paths": (), "targets": torch.zeros(0)}, "names no image"),
    ({"targets": torch.zeros(2)}, "3 images, but 2 labels"),
    ({"paths": ("0.png", "1.png", "0.png")}, "names 0.png more than once"),
    ({"classes": ("a", "b", "a")}, "two classes are called 'a'"),
    ({"boxes": torch.zeros(2, 4)}, "2 boxes of 3 images"),
    ({"boxes": torch.tensor([[0, 0, 1, float("nan")]] * 3)}, "or one is no number"),
])
def test_a_listing_that_contradicts_itself_is_refused(changes, message):
    refused(message, listing, Path("/somewhere"), **changes)


def test_files_and_classes_of_a_listing_are_checked(tmp_path):
    (tmp_path / "x").mkdir()
    paths = ("x/0.png", "x/1.png", "y/2.png")
    for name in ("0.png", "1.png"):
        (tmp_path / "x" / name).write_bytes(b"x")
    refused("y/2.png is listed and not there", listing(tmp_path, paths=paths).check_files)
    (tmp_path / "y").write_bytes(b"a file where a folder should be")
    refused("y/2.png is listed and not there", listing(tmp_path, paths=paths).check_files)
    listing(tmp_path, 2, paths=paths[:2]).check_files()
    refused("x/1.PNG is listed and not there", Photographs, listing(tmp_path, 2, paths=("x/0.png", "x/1.PNG")))
    listing(tmp_path).check_classes("train")
    refused("class 'c' has no train image", listing(tmp_path, classes=("a", "b", "c")).check_classes, "train")


# the data set


def test_items_are_the_images_of_the_listing_with_their_labels(tmp_path):
    data = photographs(tmp_path, boxes=torch.ones(3, 4))
    assert len(data) == 3 and data.classes == ["a", "b"] and data.class_to_idx == {"a": 0, "b": 1}
    for k in (0, 2, -1):
        image, label = data[k]
        assert torch.equal(image, channels(COLOURS + np.uint8(k % 3))) and label == [0, 1, 0][k] and type(label) is int
        assert data.path(k) == tmp_path / f"{k % 3}.png"
    assert sum(1 for _ in data) == 3  # IndexError ends a plain loop
    with pytest.raises(IndexError, match="index -4 is outside a set of 3"):
        data[-4]


def test_the_banner_at_the_bottom_is_cut_off(tmp_path):
    image, _ = photographs(tmp_path, banner=2)[0]
    assert torch.equal(image, channels(COLOURS[:3]))
    refused("0.png is 5 pixels high", photographs(tmp_path, banner=5).__getitem__, 0)


def test_a_broken_image_is_no_other_image(tmp_path):
    data = photographs(tmp_path)
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:60])
    data[0], data[2]
    refused("1.png cannot be decoded", data.__getitem__, 1)
    os.remove(tmp_path / "1.png")
    refused("1.png is not there", data.__getitem__, 1)


def test_the_fingerprint_changes_with_names_labels_sizes_and_how_images_are_read(tmp_path):
    first = photographs(tmp_path).fingerprint
    assert len(first) == 16 and first == photographs(tmp_path).fingerprint
    others = [
        photographs(tmp_path, targets=torch.tensor([0, 1, 1])),
        photographs(tmp_path, classes=("a", "c")),
        photographs(tmp_path, paths=("1.png", "0.png", "2.png")),
        photographs(tmp_path, banner=1),
        photographs(tmp_path, upright=True),
    ]
    found = {each.fingerprint for each in others}
    with open(tmp_path / "2.png", "ab") as file:
        file.write(b"\0")
    found |= {others[0].fingerprint, Photographs(listing(tmp_path)).fingerprint}
    assert len(found | {first}) == 8
