"""Birds from signed distances: a species code and a row of random numbers in, an image and its part masks out.

Every shape is a signed distance d (negative inside) in units of the bird, and its coverage of a pixel is a ramp of
d over one pixel: sharp at any resolution, without supersampling. Layers are mixed front to back, so the weight with
which a layer reaches the eye is at once its part's mask. There is no branch on data: the renderer can be exported.
"""
from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

VERSION = 1  # raise it with every change of a pixel: it enters the data set's fingerprint
PARTS: tuple[str, ...] = ("back", "beak", "belly", "breast", "crown", "eye", "forehead", "leg", "nape", "tail",
                          "throat", "wing")
# attribute -> (part that carries it, names of its values); a species code is one value per attribute, in this order
HEAD, BODY = ("crimson", "black", "cream", "plain"), ("golden", "cream", "slate", "plain")
ATTRIBUTES: dict[str, tuple[str, tuple[str, ...]]] = {
    "crown": ("crown", HEAD), "forehead": ("forehead", HEAD), "nape": ("nape", HEAD), "throat": ("throat", HEAD),
    "breast": ("breast", BODY), "belly": ("belly", BODY), "back": ("back", BODY), "wing": ("wing", BODY),
    "crest": ("crown", ("smooth", "crested")), "breast marks": ("breast", ("plain", "streaked", "banded")),
    "wing marks": ("wing", ("barred", "patched", "striped")), "tail": ("tail", ("square", "forked", "long", "fan")),
    "beak": ("beak", ("cone", "needle", "curved", "dagger")), "eye": ("eye", ("plain", "ring", "stripe", "brow")),
    "leg": ("leg", ("dark", "orange")),
}
# numbers drawn per image, uniform in [0, 1); 0.5 everywhere is the neutral pose. Name -> how many.
BLOBS, DOTS, LEAVES = 10, 6, 7
NOISE: dict[str, int] = {
    "flip": 1, "x": 1, "y": 1, "scale": 1, "roll": 1, "tilt": 1, "head": 3, "tail": 1, "droop": 1, "fat": 1,
    "shade": 1, "hue": 6, "worn": 8, "light": 2, "gain": 3, "sky": 6, "blobs": 4 * BLOBS, "dots": 6 * (7 + 2 * DOTS),
    "leaves": 7 * LEAVES, "branch": 3,
}
NOISE_SIZE = sum(NOISE.values())

CRIMSON, BLACK, CREAM = (.74, .15, .13), (.15, .14, .16), (.95, .90, .79)
GOLD, SLATE, ORANGE, HORN = (.93, .68, .18), (.33, .43, .56), (.87, .49, .17), (.27, .25, .25)
GROUNDS = ((.60, .45, .33), (.55, .53, .50), (.52, .51, .34))                     # brown, grey, olive plumage
BARK, PAPER = (.45, .36, .29), (.957, .945, .910)
# variants of shape, one row a value:   tail: length, half-width at root and end, notch;  beak: length, height, curve
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
    ux, uy = bx - ax, by - ay
    px, py = x - ax, y - ay
    t = ((px * ux + py * uy) / (ux * ux + uy * uy)).clamp(0, 1)
    return torch.sqrt((px - ux * t) ** 2 + (py - uy * t) ** 2 + 1e-9) - (ra + (rb - ra) * t)


def _smooth_union(a, b, k):
    h = (k - (a - b).abs()).clamp_min(0) / k
    return torch.minimum(a, b) - h * h * (k / 4)


def _turn(x, y, angle):
    c, s = torch.cos(angle), torch.sin(angle)
    return c * x + s * y, c * y - s * x


def _noise(u: Tensor) -> dict[str, Tensor]:
    """(B, D) in [0, 1) -> name -> (B, n, 1, 1) in [-1, 1)."""
    rows = (u.float() * 2 - 1)[..., None, None].split(list(NOISE.values()), 1)
    return dict(zip(NOISE, rows))


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
    out = {name: rgb * (1 + .12 * shade + .10 * worn[:, k:k + 1]) for k, (name, rgb) in enumerate(out.items())}
    out["cheek"] = out["plain"] * .55 + like.new_tensor(CREAM) * .38
    out["dusky"] = out["plain"] * .62 + like.new_tensor(BLACK) * .22
    out["quill"] = out["plain"] * .35 + like.new_tensor(BLACK) * .60
    return out


def _glow(cx, cy, radius, weight, xs, ys):
    """Sum of round Gaussians: (B, N) each, weight (B, N, C) -> (B, C, S, S). Separable: one matrix product each."""
    gx = torch.exp(-(((xs - cx[..., None]) / radius[..., None]) ** 2))  # (B, N, S)
    gy = torch.exp(-(((ys - cy[..., None]) / radius[..., None]) ** 2))
    rows = (weight[..., None] * gy[:, :, None]).permute(0, 2, 3, 1)  # (B, C, S, N)
    return rows @ gx[:, None]


def _background(n, colours, xs, ys, x, y):
    """Sky and foliage far out of focus; some blobs take the birds' own colours, so that those give nothing away."""
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
        a = ((f - .42) * (4 + 3 * focus)).clamp(0, 1)                   # a sum of Gaussians cut at a level: round dots
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
        sharp = torch.minimum(px, 12 + 10 * focus.clamp(min=-.5))
        a = (.5 - d * sharp).clamp(0, 1) * (there > -.2)
        rgb = torch.stack([.40 + .20 * hue, .50 + .07 * focus, .24 + .04 * length], 1)  # (B, 3, 1, 1)
        canvas = canvas + (rgb * (1 + .10 * (ly * 6).clamp(-1, 1))[:, None] - canvas) * a[:, None]
        free = free * (1 - a)
    return canvas, free


def render(code: Tensor, noise: Tensor, size: int = 96, *, scenery: bool = True, parts: bool = True) -> Scene:
    """Draw a batch of birds.

    code     (B, A) int64, one value per entry of ATTRIBUTES: the species
    noise    (B, NOISE_SIZE) in [0, 1): pose, light and surroundings; 0.5 everywhere is a bird at ease, facing right
    size     pixels per side; the scene does not depend on it
    scenery  False leaves plain paper behind the bird and nothing in front of it
    parts    False leaves all but the image empty and saves the time
    """
    batch, like = len(code), noise.float()
    n = _noise(noise)
    colours = _colours(n, like)
    one = {k: [c[:, 0] for c in v.split(1, 1)] for k, v in n.items() if v.shape[1] <= 6}  # (B, 1, 1) each
    value = dict(zip(ATTRIBUTES, code.split(1, 1)))  # (B, 1) each
    ramp = (torch.arange(size, device=noise.device, dtype=torch.float32) + .5) * (2 / size) - 1
    xs = ramp * torch.where(n["flip"] < 0, -1., 1.)[..., 0]  # (B, 1, S)
    ys = (-ramp).expand(batch, 1, size)
    x, y = xs.expand(batch, size, size), ys.transpose(1, 2).expand(batch, size, size)  # (B, S, S)
    px = torch.full_like(one["x"][0], size / 2)  # pixels per unit

    # frames: world (the bird's scale, upright), body (tilted), head (nearly level), wing and tail (x backwards)
    scale = .63 + .15 * one["scale"][0]
    wx, wy = _turn((x - .10 - .26 * one["x"][0]) / scale, (y - .02 - .20 * one["y"][0]) / scale, .14 * one["roll"][0])
    tilt = .40 + .36 * one["tilt"][0]
    bx, by = _turn(wx, wy, tilt)
    ahead, up, nod = one["head"]
    hx, hy = _turn(bx - .40 - .06 * ahead, by - .33 - .05 * up, -.32 - .25 * one["tilt"][0] + .34 * nod)
    ux, uy = _turn(.12 - bx, by + .015, -.03 + .07 * one["droop"][0])
    tx, ty = _turn(-.44 - bx, by - .04, .06 + .16 * one["tail"][0])

    def cover(d, soft=1e9):
        """Distance in units of the bird -> coverage; `soft` bounds the steepness where plumage is fluffy."""
        return (.5 - d * (px * scale).clamp(max=soft)).clamp(0, 1)

    def shape(table, name):
        return like.new_tensor(table)[value[name][:, 0]][..., None, None].split(1, 1)  # (B, 1, 1, 1)

    def tone_of(name, palette):
        return (torch.stack([colours[k] for k in palette], 1)
                * torch.nn.functional.one_hot(value[name], len(palette)).transpose(1, 2)).sum(1)  # (B, 3)

    # silhouette and its shading: rounded by the distance from the outline, lit from above
    fat = 1 + .05 * one["fat"][0]
    d_body = _smooth_union(_capsule(bx, by, .14, -.04, -.46, .06, .37 * fat, .12),
                           torch.sqrt(hx ** 2 + (hy * 1.05) ** 2 + 1e-9) - .27, .34)
    on = value["crest"][..., None]
    d_crest = _capsule(hx, hy + .40 * (hx + .06) ** 2, -.07, .19, -.36, .38, .105, .010) + (1 - on) * 9.
    body = cover(d_body, 60)
    edge = (-d_body / .20).clamp(0, 1)
    light = 1 + .07 * wy + .07 * one["light"][0] * wx
    fluff = .018 * torch.sin(31 * bx + 6 * torch.sin(17 * by)) * torch.sin(27 * by)
    round_ = (.72 + .32 * edge * (2 - edge)) * light + .07 * wy.clamp(-.5, .6) + fluff
    round_ = round_ + .10 * (edge * (1 - edge)) * (wy > 0)

    lit, plain, tones, owners = [], [], [], []  # front to back
    free = torch.ones_like(x)  # share of the pixel still to be filled

    def put(part, tone, weight, shade=None):
        lit.append(weight if shade is None else weight * shade)
        plain.append(weight)
        tones.append(tone)
        owners.append(part)
        return free - weight

    # head: eye and its ornament, beak
    r = torch.sqrt((hx - .105) ** 2 + (hy - .04) ** 2 + 1e-9)
    kind = value["eye"][..., None]
    d_mark = torch.where(kind == 1, r - .090, torch.where(
        kind == 2, _capsule(hx, hy, .22, .0, -.14, .05, .026, .048), torch.where(
            kind == 3, _capsule(hx, hy, .20, .115, -.12, .135, .028, .032), 9.)))
    shine = torch.sqrt((hx - .125) ** 2 + (hy - .062) ** 2 + 1e-9) - .017
    free = put("eye", like.new_tensor((.97, .97, .95)).expand(batch, 3), free * cover(shine))
    free = put("eye", colours["black"] * .55, free * cover(r - .058))
    free = put("eye", tone_of("eye", ("cream", "cream", "black", "cream")), free * cover(d_mark) * body, light)
    length, height, curve = shape(BEAKS, "beak")
    t = (hx - .215) / length[:, 0]
    line = hy + .02 + curve[:, 0] * (hx - .2) ** 2
    d_beak = .9 * torch.maximum(line.abs() - height[:, 0] * (1 - t) * (1 + .4 * t),
                                torch.maximum(hx - .215 - length[:, 0], .19 - hx))
    free = put("beak", colours["horn"], free * cover(d_beak), light * (1 + .35 * (line * 18).clamp(-1, 1)))

    # wing: marks, coverts (coloured), quills; feather lines converge at the tip
    bend = uy + .10 * ux * ux
    half = (.205 - .215 * ux).clamp(.03, .205)
    d_wing = _capsule(ux, bend, .0, .0, .80, .05, .20, .022)
    rel = bend / half
    row = rel * 3.5
    quill = (row - row.round()).abs() / 3.5 * half
    seam = cover(quill - .007) * ((ux - .20) * 9).clamp(0, 1)
    wing = cover(d_wing)
    mark = value["wing marks"][..., None]
    arc = ux + .25 * bend * bend
    bars = torch.minimum((arc - .18).abs(), (arc - .35).abs()) - .032
    patch = _ellipse(ux, bend, .34, -.01, .14, .09)
    stripe = torch.maximum((rel - .62).abs() * half - .036, torch.maximum(.02 - ux, ux - .62))
    d_mark = torch.where(mark == 0, bars, torch.where(mark == 1, patch, stripe))
    inside = (-d_wing / .10).clamp(0, 1)
    wing_light = (.74 + .28 * inside * (2 - inside)) * light + .10 * uy + .02 * torch.sin(ux * 40) * torch.sin(rel * 9)
    free = put("wing", colours["cream"], free * cover(torch.maximum(d_mark, d_wing + .02)), wing_light)
    free = put("wing", tone_of("wing", BODY), free * wing * cover(arc - .08, 25), wing_light)
    free = put("wing", colours["dusky"], free * wing * cover(arc - .46, 25), wing_light * (1 - .20 * seam))
    free = put("wing", colours["quill"], free * wing, wing_light * (1 + .55 * seam))

    tuft = (-d_crest / .08).clamp(0, 1)
    free = put("crown", tone_of("crown", HEAD), free * cover(d_crest), (.80 + .26 * tuft) * light)

    # plumage: the regions share the silhouette between them
    rest = free * body

    def region(part, tone, coverage, shade):
        w = rest * coverage
        put(part, tone, w, shade)
        return rest - w

    rest = region("throat", tone_of("throat", HEAD), cover(_ellipse(hx, hy, .15, -.225, .145, .11), 30), round_)
    rest = region("forehead", tone_of("forehead", HEAD), cover(_ellipse(hx, hy, .18, .20, .185, .21), 30), round_)
    rest = region("crown", tone_of("crown", HEAD), cover(_ellipse(hx, hy, -.13, .24, .21, .16 - .05 * on), 30), round_)
    rest = region("nape", tone_of("nape", HEAD), cover(_ellipse(hx, hy, -.29, -.05, .13, .17), 30), round_)
    rest = region("face", colours["cheek"], cover(_ellipse(hx, hy, .03, -.02, .26, .22), 30), round_)
    kind = value["breast marks"][..., None]
    cell = bx * 8.5
    along = by * 4 + cell.round() * .5 - .5
    dash = torch.maximum((cell - cell.round()).abs() / 8.5 - .024, (along - along.round()).abs() / 4 - .08)
    band = (torch.sqrt((bx - .12) ** 2 + (by - .12) ** 2 + 1e-9) - .30).abs() - .035
    d_breast = _ellipse(bx, by, .44, -.10, .275, .34)
    d_spot = torch.where(kind == 1, torch.maximum(dash, d_breast + .04), torch.where(
        kind == 2, torch.maximum(band, d_breast), 9.))
    rest = region("breast", colours["quill"], cover(d_spot) * .85, round_)
    rest = region("breast", tone_of("breast", BODY), cover(d_breast, 25), round_)
    rest = region("back", tone_of("back", BODY), cover(torch.maximum(.08 - by, bx - .26), 25), round_)
    rest = region("belly", tone_of("belly", BODY), cover(torch.maximum(by + .03, bx - .6), 25), round_)
    region("face", colours["cheek"], 1., round_)
    free = free * (1 - body)

    # legs in front of the branch, tail behind the bird
    bones = [bone for at in (.10, -.06) for bone in (
        _capsule(wx, wy, at, -.30, at - .03, -.44, .05, .021), _capsule(wx, wy, at - .03, -.45, at + .02, -.585, .021, .019),
        _capsule(wx, wy, at + .02, -.585, at + .12, -.605, .019, .014),
        _capsule(wx, wy, at + .02, -.585, at - .06, -.605, .019, .012))]
    leg = torch.stack(bones).amin(0)
    free = put("leg", tone_of("leg", ("horn", "orange")), free * cover(leg), light)
    length, root, end, notch = [c[:, 0] for c in shape(TAILS, "tail")]
    t = (tx / length).clamp(0, 1)
    half = root + (end - root) * t
    d_tail = torch.maximum(ty.abs() - half, torch.maximum(tx - length + notch * (1 - (ty / end).abs()), -.08 - tx))
    row = ty / half * 2.5
    seam = cover((row - row.round()).abs() / 2.5 * half - .006)
    free = put("tail", colours["quill"], free * cover(d_tail), (.95 + .15 * ty / half) * light * (1 + .4 * seam))

    slope, phase, wave = one["branch"]
    across = wy + .665 + .05 * slope * wx + .04 * wave * torch.sin(wx * 2 + 3 * phase)
    thick = .060 - .012 * wx
    bark = like.new_tensor(BARK).expand(batch, 3)
    grain = .05 * torch.sin(wx * 23 + 9 * torch.sin(across * 40))
    free = put("", bark, free * cover(across.abs() - thick), .9 + .4 * (across / thick).clamp(-1, 1) + grain)

    stack = torch.stack(lit, 1).flatten(2)  # (B, K, S*S)
    image = (torch.stack(tones, 2) @ stack).unflatten(2, (size, size))  # (B, 3, S, S)
    if scenery:
        far = _background(n, colours, xs, ys, x, y)
        far = _leaves(n, x, y, px, range(LEAVES - 3), far)[0]
        image = image + free[:, None] * _berries(n, colours, xs, ys, far)
        image, clear = _leaves(n, x, y, px, range(LEAVES - 3, LEAVES), image)
    else:
        image, clear = image + free[:, None] * like.new_tensor(PAPER)[:, None, None], torch.ones_like(x)
    image = (image * (1 + .17 * n["light"][:, 1:2] + .08 * n["gain"])).clamp(0, 1)      # exposure and white balance
    if not parts:
        return Scene(image, *[image.new_zeros(0)] * 3)
    table = like.new_tensor([[float(o == p) for o in owners] for p in (*PARTS, "face")])             # (P + 1, K)
    whole = (table @ torch.stack(plain, 1).flatten(2)).unflatten(2, (size, size))  # (B, P, S, S)
    seen = whole * clear[:, None]
    return Scene(image, seen[:, :-1], seen.sum(1), whole[:, :-1].sum((2, 3)))
