"""Few-shot linear probes on places: our location encoder against plain position encodings.

Köppen-Geiger climate class (30 classes; 8,000 half-degree cells drawn with area weight, accuracy)
and air temperature (SatCLIP's 3,076 stations, R squared). Training labels are drawn at random, the
rest is the test: neighbouring places may stand on both sides, so the figures rank encoders; they
do not say how a probe does in a region without labels. Features are standardised; the
regularisation is chosen by cross-validation inside the training labels.
"""

from __future__ import annotations

import gzip
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegressionCV, RidgeCV
from sklearn.model_selection import KFold
from sklearn.preprocessing import StandardScaler

from embeddings.encoders.harmonics import angles, harmonics, legendre_stable, trigonometric
from embeddings.encoders.location_file import load_shipped

Floats = NDArray[np.float64]
Features = Callable[[Floats, Floats], Floats]

CELLS = 8000
LABELS = 300
CURVE = (100, 300, 1500)


def koppen(data: Path, seed: int = 0) -> tuple[Floats, Floats, NDArray[Any]]:
    """Return lon, lat and class of CELLS cells drawn with area weight."""
    with gzip.open(data / "koppen" / "koppen_0.5deg.csv.gz", "rt") as file:
        rows = [line.strip().split(",") for line in file][1:]
    lat, lon = np.array([[float(r[0]), float(r[1])] for r in rows]).T
    classes = np.array([r[2] for r in rows])
    weight = np.cos(np.radians(lat))
    rng = np.random.default_rng(seed)
    chosen = rng.choice(len(lat), CELLS, replace=False, p=weight / weight.sum())
    return lon[chosen], lat[chosen], classes[chosen]


def temperature(data: Path) -> tuple[Floats, Floats, Floats]:
    """Return lon, lat and mean air temperature (degrees Celsius) of the stations."""
    path = data / "satclip-samples" / "ssl4eo" / "stationDataAll.csv"
    table = np.genfromtxt(path, delimiter=",", names=True)
    return table["Lon"], table["Lat"], table["meanT"]


def probe_classes(x: Floats, y: NDArray[Any], labels: int, seed: int) -> float:
    """Return the accuracy of a logistic probe on what it was not trained on."""
    train, test = _split(len(y), labels, seed)
    scaler = StandardScaler().fit(x[train])
    probe = LogisticRegressionCV(
        Cs=np.logspace(-4, 2, 7),
        cv=KFold(3, shuffle=True, random_state=seed),
        max_iter=300,
        scoring="accuracy",
        l1_ratios=(0.0,),
        use_legacy_attributes=False,
        n_jobs=-1,
    )
    probe.fit(scaler.transform(x[train]), y[train])
    return float((probe.predict(scaler.transform(x[test])) == y[test]).mean())


def probe_values(x: Floats, y: Floats, labels: int, seed: int) -> float:
    """Return R squared of a ridge probe on what it was not trained on."""
    train, test = _split(len(y), labels, seed)
    scaler = StandardScaler().fit(x[train])
    probe = RidgeCV(np.logspace(-3, 5, 25)).fit(scaler.transform(x[train]), y[train])
    return float(probe.score(scaler.transform(x[test]), y[test]))


def _split(count: int, labels: int, seed: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    order = np.random.default_rng(seed).permutation(count)
    return order[:labels], order[labels:]


def baselines() -> dict[str, Features]:
    """Return the plain position encodings."""
    return {
        "lon/lat": lambda lon, lat: np.stack([lon, lat], axis=1),
        "random Fourier features": _fourier,
        "harmonics L=10": lambda lon, lat: _harmonics(lon, lat, 10),
        "harmonics L=30": lambda lon, lat: _harmonics(lon, lat, 30),
    }


def _harmonics(lon: Floats, lat: Floats, degrees: int) -> Floats:
    phi, theta = angles(lon, lat)
    return harmonics(legendre_stable(theta, degrees), trigonometric(phi, degrees))[:, 1:]


def _fourier(lon: Floats, lat: Floats) -> Floats:
    """Return 256 random Fourier features of the unit sphere, scale 0.2 radius."""
    phi, theta = np.radians(lon), np.radians(lat)
    xyz = np.stack([np.cos(theta) * np.cos(phi), np.cos(theta) * np.sin(phi), np.sin(theta)], 1)
    turned = xyz @ np.random.default_rng(0).normal(scale=5.0, size=(3, 128))
    return np.concatenate([np.sin(turned), np.cos(turned)], axis=1)


def table(data: Path, encoders: dict[str, Features], draws: int = 20) -> dict[str, Any]:
    """Return, for each encoder, mean accuracy and R squared at each number of labels."""
    lon, lat, classes = koppen(data)
    station_lon, station_lat, degrees_c = temperature(data)
    found: dict[str, Any] = {}
    for name, encode in encoders.items():
        x, z = encode(lon, lat), encode(station_lon, station_lat)
        found[name] = {
            "koppen": {n: _mean(probe_classes, x, classes, n, draws) for n in CURVE},
            "temperature_r2": {n: _mean(probe_values, z, degrees_c, n, draws) for n in CURVE},
        }
        print(name, found[name], file=sys.stderr)
    return found


def _mean(probe: Any, x: Floats, y: Any, labels: int, draws: int) -> float:
    # The long curve point is steadier and slower: fewer draws of it.
    count = draws if labels <= LABELS else max(2, draws // 5)
    return round(float(np.mean([probe(x, y, labels, seed) for seed in range(count)])), 4)


def run(data: Path) -> dict[str, Any]:
    """Return the table for the shipped encoder and the plain encodings."""
    if not (data / "koppen").is_dir():
        return {"probes": f"not measured: {data / 'koppen'} is not there"}
    shipped = load_shipped()
    return table(data, {"terrakin (shipped)": shipped.encode, **baselines()})
