"""What a bug report needs to know about this machine: `muybridge env`."""

import os
import platform
import shutil
import sys
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

# Those whose version can change a number or break a road; the rest follows from them.
LIBRARIES = (
    "torch",
    "torchvision",
    "av",
    "opencv-contrib-python-headless",
    "numpy",
    "numba",
    "pydantic",
    "accelerate",
    "safetensors",
    "scikit-learn",
    "torchmetrics",
    "pyarrow",
    "typer",
    "timm",
)


@dataclass(frozen=True, kw_only=True)
class Environment:
    """This machine and what is installed on it.

    Attributes:
        muybridge: our own version.
        python: its version.
        platform: operating system, kernel and processor family.
        cpu: name of the processor.
        cores: cores that this process may use.
        instructions: the vector instructions that torch computes with, such as "AVX512".
        memory_gb: memory of the machine, GB; 0 where the system does not say.
        threads: what torch computes with.
        devices: accelerators that torch sees.
        free_disk_gb: free space where the command was started, GB.
        data_dir: what MUYBRIDGE_DATA says, or "".
        libraries: versions; "" for what is not installed.
        ffmpeg: versions of the FFmpeg libraries that decode.
    """

    muybridge: str
    python: str
    platform: str
    cpu: str
    cores: int
    instructions: str
    memory_gb: float
    threads: int
    devices: tuple[str, ...]
    free_disk_gb: float
    data_dir: str
    libraries: dict[str, str]
    ffmpeg: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def describe() -> Environment:
    """Looks at this machine; imports torch and PyAV, so it takes a second or two."""
    import av  # noqa: TID251 -- for its version numbers: no video is opened here
    import torch

    import muybridge

    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        devices.append("mps")
    versions = {name: ".".join(map(str, number)) for name, number in av.library_versions.items()}
    return Environment(
        muybridge=muybridge.__version__,
        python=sys.version.split()[0],
        platform=platform.platform(),
        cpu=cpu_name(),
        cores=available_cores(),
        instructions=torch.backends.cpu.get_cpu_capability(),
        memory_gb=memory_gb(),
        threads=torch.get_num_threads(),
        devices=tuple(devices),
        free_disk_gb=round(shutil.disk_usage(Path.cwd()).free / 1e9, 1),
        data_dir=os.environ.get("MUYBRIDGE_DATA", ""),
        libraries={name: _version(name) for name in LIBRARIES},
        ffmpeg=versions,
    )


def available_cores() -> int:
    """Cores that this process may use: fewer than the machine has inside a container or a job."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_name() -> str:
    """The processor's own name, such as "AMD EPYC 7763 64-Core Processor"."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def memory_gb() -> float:
    """Memory of the machine in GB; 0 where the system does not say."""
    known = getattr(os, "sysconf_names", {})
    if "SC_PHYS_PAGES" not in known or "SC_PAGE_SIZE" not in known:
        return 0.0
    return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1)


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""
