"""Whether this interpreter has what the harness needs; prints versions and the device.

    python benchmarks/requirements.py [cpu|cuda|cuda:N]
    python benchmarks/requirements.py --wheels FOLDER

For machines on which nothing can be fetched: names what is missing, all of it at once, so that it
can be brought. Ends with 1 where something is missing or too old, or the device is not there. With
``--wheels`` prints the wheels in FOLDER of packages that are missing or too old, and no others.
"""

from __future__ import annotations

import re
import sys
from importlib import metadata
from pathlib import Path

try:
    from packaging.requirements import Requirement
    from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
except ImportError:  # it may be what is missing
    from pip._vendor.packaging.requirements import Requirement
    from pip._vendor.packaging.utils import (
        InvalidWheelFilename,
        canonicalize_name,
        parse_wheel_filename,
    )

ROOT = Path(__file__).resolve().parent.parent


def list_declared() -> list[str]:
    """The dependencies of pyproject.toml; read as text, since Python 3.10 has no tomllib."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    block = re.search(r"^dependencies = \[\n(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    assert block is not None
    return re.findall(r'"([^"]+)"', block[1])


def find_missing(declared: list[str]) -> dict[str, str]:
    """Requirement -> what is wrong with it, of everything needed directly or by another."""
    missing: dict[str, str] = {}
    waiting = [(text, "precision-harness") for text in declared]
    seen: set[str] = set()
    while waiting:
        text, by = waiting.pop()
        needed = Requirement(text)
        if str(needed) in seen or not _applies(needed):
            continue
        seen.add(str(needed))  # several may ask for one package, each for another version
        try:
            found = metadata.version(needed.name)
        except metadata.PackageNotFoundError:
            missing[needed.name] = f"{needed} is missing (needed by {by})"
            continue
        if not needed.specifier.contains(found, prereleases=True):
            missing[needed.name] = f"{needed} is {found} (needed by {by})"
        waiting += [(text, needed.name) for text in metadata.requires(needed.name) or []]
    return missing


def list_wheels(folder: Path, missing: set[str]) -> list[Path]:
    """The wheels in ``folder`` of the packages ``missing``."""
    wanted, found = {canonicalize_name(name) for name in missing}, []
    for wheel in sorted(folder.glob("*.whl")):
        try:
            name = parse_wheel_filename(wheel.name)[0]
        except InvalidWheelFilename:
            continue
        if name in wanted:
            found.append(wheel)
    return found


def _applies(needed: Requirement) -> bool:
    return needed.marker is None or needed.marker.evaluate({"extra": ""})


def main() -> int:
    declared = list_declared()
    missing = find_missing(declared)
    if sys.argv[1:2] == ["--wheels"]:
        print(*list_wheels(Path(sys.argv[2]), set(missing)), sep="\n")
        return 0
    device = sys.argv[1] if len(sys.argv) > 1 else "cpu"
    wrong = list(missing.values())
    for text in declared:
        name = Requirement(text).name
        if all(not reason.startswith(name) for reason in wrong):
            print(f"{name} {metadata.version(name)}")
    try:
        import torch
    except ImportError as error:
        wrong.append(f"torch cannot be imported: {error}")
    else:
        if device != "cpu" and not torch.cuda.is_available():
            wrong.append(f"torch {torch.__version__} sees no CUDA device")
        elif device != "cpu":
            print(f"{torch.cuda.get_device_name(device)}, CUDA {torch.version.cuda}")
    for reason in sorted(wrong):
        print(f"WRONG: {reason}")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
