"""Checks of the masks of a split, image by image, with few masks in memory at a time."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace

import msgspec
import numpy as np

from detrcli.data.checks import Split
from detrcli.data.image_files import map_images
from detrcli.data.panoptic_maps import VOID, read_map
from detrcli.data.raw_annotations import Problem, Problems
from detrcli.data.segmentations import MaskSizeError, run_lengths_of
from detrcli.errors import DataError
from detrcli.reporter import SILENT, Reporter
from detrcli.run_lengths import box_around, decode, extent

TOLERANCE = 2.0  # pixels by which a mask may exceed its box, since the corners of polygons lie between pixels
OVERLAP = 0.01  # fraction of an image that segments may share without a warning


class _ImageCheck:
    """The check of the masks of image `i`. Images and annotations are given by their indices in the split."""

    def __init__(self, name: str, split: Split, i: int, annotations: Sequence[int]) -> None:
        self.split, self.i, self.annotations = split, i, annotations
        self.name = split.written.name_of_image(i)
        self.size: tuple[int, int] = tuple(split.sizes[i].tolist())  # height and width
        self.problems = Problems(name)
        self.left_out: list[int] = []  # annotations without a usable mask
        self.unusable = False  # True if the panoptic map of the image cannot be read
        self.void = 0  # number of pixels that belong to no segment

    def check_map(self) -> None:
        """Compare the image's panoptic map with its segments."""
        raw, maps = self.split.written, self.split.written.maps
        assert maps is not None
        try:
            ids = read_map(maps.folder / maps.files[int(raw.image_ids[self.i])], *self.size)  # (H, W)
        except DataError as error:
            self.problems.error("bad-map", self.name, str(error))
            self.unusable = True
            return
        values, counts = np.unique(ids, return_counts=True)
        areas = Counter(dict(zip(values.tolist(), counts.tolist(), strict=True)))
        listed = maps.segment_ids[self.annotations].tolist()
        unlisted = areas.keys() - set(listed)
        self.void = sum(areas[segment] for segment in unlisted)
        for segment in sorted(unlisted - {VOID}):
            what = f"{areas[segment]:,} pixels of its map have the id {segment}, which is not listed; they are ignored"
            self.problems.warning("unknown-segment", self.name, what)
        for n, segment in zip(self.annotations, listed, strict=True):
            if not self.split.usable[n]:
                continue
            if not areas[segment]:
                self.leave_out("missing-segment", n, "no pixel of the map has its color")
                continue
            x, y, width, height = box_around(ids == segment)
            self.check_box(n, (x, y, x + width, y + height))

    def check_segmentations(self, texts: dict[int, bytes]) -> None:
        """Check the segmentations, given as text by annotation."""
        raw, (height, width) = self.split.written, self.size
        # In datasets with stuff classes, segments should partition the image.
        partitions = raw.things is not None and not all(raw.things)
        claimed = np.zeros((height, width), dtype=bool)
        shared = 0
        for n in self.annotations:
            text, where = texts.get(n), raw.name_of(n)
            if not text:
                continue
            try:
                lengths = run_lengths_of(text, height, width)
            except ValueError as error:
                self.leave_out("mask-size" if isinstance(error, MaskSizeError) else "bad-mask", n, str(error))
                continue
            area, box = extent(lengths, height)
            polygons = msgspec.json.decode(text) if text.startswith(b"[") else []
            if flat := sum(len(polygon) < 6 for polygon in polygons):
                what = f"{flat} of its {len(polygons)} polygons have fewer than three corners and no area"
                self.problems.warning("flat-polygon", where, what)
            if not area:
                self.problems.warning("empty-mask", where, "its mask has no pixels; the object still counts")
                continue
            self.check_box(n, box)
            if partitions:
                mask = decode(lengths, height, width)
                shared += 0 if raw.crowd[n] else int(np.count_nonzero(claimed & mask))
                claimed |= mask
        if shared > OVERLAP * height * width:
            what = f"{shared:,} pixels belong to several segments, where things and stuff should partition the image"
            self.problems.warning("overlap", self.name, what)
        self.void = int(np.count_nonzero(~claimed)) if partitions else 0

    def check_box(self, n: int, box: tuple[int, int, int, int]) -> None:
        """Check that a mask with this xyxy box lies in the box of its annotation."""
        x, y, width, height = self.split.written.boxes[n].tolist()
        excess = max(x - box[0], y - box[1], box[2] - (x + width), box[3] - (y + height))
        if excess > TOLERANCE:
            what = f"its mask exceeds its box by {excess:.0f} pixels; both are used as they are"
            self.problems.warning("mask-outside", self.split.written.name_of(n), what)

    def leave_out(self, kind: str, n: int, what: str) -> None:
        """Report an error and leave out annotation `n`."""
        self.problems.error(kind, self.split.written.name_of(n), what)
        self.left_out.append(n)


def check_masks(name: str, split: Split, *, full: bool, reporter: Reporter = SILENT) -> Split | None:
    """Add the problems of a split's masks, and leave out annotations and images whose mask or map cannot be read.

    Return None if that would exceed the time limit and `full` is False.
    """
    raw = split.written
    if raw.segmentations is None:
        return split
    objects = np.flatnonzero(split.usable)
    texts = {} if raw.maps else dict(zip(objects.tolist(), raw.texts(objects), strict=True))
    annotations: dict[int, list[int]] = defaultdict(list)  # by image id
    for n, image in enumerate(raw.of_image.tolist()):
        annotations[image].append(n)
    images = np.flatnonzero(split.usable_images).tolist()

    def check(i: int) -> _ImageCheck:
        image = _ImageCheck(name, split, i, annotations.get(int(raw.image_ids[i]), []))
        if raw.maps:
            image.check_map()
        else:
            image.check_segmentations(texts)
        return image

    checks = map_images(check, images, "checking masks", full=full, reporter=reporter)
    if checks is None:
        return None
    problems = [problem for image in checks for problem in image.problems]
    without = [n for n, text in texts.items() if not text and not raw.crowd[n]]
    if without and len(without) < len(texts):
        what = f"{len(without):,} of {len(texts):,} objects have no mask, so masks are neither trained nor evaluated"
        problems.append(Problem("warning", "no-mask", name, raw.name_of(without[0]), what))
    if with_void := [image for image in checks if image.void]:
        share = sum(image.void for image in checks) / int(split.sizes[images].prod(1).sum())
        what = (
            f"{len(with_void):,} of {len(images):,} images have pixels of no segment, {share:.1%} of all pixels; they "
            "are neither trained nor evaluated"
        )
        problems.append(Problem("warning", "unclaimed", name, with_void[0].name, what))
    kept = np.ones(len(raw.annotation_ids), dtype=bool)
    kept[[n for image in checks for n in image.left_out]] = False
    rest = split.without_images([image.i for image in checks if image.unusable])
    return replace(rest, written=raw.part(kept), problems=[*split.problems, *problems], usable=rest.usable[kept])
