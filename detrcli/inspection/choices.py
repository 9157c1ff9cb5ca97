"""Which layers and heads are shown."""

from detrcli.errors import UsageError

Head = int | None  # None is the mean of all


def chosen_layers(asked: str | int, count: int) -> list[int]:
    """Which of so many layers `last`, `all` or a number means."""
    if asked in ("last", "all"):
        return [count - 1] if asked == "last" else list(range(count))
    if not str(asked).isdecimal() or int(asked) >= count:
        raise UsageError(f"layer {asked}: it is last, all or a number from 0 to {count - 1}.")
    return [int(asked)]


def chosen_heads(asked: str | int, count: int) -> list[Head]:
    """Which of so many heads `mean`, `all` or a number means."""
    if asked == "mean":
        return [None]
    if asked != "all" and (not str(asked).isdecimal() or int(asked) >= count):
        raise UsageError(f"head {asked}: it is mean, all or a number from 0 to {count - 1}.")
    return list(range(count)) if asked == "all" else [int(asked)]
