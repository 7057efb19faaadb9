"""What a map covers of an image whose parts, object and background are known.

Maps of a few cells meet masks of many pixels. The masks are averaged over the cells, which is the same as laying each
cell over the image as a block of one value. Enlarging the map smoothly instead would invent detail within a cell,
smear a cell over its neighbours, and put the maximum of every cell at the rim into the rim itself: of the nine cells
of a 3 x 3 map, eight lie there.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision import tv_tensors

from cra_smra.data import Split
from cra_smra.data.birds import PARTS, Birds
from cra_smra.data.photographs import Photographs

TOLERANCE = 0.1  # radius of a part known only as a point, as a share of the box's longer side: the usual PCK@0.1


class Coverage(NamedTuple):
    """What maps share with regions, each (B, R) in [0, 1], NaN for a map that is zero everywhere.

    ``mass``: the share of the map's mass on the region; ``top``: of its top cells; ``peak``: of its largest cell, the
    pointing game; ``uniform``: what all three would be for a flat map, the region's share of the image.
    """

    mass: Tensor
    top: Tensor
    peak: Tensor
    uniform: Tensor


def mass(maps: Tensor) -> Tensor:
    """Maps (B, h, w) as distributions over their cells, (B, h * w): what is below 0 counts as 0, the rest is divided
    by its sum. NaN for a map without anything above 0, which looks nowhere.
    """
    positive = maps.flatten(start_dim=1).clamp_min(0)
    return positive / positive.sum(dim=1, keepdim=True)


def top_cells(values: Tensor, count: int) -> Tensor:
    """Membership in the ``count`` largest of P values, (B, P) -> (B, P) in [0, 1], each row sums to ``count``.

    Values that tie for the last places share them, so that a flat map, or the many zeros of a Grad-CAM, favour no
    cell over another. NaN rows stay NaN.
    """
    last = values.topk(count, dim=1).values[:, -1:]  # the smallest value that is still among the largest
    above, tied = (values > last).float(), (values == last).float()
    places = count - above.sum(dim=1, keepdim=True)
    return above + tied * (places / tied.sum(dim=1, keepdim=True))


def top_fifth(maps: Tensor, share: float = 0.2) -> Tensor:
    """Membership (B, h, w) of each cell in the top ``share`` of its map (B, h, w), at least one cell; see
    ``top_cells``.
    """
    values = mass(maps)
    return top_cells(values, max(1, round(share * values.shape[1]))).unflatten(1, maps.shape[1:])


def coverage(maps: Tensor, masks: Tensor, share: float = 0.2) -> Coverage:
    """How much of maps (B, h, w) lies on regions with masks (B, R, H, W) in [0, 1]; see ``Coverage``.

    A cell that a region fills to a third counts for it by a third: no map says where within a cell it looks. So
    ``peak`` is the chance that a random point of the largest cell lies on the region; ties share.
    """
    cells = F.adaptive_avg_pool2d(masks.float(), maps.shape[1:]).flatten(start_dim=2)  # (B, R, P)
    weights = mass(maps)  # (B, P)
    flat = torch.where(weights.isnan(), weights, 1 / weights.shape[1])
    top = top_fifth(maps, share).flatten(start_dim=1)
    kinds = (weights, top / top.sum(dim=1, keepdim=True), top_cells(weights, 1), flat)
    return Coverage(*(torch.einsum("bp,brp->br", kind, cells) for kind in kinds))


def shared_top(maps: Sequence[Tensor], share: float = 0.2) -> Tensor:
    """Overlap of the stages' maps, one (B, h, w) each: intersection over union of their top cells, the mean over all
    pairs of stages, (B,) in [0, 1].

    As ``attention.overlap``, for maps of different sizes too: the top cells are laid over the first, finest grid as
    blocks. Two sets chosen at random would have about 1/9. NaN where a map is zero everywhere.
    """
    grid = maps[0].shape[1:]
    tops = [F.interpolate(top_fifth(x, share)[:, None], grid, mode="nearest-exact").flatten(1) for x in maps]
    ious = [torch.minimum(a, b).sum(dim=1) / torch.maximum(a, b).sum(dim=1) for a, b in combinations(tops, 2)]
    return torch.stack(ious).mean(dim=0)


def discs(locations: Tensor, radius: float, height: int, width: int) -> Tensor:
    """Parts known as points, (P, 3) x, y in pixels and 1 where visible, as discs (P, height, width) bool; empty where
    the part does not show.
    """
    x, y, visible = locations[:, :, None, None].unbind(dim=1)  # (P, 1, 1) each
    rows, columns = torch.arange(height)[:, None] + 0.5, torch.arange(width) + 0.5
    return ((columns - x) ** 2 + (rows - y) ** 2 <= radius**2) & (visible > 0)


def boxes_as_masks(boxes: Tensor, height: int, width: int) -> Tensor:
    """Boxes (N, 4), left, top, width, height in pixels, as masks (N, height, width) bool of the pixels whose centre
    lies in them.
    """
    left, top, wide, high = boxes[:, :, None, None].unbind(dim=1)  # (N, 1, 1) each
    rows, columns = torch.arange(height)[:, None] + 0.5, torch.arange(width) + 0.5
    return (columns >= left) & (columns < left + wide) & (rows >= top) & (rows < top + high)


def region_names(dataset: Split) -> tuple[str, ...]:
    """The regions that the images of a data set are divided into: its parts, "object", "background" and, for the
    birds, "distinguishing", the parts that tell the species from its nearest neighbours.

    Raises ValueError for a set without boxes, and for one whose boxes are not in pixels of its images.
    """
    base = dataset.base
    if isinstance(base, Birds):
        return (*PARTS, "object", "background", "distinguishing")
    if type(base) is not Photographs:  # a cache has other pixels than its boxes speak of
        raise ValueError("maps are measured on birds, or on photographs without a cache: load the set without one")
    if base.boxes is None:
        raise ValueError("maps cannot be measured on this data set: it has neither boxes nor parts of its images")
    return (*base.part_names, "object", "background")


def regions(dataset: Split, index: int) -> tuple[Tensor, Tensor]:
    """An image as the network gets it, uint8 (3, S, S), and the masks of its regions (R, S, S) in [0, 1], in the order
    of ``region_names``.

    The birds know their masks. Of photographs, a part is a disc round its point, of a radius of ``TOLERANCE`` times
    the longer side of the box, and the object is the box. The masks follow the image through the set's transform.
    """
    place = dataset.indices[index]
    image, label = dataset.base[place]
    if isinstance(dataset.base, Birds):
        scene = next(dataset.base.scenes([place]))
        parts, whole = scene.parts[0].cpu(), scene.bird[0].cpu()  # (P, S, S), (S, S): the visible share of each pixel
        telling = dataset.base.distinguishing_parts(label)
        extra = [parts[[part in telling for part in PARTS]].sum(dim=0)]
    else:
        size, box = image.shape[1:], dataset.base.boxes[place]
        whole, extra = boxes_as_masks(box[None], *size)[0].float(), []
        points = dataset.base.part_locations
        locations = torch.zeros(0, 3) if points is None else points[place]
        parts = discs(locations, TOLERANCE * box[2:].max().item(), *size).float()
    masks = torch.cat([parts, torch.stack([whole, 1 - whole, *extra])])  # (R, H, W)
    if dataset.transform is None:
        return image, masks
    image, masks = dataset.transform(tv_tensors.Image(image), tv_tensors.Mask(masks))
    return image.as_subclass(Tensor), masks.as_subclass(Tensor)
