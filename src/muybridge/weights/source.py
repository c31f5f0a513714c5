"""Where weights come from: a checkpoint of ours, a file of someone else's, or a public one by its name."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from muybridge.config import ClipSpec
from muybridge.models import registry
from muybridge.models.contract import Card
from muybridge.weights import manifest
from muybridge.weights.cards import find_card
from muybridge.weights.convert import OURS, Converted, classes_in, convert, tensors_in
from muybridge.weights.download import OnProgress, cached_path, check_hash, fetch, hash_in_name
from muybridge.weights.formats import recognise
from muybridge.weights.manifest import PublicCheckpoint
from muybridge.weights.read import checkpoint_file, is_safetensors, read_tensors

IN_TENSORS = {"num_classes", "width"}  # arguments that the shapes of a file show

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Source:
    """Weights for a network, with all that is known beside them.

    Attributes:
        path: of the file.
        network: that they are wanted for.
        found: tensors by our names.
        card: of a checkpoint of ours; None for others.
        public: the entry of a public checkpoint; None for others.
    """

    path: Path
    network: str
    found: Converted
    card: Card | None = None
    public: PublicCheckpoint | None = None

    @property
    def arguments(self) -> dict[str, Any]:
        """Of `build`, those that the network has and that no tensor shows."""
        if self.card is not None:
            # Another network's arguments mean nothing here; the tensors will tell whether it fits.
            same = self.card.model == self.network
            return {
                key: value for key, value in self.card.arguments.items() if same and key not in IN_TENSORS
            }
        known = {**self.found.arguments, **(self.public.arguments if self.public else {})}
        return registry.taken_by(self.network, known)

    def specs(self, defaults: tuple[ClipSpec, ...]) -> tuple[ClipSpec, ...]:
        """How clips are made for these weights; `defaults` are the network's."""
        if self.card is not None:
            return self.card.specs
        changes = {**self.found.clip, **(self.public.clip if self.public else {})}
        return tuple(spec.model_copy(update=changes) for spec in self.found.specs or defaults)

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes, in the order of the logits; () where nobody says."""
        if self.card is not None:
            return self.card.labels
        return self.public.label_names() if self.public else ()

    @property
    def num_classes(self) -> int | None:
        """K, by the classifier; None if the file has none."""
        return classes_in(self.found.tensors)


def open_weights(weights: Path | str, network: str, *, format: str = "auto") -> Source:
    """Reads weights for a network; a public checkpoint is downloaded first.

    Args:
        weights: a file, a run folder, or a public checkpoint of that network, such as "kinetics400".
        network: its name.
        format: whose the file is; "auto" finds it from the names in it.

    Raises:
        UnknownModelError: no such network.
        WeightsError: no such weights, they cannot be read, or the file is not the one that its name says.
    """
    entry = registry.find(network)
    path, public = locate(weights, network)
    if is_safetensors(path) and (card := find_card(path)) is not None:
        ours = Converted(format="muybridge", tensors=tensors_in(read_tensors(path)))
        return Source(path=path, network=network, found=ours, card=card)
    if public is None and (digits := hash_in_name(path.name)):
        check_hash(path, digits, advice="Get it again, or rename it if its name says something else")
    if public is not None and format == "auto":
        format = public.format
    state = read_tensors(path)
    if format == "auto" and _is_of_images(tensors_in(state), entry):
        found = Converted(format="a 2D network", tensors=tensors_in(state))
        return Source(path=path, network=network, found=found)
    found = convert(state, format=format).named_for(network)
    return Source(path=path, network=network, found=found, public=public)


def _is_of_images(tensors: Mapping[str, Any], entry: registry.ModelEntry) -> bool:
    """Whether a file is to be taken for a 2D network's."""
    if entry.takes_images == "too":
        return recognise(tensors) is None and not any(name.startswith(OURS) for name in tensors)
    return entry.takes_images == "only"


def locate(weights: Path | str, network: str) -> tuple[Path, PublicCheckpoint | None]:
    """The file of weights, and what is known of it if it is a public one; downloaded if it is not here.

    Raises:
        WeightsError: no such weights, or they cannot be downloaded.
    """
    path = Path(weights).expanduser()
    if path.exists():
        file = checkpoint_file(path)
        return file, next((one for one in manifest.of_network(network) if _is_file_of(one, file)), None)
    public = manifest.find(network, str(weights))
    return public_file(public), public


def public_file(public: PublicCheckpoint, *, say: Say | None = None) -> Path:
    """The file of a public checkpoint, downloaded if it is not here; its hash is checked.

    Raises:
        WeightsError: it cannot be downloaded, or is not what was published.
        StorageError: there is no room for it.
    """
    path = cached_path(public.url)
    say = say or _say
    if not path.is_file():
        say(f"{public.network}, weights {public.name}, licence {public.licence}: {public.url}")
    with _bar(path.name) as on_progress:
        pinned = fetch(public.url, path, sha256=public.known_sha256, on_progress=on_progress)
    if pinned and not public.known_sha256:
        say(f"no hash was published for {path.name}; its SHA-256 from now on is {pinned}")
    return path


def _is_file_of(public: PublicCheckpoint, file: Path) -> bool:
    """Whether a file that was given by hand is this checkpoint: by its place, or by the hash in its name."""
    if file == cached_path(public.url):
        return True
    return bool(public.known_sha256) and file.name == public.file_name


def _say(text: str) -> None:
    print(text, file=sys.stderr)


@contextmanager
def _bar(text: str) -> Iterator[OnProgress | None]:
    """A bar on stderr where that is a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(text, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> tuple[str, ...]:
    """Arguments that change what a network computes and no tensor's shape, such as `bn_eps`."""
    keys = [key for key in theirs if key in ours and key not in IN_TENSORS | {"num_frames"}]
    return tuple(
        f"{key} is {ours[key]!r} here and {theirs[key]!r} there" for key in keys if ours[key] != theirs[key]
    )
