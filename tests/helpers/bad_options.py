"""Bad options, config keys and places for outputs."""

from bad import PREDICT, SCORE, TRAIN, Bad, at, both, coco, look, noise, usage

MATCH = ("match-debug", "data", "--weights", "shapes", "--split", "train", "--match-classes-by-id")
KINDS: dict[str, Bad] = {
    "an unknown command": usage("prdict", item="prdict", remedy="--help"),
    "an unknown option": usage("predict", "a.png", "--treshold", "1", item="--treshold", remedy="--help"),
    "an option without its value": usage("predict", "a.png", "--weights", item="--weights", remedy="--help"),
    "no image at all": usage("predict", item="IMAGE", remedy="--help"),
    "no data at all": usage("train", item="DATA", remedy="--train-ann"),
    "no data to check": usage("data", "check", item="DATA", remedy="--train-ann"),
    "two sources of data": usage(
        "data", "check", "data", "--train-ann", "a.json", "--train-images", ".", item="DATA", remedy="--train-ann"
    ),
    "a threshold beyond 1": usage(*PREDICT, "--threshold", "1.5", item="--threshold 1.5"),
    "a threshold that is a word": usage(*PREDICT, "--threshold", "high", item="--threshold high"),
    "two things to print": usage(*PREDICT, "--json", "--format", "csv", item="--format csv"),
    "an unknown format": usage(*PREDICT, "--format", "xml", item="xml", remedy="csv"),
    "a size of 0": usage(*PREDICT, "--size", "0", item="size", remedy="--help"),
    "a size of 100,000": usage(*PREDICT, "--size", "100000", item="100000"),
    "sizes of 900 megapixels": usage(
        *PREDICT, "--size", "30000", "--max-size", "30000", item="30,000", remedy="--size"
    ),
    "an unknown device": usage(*PREDICT, "--device", "gpu", item="gpu", remedy="cpu"),
    "an unknown precision": usage(*PREDICT, "--precision", "fp7", item="fp7", remedy="fp32"),
    "an unknown engine": usage(*PREDICT, "--engine", "warp", item="warp", remedy="fast"),
    "polygons in a table": usage(*PREDICT, "--polygons", item="--polygons", remedy="--save"),
    "ids of a dataset in a table": usage(*PREDICT, "--ids-from", "a.json", item="--ids-from", remedy="--format coco"),
    "a threshold of semantic maps": usage(*PREDICT, "--format", "semantic", "--threshold", 0.5, item="--threshold"),
    "tiles of an unknown form": usage(*PREDICT, "--tiles", "axb", item="--tiles axb", remedy="640x640"),
    "no tiles": usage(*PREDICT, "--tiles", "0", item="--tiles 0", remedy="WxH"),
    "tiles that overlap wholly": usage(*PREDICT, "--tiles", "2", "--overlap", "1", item="--overlap 1"),
    "overlap without tiles": usage(*PREDICT, "--overlap", "0.5", item="--overlap", remedy="--tiles"),
    "an IoU of 2": usage("eval", "data", "--weights", "shapes", "--nms", "2", item="--nms 2"),
    "tiles of results": usage(*SCORE, "--tiles", "2", item="--tiles", remedy="--predictions"),
    "maps of tiles": usage(
        "predict", "a.png", "--weights", "shapes-masks", "--tiles", "2", "--format", "panoptic", item="--tiles"
    ),
    "an unknown class": usage(*PREDICT, "--classes", "unicorn", "--no-images", item="unicorn", remedy="circle"),
    "resuming without results": usage(*PREDICT, "--resume", item="--resume", remedy="--save"),
    "results of another file type": usage(*PREDICT, "--save", "a.txt", item="a.txt", remedy=".jsonl"),
    "a figure of another file type": usage(*look("a.png"), "--out", "a.pdf", item="a.pdf", remedy=".png"),
    "a layer that does not exist": usage(*look("a.png"), "--query", 0, "--layer", 99, item="layer 99"),
    "a head that does not exist": usage(*look("a.png"), "--query", 0, "--head", 99, item="head 99"),
    "a query that does not exist": usage(*look("a.png"), "--query", 9999, item="query 9999"),
    "a place beyond the image": usage(*look("a.png"), "--encoder", "999,1", item="--encoder 999,1", remedy="200 x 200"),
    "a place that is invalid": usage(*look("a.png"), "--encoder", "x", item="--encoder x"),
    "an unknown setting": usage(*TRAIN, "--set", "lr_drop=3", item="lr_drop", remedy="Did you mean"),
    "a setting without a value": usage(*TRAIN, "--set", "lr", item="--set lr", remedy="KEY=VALUE"),
    "a setting of another kind": usage(*TRAIN, "--set", "epochs=many", item="epochs"),
    "a learning rate below 0": usage(*TRAIN, "--lr", "-1", item="lr"),
    "a learning rate of NaN": usage(*TRAIN, "--lr", "nan", item="lr"),
    "no epoch": usage(*TRAIN, "--epochs", "0", item="epochs"),
    "a hundred thousand processes": usage(*TRAIN, "--set", "workers=100000", item="workers"),
    "a seed beyond 63 bits": usage(*TRAIN, "--seed", str(2**63), item="seed"),
    "a config that does not exist": usage(*TRAIN, "--config", "c.toml", item="--config c.toml"),
    "a config that is not TOML": usage(*TRAIN, "--config", "c.toml", item="--config c.toml", make=at("c.toml", "=")),
    "a config of other bytes": usage(
        *TRAIN, "--config", "c.toml", item="--config c.toml", make=at("c.toml", b"\xff\xfe")
    ),
    "an unknown term of the loss": usage(*TRAIN, "--set", "loss.iou=1", item="loss.iou"),
    "settings for a resumed run": usage("train", "--resume", "run", "--lr", "1", item="--lr", remedy="--epochs"),
    "an unknown topic": usage("guide", "trainin", item="trainin", remedy="Did you mean training"),
    "unknown shapes": usage("data", "make", "shapes", "out", "--classes", "unicorn", item="unicorn", remedy="circle"),
    "an unknown kind of export": usage("export", "shapes", "--format", "tflite", item="tflite", remedy="onnx"),
    "an unknown image of the data": usage(*MATCH, "--image", "99", item="image 99"),
}

QUICK = ("train", "data", "--weights", "none", "--model", "detr-tiny", "--device", "cpu", "--size", 32, "--epochs", 1)
QUICK += ("--set", "queries=3", "--set", "workers=0")
KINDS |= {
    "a run folder with other files": usage(*TRAIN, "--out", "run", item="run", make=at("run/thesis.txt", "x")),
    "an output that exists": usage(
        *look("a.png"), "--out", "b.png", item="b.png", remedy="--overwrite", make=noise("b.png")
    ),
    "an output that is a folder": usage(
        *look("a.png"), "--out", "b.png", item="b.png", make=lambda root: (root / "b.png").mkdir()
    ),
    "a folder that is a file": usage(*PREDICT, "--out", "file", item="file is", make=at("file", "x")),
    "an output in the data": usage(*TRAIN, "--out", "data/run", item="data/run"),
    "an output over an input": usage(*PREDICT, "--out", ".", "--overwrite", item="a.png"),
    "an output of 300 letters": usage(*TRAIN, "--out", "a" * 300, item="aaa"),
    "an output below a file": Bad(both(coco(), at("b", "x")), (*QUICK, "--out", "b/run"), 6, "b/run"),
    "a device that is not here": Bad(noise("a.png"), (*PREDICT, "--device", "cuda:99"), 6, "cuda:99", "cpu"),
    "a results file that is a folder": Bad(
        both(coco(), lambda root: (root / "r.json").mkdir()), SCORE, 2, "--predictions r.json"
    ),
    "a run that is a file": usage("train", "--resume", "run", item="--resume", make=at("run", "x")),
    "an image folder that is a file": usage(
        "data", "check", "--train-ann", "a.json", "--train-images", "p", item="--train-images", make=at("p", "x")
    ),
}
