"""Scenes of one date laid over each other: one grid, the first valid pixel wins."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from embeddings.encoders.base import BandWant
from embeddings.errors import BandError, InputError
from embeddings.sources.grids import TargetGrid, joined, place_in
from embeddings.sources.opening import Box
from embeddings.sources.placed import PlacedScene
from embeddings.sources.raster import DEFAULT, RasterScene, paired
from embeddings.sources.reading import Reading, SceneFile

GRID_BOUND = 2**31
"""Pixels of a mosaic along one side; members further apart are a mistake."""


@dataclass(frozen=True, slots=True)
class _Member:
    """A member on its part of the mosaic's grid."""

    scene: RasterScene
    place: tuple[int, int, int, int]
    """Rows and columns: top, bottom, left, right."""


class MosaicScene(PlacedScene):
    """Members on the grid of the first one, extended over all of them.

    A pixel is that of the first member, in the order given, that has data there. Members stay
    open; pixels are read by window only.
    """

    def __init__(
        self,
        members: Sequence[RasterScene],
        grid: TargetGrid,
        box: Box | None,
        stack: ExitStack,
    ) -> None:
        super().__init__(grid if box is None else grid.part(*box))
        self.first_px = (0, 0) if box is None else box[:2]
        self._own = list(members)
        self._members: list[_Member] = []
        for member in members:
            # Beyond its edge a member has nothing to read, so only its part of the grid is opened.
            top, bottom, left, right = place = place_in(grid, member.grid)
            if top < bottom and left < right:
                part = grid.part(top, left, bottom - top, right - left)
                self._members.append(_Member(stack.enter_context(member.onto(part)), place))
        first = members[0]
        self.bands = first.bands
        self.notes = list(dict.fromkeys(note for member in members for note in member.notes))
        self.notes.append(f"A mosaic of {len(members)} scenes, the first on top.")
        self.files = tuple(dict.fromkeys(file for member in members for file in member.files))
        self._stack = stack.pop_all()

    @classmethod
    def open(
        cls,
        members: Sequence[Sequence[SceneFile | str]],
        reading: Reading = DEFAULT,
        grid: TargetGrid | None = None,
    ) -> Self:
        """Open the files of every member, on a ``grid`` if one is given.

        Raises SourceNotFoundError, SourceError, BandError (members with other bands) or
        InputError.
        """
        if not members:
            raise InputError("A mosaic needs at least one scene. Name its files.")
        each = replace(reading, bbox=None, gsd_m=None)
        with ExitStack() as stack:
            opened = [stack.enter_context(RasterScene.open(files, each)) for files in members]
            for member in opened[1:]:
                _check_bands(opened[0], member)
            box = None
            if grid is None:
                grid = joined(opened[0].grid, [member.grid for member in opened[1:]])
                grid = grid.with_pixels(reading.gsd_m) if reading.gsd_m is not None else grid
                box = grid.window(reading.bbox) if reading.bbox is not None else None
            if max(grid.height, grid.width) > GRID_BOUND:
                raise InputError("The scenes of the mosaic lie too far apart. Embed them singly.")
            return cls(opened, grid, box, stack)

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def onto(self, grid: TargetGrid) -> MosaicScene:
        """Return the mosaic, whole, on another grid. Close it before this one."""
        with ExitStack() as stack:
            return MosaicScene(self._own, grid, None, stack)

    @property
    def known(self) -> list[str]:
        """Names of the bands, empty where a name is only a position in a file."""
        return self._own[0].known

    @property
    def resolutions_m(self) -> tuple[float, ...]:
        """The pixel size of each band in the files of the first member, metres."""
        return self._own[0].resolutions_m

    @property
    def nodata(self) -> float | None:
        """The undeclared nodata value in use in the first member."""
        return self._own[0].nodata

    @property
    def scale(self) -> tuple[float, ...]:
        """What the numbers of each band are multiplied with, in the first member."""
        return self._own[0].scale

    @property
    def offset(self) -> tuple[float, ...]:
        """What is added to the numbers of each band after the scale, in the first member."""
        return self._own[0].offset

    @property
    def mask(self) -> str | None:
        """The rule of the mask bands, as the user may write it."""
        return self._own[0].mask

    def pixel_rule(self) -> dict[str, Any]:
        """Return how the first member's numbers become values, as JSON; and those of the others."""
        rules = [member.pixel_rule() for member in self._own]
        same = all(rule == rules[0] for rule in rules)
        return rules[0] if same else {**rules[0], "members": rules}

    def reading_rule(self) -> str:
        """Return, as JSON, all that may change beside the pixels: place, masks, numbers."""
        place = [self.crs.to_wkt(), list(self.transform)[:6], self.height, self.width]
        return json.dumps([[member.reading_rule() for member in self._own], place])

    def multiply(self, factor: float) -> None:
        """Multiply all values, for an encoder that was trained on another unit."""
        for scene in (*self._own, *(member.scene for member in self._members)):
            scene.multiply(factor)

    def choose(self, indexes: Sequence[int], names: Sequence[str]) -> None:
        """Keep the bands at ``indexes``, in that order, and name them so."""
        for scene in (*self._own, *(member.scene for member in self._members)):
            scene.choose(indexes, names)
        self.bands = tuple(names)

    def take(self, wanted: Sequence[BandWant]) -> None:
        """Keep the bands that an encoder wants, in its order and under its names.

        Raises BandError naming the first that is missing.
        """
        self.choose(self._own[0].wanted(wanted), [want.name for want in wanted])

    def pair(self, names: Sequence[str]) -> None:
        """Put the bands into the order of ``names``: by name, or as they come where none is known.

        Raises BandError if their number differs, or if only some of the names agree.
        """
        order, notes = paired(self.bands, names, self._own[0].known)
        self.notes += notes
        self.choose(order, names)

    def read(
        self, row: int, col: int, height: int, width: int
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Read a window, as every scene does."""
        values, valid, _ = self.read_apart(row, col, height, width)
        return values, valid

    def read_apart(
        self, row: int, col: int, height: int, width: int
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_]]:
        """Read a window; after validity, where there is data that mask bands hide."""
        row, col = row + self.first_px[0], col + self.first_px[1]
        values = np.zeros((len(self.bands), height, width), dtype=np.float32)
        valid = np.zeros((height, width), dtype=bool)
        hidden = np.zeros((height, width), dtype=bool)
        for member in self._members:
            top, bottom, left, right = member.place
            first, last = max(row, top), min(row + height, bottom)
            start, end = max(col, left), min(col + width, right)
            if first >= last or start >= end:
                continue
            at = np.s_[first - row : last - row, start - col : end - col]
            if valid[at].all():
                continue
            pixels, there, masked = member.scene.read_apart(
                first - top, start - left, last - first, end - start
            )
            there &= ~valid[at]
            np.copyto(values[:, at[0], at[1]], pixels, where=there)
            valid[at] |= there
            hidden[at] |= masked
        return values, valid, hidden & ~valid


def _check_bands(first: RasterScene, member: RasterScene) -> None:
    """Put a member's bands into the first one's order. Raises BandError."""
    try:
        order, guesses = paired(member.bands, first.bands, member.known)
    except BandError:
        order, guesses = [], ["none"]
    if guesses:
        raise BandError(
            f"The scenes of a mosaic have other bands: {', '.join(first.bands)} in "
            f"{first.files[0]}, {', '.join(member.bands)} in {member.files[0]}. Give scenes of one "
            "product, or name their bands with --bands."
        )
    member.choose(order, first.bands)
