"""What a run needs from this machine, each part tried, each fault with its fix."""

import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement

from harness.machine.cache import format_bytes
from harness.machine.environment import DeviceFacts
from harness.machine.files import cache_folder
from harness.machine.nvml import describe_gpus
from harness.run.process import call_in_worker
from harness.worker.probe import probe_or_explain
from harness.worker.trial import try_libraries

_PACKAGE = "precision-harness"
_LEAST_FREE = 10 << 30  # a model of 8 billion parameters takes 16 GB
_INSTALL = "pip install -c constraints.txt ."


@dataclass(frozen=True)
class Check:
    """One part: ``found`` describes it; ``fix`` says what to do where it is not ok.

    "warning": something works less well or not at all, the rest does.
    """

    name: str
    status: Literal["ok", "warning", "error"]
    found: str
    fix: str = ""


def examine(results: Path) -> Iterator[Check]:
    """Every check, the quick ones first; ``results`` is where runs are kept."""
    yield Check("python", "ok", f"{platform.python_version()}, {platform.system()}")
    yield from _check_packages()
    device = _probe()
    yield from _check_device(device)
    if isinstance(device, DeviceFacts):
        for name, (works, found) in call_in_worker(try_libraries, device.device).items():
            fix = "" if works else f"{_INSTALL}; precisions of {name} cannot be measured until then"
            yield Check(name, "ok" if works else "error", found, fix)
    yield _check_nvml()
    yield _check_peaks()
    yield _check_folder("results", results)
    yield _check_folder("cache of the harness", cache_folder())
    yield from _check_hub()


def _check_packages() -> Iterator[Check]:
    """One check for those that are as required, and one for each that is not."""
    try:
        wanted = [Requirement(text) for text in metadata.requires(_PACKAGE) or ()]
    except metadata.PackageNotFoundError:
        fix = f"{_INSTALL}, so that its requirements are known"
        yield Check("packages", "warning", f"{_PACKAGE} runs from its sources", fix)
        return
    needed = [w for w in wanted if w.marker is None or w.marker.evaluate({"extra": ""})]
    broken = 0
    for requirement in needed:
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            version = ""
        if not version or not requirement.specifier.contains(version, prereleases=True):
            broken += 1
            found = f"{version or 'not installed'}, expected {requirement.specifier}"
            yield Check(requirement.name, "error", found, _INSTALL)
    if not broken:
        yield Check("packages", "ok", f"all {len(needed)} that are required")


def _probe() -> DeviceFacts | str:
    try:
        found: DeviceFacts | str = call_in_worker(probe_or_explain, "auto")
    except RuntimeError as error:
        return str(error)
    return found


def _check_device(device: DeviceFacts | str) -> Iterator[Check]:
    if isinstance(device, str):
        yield Check("torch", "error", device, _INSTALL)
        return
    cuda = device.torch["cuda"]
    build = f"built for CUDA {cuda}" if cuda else "a CPU build"
    yield Check("torch", "ok", f"{device.torch['version']}, {build}")
    memory = format_bytes(device.memory_bytes)
    if device.type == "cuda":
        major, minor = device.capability
        found = f"{device.gpu_name}, {memory}, compute capability {major}.{minor}"
        yield Check("device", "ok", f"{device.device}: {found}")
        return
    lack = device.torch.get("cuda_unavailable")
    if lack:
        yield Check("device", "warning", f"cpu, {memory}, although there is a GPU", lack)
    else:
        yield Check("device", "ok", f"cpu, {memory}; no GPU was found")


def _check_nvml() -> Check:
    gpus = describe_gpus()
    if "unavailable" not in gpus:
        names = ", ".join(str(board["name"]) for board in gpus["devices"]) or "no boards"
        return Check("NVML", "ok", f"driver {gpus['driver']}: {names}")
    found = f"{gpus['unavailable']}: no clocks, power or other processes beside speeds"
    fix = "on a GPU machine install NVIDIA's driver; in a container allow the capability `utility`"
    return Check("NVML", "warning", found, fix)


def _check_peaks() -> Check:
    path = Path("/proc/self/clear_refs")
    if os.access(path, os.W_OK):
        return Check("peaks on a CPU", "ok", "can be measured")
    fix = "run on Linux, without a sandbox that hides /proc; CUDA's peaks do not need it"
    return Check("peaks on a CPU", "warning", f"{path} cannot be written", fix)


def _check_folder(name: str, folder: Path) -> Check:
    """Whether files can be written, and how much room there is; makes nothing."""
    existing = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    if not os.access(existing, os.W_OK | os.X_OK) or not existing.is_dir():
        fix = f"make {existing} writable, or choose another folder"
        return Check(name, "error", f"{folder}: nothing can be written there", fix)
    free = shutil.disk_usage(existing).free
    found = f"{folder}, {format_bytes(free)} free"
    if free < _LEAST_FREE:
        return Check(name, "warning", found, "free some room: `harness cache clear` is a start")
    return Check(name, "ok", found)


def _check_hub() -> Iterator[Check]:
    from huggingface_hub import constants, get_token

    from harness.suite.hub import hub_is_reachable

    if constants.HF_HUB_OFFLINE:
        yield Check("hub", "warning", "HF_HUB_OFFLINE is set", "unset it to fetch models and data")
    elif hub_is_reachable():
        token = "with a token" if get_token() else "without a token (gated models need HF_TOKEN)"
        yield Check("hub", "ok", f"{constants.ENDPOINT} answers, {token}")
    else:
        fix = "check the network and its proxy variables; what is in the cache works without"
        yield Check("hub", "warning", f"{constants.ENDPOINT} does not answer", fix)
    yield _check_folder("cache of the hub", Path(constants.HF_HUB_CACHE))
