"""RetinaNet with levels from P2 and a head for the class of the whole image (Gabruseva et al. 2020)."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from cxr.geometry.boxes import PER_CELL, make_anchors, parse_levels
from cxr.networks.encoders import build_encoder
from cxr.system.disk import InputError

IMAGENET_MEAN, IMAGENET_STD = (
    0.449,
    0.226,
)  # mean of the three channels' usual constants: the image is gray
PRIOR = 0.01  # first probability of every anchor, Lin et al. 2017, section 4.1


class Pyramid(nn.Module):
    """C2..C5 -> P2..P7 (or from P3), each with `channels` channels."""

    def __init__(self, in_channels, channels, levels):
        super().__init__()
        self.levels = levels
        self.lateral = nn.ModuleDict(
            {str(v): nn.Conv2d(in_channels[v], channels, 1) for v in range(levels[0], 6)}
        )
        self.smooth = nn.ModuleDict(
            {str(v): nn.Conv2d(channels, channels, 3, padding=1) for v in range(levels[0], 6)}
        )
        self.down = nn.ModuleDict(
            {
                str(v): nn.Conv2d(in_channels[5] if v == 6 else channels, channels, 3, 2, 1)
                for v in range(6, levels[-1] + 1)
            }
        )

    def forward(self, features):
        top, merged = None, {}
        for level in range(5, self.levels[0] - 1, -1):
            lateral = self.lateral[str(level)](features[level])
            top = (
                lateral
                if top is None
                else lateral + F.interpolate(top, size=lateral.shape[-2:], mode="nearest")
            )
            merged[level] = top
        maps = {level: self.smooth[str(level)](x) for level, x in merged.items()}
        for level in range(6, self.levels[-1] + 1):
            maps[level] = self.down[str(level)](
                features[5] if level == 6 else F.relu(maps[level - 1])
            )
        return [maps[level] for level in self.levels]


def head(channels, convs, outputs, norm, dropout=0.0):
    layers = []
    for _ in range(convs):
        layers += [
            he_init(nn.Conv2d(channels, channels, 3, padding=1)),
            *([nn.GroupNorm(channels // 8, channels)] if norm == "group" else []),
            nn.ReLU(inplace=True),
        ]
    last = nn.Conv2d(channels, outputs, 3, padding=1)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(*layers, nn.Dropout(dropout), last)


def he_init(conv):
    """PyTorch's own start shrinks the signal in every layer; with He's it keeps its size through ReLUs."""
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    nn.init.zeros_(conv.bias)
    return conv


class GlobalHead(nn.Module):
    """C5 (B, C, h, w) -> logits of the image classes (B, n). Needs h, w >= 6."""

    def __init__(self, in_channels, classes, dropout):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, 256, 3)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(512, classes)

    def forward(self, x):
        x = F.relu(self.conv(F.max_pool2d(x, 2)))
        return self.linear(self.dropout(torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1)))


class RetinaNet(nn.Module):
    """Gray images uint8 (B, 1, S, S) -> {'scores': logits (B, A, K), 'deltas': (B, A, 4), 'category': logits (B, n)}.

    With `asked`, a pair (image (n,), anchor (n,)) of integers on the CPU, 'deltas' are those of these anchors, (n, 4).
    `pretrained` decides whether batch-norm statistics stay frozen in training: small batches spoil good statistics, but
    random weights have none worth keeping.
    """

    def __init__(
        self,
        encoder,
        weights,
        levels,
        channels,
        head_convs,
        head_norm,
        dropout,
        box_classes,
        image_classes,
        image_size,
    ):
        super().__init__()
        self.levels, self.image_size, self.pretrained = (
            parse_levels(levels),
            image_size,
            weights != "none",
        )
        self.reach = (
            head_convs + 1 if head_norm == "none" else image_size
        )  # cells on each side that a box depends on
        check_size(image_size, self.levels)
        if head_norm == "group" and channels % 8:
            raise InputError(
                f"--channels {channels} cannot be grouped by 8: take a multiple of 8, or --head-norm none"
            )
        self.box_classes = box_classes
        self.encoder = build_encoder(encoder, weights)
        self.pyramid = Pyramid(self.encoder.out_channels, channels, self.levels)
        self.score_head = head(channels, head_convs, PER_CELL * box_classes, head_norm, dropout)
        self.box_head = head(channels, head_convs, PER_CELL * 4, head_norm)
        self.global_head = GlobalHead(self.encoder.out_channels[5], image_classes, dropout)
        nn.init.constant_(self.score_head[-1].bias, -math.log((1 - PRIOR) / PRIOR))
        self.register_buffer(
            "positives", torch.tensor(10.0)
        )  # of an average image; the loss keeps it up to date
        self.register_buffer("anchors", make_anchors(image_size, self.levels), persistent=False)

    def forward(self, images, asked=None):
        outputs = self.look(images)
        maps = outputs.pop("maps")
        deltas = (
            flatten([self.box_head(x) for x in maps], 4)
            if asked is None
            else self.deltas_at(maps, *asked)
        )
        return outputs | {"deltas": deltas}

    def look(self, images):
        """Scores and category as `forward` gives them, and the pyramid's maps, of which `deltas_at` makes boxes."""
        x = (images / 255 - IMAGENET_MEAN) / IMAGENET_STD
        features = self.encoder(
            x.expand(-1, 3, -1, -1).contiguous()
        )  # in the format that the weights have
        maps = self.pyramid(features)
        return {
            "scores": flatten([self.score_head(x) for x in maps], self.box_classes),
            "maps": maps,
            "category": self.global_head(features[5]).float(),
        }

    def deltas_at(self, maps, image, anchor):
        """Deltas (n, 4) of anchors (n,) of images (n,), the same as from the whole maps, in whose format it computes.

        The box head sees the part of a map that decides them. That spares most of its work, a third of the network's:
        an image has few boxes, and the largest map is for small ones.
        """
        parts, before, start = [], 0, 0
        place = torch.empty_like(anchor)  # of each anchor in the parts, one after the other
        with torch.autocast(
            maps[0].device.type, maps[0].dtype, enabled=maps[0].dtype != torch.float32
        ):
            for x in maps:
                shape = (*x.shape[-2:], PER_CELL)
                here = ((anchor >= start) & (anchor < start + math.prod(shape))).nonzero()[:, 0]
                for i in image[here].unique().tolist():
                    mine = here[image[here] == i]
                    row, column, cell = torch.unravel_index(anchor[mine] - start, shape)
                    rows, columns = (around(cells, self.reach) for cells in (row, column))
                    part = self.box_head(x[i : i + 1, :, rows, columns])
                    cells = (row - rows.start) * part.shape[-1] + column - columns.start
                    place[mine] = before + cells * PER_CELL + cell
                    parts.append(flatten([part], 4)[0])
                    before += len(parts[-1])
                start += math.prod(shape)
            if (
                not parts
            ):  # the head takes part all the same, so that its gradients are zeros as they would be
                return flatten([self.box_head(maps[-1][:1])], 4)[0, :0]
        if (
            maps[0].is_cuda
        ):  # an index that is not on the device yet makes the host wait for it, once for each use
            place = place.pin_memory().to(maps[0].device, non_blocking=True)
        return torch.cat(parts)[place]

    def train(self, mode=True):
        super().train(mode)
        if self.pretrained:
            for module in self.encoder.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def freeze_encoder(self, frozen):
        self.encoder.requires_grad_(not frozen)


def around(places, reach):
    """The slice of a map from `reach` cells before the first of some places to as many behind the last."""
    return slice(max(0, int(places.min()) - reach), int(places.max()) + reach + 1)


def flatten(maps, width):
    """Maps [(B, 9 * width, h, w)] -> (B, A, width) float32, in the order of `make_anchors`."""
    return torch.cat([x.permute(0, 2, 3, 1).reshape(len(x), -1, width) for x in maps], 1).float()


def check_size(image_size, levels):
    """Raises InputError for an input that the levels' strides do not divide, which would break flips and anchors."""
    if not (levels[0] in (2, 3, 4, 5) and 5 <= levels[-1] <= 7):
        raise InputError(
            f"--levels {levels[0]}-{levels[-1]} cannot be built: start at 2 to 5 and end at 5 to 7"
        )
    stride = max(2 ** levels[-1], 32)
    if image_size % stride or image_size < 192:
        raise InputError(
            f"--image-size {image_size} does not work with levels up to {levels[-1]}: "
            f"take a multiple of {stride}, at least 192"
        )
