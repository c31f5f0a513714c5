"""The non-local operation. CVPR 2018 (arXiv:1711.07971), Sec. 3; the networks are in `nonlocal_net`.

Wang, Girshick, Gupta, He.

Where to find the paper here:
    Eq. (1), Eq. (6) and Fig. 2                      `NonLocalBlock`
    Eq. (2) Gaussian, Eq. (3) embedded Gaussian      `softmax_attention`
    Eq. (4) dot product                              `dot_product_attention`
    Eq. (5) concatenation                            `concatenation_attention`
    Sec. 3.3, subsampling                            `pool_pixels`, `pool`
    Fig. 3, what a position looks at                 `NonLocalBlock.attention`

Memory grows with the number of positions, not with its square: no matrix of all pairs is made, unless it is
smaller than its factors.

Deviation: keys and values are subsampled before phi and g, as in the formula of Sec. 3.3, the authors' code
    and the multiply-adds of Table 2e; a sentence of Sec. 3.3 has it after them, which is `pool="after"`.
Deviation: time-only blocks do not subsample: after a spatial pooling no key would lie at the query's pixel.
Deviation: a map of one row or column is not subsampled in that direction; the authors never have one.
Deviation: all frames of a clip see each other; with 128 frames and BatchNorm frozen, the authors' code cuts
    time into groups of 4 frames in res3, to save memory.

Shape letters: B clips, C channels, D inner channels, E channels of the values, T frames, H height, W width,
N queries i, M keys j: positions of the clip; M is N / 4 after subsampling.
"""

from collections.abc import Callable, Collection

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from muybridge.errors import ConfigError
from muybridge.models.blocks import Conv3d, Size3

KINDS = ("gaussian", "embedded_gaussian", "dot_product", "concatenation")  # Eq. (2) .. (5)
SCOPES = ("spacetime", "space", "time")  # Table 2d
POOLS = ("before", "after", "none")


class NonLocalBlock(nn.Module):
    """Fig. 2: every position looks at all others, in a residual branch.

        y_i = sum_j f(x_i, x_j) g(x_j) / C(x)          Eq. (1)
        z = x + BN(W_z y)                              Eq. (6)

    Args:
        channels: C.
        inner: D, the channels of theta, phi and g; the paper has half of C.
        kind: f, one of `KINDS`.
        scope: the positions that one looks at: "spacetime"; "space", those of its frame; "time", those of its
            pixel.
        pool: 1 x 2 x 2 max pooling of keys and values, "before" or "after" phi and g, or "none".
        logit_scale: of the embedded Gaussian, exp(scale theta^T phi). The authors' code has D^-0.5.
        bn_eps: of the BatchNorm.

    Shape:
        input  [B, C, T, H, W]
        output [B, C, T, H, W], equal to the input while the block is new

    >>> x = torch.randn(2, 8, 2, 6, 6)
    >>> torch.equal(NonLocalBlock(8, 4)(x), x)
    True
    """

    def __init__(
        self,
        channels: int,
        inner: int,
        *,
        kind: str = "embedded_gaussian",
        scope: str = "spacetime",
        pool: str = "before",
        logit_scale: float = 1.0,
        bn_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        choose("kind", kind, KINDS)
        choose("scope", scope, SCOPES)
        choose("pool", pool, POOLS)
        self.kind, self.scope = kind, scope
        self.pool = "none" if scope == "time" else pool
        self.logit_scale = logit_scale if kind == "embedded_gaussian" else 1.0
        embedded = kind != "gaussian"
        self.theta = Conv3d(channels, inner, (1, 1, 1), bias=True) if embedded else nn.Identity()
        self.phi = Conv3d(channels, inner, (1, 1, 1), bias=True) if embedded else nn.Identity()
        self.g = Conv3d(channels, inner, (1, 1, 1), bias=True)
        self.w_f = nn.Linear(2 * inner, 1, bias=False) if kind == "concatenation" else None
        self.out = Conv3d(inner, channels, (1, 1, 1), bias=True)  # W_z
        self.bn = nn.BatchNorm3d(channels, eps=bn_eps)
        self.apply(_init_normal)
        nn.init.zeros_(self.bn.weight)  # Sec. 4.1: start as the identity, so that it fits any trained network

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (_sequences(one, self.scope) for one in self._project(x))
        z: Tensor = x + self.bn(self.out(_as_clip(self._attend(query, key, value), self.scope, x)))
        return z

    def attention(self, x: Tensor, position: Size3) -> Tensor:
        """f(x_i, x_j) / C(x): how much one position takes from each in its scope (Fig. 3).

        Args:
            x: the block's input.
            position: i, as (frame, row, column).

        Shape:
            x      [B, C, T, H, W]
            output [B, T', H', W'], the positions in scope; H' and W' are halves where they are pooled
        """
        t, h, w = position
        if self.scope == "space":
            x, t = x[:, :, t : t + 1], 0
        elif self.scope == "time":
            x, h, w = x[..., h : h + 1, w : w + 1], 0, 0
        theta, phi, _ = self._project(x)
        query, key = theta[:, None, :, t, h, w], phi.flatten(2)  # [B, 1, D], [B, D, M]
        if self.w_f is not None:
            of_query, of_key = self.w_f.weight.chunk(2, dim=1)
            f = F.relu(query @ of_query.T + of_key @ key) / key.shape[2]
        elif self.kind == "dot_product":
            f = query @ key / key.shape[2]
        else:
            f = (self.logit_scale * query @ key).softmax(2)
        return f.reshape(len(x), *phi.shape[2:])

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Theta, phi and g of a clip, as clips."""
        source = pool_pixels(x) if self.pool == "before" else x
        key, value = self.phi(source), self.g(source)
        if self.pool == "after":
            key, value = pool_pixels(key), pool_pixels(value)
        return self.theta(x), key, value

    def _attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        if self.w_f is not None:
            of_query, of_key = self.w_f.weight[0].chunk(2)
            return concatenation_attention(query @ of_query, key @ of_key, value)
        if self.kind == "dot_product":
            return dot_product_attention(query, key, value)
        return softmax_attention(query, key, value, scale=self.logit_scale)


def softmax_attention(query: Tensor, key: Tensor, value: Tensor, *, scale: float) -> Tensor:
    """Eq. (2) and (3): softmax(scale * query key^T) value, a block of keys at a time.

    An N x M matrix is only made where it is smaller than the queries and keys themselves.

    Shape:
        query [B, N, D], key [B, M, D], value [B, M, E] with E <= D
        output [B, N, E]
    """
    (n, d), (m, channels) = query.shape[1:], value.shape[1:]
    # The kernels that work in blocks want channels side by side, and as many in the values as in the keys.
    # Zeros fill up the Gaussian's, where its matrix would be larger than queries and keys themselves.
    if channels < d and n * m > (n + m) * d:
        value = F.pad(value, (0, d - channels))
    query, key, value = (one[:, None].contiguous() for one in (query, key, value))
    y = F.scaled_dot_product_attention(query, key, value, scale=scale)
    return y[:, 0, :, :channels]


def dot_product_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Eq. (4): (query key^T) value / M, in whichever order of the two products multiplies less.

    So here too an N x M matrix is only made where it is the smaller one.

    Shape:
        query [B, N, D], key [B, M, D], value [B, M, E]
        output [B, N, E]
    """
    (n, d), (m, e) = query.shape[1:], value.shape[1:]
    value = value / m  # first: the sum over many positions would leave float16's range
    if n * m * (d + e) > (n + m) * d * e:
        return query @ (key.transpose(1, 2) @ value)
    return query @ key.transpose(1, 2) @ value


def concatenation_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Eq. (5): sum_j relu(query_i + key_j) value_j / M.

    w_f^T [theta_i, phi_j] is a number of i plus a number of j. The keys that ReLU lets through to query i are
    those above -query_i: the first few of them in descending order. So running sums of value_j and of
    key_j value_j in that order hold the answer for every i.

    Shape:
        query [B, N], key [B, M], value [B, M, E]
        output [B, N, E]
    """
    wide = torch.promote_types(value.dtype, torch.float32)  # running sums lose too much in half precision
    query = query.to(wide)
    key, order = key.to(wide).sort(dim=1, descending=True)
    ordered = value.to(wide).take_along_dim(order[..., None], dim=1)
    sums = torch.cat((ordered, key[..., None] * ordered), dim=2).cumsum(1)
    sums = F.pad(sums, (0, 0, 1, 0))  # [B, M + 1, 2E]: row k is the sum of the first k
    passed = torch.searchsorted(
        -key.detach(), query.detach().contiguous()
    )  # [B, N]: how many are let through
    row = passed + sums.shape[1] * torch.arange(len(sums), device=passed.device)[:, None]
    picked = sums.flatten(0, 1).index_select(0, row.flatten()).view(*row.shape, -1)
    of_values, of_products = picked.chunk(2, dim=2)
    y = (query[..., None] * of_values + of_products) / key.shape[1]
    return y.to(value.dtype)


def pool_pixels(x: Tensor) -> Tensor:
    """Sec. 3.3: 1 x 2 x 2 max pooling.

    Shape:
        input  [B, C, T, H, W]
        output [B, C, T, H / 2, W / 2]; an extent of 1 stays
    """
    frames = x.transpose(1, 2)
    y = F.max_pool2d(frames.flatten(0, 1), (min(2, x.shape[3]), min(2, x.shape[4])))
    return y.view(*frames.shape[:2], *y.shape[1:]).transpose(1, 2)


def insert_nonlocal(
    stage: nn.Sequential, after: Collection[int], make: Callable[[], NonLocalBlock]
) -> nn.Sequential:
    """A stage with non-local blocks in it. Its residual blocks keep their names; `nl3` stands after `3`.

    >>> stage = nn.Sequential(nn.ReLU(), nn.ReLU())
    >>> [name for name, _ in insert_nonlocal(stage, (0,), lambda: NonLocalBlock(8, 4)).named_children()]
    ['0', 'nl0', '1']
    """
    merged = nn.Sequential()
    for name, block in stage.named_children():
        merged.add_module(name, block)
        if int(name) in after:
            merged.add_module(f"nl{name}", make())
    return merged


def choose(argument: str, value: object, options: Collection[object]) -> None:
    """An argument that is one of a few.

    Raises:
        ConfigError: it is another; names them all.
    """
    if value not in options:
        raise ConfigError(f"{argument} must be one of {', '.join(map(repr, options))}, got {value!r}")


def _sequences(x: Tensor, scope: str) -> Tensor:
    """[B, D, T, H, W] as sequences of positions that see each other, each with its D channels."""
    x = x.permute(0, 2, 3, 4, 1)
    if scope == "time":
        return x.permute(0, 2, 3, 1, 4).flatten(0, 2)  # [BHW, T, D]
    if scope == "space":
        return x.flatten(2, 3).flatten(0, 1)  # [BT, HW, D]
    return x.flatten(1, 3)  # [B, THW, D]


def _as_clip(y: Tensor, scope: str, like: Tensor) -> Tensor:
    """The way back, to the extents of `like`: [B, D, T, H, W]."""
    b, _, t, h, w = like.shape
    if scope == "time":
        return y.reshape(b, h, w, t, y.shape[2]).permute(0, 4, 3, 1, 2)
    return y.reshape(b, t, h, w, y.shape[2]).permute(0, 4, 1, 2, 3)


def _init_normal(module: nn.Module) -> None:
    """As the authors' code."""
    if isinstance(module, (nn.Conv3d, nn.Linear)):
        nn.init.normal_(module.weight, std=0.01)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
