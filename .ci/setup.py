"""Make or update the server's virtual environment: python setup.py FOLDER [--dev]."""

import os
import subprocess
import sys
import venv
from pathlib import Path

NEEDED = (3, 11)


def main() -> int:
    """Make the environment and install the project into it; return an exit code."""
    if sys.version_info < NEEDED:
        print(
            f"Terrakin needs Python {NEEDED[0]}.{NEEDED[1]} or later, this is "
            f"{sys.version.split()[0]}. Name another: make PYTHON=python3.12 ...",
            file=sys.stderr,
        )
        return 1
    folder = Path(sys.argv[1])
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.exists():
        try:
            venv.create(folder, with_pip=True)
        except subprocess.CalledProcessError:
            print(
                "This Python has no ensurepip. On Debian and Ubuntu: apt install python3-venv",
                file=sys.stderr,
            )
            return 1
    what = ".[dev]" if "--dev" in sys.argv[2:] else "."
    command = [
        str(python),
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "--editable",
        what,
    ]
    return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
