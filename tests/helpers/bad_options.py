"""Bad options, config keys and places for outputs."""

from pathlib import Path

from bad import PREDICT, SCORE, TRAIN, Bad, asked, at, both, coco, look, noise

KINDS: dict[str, Bad] = {
    "an unknown command": asked("prdict", say="prdict", way="detr --help"),
    "an unknown option": asked("predict", "a.png", "--treshold", "1", say="--treshold", way="--help"),
    "an option without its value": asked("predict", "a.png", "--weights", say="--weights", way="--help"),
    "no picture at all": asked("predict", say="IMAGE", way="--help"),
    "no data at all": asked("train", say="Give DATA", way="--train-ann"),
    "a threshold beyond 1": asked(*PREDICT, "--threshold", "1.5", say="--threshold 1.5", way="between 0 and 1"),
    "a threshold that is a word": asked(*PREDICT, "--threshold", "high", say="--threshold high", way="between 0 and 1"),
    "two things to print": asked(
        *PREDICT, "--json", "--format", "csv", say="--json and --format csv", way="two different things"
    ),
    "an unknown format": asked(*PREDICT, "--format", "xml", say="xml", way="csv"),
    "a size of 0": asked(*PREDICT, "--size", "0", say="size", way="--help", make=noise("a.png")),
    "a size of 100,000": asked(
        *PREDICT, "--size", "100000", say="size = 100000", way="from 1 to 32,768", make=noise("a.png")
    ),
    "sizes of 900 megapixels": asked(
        *PREDICT,
        "--size",
        "30000",
        "--max-size",
        "30000",
        say="30,000 x 30,000",
        way="smaller --size",
        make=noise("a.png"),
    ),
    "an unknown device": asked(*PREDICT, "--device", "gpu", say="--device gpu", way="auto, cpu", make=noise("a.png")),
    "an unknown precision": asked(*PREDICT, "--precision", "fp7", say="fp7", way="fp32", make=noise("a.png")),
    "an unknown engine": asked(*PREDICT, "--engine", "warp", say="warp", way="fast", make=noise("a.png")),
    "an unknown class": asked(
        *PREDICT, "--classes", "unicorn", "--no-images", say="unicorn", way="circle", make=noise("a.png")
    ),
    "going on with nothing": asked(*PREDICT, "--resume", say="--resume", way="--save"),
    "lines of another ending": asked(*PREDICT, "--save", "a.txt", say="a.txt", way=".jsonl"),
    "a figure of another ending": asked(*look("a.png"), "--out", "a.pdf", say="a.pdf", way=".png", make=noise("a.png")),
    "a layer that there is not": asked(
        *look("a.png"), "--query", 0, "--layer", 99, say="--layer 99", way="0", make=noise("a.png")
    ),
    "a head that there is not": asked(
        *look("a.png"), "--query", 0, "--head", 99, say="--head 99", way="0", make=noise("a.png")
    ),
    "a query that there is not": asked(
        *look("a.png"), "--query", 9999, say="--query 9999", way="0", make=noise("a.png")
    ),
    "a place beyond the picture": asked(
        *look("a.png"), "--encoder", "999,1", say="--encoder 999,1", way="199,199", make=noise("a.png")
    ),
    "a place that is none": asked(
        *look("a.png"), "--encoder", "x", say="--encoder x", way="such as 120,80", make=noise("a.png")
    ),
    "an unknown setting": asked(*TRAIN, "--set", "lr_drop=3", say="'lr_drop'", way="Did you mean", make=coco()),
    "a setting without a value": asked(*TRAIN, "--set", "lr", say="lr", way="KEY=VALUE", make=coco()),
    "a setting of another kind": asked(
        *TRAIN, "--set", "epochs=many", say="epochs = 'many'", way="an integer", make=coco()
    ),
    "a learning rate below 0": asked(*TRAIN, "--lr", "-1", say="lr = -1", way="at least 0", make=coco()),
    "a learning rate of NaN": asked(*TRAIN, "--lr", "nan", say="lr = nan", way="a number", make=coco()),
    "no epoch": asked(*TRAIN, "--epochs", "0", say="epochs = 0", way="at least 1", make=coco()),
    "a hundred thousand processes": asked(
        *TRAIN, "--set", "workers=100000", say="workers = 100000", way="between 0 and 256", make=coco()
    ),
    "a seed beyond 63 bits": asked(*TRAIN, "--seed", str(2**63), say="seed = ", way="below", make=coco()),
    "a config that is not there": asked(*TRAIN, "--config", "c.toml", say="c.toml", way="No such file", make=coco()),
    "a config that is no TOML": asked(
        *TRAIN, "--config", "c.toml", say="c.toml", way="TOML", make=both(coco(), at("c.toml", "="))
    ),
    "a config of other bytes": asked(
        *TRAIN, "--config", "c.toml", say="c.toml", way="TOML", make=both(coco(), at("c.toml", b"\xff\xfe"))
    ),
    "an unknown term of the loss": asked(
        *TRAIN, "--set", "loss.iou=1", say="loss.iou", way="it has class", make=coco()
    ),
    "settings for a run that goes on": asked("train", "--resume", "run", "--lr", "1", say="lr", way="epochs"),
    "an unknown topic": asked("guide", "trainin", say="trainin", way="Did you mean training"),
    "shapes that nobody draws": asked(
        "data", "make", "shapes", "out", "--classes", "unicorn", say="unicorn", way="circle"
    ),
    "an unknown kind of export": asked("export", "shapes", "--format", "tflite", say="tflite", way="onnx"),
    "an image that there is not": asked(
        "match-debug",
        "data",
        "--weights",
        "shapes",
        "--split",
        "train",
        "--image",
        "99",
        "--match-classes-by-id",
        say="--image 99",
        way="id or file",
        make=coco(),
    ),
}

FULL = Path("/dev/full")
KINDS |= {
    "a run folder that is in use": asked(
        *TRAIN, "--out", "run", say="run exists", way="another place", make=both(coco(), at("run/thesis.txt", "x"))
    ),
    "an output that exists": asked(
        *look("a.png"),
        "--out",
        "b.png",
        say="b.png exists",
        way="--overwrite",
        make=both(noise("a.png"), noise("b.png")),
    ),
    "an output that is a folder": asked(
        *look("a.png"),
        "--out",
        "b.png",
        say="b.png is a folder",
        way="another place",
        make=both(noise("a.png"), lambda root: (root / "b.png").mkdir()),
    ),
    "a folder that is a file": asked(
        *PREDICT, "--out", "b", say="b is no folder", way="another place", make=both(noise("a.png"), at("b", "x"))
    ),
    "an output in the data": asked(
        *TRAIN, "--out", "data/run", say="data/run lies in the data folder", way="another place", make=coco()
    ),
    "an output over an input": asked(
        *PREDICT,
        "--out",
        ".",
        "--overwrite",
        say="a.png is one of the files given",
        way="another place",
        make=noise("a.png"),
    ),
    "an output of 300 letters": asked(
        *TRAIN, "--out", "a" * 300, say="too long", way="Give a shorter name", make=coco()
    ),
    "an output below a file": Bad(
        both(coco(), at("b", "x")),
        (
            *TRAIN[:3],
            "none",
            *TRAIN[4:],
            "--model",
            "detr-tiny",
            "--size",
            32,
            "--epochs",
            1,
            "--set",
            "queries=3",
            "--set",
            "workers=0",
            "--out",
            "b/run",
        ),
        6,
        "b/run",
        "give another place",
    ),
    "a device that is not here": Bad(
        noise("a.png"), (*PREDICT, "--device", "cuda:99"), 6, "--device cuda:99", "has cpu"
    ),
    "a results file that is a folder": Bad(
        both(coco(), lambda root: (root / "r.json").mkdir()), SCORE, 2, "r.json", "Is a directory"
    ),
    "a run that is a file": Bad(at("run", "x"), ("train", "--resume", "run"), 4, "run: it is a file", "takes a folder"),
    "pictures that are a file": Bad(
        both(coco(), at("p", "x")),
        ("data", "check", "--train-ann", "data/annotations/instances_train.json", "--train-images", "p"),
        3,
        "p: it is a file",
        "takes a folder",
    ),
}
