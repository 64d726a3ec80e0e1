"""Build the QGIS plugin's zip: build/terrakin/ and build/terrakin-VERSION.zip.

The zip is the same, byte for byte, however often it is built. Standard library only, so that it
runs anywhere: ``python .ci/package.py``.
"""

from __future__ import annotations

import re
import shutil
import sys
import zipfile
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NAME = "terrakin"
SUFFIXES = {".py", ".svg", ".txt", ""}
MAX_BYTES = 25 * 1024 * 1024
TIMESTAMP = (2026, 1, 1, 0, 0, 0)
REQUIRED = (
    "name",
    "description",
    "version",
    "qgisMinimumVersion",
    "author",
    "email",
    "about",
    "tracker",
    "repository",
)


class PackageError(Exception):
    """The plugin cannot be packaged as it is."""


def read_metadata(path: Path) -> dict[str, str]:
    """Return the [general] section. Raises PackageError if the hub would refuse it."""
    parser = ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(path, encoding="utf-8")
    general = dict(parser["general"]) if parser.has_section("general") else {}
    missing = [key for key in REQUIRED if not general.get(key, "").strip()]
    if missing:
        raise PackageError(f"{path.name} lacks {', '.join(missing)} in its section [general].")
    if not re.fullmatch(r"\d+\.\d+\.\d+", general["version"]):
        raise PackageError(f"Version '{general['version']}' in {path.name} is not X.Y.Z.")
    if "/" in general["author"]:
        raise PackageError(f"The hub allows no slash in the author '{general['author']}'.")
    return general


def stage(root: Path, folder: Path) -> list[Path]:
    """Copy what the package holds into ``folder``, made anew; return the copies, sorted."""
    if folder.exists():
        shutil.rmtree(folder)
    plugin = root / "qgis_plugin"
    sources = {path.relative_to(plugin): path for path in plugin.rglob("*") if _wanted(path)}
    sources[Path("metadata.txt")] = root / "metadata.txt"
    sources[Path("LICENSE")] = root / "LICENSE"
    for relative, source in sources.items():
        target = folder / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    return sorted(folder / relative for relative in sources)


def _wanted(path: Path) -> bool:
    """Whether a file of qgis_plugin/ goes into the package; a stray kind of file is an error."""
    if not path.is_file() or "__pycache__" in path.parts:
        return False
    if path.name.startswith(".") or path.suffix not in SUFFIXES:
        raise PackageError(f"{path} is not a file the package may hold. Remove it.")
    return True


def write_zip(folder: Path, files: list[Path], target: Path) -> None:
    """Zip the files under one top folder, with fixed order, times and modes."""
    draft = target.with_suffix(".part")
    with zipfile.ZipFile(draft, "w") as archive:
        for path in files:
            name = f"{NAME}/{path.relative_to(folder).as_posix()}"
            entry = zipfile.ZipInfo(name, TIMESTAMP)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o100644 << 16
            entry.create_system = 3
            archive.writestr(entry, path.read_bytes(), compresslevel=9)
    size = draft.stat().st_size
    if size > MAX_BYTES:
        draft.unlink()
        raise PackageError(f"The package has {size:,} bytes; the hub allows {MAX_BYTES:,}.")
    draft.replace(target)


def build(root: Path, out: Path) -> Path:
    """Stage and zip the plugin of ``root`` into the folder ``out``; return the zip's path."""
    metadata = read_metadata(root / "metadata.txt")
    icon = metadata.get("icon", "")
    if icon and not (root / "qgis_plugin" / icon).is_file():
        raise PackageError(f"The icon '{icon}' of metadata.txt is not in qgis_plugin/.")
    folder = out / NAME
    files = stage(root, folder)
    target = out / f"{NAME}-{metadata['version']}.zip"
    write_zip(folder, files, target)
    return target


def main() -> int:
    """Build into build/ and print the zip's path."""
    try:
        print(build(ROOT, ROOT / "build"))
    except PackageError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
