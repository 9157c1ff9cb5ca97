"""Bad images."""

import os

import numpy as np
from bad import PREDICT, Bad, Make, at, both, look, noise, nothing
from folders import png
from PIL import Image


def array(name: str, values: np.ndarray) -> Make:
    return lambda root: Image.fromarray(values).save(root / name)


KINDS: dict[str, Bad] = {
    "an image that does not exist": Bad(nothing, look("a.jpg"), 3, "a.jpg"),
    "a image on the web": Bad(nothing, look("https://a.org/a.jpg"), 3, "a.org/a.jpg"),
    "an empty image": Bad(at("a.jpg", ""), look("a.jpg"), 3, "a.jpg"),
    "a text as a image": Bad(at("a.jpg", "words"), look("a.jpg"), 3, "a.jpg"),
    "a document as a image": Bad(at("a.pdf", "%PDF-1.4"), look("a.pdf"), 3, "a.pdf"),
    "a video": Bad(at("a.mp4", b"\0\0\0\x18ftypmp42"), look("a.mp4"), 3, "a.mp4", "ffmpeg"),
    "a image of another format": Bad(noise("a.ppm"), look("a.ppm"), 3, "a.ppm"),
    "half a image": Bad(noise("a.jpg", 2000), look("a.jpg"), 3, "a.jpg"),
    "half a PNG": Bad(noise("a.png", 2000), look("a.png"), 3, "a.png"),
    "a image of 3,600 megapixels": Bad(at("a.png", png((60_000, 60_000), 8, 2, b"")), look("a.png"), 3, "a.png"),
    "floating-point pixels": Bad(array("a.tif", np.ones((4, 4), np.float32)), look("a.tif"), 3, "a.tif"),
    "integers beyond 16 bits": Bad(array("a.tif", np.full((4, 4), 10**6, np.int32)), look("a.tif"), 3, "a.tif"),
    "a folder as a image": Bad(lambda root: (root / "a").mkdir(), look("a"), 3, "folder"),
    "a folder of images as a image": Bad(noise("a.png"), look("."), 3, "folder", "a.png"),
    "a pipe": Bad(lambda root: os.mkfifo(root / "a.jpg"), look("a.jpg"), 3, "a.jpg"),
    "a image of 300 letters": Bad(nothing, look(f"{'a' * 300}.jpg"), 3, "aaa.jpg"),
    "no image in a folder": Bad(lambda root: (root / "a").mkdir(), ("predict", "a", "--weights", "shapes"), 3, "a"),
    "a pattern that matches nothing": Bad(nothing, ("predict", "*.jpg", "--weights", "shapes"), 3, "*.jpg"),
    "an empty name": Bad(nothing, ("predict", "", "--weights", "shapes"), 2, "IMAGE"),
    "one of two images that must all be read": Bad(
        both(noise("a.png"), at("b.png", "x")), (*PREDICT, "b.png", "--strict", "--no-images"), 3, "b.png"
    ),
}
