"""From a sample of the first input: the encoder, the spec of the collection, and doubts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from embeddings import codec
from embeddings.encoders import Encoder, Wants
from embeddings.encoders.base import Draft
from embeddings.encoding import Scene, normalise
from embeddings.errors import InputError, NoDataError, SourceError
from embeddings.raster_job import Choices
from embeddings.sources.chips import ChipPlan
from embeddings.sources.files import RESAMPLING
from embeddings.spec import EmbeddingSpec, Preprocessing

GRID_KM = 10.0
SEED = 0
SAMPLE_CHIPS = 4096
SAMPLE_BYTES = 512 * 2**20
SAMPLE_ROWS = 64
FEW_CHIPS = 256
FEW_ROWS = 8
"""Pre-trained encoders learn nothing from the sample but where their vectors bunch."""
BUNCHED = 0.3
"""Above this median cosine of random pairs, search takes the mean off every vector."""
GSD_FACTOR = 1.5
"""A pre-trained encoder is not given pixels this much finer or coarser than it was trained on."""
SMALL_VALUES = 2.0
"""Reflectance times 10,000 is larger than this almost everywhere."""

Opener = Callable[[], AbstractContextManager[tuple[Scene, ChipPlan]]]


@dataclass(frozen=True)
class Fitted:
    """What the first input gave."""

    spec: EmbeddingSpec
    encoder: Encoder
    notes: tuple[str, ...]


def fit(
    draft: Draft,
    choices: Choices,
    openers: Sequence[Opener],
    *,
    mask: str | None,
    checked: bool,
    cancelled: Callable[[], None],
) -> Fitted:
    """Fit the encoder on a sample of the scenes and describe the collection.

    ``checked`` says that the user has settled what the numbers stand for. Scenes that cannot be
    read are left out of the sample. Raises NoDataError or InputError.
    """
    wants = draft.wants
    chips = _sample(openers, wants, choices.min_valid, cancelled)
    notes = () if checked else check_values(chips, wants)
    with _first(openers) as (scene, plan):
        spec, encoder = fit_on(chips, draft, choices, scene, plan, mask)
    return Fitted(spec, encoder, notes)


def fit_on(
    chips: NDArray[np.float32],
    draft: Draft,
    choices: Choices,
    scene: Any,
    plan: Any,
    mask: str | None = None,
) -> tuple[EmbeddingSpec, Encoder]:
    """Fit the encoder on a sample ``(n, bands, height, width)`` and describe the collection."""
    wants = draft.wants
    pre = preprocessing(chips, wants, scene.scale, choices.min_valid, mask)
    standard = normalise(chips, pre)
    encoder = draft.fit(standard, seed=SEED)
    # int8 scales want the whole sample; to see whether vectors bunch, a few of it will do.
    step = 1 if choices.dtype == "int8" else max(1, len(standard) // FEW_CHIPS)
    vectors = encoder.encode(standard[::step])
    return describe(encoder, choices, scene, plan, pre, vectors), encoder


def describe(
    encoder: Encoder,
    choices: Choices,
    scene: Any,
    plan: Any,
    pre: Preprocessing,
    vectors: NDArray[np.float32],
) -> EmbeddingSpec:
    """Return the spec of a collection; ``vectors (n, dim)`` are those of a sample."""
    dtype: Any = choices.dtype
    return EmbeddingSpec(
        product=f"{encoder.name} on {choices.source}",
        model=encoder.name,
        model_version=encoder.version,
        weights_sha256=encoder.sha256,
        dim=encoder.dim,
        dtype=dtype,
        scale=codec.fit_scale(vectors) if dtype == "int8" else None,
        norm="none",
        bands=scene.bands,
        gsd_m=round(scene.gsd_m, 4),
        layout=plan.layout,
        grid_km=GRID_KM,
        preprocessing=pre,
        source=choices.source,
        licence=choices.licence,
        centre=fit_centre(vectors),
    )


def preprocessing(
    chips: NDArray[np.float32],
    wants: Wants,
    scale: tuple[float, ...],
    min_valid: float,
    mask: str | None,
) -> Preprocessing:
    """Return what happens to pixels; bands' statistics where the encoder wants them."""
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    if wants.standardised:
        mean = tuple(map(float, chips.mean(axis=(0, 2, 3), dtype=np.float64)))
        std = tuple(map(float, np.maximum(chips.std(axis=(0, 2, 3), dtype=np.float64), 1e-6)))
    return Preprocessing(mean, std, RESAMPLING, scale, wants.steps, min_valid, mask)


def fit_centre(vectors: NDArray[np.float32]) -> tuple[float, ...] | None:
    """Return the mean of vectors ``(n, dim)`` that bunch in one direction, else None."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    units = vectors / np.where(norms > 0, norms, 1)
    if len(units) < 2:
        return None
    order = np.random.default_rng(SEED).permutation(len(units))
    cosines = (units * units[np.roll(order, 1)][np.argsort(order)]).sum(axis=1)
    if np.median(cosines) <= BUNCHED:
        return None
    return tuple(map(float, vectors.mean(axis=0, dtype=np.float64)))


class HasPixelSize(Protocol):
    """A scene, or images of one size."""

    @property
    def gsd_m(self) -> float:
        """Ground sampling distance, metres."""


def check_resolution(scene: HasPixelSize, wants: Wants, native: bool) -> tuple[str, ...]:
    """Return a note where pixels are not those the encoder was trained on.

    Raises InputError where they are far from it, unless the user wants them as they are.
    """
    if wants.gsd_m is None:
        return ()
    factor = max(scene.gsd_m / wants.gsd_m, wants.gsd_m / scene.gsd_m)
    if factor <= 1.05:
        return ()
    what = f"a pixel is {scene.gsd_m:.4g} m, but the encoder was trained on {wants.gsd_m:g} m"
    if factor > GSD_FACTOR and not native:
        raise InputError(
            f"Wrong resolution: {what}. Resample with --gsd {wants.gsd_m:g}m, or take the pixels "
            "as they are with --gsd native; its vectors mean less then."
        )
    return (f"Resolution: {what}.",)


def check_values(chips: NDArray[np.float32], wants: Wants) -> tuple[str, ...]:
    """Return a note where the numbers cannot be what the encoder was trained on.

    Raises InputError where they are reflectance of 0 to 1 and it wants that times 10,000.
    """
    if wants.values != "reflectance-10000":
        return ()
    high = float(np.quantile(chips[:, :, ::4, ::4], 0.99))
    if high <= SMALL_VALUES:
        raise InputError(
            f"99 % of the values are below {high:.3g}, but the encoder was trained on reflectance "
            "times 10,000. Give --scale 10000 if they are reflectance of 0 to 1, or --scale 1 to "
            "take them as they are."
        )
    if high <= 255 and float(chips.max()) <= 255:
        return (
            f"No value is above {chips.max():.4g}: the scene looks like an 8-bit picture, but the "
            "encoder was trained on reflectance times 10,000. All will look almost black to it, "
            "and its vectors tell little apart. Use the original data, or --scale to bring the "
            "numbers back.",
        )
    return ()


@contextmanager
def _first(openers: Sequence[Opener]) -> Iterator[tuple[Scene, ChipPlan]]:
    """Open the first scene that can be opened."""
    with ExitStack() as stack:
        for opener in openers:
            try:
                opened = stack.enter_context(opener())
                break
            except InputError:
                if opener is openers[-1]:
                    raise
        yield opened


def _sample(
    openers: Sequence[Opener], wants: Wants, min_valid: float, cancelled: Callable[[], None]
) -> NDArray[np.float32]:
    """Return up to SAMPLE_CHIPS chips with data, spread over the scenes, in a seeded choice.

    Large chips are fewer, so that the sample fits into memory.
    """
    rng = np.random.default_rng(SEED)
    chips, rows = (SAMPLE_CHIPS, SAMPLE_ROWS) if wants.standardised else (FEW_CHIPS, FEW_ROWS)
    chosen = np.unique(np.linspace(0, len(openers) - 1, min(rows, len(openers))).round())
    found: list[NDArray[np.float32]] = []
    most = chips
    errors: list[InputError] = []
    for number in chosen.astype(int):
        try:
            with openers[number]() as (scene, plan):
                height, width = plan.layout.chip_px
                size = 4 * len(scene.bands) * height * width
                most = min(chips, max(64, SAMPLE_BYTES // size))
                share = most / len(chosen)
                some = _spread(plan, rows // len(chosen), share, rng, min_valid, cancelled, errors)
                # Chips of metres may have other pixels elsewhere; they are not mixed.
                shape = (found or some)[0].shape[1:]
                found += [part for part in some if part.shape[1:] == shape]
        except InputError as error:
            errors.append(error)
    if not sum(map(len, found)):
        if errors:
            raise errors[0]
        raise NoDataError(
            "No chip has data in all its pixels, or in as many as --min-valid asks for. Choose a "
            "smaller --chip, or check the files and --nodata."
        )
    joined = np.concatenate(found)
    return joined[np.sort(rng.permutation(len(joined))[:most])]


def _spread(
    plan: ChipPlan,
    rows: int,
    most: float,
    rng: np.random.Generator,
    min_valid: float,
    cancelled: Callable[[], None],
    errors: list[InputError],
) -> list[NDArray[np.float32]]:
    """Return a few chips from every sampled row, since the rows are spread over the scene."""
    batches = list(plan.sample_rows(max(1, rows)))
    share = max(1, -(-int(np.ceil(most)) // len(batches)))
    found = []
    for batch in batches:
        cancelled()
        try:
            pixels = plan.read(batch, min_valid).pixels
        except SourceError as error:
            errors.append(error)
            continue
        found.append(pixels[np.sort(rng.permutation(len(pixels))[: 2 * share])])
    return found
