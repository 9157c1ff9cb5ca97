"""The classes of the published weights: COCO's own ids are the indices, and the gaps between them stay unused."""

import re
from collections.abc import Sequence

_NAMES = {
    1: "person bicycle car motorcycle airplane bus train truck boat traffic_light fire_hydrant",
    13: "stop_sign parking_meter bench bird cat dog horse sheep cow elephant bear zebra giraffe",
    27: "backpack umbrella",
    31: "handbag tie suitcase frisbee skis snowboard sports_ball kite baseball_bat baseball_glove skateboard "
    "surfboard tennis_racket bottle",
    46: "wine_glass cup fork knife spoon bowl banana apple sandwich orange broccoli carrot hot_dog pizza donut "
    "cake chair couch potted_plant bed",
    67: "dining_table",
    70: "toilet",
    72: "tv laptop mouse remote keyboard cell_phone microwave oven toaster sink refrigerator",
    84: "book clock vase scissors teddy_bear hair_drier toothbrush",
}

UNUSED = "N/A"

NAMES = [UNUSED] * 91
for _first, _names in _NAMES.items():
    for _id, _name in enumerate(_names.split(), _first):
        NAMES[_id] = _name.replace("_", " ")

# What has no number of its own in a picture: sky, grass, walls. Its ids follow those of the things.
_STUFF = {
    92: "banner blanket",
    95: "bridge",
    100: "cardboard",
    107: "counter",
    109: "curtain",
    112: "door-stuff",
    118: "floor-wood flower",
    122: "fruit",
    125: "gravel",
    128: "house",
    130: "light",
    133: "mirror-stuff",
    138: "net",
    141: "pillow",
    144: "platform playingfield",
    147: "railroad river road",
    151: "roof",
    154: "sand sea shelf",
    159: "snow",
    161: "stairs",
    166: "tent",
    168: "towel",
    171: "wall-brick",
    175: "wall-stone wall-tile wall-wood water-other",
    180: "window-blind window-other",
    184: "tree-merged fence-merged ceiling-merged sky-other-merged cabinet-merged table-merged "
    "floor-other-merged pavement-merged mountain-merged grass-merged dirt-merged paper-merged "
    "food-other-merged building-other-merged rock-merged wall-other-merged rug-merged",
}

PANOPTIC_NAMES = [*NAMES, *[UNUSED] * (250 - len(NAMES))]
for _first, _names in _STUFF.items():
    for _id, _name in enumerate(_names.split(), _first):
        PANOPTIC_NAMES[_id] = _name

# LABEL_ and a number is what transformers writes where nobody gave a name.
UNNAMED = re.compile(rf"{UNUSED}|LABEL_\d+")


def things_among(names: Sequence[str]) -> list[bool] | None:
    """Which of COCO's panoptic classes are things; None where some have other names, or none is stuff."""
    named = {name for name in names if not UNNAMED.fullmatch(name)}
    things = set(NAMES)
    if not named <= set(PANOPTIC_NAMES) or named <= things:
        return None
    return [name in things for name in names]
