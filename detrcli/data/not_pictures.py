"""What stands where a picture is meant, in words that say what to do about it."""

from collections.abc import Collection
from pathlib import Path

from detrcli.data.place import is_web_address
from detrcli.system.text import escape_controls

SUFFIXES = frozenset({".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv"})  # of videos


def missing(path: Path) -> str:
    """Why there is nothing under this name."""
    if is_web_address(path):
        return "it is a web address, and no picture is fetched: download it, and give the file"
    return "there is no such file"


def no_picture(path: Path, known: str) -> str:
    """What a file is that no decoder knows."""
    if path.suffix.lower() in SUFFIXES:
        return (
            "it is a video: take pictures out of it first (ffmpeg -i FILE -vf fps=1 frames/%05d.png), "
            "and give their folder"
        )
    return f"it is none of {known}"


def no_file(path: Path, endings: Collection[str]) -> str:
    """What it is that cannot be opened as a file is: a folder, a pipe or the like."""
    if not path.is_dir():
        return "it is no file, but a pipe or the like"
    inside = min((file.name for file in path.iterdir() if file.suffix.lower() in endings), default=None)
    return (
        f"it is a folder; name one picture, such as {escape_controls(inside)}"
        if inside
        else "it is a folder without pictures"
    )
