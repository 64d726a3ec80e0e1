"""Vector labels become chips with labels: rules, dates, conflicts, and what is left out."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyproj
import pytest
import shapely

import embeddings
from embeddings.errors import InputError, SourceError, SourceNotFoundError
from embeddings.probe.beside import Beside
from embeddings.probe.joining import join
from embeddings.probe.label_classes import FieldOptions
from embeddings.probe.labelled import Joined, samples, with_vectors
from embeddings.probe.labels import Drop, LabelLayer, LabelOptions, read_labels
from embeddings.probe.pieces import in_pieces
from embeddings.probe.vector_join import JoinOptions
from embeddings.store import Collection, Store
from embeddings.store.reader import Reader
from embeddings.types import Bounds
from tests.embeddings.label_data import DIM, SIDE, box, point, square_chips, write_labels

SMALL = "rcf:features=64,dim=16"


@pytest.fixture(scope="module")
def chips(tmp_path_factory: pytest.TempPathFactory) -> Collection:
    """10 x 10 chips, from 10 E 50 N to the south-east; read only."""
    return square_chips(tmp_path_factory.mktemp("chips") / "squares")


def ids(collection: Collection, joined: Joined) -> list[str]:
    found: list[str] = Reader(collection).rows(joined.rows)["id"].to_pylist()
    return found


def named(collection: Collection, joined: Joined) -> dict[str, str]:
    """The class of each chip, by its id."""
    codes = [joined.classes[code] for code in joined.target]
    return dict(zip(ids(collection, joined), codes, strict=True))


def joined_of(
    collection: Collection, path: Path, options: JoinOptions | None = None, **more: Any
) -> Joined:
    return join(collection, read_labels(path, LabelOptions(**{"field": "c", **more})), options)


def dropped(joined: Joined) -> dict[str, int]:
    return {each.reason: each.count for each in joined.report.dropped}


def test_points_label_the_chips_that_contain_them(chips: Collection, tmp_path: Path) -> None:
    path = write_labels(
        tmp_path / "p.gpkg",
        [point(0.2, 0.3), point(9.9, 9.1), point(0.8, 0.9), point(3.5, 4.5)],
        c=["water", "wood", "water", "wood"],
    )
    joined = joined_of(chips, path)
    assert named(chips, joined) == {"0_0": "water", "3_4": "wood", "9_9": "wood"}
    # Two points in one chip are one sample, of the first one's group.
    assert joined.group.tolist() == [0, 3, 1]
    table = {each.name: (each.labels, each.chips) for each in joined.report.classes}
    assert table == {"water": (2, 1), "wood": (2, 2)}
    assert joined.report.labels_used == 4


def test_of_overlapping_chips_the_nearest_centre_is_taken_as_a_search_does(
    tmp_path: Path,
) -> None:
    chips = square_chips(tmp_path / "over", side=SIDE, step=SIDE / 2)
    rng = np.random.default_rng(5)
    places = [point(*rng.uniform(0.3, 4.5, 2)) for _ in range(60)]
    path = write_labels(tmp_path / "p.gpkg", places, c=[f"k{i}" for i in range(60)])
    joined = joined_of(chips, path, JoinOptions(conflicts="majority"))
    columns = Reader(chips).rows(np.arange(chips.count))
    lon, lat = columns["lon"].to_numpy(), columns["lat"].to_numpy()
    geod = pyproj.Geod(ellps="sphere")
    seen = 0
    for row, code in zip(joined.rows, joined.target, strict=True):
        at = places[int(joined.classes[code][1:])]
        away = geod.inv(lon, lat, np.full(len(lon), at.x), np.full(len(lat), at.y))[2]
        assert row == np.argmin(away)
        seen += 1
    assert seen > 20


def test_polygons_label_the_chips_whose_centre_lies_in_them(
    chips: Collection, tmp_path: Path
) -> None:
    path = write_labels(
        tmp_path / "p.gpkg", [box(0, 0, 2.4, 1.6), box(5.4, 5.4, 7.6, 6.6)], c=["a", "b"]
    )
    joined = joined_of(chips, path)
    assert named(chips, joined) == {
        "0_0": "a", "0_1": "a", "1_0": "a", "1_1": "a", "5_5": "b", "6_5": "b", "7_5": "b",
        "5_6": "b", "6_6": "b", "7_6": "b",
    }  # fmt: skip
    assert dict(zip(ids(chips, joined), joined.group, strict=True))["5_6"] == 1


def test_polygons_in_another_crs_give_the_same_chips(chips: Collection, tmp_path: Path) -> None:
    shapes = [box(0, 0, 2.4, 1.6), box(5.4, 5.4, 7.6, 6.6)]
    to_utm = pyproj.Transformer.from_crs("EPSG:4326", "EPSG:32632", always_xy=True)
    utm = [shapely.transform(s, to_utm.transform, interleaved=False) for s in shapes]
    for rule in ("centre", "share"):
        plain = write_labels(tmp_path / f"{rule}.gpkg", shapes, c=["a", "b"])
        other = write_labels(tmp_path / f"{rule}u.gpkg", utm, c=["a", "b"], crs="EPSG:32632")
        first, second = (joined_of(chips, p, JoinOptions(rule)) for p in (plain, other))
        assert len(first) >= 6
        assert named(chips, first) == named(chips, second)


def test_a_share_of_the_chips_area_is_asked_for(chips: Collection, tmp_path: Path) -> None:
    # 0_0 wholly, 0_1 by 60 %, 1_0 by 30 %, of a; two of b add up to 60 % of 5_5.
    shapes = [box(0, 0, 1.3, 1), box(0, 1, 1, 1.6), box(5, 5, 6, 5.3), box(5, 5.7, 6, 6)]
    path = write_labels(tmp_path / "p.gpkg", shapes, c=["a", "a", "b", "b"])
    joined = joined_of(chips, path, JoinOptions("share", 0.5))
    assert named(chips, joined) == {"0_0": "a", "0_1": "a", "5_5": "b"}
    assert joined.report.chips_dropped[0].count == 1
    assert joined.report.chips_dropped[0].examples == ("'1_0'",)
    more = joined_of(chips, path, JoinOptions("share", 0.25))
    assert set(named(chips, more)) == {"0_0", "0_1", "1_0", "5_5"}


def test_polygons_of_one_class_that_overlap_count_once(chips: Collection, tmp_path: Path) -> None:
    shapes = [box(0, 0, 1, 0.4), box(0, 0.1, 1, 0.45), box(3, 3, 4, 4), box(5, 5, 6, 6)]
    path = write_labels(tmp_path / "p.gpkg", shapes, c=["a", "a", "b", "a"])
    joined = joined_of(chips, path, JoinOptions("share", 0.5))
    assert named(chips, joined) == {"3_3": "b", "5_5": "a"}


def test_large_polygons_are_cut_in_pieces_and_nothing_is_lost(
    chips: Collection, tmp_path: Path, rng: np.random.Generator
) -> None:
    # A star of 4,000 corners around a hole of as many.
    angle = np.linspace(0, 2 * np.pi, 4000, endpoint=False)
    radius = np.where(np.arange(4000) % 2, 4.6, 3.9) + rng.uniform(0, 0.2, 4000)
    rings = [
        np.stack(
            [10.05 + k * radius * SIDE * np.cos(angle), 49.95 + k * radius * SIDE * np.sin(angle)],
            axis=1,
        )
        for k in (1.0, 0.4)
    ]
    star = shapely.Polygon(rings[0], [rings[1]])
    pieces, owner = in_pieces(np.array([point(1, 1).buffer(0.01), star, box(0, 0, 1, 1)]))
    assert len(pieces) > 20
    assert shapely.get_num_coordinates(pieces).max() < 1000
    assert shapely.area(pieces[owner == 1]).sum() == pytest.approx(star.area, rel=1e-9)
    line = shapely.LineString(rings[0])
    parts, _ = in_pieces(np.array([line]))
    assert shapely.length(parts).sum() == pytest.approx(line.length, rel=1e-9)
    path = write_labels(tmp_path / "p.gpkg", [star, box(0, 0, 0.3, 1)], c=["a", "b"])
    joined = joined_of(chips, path, JoinOptions("share", 0.3))
    footprints = shapely.from_wkb(Reader(chips).rows(np.arange(100))["geometry"].to_pylist())
    share = shapely.area(shapely.intersection(footprints, star)) / SIDE**2
    assert joined.rows[joined.target == 0].tolist() == np.flatnonzero(share >= 0.3).tolist()


def test_small_polygons_are_reported_and_label_the_chip_that_contains_them(
    chips: Collection, tmp_path: Path
) -> None:
    small = [box(0.1, 0.1, 0.2, 0.2), box(4.6, 4.6, 4.9, 4.9)]
    path = write_labels(
        tmp_path / "p.gpkg", [*small, box(7, 7, 8, 8), box(9, 0, 10, 1)], c=["a", "b", "a", "b"]
    )
    joined = joined_of(chips, path)
    assert set(named(chips, joined)) == {"7_7", "9_0"}
    assert dropped(joined) == {Drop.NO_CENTRE.value: 2}
    assert "--rule contains" in " ".join(joined.report.notes)
    # 0.1 x 0.1 and 0.3 x 0.3 of a chip: 5 % on the average of two.
    assert "5.00%" in " ".join(joined.report.notes)
    held = joined_of(chips, path, JoinOptions("contains"))
    assert named(chips, held) == {"0_0": "a", "4_4": "b", "7_7": "a", "9_0": "b"}
    assert "smaller chips" in " ".join(held.report.notes)


def test_lines_label_the_chips_they_cross_by_length(chips: Collection, tmp_path: Path) -> None:
    long = shapely.LineString([(10.0, 49.995), (10.025, 49.995)])
    short = shapely.LineString([(10.012, 49.9995), (10.012, 49.9975)])
    # In chip 7_7 no class has half of the length, but one has most.
    three = [shapely.LineString([point(7.2, 7.1), point(7.2, 7.1 + k)]) for k in (0.4, 0.3, 0.2)]
    path = write_labels(
        tmp_path / "p.gpkg",
        [long, short, point(5, 5.5), *three],
        c=["road", "rail", "x", "x", "road", "rail"],
    )
    for rule in ("centre", "share"):
        found = named(chips, joined_of(chips, path, JoinOptions(rule)))
        assert found["7_7"] == "x"
        assert {k: v for k, v in found.items() if v != "x"} == {
            "0_0": "road",
            "0_1": "road",
            "0_2": "road",
        }


def test_a_line_and_a_point_weigh_the_same(chips: Collection, tmp_path: Path) -> None:
    line = shapely.LineString([(10.001, 49.995), (10.019, 49.995)])
    path = write_labels(
        tmp_path / "p.gpkg",
        [line, point(0.5, 0.5), point(0.2, 1.5), point(0.3, 1.5)],
        c=["road", "x", "x", "x"],
    )
    joined = joined_of(chips, path, JoinOptions(conflicts="majority"))
    assert named(chips, joined) == {"0_1": "x"}
    assert joined.report.chips_dropped[0].examples == ("'0_0'",)


def test_conflicts_are_dropped_and_counted_or_decided(chips: Collection, tmp_path: Path) -> None:
    places = [point(0.1, 0.1), point(0.2, 0.2), point(0.3, 0.3), point(5.5, 5.5), point(6.5, 6.5)]
    path = write_labels(tmp_path / "p.gpkg", places, c=["a", "a", "b", "a", "b"])
    joined = joined_of(chips, path)
    assert named(chips, joined) == {"5_5": "a", "6_6": "b"}
    assert [(d.count, d.examples) for d in joined.report.chips_dropped] == [(1, ("'0_0'",))]
    assert dropped(joined) == {Drop.CONFLICT.value: 3}
    most = joined_of(chips, path, JoinOptions(conflicts="majority"))
    assert named(chips, most) == {"0_0": "a", "5_5": "a", "6_6": "b"}
    assert dropped(most) == {Drop.CONFLICT.value: 1}
    draw = write_labels(tmp_path / "d.gpkg", places[1:], c=["a", "b", "a", "b"])
    assert set(named(chips, joined_of(chips, draw, JoinOptions(conflicts="majority")))) == {
        "5_5",
        "6_6",
    }


def test_numbers_are_the_mean_of_the_labels_at_a_chip(chips: Collection, tmp_path: Path) -> None:
    places = [point(0.5, 0.5), point(0.6, 0.6), point(1.5, 0.5), point(2.5, 0.5), point(3.5, 0.5)]
    values = [1.0, 4.0, -2.5, float("nan"), float("inf")]
    path = tmp_path / "p.parquet"
    lon, lat = [p.x for p in places], [p.y for p in places]
    pq.write_table(pa.table({"Lon": lon, "LAT": lat, "c": values}), path)
    joined = joined_of(chips, path)
    assert joined.task == "number"
    assert dict(zip(ids(chips, joined), joined.target, strict=True)) == {"0_0": 2.5, "1_0": -2.5}
    assert dropped(joined) == {Drop.NOT_FINITE.value: 2}
    assert joined.report.dropped[0].examples[0].startswith("4 at 10.005")
    assert samples(chips, joined).target.dtype == np.float64


def test_several_classes_of_a_place_are_kept(chips: Collection, tmp_path: Path) -> None:
    places = [point(0.5, 0.5), point(0.6, 0.6), point(1.5, 0.5)]
    path = write_labels(tmp_path / "p.gpkg", places, c=["a; b", "c", "b;b"])
    joined = joined_of(chips, path, values=FieldOptions(separator=";"))
    assert joined.task == "multilabel"
    assert joined.classes == ("a", "b", "c")
    assert joined.target.tolist() == [[True, True, True], [False, True, False]]
    chosen = joined_of(chips, path, values=FieldOptions(task="multilabel"))
    assert chosen.classes == ("a; b", "b;b", "c")
    made = samples(chips, joined)
    assert made.target.shape == (2, 3)


def test_without_a_field_all_labels_are_positives(chips: Collection, tmp_path: Path) -> None:
    path = write_labels(tmp_path / "ponds.gpkg", [point(0.5, 0.5), point(1.5, 0.5)])
    joined = join(chips, read_labels(path))
    assert (joined.task, joined.classes) == ("positive", ("ponds",))
    made = samples(chips, joined)
    assert made.target.tolist() == [True, True]
    assert made.group.tolist() == [0, 1]


def test_labels_are_joined_by_date_where_both_have_one(tmp_path: Path) -> None:
    day = 86_400
    places = [point(0.5, 0.5), point(1.5, 0.5), point(0.5, 1.5), point(1.5, 1.5)]
    dates = ["1972-09-26", "1973-01-15", "1980-01-01", None]  # days 999, 1110, 3652
    path = write_labels(tmp_path / "p.gpkg", places, c=["a", "b", "a", "b"], d=dates)
    dated = square_chips(tmp_path / "all", 2, 2, times=(1000 * day, 1100 * day), parts=3)
    joined = joined_of(dated, path, JoinOptions(tolerance_days=20), date_field="d")
    assert named(dated, joined) == {"0_0_0": "a", "1_0_1": "b", "1_1_0": "b"}
    assert dropped(joined) == {Drop.NO_DATE.value: 1}
    assert "1 labels have no date" in " ".join(joined.report.notes)
    strict = joined_of(dated, path, JoinOptions(tolerance_days=5), date_field="d")
    assert named(dated, strict) == {"0_0_0": "a", "1_1_0": "b"}
    timeless = square_chips(tmp_path / "timeless", 2, 2)
    assert len(joined_of(timeless, path, date_field="d")) == 4
    undated = joined_of(dated, path)
    assert "have one centre" in " ".join(undated.report.notes)
    assert set(named(dated, undated)) == {"0_0_0", "1_0_0", "0_1_0", "1_1_0"}


def test_polygons_across_the_antimeridian(tmp_path: Path) -> None:
    chips = square_chips(tmp_path / "date", 4, 8, origin=(179.96, 10.0))
    beyond = shapely.box(179.981, 9.981, 180.019, 9.999)
    cut = shapely.MultiPolygon(
        [shapely.box(179.981, 9.961, 180.0, 9.979), shapely.box(-180.0, 9.961, -179.981, 9.979)]
    )
    wanted = {f"{row}_{col}" for row in (0, 1) for col in (2, 3, 4, 5)}
    for crs in ("EPSG:4326", "EPSG:3832"):  # the second is centred on the Pacific
        shapes = [beyond, cut]
        if crs != "EPSG:4326":
            way = pyproj.Transformer.from_crs("EPSG:4326", crs, always_xy=True)
            shapes = [shapely.transform(s, way.transform, interleaved=False) for s in shapes]
            shapes = [shapely.union_all(shapely.buffer(s, 1)) for s in shapes]
        path = write_labels(tmp_path / f"{crs[5:]}.gpkg", shapes, c=["a", "b"], crs=crs)
        for rule in ("centre", "share"):
            found = named(chips, joined_of(chips, path, JoinOptions(rule, 0.8)))
            assert {k for k, v in found.items() if v == "a"} == wanted, (crs, rule)
            assert {k for k, v in found.items() if v == "b"} == {
                k.replace("1_", "3_").replace("0_", "2_") for k in wanted
            }, (crs, rule)


def test_points_beyond_180_degrees_are_wrapped(tmp_path: Path) -> None:
    chips = square_chips(tmp_path / "date", 4, 8, origin=(179.96, 10.0))
    places = [shapely.Point(180.005, 9.995), shapely.Point(-179.985, 9.995)]
    path = write_labels(tmp_path / "p.gpkg", places, c=["a", "b"])
    assert named(chips, joined_of(chips, path)) == {"0_4": "a", "0_5": "b"}


def test_a_polygon_that_holds_the_pole(tmp_path: Path) -> None:
    chips = square_chips(tmp_path / "pole", 10, 360, origin=(-180.0, 90.0), side=1.0)
    circle = shapely.Point(0, 0).buffer(500_000, quad_segs=64)
    path = write_labels(
        tmp_path / "p.gpkg", [circle, circle.buffer(-499_999)], c=["a", "a"], crs="EPSG:3995"
    )
    way = pyproj.Transformer.from_crs("OGC:CRS84", "EPSG:3995", always_xy=True)
    table = Reader(chips).rows(np.arange(chips.count))
    away = np.hypot(*way.transform(table["lon"].to_numpy(), table["lat"].to_numpy()))
    joined = joined_of(chips, path)
    assert joined.rows.tolist() == np.flatnonzero(away < 500_000).tolist()
    assert len(joined) == 5 * 360


def test_every_label_that_is_not_used_is_counted(chips: Collection, tmp_path: Path) -> None:
    bow = shapely.Polygon([(10.0, 49.98), (10.03, 50.01), (10.03, 49.98), (10.0, 50.01)])
    shapes = [
        point(0.5, 9.5), point(5.5, 5.5), None, shapely.Point(), point(0.5, 0.5),
        point(0.5, 0.5), point(-3, 0.5), shapely.Point(10.0, 95.0), bow,
        shapely.Polygon([(10.0, 50.0), (10.1, 50.0), (10.0, 50.0)]),
    ]  # fmt: skip
    classes = ["a", "b", "a", "a", None, " ", "a", "b", "b", "b"]
    path = write_labels(tmp_path / "p.gpkg", shapes, c=classes)
    joined = joined_of(chips, path)
    assert dropped(joined) == {
        Drop.NULL.value: 2,
        Drop.NO_GEOMETRY.value: 2,
        Drop.INVALID.value: 1,
        Drop.NOWHERE.value: 1,
        Drop.OUTSIDE.value: 1,
    }
    report = joined.report
    assert report.made_valid.count == 1
    assert report.labels_read == 10
    assert report.labels_used == 10 - sum(dropped(joined).values())
    assert any("10.00500, 50.03" in e for d in report.dropped for e in d.examples)
    text = "\n".join(report.lines())
    assert all(reason in text for reason in dropped(joined))
    assert report.to_json()["classes"][0]["name"] == "a"


def test_collections_of_geometries_and_multipoints(chips: Collection, tmp_path: Path) -> None:
    several = shapely.MultiPoint([(10.005, 49.995), (10.095, 49.905)])
    mixed = shapely.GeometryCollection([point(3.5, 3.5), box(5, 5, 6, 6)])
    path = write_labels(tmp_path / "p.gpkg", [several, mixed], c=["a", "b"])
    joined = joined_of(chips, path)
    assert named(chips, joined) == {"0_0": "a", "9_9": "a", "5_5": "b"}
    assert sorted(joined.group.tolist()) == [0, 0, 1]


@pytest.mark.parametrize("kind", ["csv.gz", "parquet", "geoparquet", "geojson", "shp"])
def test_files_of_every_kind_say_the_same(chips: Collection, tmp_path: Path, kind: str) -> None:
    places, classes = [point(0.5, 0.5), point(1.5, 2.5), point(3.5, 3.5)], ["a", "b", "a"]
    path = tmp_path / f"labels.{kind}"
    lon, lat = [p.x for p in places], [p.y for p in places]
    if kind == "csv.gz":
        text = "longitude;latitude;c\n" + "".join(
            f"{x};{y};{c}\n" for x, y, c in zip(lon, lat, classes, strict=True)
        )
        path.write_bytes(gzip.compress(text.encode()))
    elif kind == "parquet":
        pq.write_table(pa.table({"lon": lon, "lat": lat, "c": classes}), path)
    elif kind == "geoparquet":
        geopandas = pytest.importorskip("geopandas")
        frame = geopandas.GeoDataFrame({"c": classes}, geometry=places, crs="EPSG:4326")
        frame.to_crs("EPSG:32632").to_parquet(path)
    else:
        write_labels(path, places, c=classes)
    assert named(chips, joined_of(chips, path)) == {"0_0": "a", "1_2": "b", "3_3": "a"}


def test_what_a_file_lacks_is_said(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFoundError, match=r"no file .*nothing\.gpkg"):
        read_labels(tmp_path / "nothing.gpkg")
    (tmp_path / "text.txt").write_text("no labels", encoding="utf-8")
    with pytest.raises(SourceError, match="neither a vector file nor a raster"):
        read_labels(tmp_path / "text.txt")
    path = write_labels(tmp_path / "p.gpkg", [point(0.5, 0.5)], layer="one", c=["a"], Kind=["b"])
    with pytest.raises(InputError, match=r"no field 'kind'. Did you mean 'Kind'.*'c', 'Kind'"):
        read_labels(path, LabelOptions(field="kind"))
    with pytest.raises(InputError, match=r"no layer 'two'. Its layers are 'one'"):
        read_labels(path, LabelOptions(layer="two", field="c"))
    write_labels(path, [point(0.5, 0.5)], layer="three", c=["a"])
    with pytest.raises(InputError, match=r"2 layers with geometries \('one', 'three'\)"):
        read_labels(path, LabelOptions(field="c"))
    with pytest.raises(InputError, match="with --field"):
        read_labels(path, LabelOptions(layer="one", values=FieldOptions(task="classes")))


def test_a_layer_without_crs_asks_for_one(chips: Collection, tmp_path: Path) -> None:
    places = [point(0.5, 0.5), point(5.5, 0.5)]
    path = write_labels(tmp_path / "p.shp", places, c=["a", "b"], crs=None)
    with pytest.raises(SourceError, match=r"no CRS.*ogr2ogr -a_srs.*--labels-crs EPSG"):
        read_labels(path, LabelOptions(field="c"))
    joined = joined_of(chips, path, crs="EPSG:4326")
    assert named(chips, joined) == {"0_0": "a", "5_0": "b"}
    with pytest.raises(InputError, match="'EPSG:nothing' is no CRS"):
        read_labels(path, LabelOptions(field="c", crs="EPSG:nothing"))
    own = write_labels(tmp_path / "own.gpkg", places, c=["a", "b"])
    with pytest.raises(InputError, match=r"has the CRS WGS 84, but --labels-crs says EPSG:32632"):
        read_labels(own, LabelOptions(field="c", crs="EPSG:32632"))


def test_no_label_in_coverage_names_both_extents(chips: Collection, tmp_path: Path) -> None:
    path = write_labels(tmp_path / "p.gpkg", [shapely.Point(-3.25, 7.5)], c=["a"])
    both = r"cover -3\.25, 7\.5, -3\.25, 7\.5; the collection 10, 49\.9, 10\.1, 50 "
    with pytest.raises(InputError, match=both):
        joined_of(chips, path)


def test_too_few_labels_are_an_error_where_vectors_are_asked_for(
    chips: Collection, tmp_path: Path
) -> None:
    one = joined_of(chips, write_labels(tmp_path / "1.gpkg", [point(0.5, 0.5)], c=["a"]))
    with pytest.raises(InputError, match="Only one chip is labelled"):
        samples(chips, one)
    places = [point(0.5, 0.5), point(1.5, 0.5)]
    same = joined_of(chips, write_labels(tmp_path / "2.gpkg", places, c=["a", "a"]))
    with pytest.raises(InputError, match=r"one class, 'a'.*--task positive"):
        samples(chips, same)
    level = joined_of(chips, write_labels(tmp_path / "3.gpkg", places, c=[2.5, 2.5]))
    with pytest.raises(InputError, match=r"have the number 2\.5"):
        samples(chips, level)


def test_vectors_are_read_as_stored_and_useless_ones_left_out(tmp_path: Path) -> None:
    vectors = np.arange(64, dtype=np.float32).reshape(16, DIM) + 1
    vectors[1, 2], vectors[2] = np.nan, 0.0
    chips = square_chips(tmp_path / "bad", 4, 4, vectors=vectors, parts=3)
    places = [point(0.5, c + 0.5) for c in range(4)] + [point(3.5, 0.5)]
    path = write_labels(tmp_path / "p.gpkg", places, c=["a", "lost", "b", "a", "b"])
    made, left = with_vectors(Beside((chips,)), joined_of(chips, path))
    assert left.rows.tolist() == [0, 3, 12]
    np.testing.assert_array_equal(made.vectors, vectors[[0, 3, 12]])
    assert made.classes == ("a", "b")
    assert made.target.tolist() == [0, 0, 1]
    np.testing.assert_allclose(made.lon, [10.005, 10.035, 10.005])
    np.testing.assert_allclose(made.lat, [49.995, 49.995, 49.965])
    reasons = {d.reason: (d.count, d.examples) for d in left.report.chips_dropped}
    assert reasons == {
        "its vector holds values that are not numbers": (1, ("'0_1'",)),
        "its vector is all zero": (1, ("'0_2'",)),
    }
    assert {c.name: c.chips for c in left.report.classes} == {"a": 2, "b": 1, "lost": 0}


def test_options_that_are_none_are_refused(chips: Collection, tmp_path: Path) -> None:
    layer = read_labels(write_labels(tmp_path / "p.gpkg", [point(0.5, 0.5)], c=["a"]))
    good = JoinOptions()
    for bad in (
        replace(good, rule="near"),  # type: ignore[arg-type]  # what a user may write
        replace(good, min_share=1.5),
        replace(good, tolerance_days=float("nan")),
        replace(good, conflicts="vote"),  # type: ignore[arg-type]  # what a user may write
    ):
        with pytest.raises(InputError):
            join(chips, layer, bad)


def test_many_labels(tmp_path: Path) -> None:
    chips = square_chips(tmp_path / "many", 100, 100)
    rng = np.random.default_rng(2)
    row, col = rng.uniform(0, 100, (2, 200_000))
    path = tmp_path / "many.parquet"
    classes = np.array(["a", "b"])[((row // 1).astype(int) + (col // 1).astype(int)) % 2]
    pq.write_table(pa.table({"lon": 10 + col * SIDE, "lat": 50 - row * SIDE, "c": classes}), path)
    joined = joined_of(chips, path)
    # A point on an edge of two chips may be the other one's, which is then a conflict.
    assert len(joined) >= 9_990
    found = np.array([sum(map(int, name.split("_"))) for name in ids(chips, joined)])
    assert (joined.target == found % 2).all()


@pytest.mark.shared_data
def test_polygons_smaller_than_chips_of_a_real_scene(
    shared: Path, embed: Any, tmp_path: Path
) -> None:
    source = shared / "sentinel2-carolina"
    bands = [source / "sentinel-2" / f"{band}.tif" for band in ("B02", "B08")]
    around = Bounds(-76.70, 34.67, -76.59, 34.73)
    chips = embed(tmp_path / "s", *bands, chip="160m", nodata=255, encoder=SMALL, bbox=around)
    path = source / "rcr" / "rcr_landcover.shp"
    layer = read_labels(path, LabelOptions(field="Classname"))
    assert isinstance(layer, LabelLayer)
    assert (len(layer), len(layer.targets.classes)) == (23, 6)
    centre = join(chips, layer)
    assert dropped(centre)[Drop.NO_CENTRE.value] > 15
    assert "--rule contains" in " ".join(centre.report.notes)
    held = join(chips, layer, JoinOptions("contains"))
    assert len(held) > 15
    assert len(held.classes) == 6


@pytest.mark.shared_data
def test_climate_classes_on_the_shipped_world(shared: Path, tmp_path: Path) -> None:
    text = gzip.decompress((shared / "koppen" / "koppen_0.5deg.csv.gz").read_bytes()).decode()
    rows = [line.split(",") for line in text.split()[1:]]
    lat, lon = (np.array([float(row[i]) for row in rows]) for i in (0, 1))
    path = write_labels(
        tmp_path / "koppen.gpkg", shapely.points(lon, lat), zone=[row[2] for row in rows]
    )
    world = Store.open(Path(embeddings.__file__).parent / "world" / "data").collection("world")
    joined = joined_of(world, path, field="zone")
    assert joined.report.labels_read == 92_416
    assert len(joined.classes) == 30
    assert len(joined) > 60_000
    assert len(samples(world, joined)) == len(joined)
