"""Drives the real QGIS desktop; given to it with --code. Writes what it saw as JSON.

TERRAKIN_DRIVE names a JSON file: {data, ready, out, code, steps}. QGIS's event loop runs on
between the steps: a timer looks whether what a step waits for has come.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
import traceback
from pathlib import Path

from qgis.core import QgsApplication
from qgis.PyQt.QtCore import QTimer

sys.path.insert(0, json.loads(Path(os.environ["TERRAKIN_DRIVE"]).read_text())["code"])

from hands import CONFIG, OUT, logged, messages, seen, shoot

STEPS = importlib.import_module(CONFIG["steps"]).STEPS


def note(text: str, tag: str, _level: object) -> None:
    """Keep what the plugin logs."""
    if tag == "Terrakin":
        logged.append(text)


def save(state: str) -> None:
    seen["state"] = state
    draft = OUT / "seen.part"
    draft.write_text(json.dumps(seen, indent=1, default=str))
    draft.replace(OUT / "seen.json")


def all_steps():
    for step in STEPS:
        yield from step()
        seen["steps"].append(step.__name__)
        save("running")


def advance() -> None:
    """Go on with the steps as soon as what they wait for has come."""
    global waiting
    try:
        if waiting is not None and not waiting.condition():
            if time.monotonic() > waiting.deadline:
                shoot("failed")
                raise TimeoutError(f"waited in vain for {waiting.what}; messages: {messages()}")
            return
        waiting = next(drive)
    except StopIteration:
        timer.stop()
        save("done")
    except Exception:
        timer.stop()
        seen["error"] = traceback.format_exc()
        save("failed")


QgsApplication.messageLog().messageReceived.connect(note)
drive = all_steps()
waiting = None
timer = QTimer()
timer.timeout.connect(advance)
timer.start(50)
