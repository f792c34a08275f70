"""What a run ran on: one small function per group of facts.

Imports no torch: these are facts of the machine and of installed packages, not of a live process.
Records no host name, user name, home path or secret.
"""

import contextlib
import hashlib
import os
import platform
import re
import subprocess
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

import harness
from harness.catalog import list_readers
from harness.errors import InputError
from harness.machine.control_groups import read_cpu_quota, read_memory_limit
from harness.machine.files import read_text
from harness.machine.git import run_git
from harness.machine.nvml import describe_gpus
from harness.machine.privacy import is_secret_name, scrub

# The libraries that can change a number; those that quantise are named by their layer readers.
LIBRARIES = (
    "torch", "transformers", "accelerate", "datasets", "evaluate", "tokenizers",
    "safetensors", "huggingface-hub", "numpy", "pytest", "pytest-benchmark",
)  # fmt: skip
# Environment variables that change results. A prefix admits a family, without the names that
# may hold a secret.
_VARIABLES = {
    "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "CUDA_LAUNCH_BLOCKING", "CUDA_MODULE_LOADING",
    "HF_DATASETS_OFFLINE", "HF_HUB_OFFLINE", "NVIDIA_TF32_OVERRIDE", "NVIDIA_VISIBLE_DEVICES",
    "PYTHONHASHSEED", "TOKENIZERS_PARALLELISM", "TRANSFORMERS_OFFLINE", "VECLIB_MAXIMUM_THREADS",
}  # fmt: skip
_VARIABLE_PREFIXES = (
    "ATEN_", "BNB_", "CUBLAS_", "CUDNN_", "DNNL_", "GOMP_", "KMP_", "MALLOC_", "MKL_",
    "NUMEXPR_", "OMP_", "ONEDNN_", "OPENBLAS_", "PYTORCH_", "TORCHINDUCTOR_", "TORCH_",
)  # fmt: skip
# Those that decide which kernels run.
_INSTRUCTION_SETS = {
    "avx", "avx2", "f16c", "fma", "avx_vnni", "amx_bf16", "amx_fp16", "amx_int8", "avx512f",
    "avx512bw", "avx512_vnni", "avx512_bf16", "avx512_fp16", "asimd", "asimdhp", "asimddp",
    "bf16", "i8mm", "sve", "sve2",
}  # fmt: skip


@dataclass(frozen=True)
class DeviceFacts:
    """The device that cells run on: 'cpu' or 'cuda:N', its memory in bytes, torch's settings.

    ``uuid`` is the board's, by which NVML finds it; it goes into no record.
    """

    device: str
    gpu_name: str | None
    memory_bytes: int
    torch: dict[str, Any] = field(default_factory=dict)
    uuid: str | None = None

    @property
    def capability(self) -> tuple[int, int]:
        """CUDA compute capability; (0, 0) for a CPU."""
        major, _, minor = self.torch.get("capability", "0.0").partition(".")
        return int(major), int(minor)

    @property
    def type(self) -> str:
        """'cpu' or 'cuda'."""
        return self.device.split(":")[0]


def collect_environment(root: Path) -> dict[str, dict[str, Any]]:
    """All facts by group, private ones removed; ``root`` is the folder whose git state counts."""
    facts = {
        "git": describe_git(root),
        "python": {
            "version": platform.python_version(),
            "implementation": platform.python_implementation(),
        },
        "os": {
            **{name: getattr(platform, name)() for name in ("system", "release", "machine")},
            "libc": " ".join(platform.libc_ver()).strip() or None,
        },
        "cpu": describe_cpu(),
        "memory": describe_memory(),
        "gpu": describe_gpus(),
        "libraries": describe_libraries(),
        "variables": describe_variables(),
        "harness": describe_harness(),
    }
    return {group: scrub(values) for group, values in facts.items()}


def describe_git(root: Path) -> dict[str, Any]:
    """Commit, branch (None when detached) and whether tracked files differ from the commit.

    All None outside a repository or without git. Untracked files do not count as dirty: results
    are untracked files.
    """
    command = ("status", "--porcelain=v2", "--branch", "-uno")
    try:
        answer = run_git(root, *command, timeout_s=20)
        answer.check_returncode()
    except (InputError, subprocess.SubprocessError):
        return {"sha": None, "branch": None, "dirty": None}
    lines = answer.stdout.decode(errors="replace").splitlines()
    named = dict(line.split(" ")[1:3] for line in lines if line.startswith("# branch."))
    sha, branch = named["branch.oid"], named["branch.head"]
    return {
        "sha": None if sha == "(initial)" else sha,
        "branch": None if branch == "(detached)" else branch,
        "dirty": any(not line.startswith("#") for line in lines),
    }


def describe_cpu() -> dict[str, Any]:
    """Model, cores this process may use, instruction sets that decide kernels, clock and load."""
    info = _read_cpuinfo()
    flags = set((info.get("flags") or info.get("Features") or "").split())
    clock = read_cpu_clock()
    return {
        "name": read_cpu_name(),
        "physical_cores": psutil.cpu_count(logical=False),
        "logical_cores": psutil.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "quota_cores": read_cpu_quota(),
        "isa": sorted(flags & _INSTRUCTION_SETS),
        "max_mhz": round(clock.max) or None if clock else None,
        "governor": read_text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "load_average": [round(load, 2) for load in psutil.getloadavg()],
    }


def read_cpu_clock() -> Any:
    """psutil's mean clock of the cores now (``current``) and ``max``, in MHz, or None."""
    try:
        return psutil.cpu_freq()
    except (OSError, RuntimeError, NotImplementedError):
        return None


def read_cpu_name() -> str:
    """The CPU's model name as its maker writes it; the architecture where it has none."""
    name = _read_cpuinfo().get("model name")
    if not name and platform.system() == "Darwin":
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
            name = subprocess.check_output(command, text=True, timeout=5).strip()  # noqa: S603 - fixed
    return name or platform.processor() or platform.machine()


def describe_memory() -> dict[str, Any]:
    """Memory of the machine, and the control group's limit where that is lower."""
    total, limit = psutil.virtual_memory().total, read_memory_limit()
    lower = limit is not None and limit < total
    return {"total_bytes": total, "limit_bytes": limit if lower else None}


def describe_libraries(*names: str) -> dict[str, str | None]:
    """Installed version of each library, None where absent; by default of all that matter."""
    names = names or (*LIBRARIES, *(reader.library for reader in list_readers()))
    found: dict[str, str | None] = dict.fromkeys(names)
    for name in found:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def describe_variables() -> dict[str, str]:
    """The environment variables, from an allow-list, that change results."""
    return {
        name: value
        for name, value in sorted(os.environ.items())
        if name in _VARIABLES or (name.startswith(_VARIABLE_PREFIXES) and not is_secret_name(name))
    }


@cache
def describe_harness() -> dict[str, Any]:
    """Version, and a sha256 over the package's sources, which uncommitted changes alter too."""
    folder = Path(harness.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(folder).as_posix()} {content}\n".encode())
    return {"version": harness.__version__, "sources_sha256": digest.hexdigest()}


def device_slug(device: str, gpu_name: str | None, cpu_name: str) -> str:
    """The device for file names: ``cuda-nvidia-h200``, ``cpu-intel-xeon``.

    The index is left out, as results of equal boards are comparable; so are clock speeds and
    trademarks.
    """
    kind = device.split(":")[0]
    name = {"cuda": gpu_name, "cpu": cpu_name}.get(kind) or ""
    name = re.sub(r"\((R|TM|C)\)|@.*|\b(CPU|Processor|\d+-Core)\b", " ", name, flags=re.IGNORECASE)
    words = re.findall(r"[a-z0-9]+", f"{kind} {name}".lower())
    return "-".join(words)[:64].strip("-")


@cache
def _read_cpuinfo() -> dict[str, str]:
    """The first processor's block of /proc/cpuinfo; empty where there is none."""
    block = (read_text("/proc/cpuinfo") or "").split("\n\n")[0]
    pairs = (line.partition(":") for line in block.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}
