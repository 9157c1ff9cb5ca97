"""Deletion and insertion, against scores got by hiding cells one picture at a time."""

import itertools

import numpy as np
import pytest
import torch
from small import CONFIG, TINY, small_weights

from detrcli.config import ModelConfig, Preprocessing
from detrcli.data.batching import collate
from detrcli.inference.detector import Detector
from detrcli.inspection.faithfulness import SHARES, area, curves, hidden, mean_colour, random_maps, stages
from detrcli.inspection.maps import box_coverage, brightest, cell_at, mask_coverage
from detrcli.resize import Letterbox


def test_area() -> None:
    assert area(np.ones(len(SHARES))) == pytest.approx(1)
    assert area(SHARES) == pytest.approx(0.5)
    assert area(np.eye(len(SHARES))[0]) == pytest.approx(SHARES[1] / 2)


def test_the_cells_with_most_weight_go_first() -> None:
    map_ = torch.from_numpy(np.random.default_rng(0).permutation(60).reshape(6, 10))
    gone = stages(map_)
    assert gone.shape == (len(SHARES), 6, 10)
    assert gone.sum((1, 2)).tolist() == [0, 0, 2, 4, 7, 10, 15, 20, 27, 34, 42, 50, 60]
    assert not gone[0].any()
    assert gone[-1].all()
    for before, after in itertools.pairwise(gone):
        assert not (before & ~after).any()
    for after in gone[2:-1]:
        assert map_[after].min() > map_[~after].max()


@pytest.mark.parametrize("config", [CONFIG, TINY], ids=["detr", "detr-tiny"])
def test_curves_one_picture_at_a_time(config: ModelConfig) -> None:
    detector = Detector(small_weights(config), "cpu")
    model = detector.model
    pixels = torch.randn(3, 64, 96, generator=torch.Generator().manual_seed(0))
    h, w = (2, 3) if config is CONFIG else (8, 12)
    maps = random_maps((h, w), 2, seed=3)
    found = curves(detector, pixels, 4, maps)
    with torch.inference_mode():
        whole = model(collate([pixels])).last.logits[0, 4].softmax(-1)[:-1]
        label = whole.argmax()
        for map_, one in zip(maps, found, strict=True):
            ranked = np.argsort(-map_.ravel())
            for step in (0, 6, len(SHARES) - 1):  # none, a quarter, all
                first = ranked[: round(SHARES[step] * h * w)]
                for which, curve in ((first, one.deletion), (np.setdiff1d(ranked, first), one.insertion)):
                    left = pixels.clone()
                    for cell in which:
                        y, x = divmod(int(cell), w)
                        left[:, y * 64 // h : (y + 1) * 64 // h, x * 96 // w : (x + 1) * 96 // w] = 0
                    score = model(collate([left])).last.logits[0, 4].softmax(-1)[label]
                    assert curve[step] == pytest.approx(score.item(), abs=1e-5)
    assert found[0].deletion[0] == pytest.approx(whole[label].item(), abs=1e-6)
    assert found[0].deletion[0] == pytest.approx(found[0].insertion[-1], abs=1e-6)
    assert np.ptp(found[0].deletion) > 1e-4


def test_hidden_cells_are_grey_whatever_the_network_is_shown() -> None:
    """0 for a network that sees normalised pixels; the mean colour itself for one that sees them as they are."""
    torch.testing.assert_close(mean_colour(Preprocessing()), torch.zeros(3))
    plain = mean_colour(Preprocessing(mean=(0, 0, 0), std=(1, 1, 1)))
    torch.testing.assert_close(plain, torch.tensor([0.485, 0.456, 0.406]))
    gone = torch.tensor([[[True, False]]])
    left, right = hidden(torch.ones(3, 2, 4), gone, plain)[0].split(2, dim=-1)  # (3, 2, 2) each
    torch.testing.assert_close(left, plain[:, None, None].expand(3, 2, 2))
    torch.testing.assert_close(right, torch.ones(3, 2, 2))


def test_a_mask_of_a_picture_in_a_letterbox() -> None:
    """The picture lies in the two middle columns of four; the mask is its left half."""
    mask = np.zeros((6, 6), dtype=bool)
    mask[:, :3] = True
    covered = mask_coverage(mask, (1, 4), Letterbox(8, 16).place(6, 6))
    np.testing.assert_allclose(covered, [[0, 1, 0, 0]])


def test_coverage() -> None:
    """A mask cell by cell; a box as the mask that it is."""
    mask = np.zeros((6, 8), dtype=bool)
    mask[2:4, 1:6] = True
    np.testing.assert_allclose(mask_coverage(mask, (3, 4)), [[0, 0, 0, 0], [0.5, 1, 1, 0], [0, 0, 0, 0]])
    box = np.array([1 / 8, 2 / 6, 6 / 8, 4 / 6])
    np.testing.assert_allclose(box_coverage(box, (3, 4)), mask_coverage(mask, (3, 4)), atol=1e-9)
    np.testing.assert_allclose(box_coverage(np.array([-1, -1, 2, 2]), (3, 4)), np.ones((3, 4)))
    assert mask_coverage(mask, (1, 1)).item() == pytest.approx(10 / 48)


def test_places_and_cells() -> None:
    map_ = np.zeros((3, 4))
    map_[2, 1] = 1
    x, y = brightest(map_)
    assert (x, y) == (1.5 / 4, 2.5 / 3)
    assert cell_at(x, y, (3, 4)) == 9
    assert cell_at(0, 0, (3, 4)) == 0
    assert cell_at(0.9999, 0.9999, (3, 4)) == 11
    assert cell_at(1, 1, (3, 4)) == 11
