"""Temporal Segment Networks. ECCV 2016 (arXiv:1608.00859); the journal's version is arXiv:1705.02953.

Wang, Xiong, Wang, Qiao, Lin, Tang, Van Gool. The network of a snippet is in tsn_backbones.py, the consensus
in tsn_consensus.py.

Where to find the papers here:
    the framework: K segments, a snippet of each, one network     `TSN`
    the consensus of snippets; M-TWI for untrimmed video          tsn_consensus.py
    RGB, RGB difference, flow, warped flow; BN-Inception          tsn_backbones.py, bn_inception.py
    cross-modality initialisation                                 `cross_modality`, `TSN.adapt`
    partial BatchNorm                                             `VideoModel.partial_batchnorm`
    one snippet of each segment, in training and in tests         `video.sampling.segments`
    corner cropping and scale jittering                           `video.crops.corner_scale_box`

Deviation: a snippet may run into the next segment, as in tsn-pytorch, and every frame can be drawn. The
    authors' Caffe code keeps a snippet in its segment.
Deviation: a video too short for K different snippets repeats some, in order; tsn-pytorch repeats its start.
Deviation: dropout is 0.8 for every modality, as in the paper; the released code has 0.7 for flow.

Shape letters: B clips, S segments, C channels, T frames or fields of a snippet, H height, W width,
D features, K classes, O filters; t, h, w are the sides of a kernel.
"""

from collections.abc import Mapping
from functools import partial

from torch import Tensor, nn

from muybridge.errors import ConfigError
from muybridge.models.blocks import channels_last
from muybridge.models.contract import Adapted, VideoModel
from muybridge.models.image_network import fit_frames
from muybridge.models.tsn_backbones import MODALITIES, Modality, NetworkBuilder, make_backbone
from muybridge.models.tsn_consensus import Consensus, SegmentHead
from muybridge.models.two_stream_inputs import stack_channels


class TSN(VideoModel):
    """One network on a snippet of each of K segments of a video, and one answer.

    A network of frames sees the T frames, differences or fields of a snippet as the channels of one frame:
    all channels of the first, then those of the next. A network of clips sees the snippet as a clip.

    Args:
        build_network: for backbones that are networks of the registry.
        num_classes: K.
        width: scales every channel count; 1 for torchvision and timm.
        backbone: "bn_inception", "resnet50", "resnet101"; "torchvision/NAME" or "timm/NAME"; or any network
            of one modality by its name in the registry, such as "r2plus1d_18".
        modality: "rgb", "rgb_diff", "flow" or "warped_flow".
        consensus: "average", "max", "top_k", "linear" or "attention": see `SegmentHead`.
        num_segments: the paper's K, of a video as it is sampled; the network takes any number, but for linear
            weighting.
        num_frames: T of a snippet; None is 1 for RGB and 5 for all others, or what a network of clips has.
        top_k: of the consensus "top_k".
        dropout: of the features.
        bn_eps: of every BatchNorm; torchvision's and timm's keep their own.

    Shape:
        input  [B, S, C, T, H, W], or [B, C, T, H, W] of one segment
        output [B, K]
    """

    def __init__(
        self,
        build_network: NetworkBuilder,
        *,
        num_classes: int = 101,
        width: float = 1.0,
        backbone: str = "bn_inception",
        modality: Modality = "rgb",
        consensus: Consensus = "average",
        num_segments: int = 3,
        num_frames: int | None = None,
        top_k: int = 3,
        dropout: float = 0.8,
        bn_eps: float = 1e-5,
    ) -> None:
        _check(modality, width, num_segments, num_frames)
        made = make_backbone(
            backbone, modality, build_network, width=width, num_frames=num_frames, bn_eps=bn_eps
        )
        head = partial(SegmentHead, consensus=consensus, num_segments=num_segments, top_k=top_k)
        super().__init__(
            num_classes=num_classes,
            feature_dim=made.feature_dim,
            default_specs=(made.spec.model_copy(update={"num_segments": num_segments}),),
            stage_names=tuple(f"backbone.{name}".rstrip(".") for name in made.stage_names),
            make_head=partial(head, made.feature_dim, dropout=dropout),
        )
        self.modalities = (modality,)
        self.num_frames = made.spec.num_frames
        self.backbone = made.network

    def forward(self, *inputs: Tensor) -> Tensor:
        """Logits: the consensus of the snippets' scores.

        Shape:
            input  [B, S, C, T, H, W], or [B, C, T, H, W] of one segment
            output [B, K]
        """
        logits: Tensor = self.head(self.snippet_features(*inputs))
        return logits

    def forward_features(self, *inputs: Tensor) -> Tensor:
        """The mean of the snippets' features; the head's scores of it are the answer of average consensus.

        Shape:
            input  [B, S, C, T, H, W], or [B, C, T, H, W] of one segment
            output [B, D]
        """
        return self.snippet_features(*inputs).mean(1)

    def snippet_features(self, *inputs: Tensor) -> Tensor:
        """What the backbone gives of each snippet.

        Shape:
            input  [B, S, C, T, H, W], or [B, C, T, H, W] of one segment
            output [B, S, D]
        """
        snippets = self._snippets(inputs)
        clips = snippets.flatten(0, 1)
        if isinstance(self.backbone, VideoModel):
            features = self.backbone.forward_features(clips)
        else:
            maps: Tensor = self.backbone(channels_last(stack_channels(clips)))
            features = maps.mean((2, 3, 4))
        return features.view(*snippets.shape[:2], -1)

    def adapt(self, tensors: Mapping[str, Tensor]) -> Adapted:
        """Cross-modality initialisation: the first filters of another modality, made to fit.

        A checkpoint of the network that is the backbone here is taken too, and a file of its 2D network.
        """
        fitted = dict(tensors)
        if isinstance(self.backbone, VideoModel) and not any(name.startswith("backbone.") for name in fitted):
            fitted = {
                name if name.startswith("head.") else f"backbone.{name}": value
                for name, value in fitted.items()
            }
        return fit_frames(fitted, self.backbone, "backbone.")

    def _layer(self, name: str) -> nn.Module:
        inner = name.removeprefix("backbone.")
        if isinstance(self.backbone, VideoModel) and inner != name:
            return self.backbone._layer(inner)
        return super()._layer(name)

    def _snippets(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """The snippets of each clip, checked.

        Raises:
            ConfigError: more than one input, or one of another layout, modality or length.

        Shape:
            output [B, S, C, T, H, W]
        """
        who, (modality,) = self._who, self.modalities
        if len(inputs) != 1:
            raise ConfigError(f"{who} is called as model({modality}), got {len(inputs)} inputs")
        (x,) = inputs
        channels = self.default_specs[0].num_channels
        snippets = x[:, None] if x.ndim == 5 else x
        if snippets.ndim != 6 or snippets.shape[2] != channels:
            raise ConfigError(
                f"{who} of modality '{modality}' takes snippets [B, S, {channels}, T, H, W], got "
                f"{list(x.shape)}"
            )
        length = snippets.shape[3]
        if length != self.num_frames and not isinstance(self.backbone, VideoModel):
            raise ConfigError(
                f"{who} was built for snippets of {self.num_frames} frames or fields, got {length}: build it "
                f"with num_frames={length}, or make snippets of {self.num_frames}"
            )
        return snippets


def _check(modality: str, width: float, num_segments: int, num_frames: int | None) -> None:
    if modality not in MODALITIES:
        raise ConfigError(f"modality must be one of {', '.join(MODALITIES)}, got '{modality}'")
    for name, value in (("width", width), ("num_segments", num_segments), ("num_frames", num_frames)):
        if value is not None and value <= 0:
            raise ConfigError(f"{name} must be above 0, got {value}")
