"""The settings and their page in QGIS's options."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def clean(terrakin):  # noqa: ARG001 - makes the package importable
    from qgis.core import QgsSettings

    QgsSettings().remove("terrakin")
    yield
    QgsSettings().remove("terrakin")


def test_defaults_and_round_trip():
    from terrakin.core.settings import Settings

    assert Settings.load() == Settings()
    changed = Settings("/opt/terrakin", "/data", "/r.json", 7, 0.0, False)
    changed.save()
    assert Settings.load() == changed


def test_without_a_store_a_new_folder_in_the_users_home_is_meant():
    from terrakin.core.settings import Settings

    assert Path(Settings().store_folder) == Path.home() / "terrakin-store"
    assert Settings(store="/data").store_folder == "/data"


@pytest.mark.parametrize(("key", "value"), [("k", 0), ("k", 10_001), ("exclude_m", -5.0)])
def test_senseless_values_fall_back(key, value):
    from qgis.core import QgsSettings
    from terrakin.core.settings import Settings

    QgsSettings().setValue(f"terrakin/{key}", value)
    assert getattr(Settings.load(), key) == getattr(Settings(), key)


def test_options_page_saves_and_keeps_the_rest():
    from terrakin.core.settings import Settings
    from terrakin.gui.options import OptionsFactory

    Settings(ready_file="/r.json", exclude_m=50.0).save()
    page = OptionsFactory().createWidget(None)
    page.command_widget.setFilePath("/opt/terrakin")
    page.store_widget.setFilePath("/data")
    page.k_box.setValue(12)
    page.apply()
    assert Settings.load() == Settings("/opt/terrakin", "/data", "/r.json", 12, 50.0, True)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Short.", "Short."),
        ("One at 1.5. Two.", "One at 1.5. Two."),
        ("One. " + "x" * 200 + ".", "One."),
        ("y" * 200, "y" * 200),
    ],
)
def test_bar_shows_whole_sentences(text, shown):
    from terrakin.gui.messages import first_sentences

    assert first_sentences(text, 120) == shown
