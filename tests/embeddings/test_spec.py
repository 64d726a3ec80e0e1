"""The identity of a vector space: it survives JSON, and tells what may be mixed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from embeddings.errors import InputError, StoreFormatError
from embeddings.spec import ChipLayout, EmbeddingSpec, Preprocessing

MakeSpec = Callable[..., EmbeddingSpec]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"dtype": "int8", "scale": (0.1, 0.2, 0.3, 0.4)},
        {"layout": None, "preprocessing": None},
    ],
)
def test_a_spec_survives_json(make_spec: MakeSpec, changes: dict[str, Any]) -> None:
    spec = make_spec(**changes)
    restored = EmbeddingSpec.from_json(json.loads(json.dumps(spec.to_json())))
    assert restored == spec
    assert hash(restored) == hash(spec)


@pytest.mark.parametrize("change", [{"colour": "red"}, {"dim": None}])
def test_unknown_or_missing_fields_are_refused(make_spec: MakeSpec, change: dict) -> None:
    data = make_spec().to_json()
    if change == {"dim": None}:
        del data["dim"]
        expected = r"missing \['dim'\], unknown \[\]"
    else:
        data |= change
        expected = r"missing \[\], unknown \['colour'\]"
    with pytest.raises(StoreFormatError, match=expected):
        EmbeddingSpec.from_json(data)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("product", "other"),
        ("model", "other"),
        ("model_version", "2"),
        ("weights_sha256", "1" * 64),
        ("dim", 5),
        ("dtype", "float32"),
        ("scale", (1.0, 1.0, 1.0, 1.0)),
        ("norm", "l2"),
        ("bands", ("B03", "B02")),
        ("gsd_m", 10.6),
        ("grid_km", 20.0),
        ("preprocessing", Preprocessing((1.0, 2.1), (0.5, 0.25), "bilinear", (1.0, 1.0))),
        ("source", "other"),
        ("licence", "MIT"),
    ],
)
def test_every_field_keeps_collections_apart(make_spec: MakeSpec, field: str, value: Any) -> None:
    spec = make_spec()
    other = make_spec(**{field: value})
    found = spec.differences(other)
    assert len(found) == 1
    assert found[0].startswith(f"{'mean' if field == 'preprocessing' else field} (collection: ")
    assert other.differences(spec)


def test_what_is_asked_for_counts_not_its_pixels(make_spec: MakeSpec) -> None:
    spec = make_spec()
    narrower = make_spec(layout=ChipLayout("80m", "80m", (8, 9), (8, 9)), gsd_m=10.4)
    assert spec.differences(narrower) == []
    assert spec.differences(make_spec(layout=ChipLayout("8", "80m", (8, 8), (8, 8)))) == [
        "chip (collection: 80m, asked: 8)"
    ]
    assert spec.differences(make_spec(layout=ChipLayout("80m", "40m", (8, 8), (4, 4)))) == [
        "stride (collection: 80m, asked: 40m)"
    ]
    assert spec.differences(make_spec(layout=ChipLayout("0.08km", "80.0m", (8, 8), (8, 8)))) == []


def test_the_scale_of_pixels_is_named_and_older_specs_had_none(make_spec: MakeSpec) -> None:
    spec = make_spec()
    assert spec.preprocessing is not None
    other = make_spec(preprocessing=replace(spec.preprocessing, scale=(0.0001, 1.0)))
    assert spec.differences(other) == ["pixel scale (collection: (1.0, 1.0), asked: (0.0001, 1.0))"]
    data = spec.to_json()
    del data["preprocessing"]["scale"]
    assert EmbeddingSpec.from_json(data) == spec


def test_the_stac_form(make_spec: MakeSpec) -> None:
    chips = make_spec(dtype="int8", scale=(0.5, 1.0, 1.5, 2.0)).to_stac()
    assert chips["emb:type"] == "chip"
    assert chips["emb:dimensions"] == 4
    assert chips["data_type"] == "int8"
    assert chips["emb:chip_layout"] == {
        "layout_type": "regular_grid",
        "chip_size": [8, 8],
        "stride": [8, 8],
    }
    assert chips["emb:quantization"]["method"] == "linear"
    assert chips["emb:quantization"]["scale"] == [0.5, 1.0, 1.5, 2.0]
    cells = make_spec(layout=None).to_stac()
    assert cells["emb:chip_layout"] == {"layout_type": "named_grid", "grid_id": "majortom-10km"}
    assert cells["emb:quantization"]["method"] == "none"


def test_columns_that_differ_only_in_capitals_are_refused(make_spec: Callable[..., Any]) -> None:
    with pytest.raises(InputError, match="'Name' and 'name' differ only in capitals"):
        make_spec(attributes=(("Name", "string"), ("name", "string")))
