"""How fields are made: the method with all its parameters, the bound of the quantiser, the camera.

A recipe has a short name, which a `ClipSpec` carries as its `flow_method`, so that a network's flow is made
the same way wherever it runs:

    tvl1              a method with the parameters that are its default
    tvl1/fast         one of its named presets
    tvl1@1f3a5b7c     other parameters, by their digest: only a store knows which they are
"""

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from muybridge.config import ClipSpec, short_digest
from muybridge.errors import ConfigError, VideoError, WeightsError
from muybridge.flow.camera import warped
from muybridge.flow.methods import FlowParams, check_device, estimate, presets, resolve
from muybridge.flow.quantise import Float32Array, quantise
from muybridge.types import UInt8Array

__all__ = ["FlowKind", "FlowRecipe", "Pair", "recipe_name", "sha256_of"]

Pair = tuple[int, int]  # the frame that a field starts at, and the one that it runs to
HASH_BYTES = 1 << 20


class FlowKind(NamedTuple):
    """What must agree between a store and whoever reads it.

    Attributes:
        name: of the method and its parameters.
        bound: of the quantiser, pixels.
        warped: the motion of the camera is taken away.
    """

    name: str
    bound: float
    warped: bool = False

    @classmethod
    def of_spec(cls, spec: ClipSpec) -> Self:
        """What a network of modality "flow" or "warped_flow" asks for."""
        assert spec.flow_method is not None
        assert spec.flow_bound is not None
        return cls(spec.flow_method, spec.flow_bound, spec.modality == "warped_flow")


@dataclass(frozen=True)
class FlowRecipe:
    """From frames to codes.

    Attributes:
        method: a key of `METHODS`.
        params: all parameters of the method.
        bound: displacements are clipped to [-bound, bound] pixels before they are quantised.
        warped: the motion of the camera is taken away.
        device: of torch, where the fields are computed; not part of what they are. None: as for `estimate`.
    """

    method: str
    params: FlowParams
    bound: float = 20.0
    warped: bool = False
    device: str | None = None

    @classmethod
    def of(
        cls,
        method: str = "tvl1",
        *,
        bound: float = 20.0,
        warped: bool = False,
        preset: str | None = None,
        device: str | None = None,
        **changes: Any,
    ) -> Self:
        """The recipe of a method, preset and changed parameters.

        Args:
            method: a key of `METHODS`, or a recipe's name with its preset: "tvl1/fast".
            bound: in pixels.
            warped: take the motion of the camera away.
            preset: one of `presets(method)`; None is what the name says, or the first.
            device: of torch; None: as for `estimate`.
            changes: parameters that differ from the preset.

        Raises:
            ConfigError: no such method, preset, parameter or device, a bad value, or a name with a digest.

        >>> FlowRecipe.of("dis/fast").name, FlowRecipe.of("dis", num_descents=20).name
        ('dis/fast', 'dis@50ca96fd')
        """
        if not 0 < bound < float("inf"):
            raise ConfigError(f"the flow bound must be above 0 pixels, got {bound}")
        if "@" in method:
            raise ConfigError(
                f"flow method '{method}' has parameters of its own, which only a store of it knows: give the "
                "folder that `muybridge flow` made, or take a method or preset by its name"
            )
        method, _, named = method.partition("/")
        params = resolve(method, preset=preset or named or None, **changes)
        check_device(method, device)
        return cls(method, params, float(bound), warped, device)

    @classmethod
    def of_spec(cls, spec: ClipSpec) -> Self:
        """The recipe that a network of modality "flow" or "warped_flow" asks for.

        Raises:
            ConfigError: as `of`.
        """
        wanted = FlowKind.of_spec(spec)
        return cls.of(wanted.name, bound=wanted.bound, warped=wanted.warped)

    @property
    def name(self) -> str:
        """The method, and what tells its parameters from the default ones."""
        return recipe_name(self.method, self.parameters)

    @property
    def kind(self) -> FlowKind:
        """What must agree between a store and whoever reads it."""
        return FlowKind(self.name, self.bound, self.warped)

    @property
    def parameters(self) -> dict[str, Any]:
        """All parameters as plain values; a file of weights is told by its content, not by where it lies."""
        values = self.params.to_dict()
        if values.get("weights") is not None:
            values["weights"] = f"sha256 {_weights_digest(values['weights'])}"
        return values

    def codes(self, frames: UInt8Array, pairs: list[Pair]) -> UInt8Array:
        """The fields between pairs of frames, quantised: the same whatever other pairs are asked for.

        A frame's field to itself is 0.

        Raises:
            DataError: frames too small for the method.
            WeightsError: the method's weights are missing.

        Shape:
            frames [N, H, W, 3]
            pairs P of them, numbers of frames
            output [P, 2, H, W], uint8
        """
        out = np.empty((len(pairs), 2, *frames.shape[1:3]), np.uint8)
        rows_of: dict[Pair, list[int]] = {}
        for row, pair in enumerate(pairs):
            rows_of.setdefault(pair, []).append(row)
        for chain in _chains([pair for pair in rows_of if pair[0] != pair[1]]):
            fields = self._fields(frames[[chain[0][0], *(second for _, second in chain)]])
            for pair, field in zip(chain, fields, strict=True):
                out[rows_of[pair]] = quantise(field, self.bound)
        still = [row for row, (first, second) in enumerate(pairs) if first == second]
        out[still] = quantise(0.0, self.bound)
        return out

    def _fields(self, frames: UInt8Array) -> Float32Array:
        compute = warped if self.warped else estimate
        return compute(frames, method=self.method, device=self.device, **self.params.to_dict())


def recipe_name(method: str, parameters: dict[str, Any]) -> str:
    """What a `ClipSpec` calls a method with these parameters.

    >>> recipe_name("dis", resolve("dis").to_dict())
    'dis'
    """
    for place, preset in enumerate(presets(method)):
        if resolve(method, preset=preset).to_dict() == parameters:
            return f"{method}/{preset}" if place else method
    return f"{method}@{short_digest(parameters)}"


def _weights_digest(path: str) -> str:
    try:
        return sha256_of(path)
    except VideoError as error:
        raise WeightsError(str(error)) from None


def sha256_of(path: Path | str) -> str:
    """SHA-256 of a file's bytes, in hex; read once in a process, as long as the file does not change.

    Raises:
        VideoError: the file cannot be read.
    """
    try:
        status = Path(path).stat()
        return _file_sha256(str(path), status.st_mtime_ns, status.st_size)
    except OSError as error:
        raise VideoError(f"cannot read {path}: {error.strerror or error}; check the path") from None


@lru_cache(maxsize=8192)
def _file_sha256(path: str, mtime_ns: int, size_bytes: int) -> str:
    digest = hashlib.sha256()
    with Path(path).open("rb", buffering=0) as file:
        while block := file.read(HASH_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _chains(pairs: list[Pair]) -> list[list[Pair]]:
    """Pairs in runs where each starts at the frame that the one before it runs to.

    >>> _chains([(0, 1), (1, 2), (2, 4), (5, 6), (0, 2)])
    [[(0, 1), (1, 2), (2, 4)], [(5, 6)], [(0, 2)]]
    """
    chains: list[list[Pair]] = []
    ends_at: dict[int, list[Pair]] = {}  # the chain that a pair from this frame would go on
    for pair in pairs:
        chain = ends_at.pop(pair[0], None)
        if chain is None:
            chain = []
            chains.append(chain)
        chain.append(pair)
        ends_at[pair[1]] = chain
    return chains
