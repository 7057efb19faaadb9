"""Birds from signed distances: a species code and a row of random numbers in, an image and its parts out.

A shape is a signed distance d (negative inside) in units of the bird; it covers a pixel by a ramp of d over one
pixel: sharp at any resolution, without supersampling. Layers are mixed front to back, so the weight with which a
layer reaches the eye is at once its part's mask. No branch depends on data: the renderer can be exported.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

VERSION = 1  # raise it with every change of a pixel: it enters the data set's fingerprint
PARTS: tuple[str, ...] = tuple("back beak belly breast crown eye forehead leg nape tail throat wing".split())
# attribute -> (the part that carries it, names of its values); a species code has one value per attribute
HEAD, BODY = ("crimson", "black", "cream", "plain"), ("golden", "cream", "slate", "plain")
ATTRIBUTES: dict[str, tuple[str, tuple[str, ...]]] = {
    **{part: (part, HEAD) for part in ("crown", "forehead", "nape", "throat")},
    **{part: (part, BODY) for part in ("breast", "belly", "back", "wing")},
    "crest": ("crown", ("smooth", "crested")), "breast marks": ("breast", ("plain", "streaked", "banded")),
    "wing marks": ("wing", ("barred", "patched", "striped")), "leg": ("leg", ("dark", "orange")),
    "tail": ("tail", ("square", "forked", "long", "fan")), "beak": ("beak", ("cone", "needle", "curved", "dagger")),
    "eye": ("eye", ("plain", "ring", "stripe", "brow")),
}
# numbers drawn per image, uniform in [0, 1); 0.5 everywhere is the neutral pose. Name -> how many.
BLOBS, DOTS, LEAVES = 10, 6, 7
NOISE: dict[str, int] = {
    "flip": 1, "x": 1, "y": 1, "scale": 1, "roll": 1, "tilt": 1, "head": 3, "tail": 1, "droop": 1, "fat": 1,
    "shade": 1, "hue": 6, "worn": 8, "faded": 9, "light": 2, "gain": 3, "sky": 6, "blobs": 4 * BLOBS,
    "dots": 6 * (7 + 2 * DOTS), "leaves": 7 * LEAVES, "branch": 3,
}
NOISE_SIZE = sum(NOISE.values())

CRIMSON, BLACK, CREAM = (.74, .15, .13), (.15, .14, .16), (.95, .90, .79)
GOLD, SLATE, ORANGE, HORN = (.93, .68, .18), (.33, .43, .56), (.87, .49, .17), (.27, .25, .25)
GROUNDS = ((.60, .45, .33), (.55, .53, .50), (.52, .51, .34))  # brown, grey, olive plumage
BARK, PAPER = (.45, .36, .29), (.957, .945, .910)
# one row a value. Tail: length, half-width at root and at end, notch; beak: length, height, curve
TAILS = ((.56, .080, .100, .0), (.62, .07, .145, .26), (.84, .070, .055, -.10), (.46, .07, .165, -.11))
BEAKS = ((.17, .100, .1), (.19, .042, .0), (.31, .058, 1.5), (.35, .066, .0))


class Scene(NamedTuple):
    image: Tensor  # (B, 3, S, S) in [0, 1]
    parts: Tensor  # (B, P, S, S) visible share of each pixel; parts do not overlap
    bird: Tensor  # (B, S, S) the same for the whole bird
    uncovered: Tensor  # (B, P) sum of `parts` over the frame if nothing stood in front


def _ellipse(x, y, cx, cy, a, b):
    """Exact on the outline only: good enough for a patch inside the plumage."""
    return (torch.sqrt(((x - cx) / a) ** 2 + ((y - cy) / b) ** 2 + 1e-9) - 1) * .15


def _capsule(x, y, ax, ay, bx, by, ra, rb):
    """Round line from a to b whose radius goes from ra to rb."""
    ux, uy, px, py = bx - ax, by - ay, x - ax, y - ay
    t = ((px * ux + py * uy) / (ux * ux + uy * uy)).clamp(0, 1)
    return torch.sqrt((px - ux * t) ** 2 + (py - uy * t) ** 2 + 1e-9) - (ra + (rb - ra) * t)


def _turn(x, y, angle):
    c, s = torch.cos(angle), torch.sin(angle)
    return c * x + s * y, c * y - s * x


def _noise(u: Tensor) -> dict[str, Tensor]:
    """(B, D) in [0, 1) -> name -> (B, n, 1, 1) in [-1, 1)."""
    rows = (u.float() * 2 - 1)[..., None, None].split(list(NOISE.values()), 1)
    return dict(zip(NOISE, rows, strict=True))


def _colours(n: dict[str, Tensor], like: Tensor) -> dict[str, Tensor]:
    """Name -> (B, 3): the palette in this image's hue and wear."""
    hue, shade, worn = n["hue"][..., 0, 0], n["shade"][..., 0, 0], n["worn"][..., 0, 0]

    def dye(rgb, towards=(0., 0., 0.), by=0):
        return like.new_tensor(rgb) + hue[:, by:by + 1] * like.new_tensor(towards)

    mix = torch.softmax(torch.cat([hue[:, 4:6] * 2.5, torch.zeros_like(shade)], 1), 1)  # (B, 3)
    out = {
        "crimson": dye(CRIMSON, (.02, .08, .02), 0), "black": dye(BLACK), "cream": dye(CREAM, (.05, 0., -.05), 1),
        "golden": dye(GOLD, (.02, .10, .03), 2), "slate": dye(SLATE, (-.04, 0., .07), 3),
        "orange": dye(ORANGE, (.02, .08, .03), 1), "horn": dye(HORN), "plain": mix @ like.new_tensor(GROUNDS),
    }
    wear = (1 + .12 * shade + .10 * worn).split(1, 1)
    out = {name: rgb * w for (name, rgb), w in zip(out.items(), wear, strict=True)}
    out["cheek"] = out["plain"] * .55 + like.new_tensor(CREAM) * .38
    out["dusky"] = out["plain"] * .62 + like.new_tensor(BLACK) * .22
    out["quill"] = out["plain"] * .35 + like.new_tensor(BLACK) * .60
    return out


def _glow(cx, cy, radius, weight, xs, ys):
    """Sum of round Gaussians, (B, N) each, weight (B, N, C) -> (B, C, S, S): separable, one matrix product."""
    gx = torch.exp(-(((xs - cx[..., None]) / radius[..., None]) ** 2))  # (B, N, S)
    gy = torch.exp(-(((ys - cy[..., None]) / radius[..., None]) ** 2))
    rows = (weight[..., None] * gy[:, :, None]).permute(0, 2, 3, 1)  # (B, C, S, N)
    return rows @ gx[:, None]


def _background(n, colours, xs, ys, x, y):
    """Sky and foliage far out of focus; some blobs take the birds' colours, so that those give nothing away."""
    u = n["sky"][..., 0, 0]
    top = torch.stack([.72 + .12 * u[:, 0], .79 + .07 * u[:, 0], .70 + .16 * u[:, 1]], 1)
    low = torch.stack([.47 + .16 * u[:, 2], .54 + .10 * u[:, 3], .33 + .14 * u[:, 4]], 1)
    worn = (colours[k] for k in ("golden", "crimson", "slate", "cream", "plain"))
    colour = torch.stack([top + .15, low * .65, low * 1.2, low * .8, top, *worn], 1)  # (B, BLOBS, 3)
    b = n["blobs"][..., 0, 0].reshape(len(u), BLOBS, 4)
    strength = (.3 + 1.1 * b[..., 3:]).clamp_min(0)
    weight = torch.cat([colour, torch.ones_like(strength)], -1) * strength
    g = _glow(b[..., 0] * 1.15, b[..., 1] * 1.15, .36 + .20 * b[..., 2], weight, xs, ys)
    t = (.5 - .5 * y + .12 * x * u[:, 5, None, None]).clamp(0, 1)[:, None]
    base = top[..., None, None] * (1 - t) + low[..., None, None] * t
    return (base + g[:, :3]) / (1 + g[:, 3:])


def _berries(n, colours, xs, ys, canvas):
    """Berries and blossoms in the birds' colours, two clusters a colour, in random amounts and out of focus."""
    u = n["dots"][..., 0, 0].reshape(len(canvas), 6, 7 + 2 * DOTS)
    for k, name in enumerate(("crimson", "black", "cream", "golden", "slate", "orange")):
        v = u[:, k]
        centre = v[:, :4].reshape(-1, 2, 2).repeat_interleave(DOTS // 2, 1) * 1.05  # (B, DOTS, 2)
        spread = .075 + .035 * v[:, 4:5]
        at = centre + v[:, 7:].reshape(-1, DOTS, 2) * spread[..., None] * 2.6
        amount = (v[:, 5:6] * 1.3 + .45).clamp(0, 1)  # a third have none
        focus = v[:, 6, None, None, None]
        f = _glow(at[..., 0], at[..., 1], spread.expand(-1, DOTS), amount[..., None].expand(-1, DOTS, 1), xs, ys)
        a = ((f - .42) * (4 + 3 * focus)).clamp(0, 1)  # Gaussians cut at a level: round dots
        tone = colours[name][..., None, None] * (.66 + .12 * focus + .34 * f.clamp(max=1.2))
        canvas = canvas + (tone - canvas) * a
    return canvas


def _leaves(n, x, y, px, which, canvas):
    """Paint leaves on the canvas; also the share of each pixel that they leave free."""
    u = n["leaves"].reshape(len(canvas), LEAVES, 7, 1, 1)
    free = torch.ones_like(x)
    for k in which:
        cx, cy, angle, length, there, hue, focus = u[:, k].unbind(1)  # (B, 1, 1) each
        half = .20 + .07 * length
        lx, ly = _turn((x - 1.1 * cx) / half, (y - 1.1 * cy) / half, angle * math.pi)
        ly = ly + .18 * lx * lx
        d = (torch.sqrt(lx * lx + (ly.abs() + .85) ** 2) - 1.25) * half  # two arcs
        a = (.5 - d * torch.minimum(px, 12 + 10 * focus.clamp(min=-.5))).clamp(0, 1) * (there > -.2)
        rgb = torch.stack([.40 + .20 * hue, .50 + .07 * focus, .24 + .04 * length], 1)  # (B, 3, 1, 1)
        canvas = canvas + (rgb * (1 + .10 * (ly * 6).clamp(-1, 1))[:, None] - canvas) * a[:, None]
        free = free * (1 - a)
    return canvas, free


def render(code: Tensor, noise: Tensor, size: int = 96, *, scenery: bool = True, parts: bool = True) -> Scene:
    """Draw a batch of birds.

    code     (B, A) int64, one value per entry of ATTRIBUTES: the species
    noise    (B, NOISE_SIZE) in [0, 1): pose, light and surroundings; 0.5 everywhere is at ease, facing right
    size     pixels per side; the scene does not depend on it
    scenery  False leaves plain paper behind the bird and nothing in front of it
    parts    False leaves all but the image empty and saves the time
    """
    batch, like, n = len(code), noise.float(), _noise(noise)
    colours = _colours(n, like)
    one = {k: v.unbind(1) for k, v in n.items() if v.shape[1] <= 6}  # (B, 1, 1) each
    value = dict(zip(ATTRIBUTES, code.split(1, 1), strict=True))  # (B, 1) each
    ramp = (torch.arange(size, device=noise.device, dtype=torch.float32) + .5) * (2 / size) - 1
    xs = ramp * torch.where(n["flip"] < 0, -1., 1.)[..., 0]  # (B, 1, S)
    ys = (-ramp).expand(batch, 1, size)
    x, y = xs.expand(batch, size, size), ys.transpose(1, 2).expand(batch, size, size)  # (B, S, S)
    px = torch.full_like(one["x"][0], size / 2)  # pixels per unit of the scene
    layers: list[tuple[str, Tensor, Tensor, Tensor]] = []  # front to back: part, colour, weight, weight in light

    # frames: world (the bird's scale, upright), body (tilted), head (nearly level), wing and tail (x backwards)
    scale = .63 + .15 * one["scale"][0]
    wx, wy = _turn((x - .10 - .26 * one["x"][0]) / scale, (y - .02 - .20 * one["y"][0]) / scale, .14 * one["roll"][0])
    bx, by = _turn(wx, wy, .40 + .36 * one["tilt"][0])
    ahead, up, nod = one["head"]
    hx, hy = _turn(bx - .40 - .06 * ahead, by - .33 - .05 * up, -.32 - .25 * one["tilt"][0] + .34 * nod)
    ux, uy = _turn(.12 - bx, by + .015, -.03 + .07 * one["droop"][0])
    tx, ty = _turn(-.44 - bx, by - .04, .06 + .16 * one["tail"][0])

    def cover(d, soft=1e9):
        """Distance in units of the bird -> coverage; `soft` bounds the steepness where plumage is fluffy."""
        return (.5 - d * (px * scale).clamp(max=soft)).clamp(0, 1)

    def row_of(table, name):
        return like.new_tensor(table)[value[name][:, 0]][..., None, None].unbind(1)  # (B, 1, 1) each

    young = n["faded"][..., 0, 0].abs().split(1, 1)  # (B, 1): as a whole, then part by part
    fade = {name: .45 * young[8] + .3 * own for name, own in zip(ATTRIBUTES, young[:8], strict=False)}

    def paint(name, palette):
        colour = torch.stack([colours[k] for k in palette], 1)  # (B, n, 3)
        colour = (colour * F.one_hot(value[name], len(palette)).transpose(1, 2)).sum(1)  # (B, 3)
        return colour + (colours["plain"] - colour) * fade[name] if name in fade else colour

    def choose(name, *distances):
        """The distance that belongs to the value of an attribute; None is nothing at all."""
        kind, out = value[name][..., None], torch.full_like(x, 9.)
        for k, d in enumerate(distances):
            out = out if d is None else torch.where(kind == k, d, out)
        return out

    def put(free, part, colour, coverage, shade=None):
        """Take `coverage` of what is still free in each pixel; return what is left."""
        weight = free * coverage
        layers.append((part, colour, weight, weight if shade is None else weight * shade))
        return free - weight

    # silhouette and its shading: rounded by the distance from the outline, lit from above
    torso = _capsule(bx, by, .14, -.04, -.46, .06, .37 * (1 + .05 * one["fat"][0]), .12)
    skull = torch.sqrt(hx ** 2 + (hy * 1.05) ** 2 + 1e-9) - .27
    d_body = torch.minimum(torso, skull) - (.34 - (torso - skull).abs()).clamp_min(0) ** 2 / 1.36  # smooth union
    body, edge = cover(d_body, 60), (-d_body / .20).clamp(0, 1)
    light = 1 + .07 * wy + .07 * one["light"][0] * wx
    fluff = .018 * torch.sin(31 * bx + 6 * torch.sin(17 * by)) * torch.sin(27 * by)
    rim = .10 * edge * (1 - edge) * (wy > 0)
    plumage = (.72 + .32 * edge * (2 - edge)) * light + .07 * wy.clamp(-.5, .6) + fluff + rim

    # head: eye and its ornament, beak
    free = torch.ones_like(x)
    r = torch.sqrt((hx - .105) ** 2 + (hy - .04) ** 2 + 1e-9)
    shine = torch.sqrt((hx - .125) ** 2 + (hy - .062) ** 2 + 1e-9) - .017
    mark = choose("eye", None, r - .090, _capsule(hx, hy, .22, .0, -.14, .05, .026, .048),
                  _capsule(hx, hy, .20, .115, -.12, .135, .028, .032))
    free = put(free, "eye", like.new_tensor((.97, .97, .95)).expand(batch, 3), cover(shine))
    free = put(free, "eye", colours["black"] * .55, cover(r - .058))
    free = put(free, "eye", paint("eye", ("cream", "cream", "black", "cream")), cover(mark) * body, light)
    length, height, curve = row_of(BEAKS, "beak")
    t, line = (hx - .215) / length, hy + .02 + curve * (hx - .2) ** 2
    d = torch.maximum(line.abs() - height * (1 - t) * (1 + .4 * t), torch.maximum(hx - .215 - length, .19 - hx))
    free = put(free, "beak", colours["horn"], cover(.9 * d), light * (1 + .35 * (line * 18).clamp(-1, 1)))

    # wing: marks, coverts (coloured), secondaries, quills; the feathers' lines converge at the tip
    bend = uy + .10 * ux * ux
    half = (.205 - .215 * ux).clamp(.03, .205)
    d_wing, across = _capsule(ux, bend, .0, .0, .80, .05, .20, .022), bend / half
    wing, edge, arc = cover(d_wing), (-d_wing / .10).clamp(0, 1), ux + .25 * bend * bend
    seam = cover((across * 3.5 - (across * 3.5).round()).abs() / 3.5 * half - .007) * ((ux - .20) * 9).clamp(0, 1)
    mark = choose("wing marks", torch.minimum((arc - .18).abs(), (arc - .35).abs()) - .032,
                  _ellipse(ux, bend, .34, -.01, .14, .09),
                  torch.maximum((across - .62).abs() * half - .036, torch.maximum(.02 - ux, ux - .62)))
    shade = (.74 + .28 * edge * (2 - edge)) * light + .10 * uy + .02 * torch.sin(ux * 40) * torch.sin(across * 9)
    free = put(free, "wing", colours["cream"], cover(torch.maximum(mark, d_wing + .02)), shade)
    free = put(free, "wing", paint("wing", BODY), wing * cover(arc - .08, 25), shade)
    free = put(free, "wing", colours["dusky"], wing * cover(arc - .46, 25), shade * (1 - .20 * seam))
    free = put(free, "wing", colours["quill"], wing, shade * (1 + .55 * seam))

    # plumage: the patches share what is left of the silhouette between them; the face is nobody's
    crest = choose("crest", None, _capsule(hx, hy + .40 * (hx + .06) ** 2, -.07, .19, -.36, .38, .105, .010))
    shade = (.80 + .26 * (-crest / .08).clamp(0, 1)) * light
    free = put(free, "crown", paint("crown", HEAD), cover(crest), shade)
    cap = .16 - .05 * value["crest"][..., None]  # lower under a crest, so that both show as much colour
    d_breast, cell = _ellipse(bx, by, .44, -.10, .275, .34), bx * 8.5
    along = by * 4 + cell.round() * .5 - .5
    dashes = torch.maximum((cell - cell.round()).abs() / 8.5 - .024, (along - along.round()).abs() / 4 - .08)
    band = (torch.sqrt((bx - .12) ** 2 + (by - .12) ** 2 + 1e-9) - .30).abs() - .035
    mark = choose("breast marks", None, torch.maximum(dashes, d_breast + .04), torch.maximum(band, d_breast))
    rest = free * body
    for part, colour, coverage in (
        ("throat", paint("throat", HEAD), cover(_ellipse(hx, hy, .15, -.225, .145, .11), 30)),
        ("forehead", paint("forehead", HEAD), cover(_ellipse(hx, hy, .18, .20, .185, .21), 30)),
        ("crown", paint("crown", HEAD), cover(_ellipse(hx, hy, -.13, .24, .21, cap), 30)),
        ("nape", paint("nape", HEAD), cover(_ellipse(hx, hy, -.29, -.05, .13, .17), 30)),
        ("face", colours["cheek"], cover(_ellipse(hx, hy, .03, -.02, .26, .22), 30)),
        ("breast", colours["quill"], cover(mark) * .85),
        ("breast", paint("breast", BODY), cover(d_breast, 25)),
        ("back", paint("back", BODY), cover(torch.maximum(.08 - by, bx - .26), 25)),
        ("belly", paint("belly", BODY), cover(torch.maximum(by + .03, bx - .6), 25)),
        ("face", colours["cheek"], 1.),
    ):
        rest = put(rest, part, colour, coverage, plumage)
    free = free * (1 - body)

    # legs in front of the branch, tail behind the bird
    bones = [_capsule(wx, wy, at + ax, ay, at + zx, zy, ra, rz) for at in (.10, -.06) for ax, ay, zx, zy, ra, rz in (
        (0, -.30, -.03, -.44, .05, .021), (-.03, -.45, .02, -.585, .021, .019),
        (.02, -.585, .12, -.605, .019, .014), (.02, -.585, -.06, -.605, .019, .012))]
    free = put(free, "leg", paint("leg", ("horn", "orange")), cover(torch.stack(bones).amin(0)), light)
    length, root, end, notch = row_of(TAILS, "tail")
    half = root + (end - root) * (tx / length).clamp(0, 1)
    across, tip = ty / half, tx - length + notch * (1 - (ty / end).abs())
    seam = cover((across * 2.5 - (across * 2.5).round()).abs() / 2.5 * half - .006)
    d = torch.maximum(ty.abs() - half, torch.maximum(tip, -.08 - tx))
    free = put(free, "tail", colours["quill"], cover(d), (.95 + .15 * across) * light * (1 + .4 * seam))
    slope, phase, wave = one["branch"]
    d = wy + .665 + .05 * slope * wx + .04 * wave * torch.sin(wx * 2 + 3 * phase)
    thick = .060 - .012 * wx
    shade = .9 + .4 * (d / thick).clamp(-1, 1) + .05 * torch.sin(wx * 23 + 9 * torch.sin(d * 40))
    free = put(free, "", like.new_tensor(BARK).expand(batch, 3), cover(d.abs() - thick), shade)

    owners, tones, weights, lit = zip(*layers, strict=True)
    image = torch.stack(tones, 2) @ torch.stack(lit, 1).flatten(2)  # (B, 3, K) @ (B, K, S * S)
    image = image.unflatten(2, (size, size))  # (B, 3, S, S)
    if scenery:
        far = _leaves(n, x, y, px, range(LEAVES - 3), _background(n, colours, xs, ys, x, y))[0]
        image = image + free[:, None] * _berries(n, colours, xs, ys, far)
        image, clear = _leaves(n, x, y, px, range(LEAVES - 3, LEAVES), image)
    else:
        image, clear = image + free[:, None] * like.new_tensor(PAPER)[:, None, None], torch.ones_like(x)
    image = (image * (1 + .17 * n["light"][:, 1:2] + .08 * n["gain"])).clamp(0, 1)  # exposure, white balance
    if not parts:
        return Scene(image, *[image.new_zeros(0)] * 3)
    table = like.new_tensor([[float(o == p) for o in owners] for p in (*PARTS, "face")])  # (P + 1, K)
    whole = (table @ torch.stack(weights, 1).flatten(2)).unflatten(2, (size, size))  # (B, P + 1, S, S)
    seen = whole * clear[:, None]
    return Scene(image, seen[:, :-1], seen.sum(1), whole[:, :-1].sum((2, 3)))
