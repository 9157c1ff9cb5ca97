"""The classes of the published weights. COCO's ids are the indices; the gaps between them are unused."""

import re
from collections.abc import Sequence

# A number is the id of the name after it; the ids of the following names count up from there.
THINGS = """
1 person bicycle car motorcycle airplane bus train truck boat traffic_light fire_hydrant 13 stop_sign
parking_meter bench bird cat dog horse sheep cow elephant bear zebra giraffe 27 backpack umbrella 31 handbag tie
suitcase frisbee skis snowboard sports_ball kite baseball_bat baseball_glove skateboard surfboard tennis_racket
bottle 46 wine_glass cup fork knife spoon bowl banana apple sandwich orange broccoli carrot hot_dog pizza donut
cake chair couch potted_plant bed 67 dining_table 70 toilet 72 tv laptop mouse remote keyboard cell_phone
microwave oven toaster sink refrigerator 84 book clock vase scissors teddy_bear hair_drier toothbrush
"""
# Sky, grass, walls and other classes without instances.
STUFF = """
92 banner blanket 95 bridge 100 cardboard 107 counter 109 curtain 112 door-stuff 118 floor-wood flower 122 fruit
125 gravel 128 house 130 light 133 mirror-stuff 138 net 141 pillow 144 platform playingfield 147 railroad river
road 151 roof 154 sand sea shelf 159 snow 161 stairs 166 tent 168 towel 171 wall-brick 175 wall-stone wall-tile
wall-wood water-other 180 window-blind window-other 184 tree-merged fence-merged ceiling-merged sky-other-merged
cabinet-merged table-merged floor-other-merged pavement-merged mountain-merged grass-merged dirt-merged
paper-merged food-other-merged building-other-merged rock-merged wall-other-merged rug-merged
"""
UNUSED = "N/A"


def _by_id(table: str, size: int) -> list[str]:
    names, index = [UNUSED] * size, 0
    for word in table.split():
        if word.isdigit():
            index = int(word)
        else:
            names[index] = word.replace("_", " ")
            index += 1
    return names


NAMES = _by_id(THINGS, 91)
NAMED = [name for name in NAMES if name != UNUSED]  # the 80 classes, as many other models number them
PANOPTIC_NAMES = _by_id(THINGS + STUFF, 250)
# transformers names a class without a name LABEL_ and its index.
UNNAMED = re.compile(rf"{UNUSED}|LABEL_\d+")


def things_among(names: Sequence[str]) -> list[bool] | None:
    """Return which of COCO's panoptic classes are things; None if there are other classes, or no stuff."""
    named = {name for name in names if not UNNAMED.fullmatch(name)}
    things = set(NAMES)
    if not named <= set(PANOPTIC_NAMES) or named <= things:
        return None
    return [name in things for name in names]
