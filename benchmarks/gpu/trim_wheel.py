"""Leave out of bitsandbytes' wheel the native libraries that one machine does not need.

    python -m gpu.trim_wheel WHEEL FOLDER [--keep cuda130 cpu]

The wheel of 0.50.2 has 43 MB, for many versions of CUDA and other makers' GPUs; with one library of
them and the CPU's it has 4 MB. The copy in FOLDER has the same name, and a RECORD that is true.
"""

from __future__ import annotations

import argparse
import csv
import io
import re
import zipfile
from pathlib import Path

_LIBRARY = re.compile(r"bitsandbytes/libbitsandbytes_(\w+)\.\w+$")


def trim(wheel: Path, folder: Path, keep: list[str]) -> Path:
    """The copy's path. Raises ValueError where the wheel lacks a library to keep."""
    folder.mkdir(parents=True, exist_ok=True)
    made = folder / wheel.name
    if made.exists() and made.samefile(wheel):
        raise ValueError(f"{folder} holds the wheel itself: give another folder")
    with zipfile.ZipFile(wheel) as source:
        entries = source.infolist()
        libraries = {m[1]: e.filename for e in entries if (m := _LIBRARY.match(e.filename))}
        lacking = sorted(set(keep) - set(libraries))
        if lacking:
            raise ValueError(f"{wheel.name} has no {', '.join(lacking)}, only {sorted(libraries)}")
        dropped = {path for name, path in libraries.items() if name not in keep}
        with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as target:
            for entry in entries:
                content = source.read(entry)
                if entry.filename.endswith(".dist-info/RECORD"):
                    rows = csv.reader(io.StringIO(content.decode("utf-8")))
                    text = io.StringIO()
                    csv.writer(text, lineterminator="\n").writerows(
                        row for row in rows if row and row[0] not in dropped
                    )
                    content = text.getvalue().encode("utf-8")
                if entry.filename not in dropped:
                    target.writestr(entry, content)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("wheel", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--keep", nargs="+", default=["cuda130", "cpu"])
    given = parser.parse_args()
    try:
        made = trim(given.wheel, given.folder, given.keep)
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise SystemExit(str(error)) from None
    print(
        f"{made}: {made.stat().st_size / 1e6:.1f} MB of {given.wheel.stat().st_size / 1e6:.1f} MB"
    )


if __name__ == "__main__":
    main()
