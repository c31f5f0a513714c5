"""What every network gives: logits, features, a head that can be replaced, and how it wants to see a video.

Shape letters: B clips, C channels, T frames, H height, W width, D features, K classes.
"""

import difflib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple, Self, get_args

from pydantic import Field
from torch import Tensor, nn

from muybridge.config import ClipSpec, Config, PartialBatchNorm
from muybridge.errors import ConfigError

BATCHNORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class Card(Config):
    """What a checkpoint says about itself: enough to rebuild the network and to feed it rightly.

    Attributes:
        model: the network's name in the registry.
        arguments: of `build(model, **arguments)`.
        specs: how a video becomes the input, one a modality.
        labels: class names, in the order of the logits.
        training_protocol: digest of the configuration it was trained with; "" where it was not trained here.
        digests: further digests by name, such as those of the data.
        metrics: what it reached, by name, such as "val_top1".
        version: of muybridge, when it was saved.
    """

    model: str
    arguments: dict[str, Any]
    specs: tuple[ClipSpec, ...]
    labels: tuple[str, ...]
    training_protocol: str = ""
    digests: dict[str, str] = Field(default_factory=dict)
    metrics: dict[str, float] = Field(default_factory=dict)
    version: str = ""


class Head(nn.Module):
    """The classifier: dropout, then one fully connected layer.

    Shape:
        input  [B, D]
        output [B, K]
    """

    def __init__(self, feature_dim: int, num_classes: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(feature_dim, num_classes)
        nn.init.normal_(self.fc.weight, std=0.01)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.dropout(x))
        return logits


class Adapted(NamedTuple):
    """Tensors of a file, made to fit a network that starts from them.

    Attributes:
        tensors: by the network's names; what opens with "head." is left out.
        changed: names of those that are not as they were in the file.
        gained: starts of names that the file need not have: parts that are new in the network.
    """

    tensors: dict[str, Tensor]
    changed: tuple[str, ...] = ()
    gained: tuple[str, ...] = ()


class VideoModel(nn.Module):
    """The base of all networks. A subclass gives its layers and `forward_features`.

    Inputs are `[B, C, T, H, W]`, one tensor for each of `modalities`; networks that look at several snippets
    take `[B, S, C, T, H, W]`. Outputs are logits, never probabilities. A subclass whose head is not one
    `Head` gives `make_head`: the number of classes in, a module `[B, D] -> [B, K]` out.

    Attributes:
        name: in the registry; "" if the class was called directly.
        arguments: rebuild it: `build(name, **arguments)` gives the same network with other weights.
        num_classes: K, the length of the logits.
        feature_dim: D, the length of the features that the head takes.
        default_specs: how its paper makes the input from a video, one a modality.
        stage_names: the parts of the trunk, from the input on, as they open the names of their weights.
        card: what the checkpoint that it was loaded from says; None for one that was built.
        partial_batchnorm: what all BatchNorms but the first keep while the others train: "statistics", their
            mean and variance; "frozen", their scale and shift as well; None nothing.
    """

    modalities: tuple[str, ...] = ("rgb",)

    def __init__(
        self,
        *,
        num_classes: int,
        feature_dim: int,
        default_specs: tuple[ClipSpec, ...],
        stage_names: tuple[str, ...],
        dropout: float = 0.0,
        make_head: Callable[[int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        if num_classes < 1:
            raise ConfigError(f"num_classes must be at least 1, got {num_classes}")
        self.name = ""
        self.arguments: dict[str, Any] = {}
        self.num_classes = num_classes
        self.feature_dim = feature_dim
        self.default_specs = default_specs
        self.stage_names = stage_names
        self.card: Card | None = None
        self.partial_batchnorm: PartialBatchNorm | None = None
        self._make_head: Callable[[int], nn.Module] = make_head or partial(Head, feature_dim, dropout=dropout)
        self.head = self._make_head(num_classes)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Logits.

        Shape:
            inputs [B, C, T, H, W], one for each modality
            output [B, K]
        """
        logits: Tensor = self.head(self.forward_features(*inputs))
        return logits

    def training_logits(self, *inputs: Tensor) -> tuple[Tensor, tuple[float, ...]]:
        """The rows of logits that training takes losses of, and the weight of each row's loss.

        There is one row, the answer, unless a network is trained to answer several times: at every step of an
        LSTM, or in each of two branches.

        Shape:
            inputs [B, C, T, H, W], one for each modality
            output [B, R, K], and R numbers
        """
        return self(*inputs)[:, None], (1.0,)

    def own_task(self, logits: Tensor, target: Tensor) -> Tensor:
        """The logits as a loss and a test count them: all, unless the classes are of several data sets.

        Then those of other data sets than a clip's own are minus infinity.

        Shape:
            logits [B, K]
            target int64 [B], the true classes
            output [B, K]
        """
        return logits

    def forward_features(self, *inputs: Tensor) -> Tensor:
        """What the head takes: the trunk's output, pooled over time and space.

        Shape:
            inputs [B, C, T, H, W], one for each modality
            output [B, D]
        """
        raise NotImplementedError

    def reset_head(self, num_classes: int) -> None:
        """A new, random head for other classes. The trunk keeps its weights."""
        old = next(self.head.parameters())
        head = self._make_head(num_classes)
        self.head = head.to(device=old.device, dtype=old.dtype).train(self.training)
        self.num_classes = num_classes
        self.arguments = {**self.arguments, "num_classes": num_classes}
        self.card = None  # its labels are not those of the new head

    def embed(self, *inputs: Tensor, layer: str | None = None) -> Tensor:
        """Features of any layer, averaged over time and space.

        Args:
            *inputs: as `forward` takes them.
            layer: a module's name, such as "stages.2"; None is `forward_features`.

        Raises:
            ConfigError: there is no such layer, or it was not used, or it does not give one tensor.

        Shape:
            output [B, D], or [B, the layer's channels]
        """
        if layer is None:
            return self.forward_features(*inputs)
        pooled: list[Tensor] = []
        batch = len(inputs[0])

        def pool(module: nn.Module, args: object, output: object) -> None:
            # At once: the layers that follow may write into the output.
            if isinstance(output, Tensor):
                means = output.flatten(2).mean(2) if output.ndim > 2 else output.clone()
                # Snippets or frames may be folded into the batch.
                pooled.append(means.view(batch, -1, means.shape[1]).mean(1))

        handle = self._layer(layer).register_forward_hook(pool)
        try:
            self.forward(*inputs)
        finally:
            handle.remove()
        if len(pooled) != 1:
            raise ConfigError(f"layer '{layer}' of {self._who} gives no single tensor")
        return pooled[0]

    def train(self, mode: bool = True) -> Self:
        """Training mode, or eval mode; BatchNorms that `partial_batchnorm` keeps stay in eval mode."""
        super().train(mode)
        self.rest_batchnorms()
        return self

    def rest_batchnorms(self) -> None:
        """Puts what `partial_batchnorm` keeps to rest, after the modes of the parts were set."""
        for module in self.partial_batchnorms() if self.partial_batchnorm else ():
            module.training = False
            if self.partial_batchnorm == "frozen":
                module.requires_grad_(False)

    def partial_batchnorms(self) -> list[nn.Module]:
        """All BatchNorms but the one nearest to the input, or nearest to that of each modality's own part."""
        firsts: set[str] = set()
        rest: list[nn.Module] = []
        for name, module in self.named_modules():
            if isinstance(module, BATCHNORMS):
                part = name.partition(".")[0]
                part = part if part in self.modalities else ""
                rest += [module] if part in firsts else []
                firsts.add(part)
        return rest

    def adapt(self, tensors: Mapping[str, Tensor]) -> Adapted:
        """The tensors of a trunk to start from, in the shapes of this one where a paper says how.

        Args:
            tensors: of a checkpoint, by our names.
        """
        return Adapted(dict(tensors))

    @property
    def bf16_safe(self) -> bool:
        """Whether training in bfloat16 on a CPU gives finite gradients: see `blocks.Conv3d`."""
        return all(
            getattr(module, "bf16_safe", False) for module in self.modules() if isinstance(module, nn.Conv3d)
        )

    @property
    def _who(self) -> str:
        """What errors call this network."""
        return self.name or type(self).__name__

    def _layer(self, name: str) -> nn.Module:
        layers: dict[str, nn.Module] = dict(self.named_modules())
        if name and name in layers:
            return layers[name]
        close = difflib.get_close_matches(name, layers, n=1)
        hint = f"; did you mean '{close[0]}'?" if close else f"; its stages: {', '.join(self.stage_names)}"
        raise ConfigError(f"{self._who} has no layer '{name}'{hint}")


def check_positive(**numbers: float) -> None:
    """Arguments of a constructor that make no sense.

    Raises:
        ConfigError: one of them is not above 0.

    >>> check_positive(width=1, num_frames=0)
    Traceback (most recent call last):
        ...
    muybridge.errors.ConfigError: num_frames must be above 0, got 0
    """
    for name, value in numbers.items():
        if value <= 0:
            raise ConfigError(f"{name} must be above 0, got {value}")


def check_choices(**choices: tuple[str, object]) -> None:
    """Arguments of a constructor that are one of a few words.

    Args:
        choices: for each argument what was given, and the `Literal` of its words.

    Raises:
        ConfigError: one of them is another word.

    >>> check_choices(partial=("all", PartialBatchNorm))
    Traceback (most recent call last):
        ...
    muybridge.errors.ConfigError: partial must be one of statistics, frozen, got 'all'
    """
    for name, (given, kind) in choices.items():
        if given not in get_args(kind):
            raise ConfigError(f"{name} must be one of {', '.join(get_args(kind))}, got '{given}'")


def check_clip(x: Tensor, *, channels: int, who: str) -> None:
    """An input of the wrong layout, said in one line.

    Raises:
        ConfigError: `x` is not [B, channels, T, H, W].

    >>> import torch
    >>> check_clip(torch.zeros(1, 16, 3, 112, 112), channels=3, who="r3d_18")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    muybridge.errors.ConfigError: r3d_18 takes [B, 3, T, H, W], got [1, 16, 3, 112, 112]: is time before ...
    """
    if x.ndim == 5 and x.shape[1] == channels:
        return
    hint = ""
    if x.ndim == 5 and x.shape[2] == channels:
        hint = ": is time before the channels?"
    elif x.ndim == 4:
        hint = ": one clip needs a batch axis, clip[None]"
    raise ConfigError(f"{who} takes [B, {channels}, T, H, W], got {list(x.shape)}{hint}")
