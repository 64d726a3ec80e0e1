"""What bands are called: Sentinel-2 and Landsat numbers, common names, and which means which.

Numbers and centre wavelengths: Sentinel-2 User Handbook (ESA); Landsat 8-9 and 4-7 Collection 2
data format control books (USGS). Common names: the electro-optical extension of STAC (nir08 is
Sentinel-2's B8A and Landsat's near infrared; red edge 1 to 3 are rededge071, 075 and 078).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from embeddings.encoders.base import BandWant
from embeddings.errors import BandError

SENTINEL_2 = "Sentinel-2"
OLI = "Landsat 8-9"
TM = "Landsat 4-7"

_TABLES: dict[str, dict[str, tuple[str, float]]] = {
    SENTINEL_2: {
        "B1": ("coastal", 0.443),
        "B2": ("blue", 0.490),
        "B3": ("green", 0.560),
        "B4": ("red", 0.665),
        "B5": ("rededge1", 0.704),
        "B6": ("rededge2", 0.740),
        "B7": ("rededge3", 0.783),
        "B8": ("nir", 0.833),
        "B8A": ("nir08", 0.865),
        "B9": ("nir09", 0.945),
        "B10": ("cirrus", 1.374),
        "B11": ("swir16", 1.610),
        "B12": ("swir22", 2.190),
    },
    OLI: {
        "B1": ("coastal", 0.443),
        "B2": ("blue", 0.482),
        "B3": ("green", 0.561),
        "B4": ("red", 0.655),
        "B5": ("nir08", 0.865),
        "B6": ("swir16", 1.609),
        "B7": ("swir22", 2.201),
        "B8": ("pan", 0.590),
        "B9": ("cirrus", 1.373),
        "B10": ("lwir11", 10.895),
        "B11": ("lwir12", 12.005),
    },
    TM: {
        "B1": ("blue", 0.485),
        "B2": ("green", 0.560),
        "B3": ("red", 0.660),
        "B4": ("nir08", 0.835),
        "B5": ("swir16", 1.650),
        "B6": ("lwir", 11.450),
        "B7": ("swir22", 2.220),
        "B8": ("pan", 0.710),
    },
}
_SYNONYMS = {
    "rededge071": "rededge1",
    "rededge075": "rededge2",
    "rededge078": "rededge3",
    "swir1": "swir16",
    "swir2": "swir22",
}
_COMMON = {name for table in _TABLES.values() for name, _ in table.values()}
_SENSORS = (
    (re.compile(r"lc?o?0?[89]|lc0[89]|landsat[89]?|oli|sr|st"), OLI),
    (re.compile(r"l[tme]0?[4-7]|landsat[4-7]|e?tm"), TM),
    (re.compile(r"s2[abc]?|sentinel2|t\d\d[a-z]{3}"), SENTINEL_2),
)
NEAR_INFRARED_UM = 0.02
"""A band called nir and one called nir08 are one where their centres lie within this."""


@dataclass(frozen=True, slots=True)
class _Meaning:
    """What a name says of its band."""

    text: str
    code: str | None = None
    """ "B4" of "B04" and of "T17SPU_20181013_B04_10m"."""
    common: str | None = None
    sensor: str | None = None
    um: float | None = None


def tokens(name: str) -> list[str]:
    """Split a name at all that is neither letter nor digit; lower case."""
    return re.findall(r"[a-z0-9]+", name.lower())


def match(wanted: Sequence[BandWant], there: Sequence[str]) -> list[int]:
    """Return which of the bands ``there`` an encoder wants, in its order.

    A band is known by its exact name first, then by its number or common name, whatever else
    its name holds ("LC08_..._SR_B4"). Raises BandError naming the first that is missing, or one
    that several bands answer to.
    """
    found = find(wanted, there)
    for want, index in zip(wanted, found, strict=True):
        if index is None:
            raise missing(want, there)
    return [index for index in found if index is not None]


def wavelengths(names: Sequence[str]) -> list[float | None]:
    """Return the centre wavelength of each band in micrometres, None where its name tells none."""
    common = dict(_TABLES[SENTINEL_2].values())
    return [band.um or common.get(band.common or "") for band in _meanings(names)]


def missing(want: BandWant, there: Sequence[str], advice: str = "") -> BandError:
    """Return the error of a band that an encoder needs and the scene has not."""
    advice = advice or (
        "Give the files of all bands, or name the scene's bands in order with --bands."
    )
    return BandError(
        f"The encoder needs band {label(want)}; the scene has {', '.join(there)}. {advice}"
    )


def label(want: BandWant) -> str:
    """Return "B05 (rededge1, 0.704 um)"."""
    known = [want.common_name] if want.common_name not in (None, want.name) else []
    if want.wavelength_um is not None:
        known.append(f"{want.wavelength_um:g} um")
    return f"{want.name} ({', '.join(map(str, known))})" if known else want.name


def find(
    wanted: Sequence[BandWant], there: Sequence[str], known: Sequence[str] | None = None
) -> list[int | None]:
    """Return the index of each band, or None; no band is given twice.

    ``known`` says of each band by what words it may be recognised, where that is not its name.
    Raises BandError where several bands answer to one want.
    """
    bands = _meanings(there if known is None else known)
    wants = [_wanted(want, bands) for want in wanted]
    exact = [name.lower() for name in there]
    found: list[int | None] = [None] * len(wants)
    rules: tuple[Callable[[_Meaning, int], bool], ...] = (
        lambda want, i: exact[i] == want.text and not _differ(want, bands[i]),
        lambda want, i: (
            want.code is not None and bands[i].code == want.code and not _differ(want, bands[i])
        ),
        lambda want, i: want.common is not None and _alike(want, bands[i]),
    )
    for rule in rules:
        taken = {index for index in found if index is not None}
        for place, want in enumerate(wants):
            fits = [i for i in range(len(there)) if i not in taken and rule(want, i)]
            if found[place] is None and fits:
                found[place] = _only(wanted[place], fits, there, bands)
                taken.add(fits[0])
    return found


def _only(
    want: BandWant, fits: Sequence[int], there: Sequence[str], bands: Sequence[_Meaning]
) -> int:
    """Return the one band that fits; a name of one word goes before a longer one."""
    plain = [i for i in fits if len(tokens(bands[i].text)) == 1]
    best = plain or list(fits)
    if len(best) > 1:
        raise BandError(
            f"Band {label(want)} may be any of {', '.join(there[i] for i in best)}. Say which "
            "bands to take, in order, with --bands."
        )
    return best[0]


def _wanted(want: BandWant, bands: Sequence[_Meaning]) -> _Meaning:
    """Return what is wanted; a number without a common name is of the scene's own sensor."""
    own = _meaning(want.name, None)
    common = want.common_name and _SYNONYMS.get(want.common_name, want.common_name)
    if common is None and own.code is not None and own.sensor is None:
        sensors = {band.sensor for band in bands}
        sensor = sensors.pop() if len(sensors) == 1 else None
        common, _ = _TABLES[sensor or SENTINEL_2].get(own.code, (None, 0.0))
    return _Meaning(
        want.name.lower(), own.code, common or own.common, own.sensor, want.wavelength_um
    )


def _differ(want: _Meaning, band: _Meaning) -> bool:
    """Whether both are known and are not the same: Landsat's B5 is not Sentinel-2's."""
    return want.common is not None and band.common is not None and not _alike(want, band)


def _alike(want: _Meaning, band: _Meaning) -> bool:
    if want.common == band.common:
        return True
    if {want.common, band.common} != {"nir", "nir08"}:
        return False
    close = want.um is not None and band.um is not None
    return band.sensor in (OLI, TM) or (
        close and abs((want.um or 0) - (band.um or 0)) <= NEAR_INFRARED_UM
    )


def _meanings(names: Sequence[str]) -> list[_Meaning]:
    """Read names together: one that tells its sensor tells it for those that do not."""
    sensors = {sensor for name in names if (sensor := _sensor(name)) is not None}
    shared = sensors.pop() if len(sensors) == 1 else None
    return [_meaning(name, shared) for name in names]


def _meaning(name: str, shared: str | None) -> _Meaning:
    words = tokens(name)
    text = name.lower()
    sensor = _sensor(name) or shared
    for word in reversed(words):
        number = re.fullmatch(r"b(?:and)?0?(\d{1,2})(a?)", word)
        if number and (code := f"B{int(number[1])}{number[2].upper()}") in _TABLES[SENTINEL_2]:
            common, um = _of_code(code, sensor)
            return _Meaning(text, code, common, sensor, um)
        common = _SYNONYMS.get(word, word)
        if common in _COMMON:
            um = 0.865 if common == "nir08" else None
            return _Meaning(text, None, common, sensor, um)
    return _Meaning(text, sensor=sensor)


def _of_code(code: str, sensor: str | None) -> tuple[str | None, float | None]:
    """Return what a number means; without a sensor only where Sentinel-2 and Landsat 8 agree."""
    if sensor is not None:
        return _TABLES[sensor].get(code, (None, None))
    common, um = _TABLES[SENTINEL_2][code]
    same = _TABLES[OLI].get(code, (common, 0.0))[0] == common
    return (common, um) if same else (None, None)


def _sensor(name: str) -> str | None:
    """Return the sensor that a name tells; only Sentinel-2's numbers have two digits or an A."""
    words = tokens(name)
    for word in words:
        for pattern, sensor in _SENSORS:
            if pattern.fullmatch(word):
                return sensor
    if any(re.fullmatch(r"b0\d|b8a|b08a", word) for word in words):
        return SENTINEL_2
    return None
