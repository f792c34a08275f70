"""What a run ran on: one small function per group of facts, and what keeps private facts out.

Imports no torch, so the facts are the machine's and the packages', not those of a live process.
Records no host name, user name, home path or secret; `scrub` enforces that for whatever is written.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import subprocess
from collections.abc import Callable
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

import harness

LIBRARIES = (
    "torch",
    "transformers",
    "accelerate",
    "bitsandbytes",
    "datasets",
    "evaluate",
    "tokenizers",
    "safetensors",
    "huggingface-hub",
    "numpy",
    "pytest",
    "pytest-benchmark",
)
# Environment variables that change results. A prefix admits a family, names that smell of a secret
# excepted.
_VARIABLES = {
    "CUDA_VISIBLE_DEVICES",
    "CUDA_DEVICE_ORDER",
    "CUDA_LAUNCH_BLOCKING",
    "CUDA_MODULE_LOADING",
    "HF_DATASETS_OFFLINE",
    "HF_HUB_OFFLINE",
    "NVIDIA_TF32_OVERRIDE",
    "NVIDIA_VISIBLE_DEVICES",
    "PYTHONHASHSEED",
    "TOKENIZERS_PARALLELISM",
    "TRANSFORMERS_OFFLINE",
    "VECLIB_MAXIMUM_THREADS",
}
_VARIABLE_PREFIXES = (
    "ATEN_",
    "BNB_",
    "CUBLAS_",
    "CUDNN_",
    "DNNL_",
    "GOMP_",
    "KMP_",
    "MALLOC_",
    "MKL_",
    "NUMEXPR_",
    "OMP_",
    "ONEDNN_",
    "OPENBLAS_",
    "PYTORCH_",
    "TORCHINDUCTOR_",
    "TORCH_",
)
CGROUP_ROOT = Path("/sys/fs/cgroup")
_SECRET = re.compile(r"TOKEN|KEY|SECRET|PASS|CREDENTIAL|AUTH", re.IGNORECASE)
_ISA_X86 = {"avx", "avx2", "f16c", "fma", "avx_vnni", "amx_bf16", "amx_fp16", "amx_int8"}
_ISA_AVX512 = {"avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "avx512_fp16"}
_ISA_ARM = {"asimd", "asimdhp", "asimddp", "bf16", "i8mm", "sve", "sve2"}


def collect_environment(root: Path) -> dict[str, dict[str, Any]]:
    """All facts, grouped and scrubbed; ``root`` is the folder whose git state is meant."""
    facts = {
        "git": describe_git(root),
        "python": describe_python(),
        "os": describe_os(),
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
    facts: dict[str, Any] = {"sha": None, "branch": None, "dirty": None}
    # Inside a git hook these point at the hook's repository, whatever -C says.
    redirects = {"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"}
    env = {name: value for name, value in os.environ.items() if name not in redirects}
    command = ["git", "-C", str(root), "status", "--porcelain=v2", "--branch", "-uno"]
    try:
        answer = subprocess.run(  # noqa: S603 - a fixed command on a folder of ours
            command,
            env={**env, "GIT_OPTIONAL_LOCKS": "0"},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=20,
        )
    except (OSError, subprocess.TimeoutExpired):
        return facts
    if answer.returncode != 0:
        return facts
    facts["dirty"] = False
    for line in answer.stdout.splitlines():
        if not line.startswith("#"):
            facts["dirty"] = True
        elif line.startswith("# branch.oid ") and not line.endswith("(initial)"):
            facts["sha"] = line.split()[-1]
        elif line.startswith("# branch.head ") and not line.endswith("(detached)"):
            facts["branch"] = line.split()[-1]
    return facts


def describe_python() -> dict[str, Any]:
    """Version and implementation of the interpreter."""
    return {
        "version": platform.python_version(),
        "implementation": platform.python_implementation(),
    }


def describe_os() -> dict[str, Any]:
    """Kernel and C library; the host's name is not asked for."""
    return {
        "system": platform.system(),
        "release": platform.release(),
        "machine": platform.machine(),
        "libc": " ".join(platform.libc_ver()).strip() or None,
    }


def describe_cpu() -> dict[str, Any]:
    """Model, cores this process may use, instruction sets that decide kernels, clock and load."""
    info = _read_cpuinfo()
    flags = set((info.get("flags") or info.get("Features") or "").split())
    frequency = _attempt(psutil.cpu_freq)
    return {
        "name": read_cpu_name(),
        "physical_cores": psutil.cpu_count(logical=False),
        "logical_cores": psutil.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "quota_cores": _read_cpu_quota(),
        "isa": sorted(flags & (_ISA_X86 | _ISA_AVX512 | _ISA_ARM)),
        "max_mhz": round(frequency.max) or None if frequency else None,
        "governor": _read_text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "load_average": [round(load, 2) for load in psutil.getloadavg()],
    }


def read_cpu_name() -> str:
    """The CPU's model name as its maker writes it; the architecture where it has none."""
    name = _read_cpuinfo().get("model name")
    if not name and platform.system() == "Darwin":
        command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
        name = _attempt(lambda: subprocess.check_output(command, text=True, timeout=5).strip())  # noqa: S603 - fixed
    return name or platform.processor() or platform.machine()


def describe_memory() -> dict[str, Any]:
    """Memory of the machine, and the control group's limit where that is lower."""
    total = psutil.virtual_memory().total
    limits = [int(text) for text in _read_cgroup("memory.max", "memory/memory.limit_in_bytes")]
    limit = min(limits, default=total)
    return {"total_bytes": total, "limit_bytes": limit if limit < total else None}


def describe_gpus() -> dict[str, Any]:
    """``{driver, devices}`` of all NVIDIA GPUs, or ``{unavailable: reason}``.

    Of a GPU's UUID only a hash is kept: enough to tell two boards apart, too little to trace one.
    """
    try:
        import pynvml
    except ImportError:
        return {"unavailable": "nvidia-ml-py is not installed"}
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return {"unavailable": str(error)}
    try:
        count = pynvml.nvmlDeviceGetCount()
        return {
            "driver": _attempt(pynvml.nvmlSystemGetDriverVersion),
            "devices": [_describe_gpu(pynvml, index) for index in range(count)],
        }
    except pynvml.NVMLError as error:
        return {"unavailable": str(error)}
    finally:
        pynvml.nvmlShutdown()


def _describe_gpu(nvml: Any, index: int) -> dict[str, Any]:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)

    def ask(name: str, *arguments: Any) -> Any:
        """One fact; None where this board or this user does not get it."""
        try:
            return getattr(nvml, name)(handle, *arguments)
        except nvml.NVMLError:
            return None

    memory = ask("nvmlDeviceGetMemoryInfo")
    power_mw = ask("nvmlDeviceGetPowerManagementLimit")
    capability = ask("nvmlDeviceGetCudaComputeCapability")
    uuid = ask("nvmlDeviceGetUUID")
    mig = ask("nvmlDeviceGetMigMode")
    return {
        "index": index,
        "name": ask("nvmlDeviceGetName"),
        "memory_bytes": memory.total if memory else None,
        "compute_capability": ".".join(map(str, capability)) if capability else None,
        "power_limit_w": power_mw / 1000 if power_mw else None,
        "max_sm_mhz": ask("nvmlDeviceGetMaxClockInfo", nvml.NVML_CLOCK_SM),
        "max_memory_mhz": ask("nvmlDeviceGetMaxClockInfo", nvml.NVML_CLOCK_MEM),
        "mig": bool(mig[0]) if mig else None,
        "uuid_hash": hashlib.sha256(uuid.encode()).hexdigest()[:16] if uuid else None,
    }


def describe_libraries() -> dict[str, str | None]:
    """Installed version of each library that can change a number; None where absent."""
    return {name: _find_version(name) for name in LIBRARIES}


def describe_variables() -> dict[str, str]:
    """The environment variables, from an allow-list, that change results."""
    return {
        name: value
        for name, value in sorted(os.environ.items())
        if name in _VARIABLES or (name.startswith(_VARIABLE_PREFIXES) and not _SECRET.search(name))
    }


def describe_harness() -> dict[str, Any]:
    """Version, and a sha256 over the package's sources that also tells uncommitted changes."""
    return {"version": harness.__version__, "sources_sha256": _hash_sources()}


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


def scrub(value: Any) -> Any:
    """A copy of a JSON-able value without home folders, tokens and passwords.

    The user's home becomes ``~``, another's ``/home/~``; keys are scrubbed like values. Idempotent.
    """
    if isinstance(value, str):
        for pattern, replacement in _list_private(os.environ.get("HOME")):
            value = pattern.sub(replacement, value)
        return value
    if isinstance(value, dict):
        return {scrub(key): scrub(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [scrub(entry) for entry in value]
    return value


@lru_cache(maxsize=4)
def _list_private(_home_variable: str | None) -> tuple[tuple[re.Pattern[str], str], ...]:
    """What `scrub` replaces, in order; cached per value of HOME, on which ``Path.home`` depends."""
    found = _attempt(Path.home)
    homes = {str(found), os.path.realpath(found)} - {"/", "."} if found else set()
    # Guarded on both sides: home /root is not in /data/root, home /home/al not in /home/alice.
    own = [
        (re.compile(rf"(?<![\w.-]){re.escape(home)}(?![\w.-])"), "~")
        for home in sorted(homes, key=len, reverse=True)
    ]
    return (
        *own,
        (re.compile(r"[/\\]+(?:home|Users)[/\\]+[^/\\\s\"':;,()<>\[\]{}]+"), "/home/~"),
        (re.compile(r"\bhf_[A-Za-z0-9]{16,}"), "hf_***"),
        (re.compile(r"(?i)\bbearer\s+[\w.~+/=-]{8,}"), "Bearer ***"),
        (re.compile(r"://[^/\s@:]*:[^/\s@]+@"), "://***@"),
    )


# --- reading the machine ------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _read_cpuinfo() -> dict[str, str]:
    """The first processor's block of /proc/cpuinfo; empty where there is none."""
    block = (_read_text("/proc/cpuinfo") or "").split("\n\n")[0]
    pairs = (line.partition(":") for line in block.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _read_cpu_quota() -> float | None:
    """Cores' worth of time the control group grants; None where unlimited."""
    quotas = [text.split() for text in _read_cgroup("cpu.max", None)]
    return min((int(share) / int(period) for share, period in quotas), default=None)


def list_cgroups() -> list[Path]:
    """The folders of this process's control group (version 2) and of those above it."""
    lines = (_read_text("/proc/self/cgroup") or "").splitlines()
    own = next((line[3:].strip("/") for line in lines if line.startswith("0::")), "")
    folder = CGROUP_ROOT / own
    return [path for path in (folder, *folder.parents) if path.is_relative_to(CGROUP_ROOT)]


def _read_cgroup(v2: str, v1: str | None) -> list[str]:
    """Limits on this process from its control group up to the root; the unlimited left out."""
    candidates = [folder / v2 for folder in list_cgroups()]
    if v1 is not None:
        candidates.append(CGROUP_ROOT / v1)
    texts = [_read_text(str(path)) for path in candidates]
    return [text for text in texts if text and not text.startswith("max")]


def _read_text(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def _find_version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


@lru_cache(maxsize=1)
def _hash_sources() -> str:
    folder = Path(harness.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(folder).as_posix()} {content}\n".encode())
    return digest.hexdigest()


def _attempt(ask: Callable[[], Any]) -> Any:
    """What a machine that may lack the answer says, or None."""
    try:
        return ask()
    except (OSError, RuntimeError, NotImplementedError, subprocess.SubprocessError):
        return None
