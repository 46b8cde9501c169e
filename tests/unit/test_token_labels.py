"""Token labels: where each target comes from, and that mixing and augmentation keep pictures and targets together."""

import pickle
import random

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform
from timm.data.auto_augment import NAME_TO_OP, AugmentOp, rand_augment_transform

import supervit.token_labels
from supervit import InputError
from supervit.data import seed_everything
from supervit.token_labels import (
    JointAugment,
    TokenLabels,
    label_map_path,
    read_label_map,
    token_label_loss,
    token_targets,
    write_label_map,
)
from tests.conftest import small_config

GRID = 4
CLASSES = GRID**2
WHOLE = (0.0, 0.0, 1.0, 1.0)


def numbered_cells(grid=GRID):
    return torch.arange(grid**2).view(grid, grid)


def one_class_per_cell(box=WHOLE, flipped=False, cells=None, score=50.0):
    """Labels of one image whose map says class row * GRID + column at each place, so surely that softmax gives 1."""
    classes = numbered_cells().view(1, 1, GRID, GRID)
    cells = numbered_cells() if cells is None else cells
    return TokenLabels(
        torch.full((1, 1, GRID, GRID), score), classes, torch.tensor([box]), torch.tensor([flipped]), cells.unsqueeze(0)
    )


def winners(labels):
    """The class of each patch, as rows of numbers."""
    _, dense = token_targets(labels, CLASSES)
    return dense.argmax(dim=-1).view(GRID, GRID).tolist()


# --- targets ------------------------------------------------------------------------------------------------------


def test_a_crop_of_the_whole_image_gives_each_patch_the_label_of_its_place():
    crop, dense = token_targets(one_class_per_cell(), CLASSES)
    assert torch.allclose(dense[0], torch.eye(CLASSES), atol=1e-6)
    assert torch.allclose(crop, torch.full((1, CLASSES), 1 / CLASSES))


def test_a_crop_of_a_corner_shows_that_corner_only_with_x_to_the_right_and_y_down():
    right_top = winners(one_class_per_cell(box=(0.5, 0.0, 1.0, 0.5)))
    # Half a place per patch: the outer patches read the places' outer halves, of which the nearest centre wins.
    assert right_top == [[2, 2, 3, 3], [2, 2, 3, 3], [6, 6, 7, 7], [6, 6, 7, 7]]


def test_a_patch_between_places_mixes_their_scores_by_distance():
    scores = torch.tensor([[[[3.0, 1.0]]]])
    labels = TokenLabels(
        scores, torch.zeros(1, 1, 1, 2, dtype=torch.long), torch.tensor([[0.25, 0.0, 0.75, 1.0]]), torch.tensor([False]),
        torch.zeros(1, 1, 1, dtype=torch.long),
    )  # fmt: skip
    crop, dense = token_targets(labels, 2)
    expected = torch.tensor([2.0, 0.0]).softmax(dim=0)
    assert torch.allclose(crop[0], expected)
    assert torch.allclose(dense[0, 0], expected)


def test_a_mirrored_crop_has_mirrored_targets():
    assert winners(one_class_per_cell(flipped=True)) == numbered_cells().flip(1).tolist()


def test_patches_follow_the_cells_that_they_show_and_fill_has_the_target_of_the_crop():
    moved = torch.full((GRID, GRID), -1)
    moved[:, :-1] = numbered_cells()[:, 1:]  # the picture moved left by one cell
    crop, dense = token_targets(one_class_per_cell(cells=moved), CLASSES)
    dense = dense.view(GRID, GRID, CLASSES)
    assert dense[:, :-1].argmax(dim=-1).tolist() == numbered_cells()[:, 1:].tolist()
    assert torch.equal(dense[:, -1], crop.expand(GRID, -1))
    mirrored_then_moved = torch.full((GRID, GRID), -1)
    mirrored_then_moved[:, :-1] = numbered_cells().flip(1)[:, 1:]
    _, dense = token_targets(one_class_per_cell(flipped=True, cells=moved), CLASSES)
    dense = dense.view(GRID, GRID, CLASSES)
    assert dense[:, :-1].argmax(dim=-1).tolist() == mirrored_then_moved[:, :-1].tolist()
    assert torch.equal(dense[:, -1], crop.expand(GRID, -1))


def random_labels(batch=3, top_k=5, side=6, grid=GRID):
    corners = torch.rand(batch, 2, 2).sort(dim=1).values.flatten(1)
    classes = torch.rand(batch, CLASSES, side, side).topk(top_k, dim=1).indices
    cells = torch.randint(-1, grid**2, (batch, grid, grid))
    return TokenLabels(torch.randn(batch, top_k, side, side) * 5, classes, corners, torch.arange(batch) % 2 == 0, cells)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_targets_are_probabilities(smoothing):
    for target in token_targets(random_labels(), CLASSES, label_smoothing=smoothing):
        assert torch.allclose(target.sum(dim=-1), torch.ones(target.shape[:-1]))
        assert target.min() >= smoothing / CLASSES


def test_smoothing_spreads_its_share_over_all_classes():
    labels = random_labels()
    for plain, smooth in zip(token_targets(labels, CLASSES), token_targets(labels, CLASSES, label_smoothing=0.1), strict=True):
        assert torch.allclose(smooth, 0.9 * plain + 0.1 / CLASSES)


def test_each_image_of_a_batch_has_the_targets_that_it_has_alone():
    labels = random_labels()
    crop, dense = token_targets(labels, CLASSES)
    for index in range(3):
        alone = token_targets(TokenLabels(*(field[index : index + 1] for field in labels)), CLASSES)
        assert torch.allclose(crop[index], alone[0][0])
        assert torch.allclose(dense[index], alone[1][0])


def test_maps_need_not_be_square():
    labels = one_class_per_cell(box=(0.0, 0.5, 1.0, 1.0))
    wide = labels._replace(scores=labels.scores[:, :, :2], classes=labels.classes[:, :, :2])
    _, dense = token_targets(wide, CLASSES)
    assert dense.argmax(dim=-1).view(GRID, GRID).tolist() == [[4, 5, 6, 7]] * GRID


def test_the_loss_is_the_weighted_sum_of_two_soft_cross_entropies():
    class_logits, dense_logits = torch.randn(2, CLASSES), torch.randn(2, 9, CLASSES)
    class_targets, dense_targets = torch.randn(2, CLASSES).softmax(-1), torch.randn(2, 9, CLASSES).softmax(-1)
    class_loss = -(class_targets * class_logits.log_softmax(-1)).sum(-1).mean()
    dense_loss = -(dense_targets * dense_logits.log_softmax(-1)).sum(-1).mean()
    loss = token_label_loss(class_logits, dense_logits, class_targets, dense_targets, dense_weight=0.5, class_weight=2.0)
    assert torch.allclose(loss, 2 * class_loss + 0.5 * dense_loss)


# --- files --------------------------------------------------------------------------------------------------------


def test_a_label_file_has_the_name_of_its_image_below_the_root(tmp_path):
    assert label_map_path(tmp_path, "n01440764/n01440764_10026.JPEG") == tmp_path / "n01440764/n01440764_10026.pt"
    assert label_map_path(tmp_path, "cat/sub/a.b.png") == tmp_path / "cat/sub/a.b.pt"


@pytest.mark.parametrize("num_classes", [1000, 21841])
def test_a_label_map_comes_back_as_it_was_written(tmp_path, num_classes):
    scores = torch.randn(5, 3, 4).half().float()
    classes = torch.rand(num_classes, 3, 4).topk(5, dim=0).indices
    path = tmp_path / "new" / "image.pt"
    write_label_map(path, scores, classes)
    read_scores, read_classes = read_label_map(path, num_classes)
    assert torch.equal(read_scores, scores)
    assert torch.equal(read_classes, classes)
    assert [file.name for file in path.parent.iterdir()] == ["image.pt"]


def test_the_published_form_is_written_and_read(tmp_path):
    scores, classes = torch.rand(5, 18, 18), torch.rand(1000, 18, 18).topk(5, dim=0).indices
    write_label_map(tmp_path / "ours.pt", scores, classes)
    published = torch.load(tmp_path / "ours.pt", weights_only=True)
    assert published.shape == (2, 5, 18, 18)
    assert published.dtype == torch.float16
    torch.save(published.permute(2, 3, 0, 1).contiguous().permute(2, 3, 0, 1), tmp_path / "theirs.pt")  # not contiguous
    assert torch.equal(read_label_map(tmp_path / "theirs.pt", 1000)[1], classes)


class Malicious:
    def __reduce__(self):
        return print, ("run by a pickle",)


BAD = {
    "missing": lambda path: None,
    "garbage": lambda path: path.write_bytes(b"not a pickle"),
    "empty": lambda path: path.write_bytes(b""),
    "malicious": lambda path: path.write_bytes(pickle.dumps(Malicious())),
    "a dict": lambda path: torch.save({"scores": torch.zeros(1)}, path),
    "whole numbers": lambda path: torch.save(torch.zeros(2, 5, 3, 3, dtype=torch.long), path),
    "three planes": lambda path: torch.save(torch.zeros(3, 5, 3, 3), path),
    "no places": lambda path: torch.save(torch.zeros(2, 5, 0, 3), path),
    "another class": lambda path: torch.save(torch.full((2, 5, 3, 3), 10.0), path),
    "a negative class": lambda path: torch.save(torch.full((2, 5, 3, 3), -1.0), path),
    "not a number": lambda path: torch.save(torch.full((2, 5, 3, 3), torch.nan), path),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_label_file_is_refused_by_name_and_not_run(tmp_path, kind, capsys):
    path = tmp_path / "image.pt"
    BAD[kind](path)
    with pytest.raises(InputError, match="image.pt"):
        read_label_map(path, 10)
    assert capsys.readouterr().out == ""


# --- augmentation -------------------------------------------------------------------------------------------------

MODEL = small_config("lvvit", patch_size=8)  # 56 pixels, 7 x 7 cells
POLICY = "rand-m9-mstd0.5-inc1"


def photo(mode="RGB", size=(90, 70)):
    noise = np.random.default_rng(0).integers(0, 255, (*size[::-1], 3), dtype=np.uint8)
    return Image.fromarray(noise).convert(mode)


@pytest.mark.parametrize("options", [{}, {"interpolation": "bilinear"}, {"hflip": 0.0}, {"auto_augment": None}])
def test_the_picture_is_what_timm_makes_with_the_same_seeds(options):
    options = {"interpolation": "random", "hflip": 0.5, "auto_augment": POLICY} | options
    joint = JointAugment(MODEL, **options)
    plain = create_transform(
        56,
        is_training=True,
        scale=(0.08, 1.0),
        ratio=(3 / 4, 4 / 3),
        color_jitter=None,
        re_prob=0.25,
        re_mode="pixel",
        **options,
    )
    for seed in range(30):
        seed_everything(seed)
        picture, *_ = joint(photo())
        after = random.random(), np.random.rand(), torch.rand(1)
        seed_everything(seed)
        assert torch.equal(picture, plain(photo()))
        assert after == (random.random(), np.random.rand(), torch.rand(1))


@pytest.mark.parametrize("policy", ["rand-m9-mstd0.5-inc1", "rand-m15-n4-tweights", "rand-m9-p1.0"])
def test_the_policy_is_timms_own_with_the_same_seeds(policy):
    joint = JointAugment(MODEL, auto_augment=policy)
    own = rand_augment_transform(policy, {"translate_const": 25, "img_mean": (124, 116, 104)})
    for seed in range(30):
        seed_everything(seed)
        picture, _ = joint.policies[0]((photo(), joint.cells))
        seed_everything(seed)
        assert np.array_equal(picture, own(photo()))


def test_the_box_is_the_crop_and_flips_are_told():
    image = photo()
    joint = JointAugment(MODEL, auto_augment=None, random_erasing=0.0, interpolation="bilinear")
    to_picture = create_transform(56, is_training=True, no_aug=True, interpolation="bilinear")
    seen = set()
    for seed in range(10):
        seed_everything(seed)
        picture, box, flipped, cells = joint(image)
        left, top, right, bottom = (box * torch.tensor([90, 70, 90, 70])).round().int().tolist()
        crop = to_picture(image.crop((left, top, right, bottom)).resize((56, 56), Image.Resampling.BILINEAR))
        assert torch.allclose(picture, crop.flip(2) if flipped else crop, atol=0.02)  # one grey level of rounding
        assert torch.equal(cells, numbered_cells(7))
        seen.add(flipped)
    assert seen == {True, False}


@pytest.mark.parametrize("op", sorted(supervit.token_labels._GEOMETRIC))
def test_cells_move_as_the_picture_does(op):
    """A picture painted with the numbers of its cells shows after each geometric operation the numbers that are told."""
    joint = JointAugment(MODEL)
    fill = round(255 * MODEL.mean[0])
    ours = supervit.token_labels._JointOp.of(AugmentOp(op, prob=1.0, hparams={"translate_const": 25, "img_mean": (fill,) * 3}))
    ours.on_picture.kwargs["resample"] = Image.Resampling.NEAREST
    numbers = np.asarray(joint.cells)
    painted = Image.fromarray(np.stack([numbers, numbers, numbers], axis=-1).astype(np.uint8))
    for seed in range(10):
        seed_everything(seed)
        picture, cells = ours((painted, joint.cells))
        shown, told = np.asarray(picture)[..., 0], np.asarray(cells)
        assert (told != numbers).any()
        assert np.array_equal(shown[told >= 0], told[told >= 0])
        assert (shown[told < 0] == fill).all()


def test_a_shift_by_one_cell_is_told_exactly():
    joint = JointAugment(MODEL, auto_augment="rand-m9-n1-p1.0")
    (ours,) = [own for own in joint.policies[0].ops if own.on_picture.name == "TranslateXRel"]
    for op in (ours.on_picture, ours.on_cells):
        op.magnitude, op.hparams = 10, {"translate_pct": 1 / 7}
    joint.policies[0].ops = [ours]
    joint.hflip = 0.0
    shifts = set()
    for seed in range(8):
        seed_everything(seed)
        _, _, _, cells = joint(photo())
        left, right = torch.full((7, 7), -1), torch.full((7, 7), -1)
        left[:, :-1], right[:, 1:] = numbered_cells(7)[:, 1:], numbered_cells(7)[:, :-1]
        assert torch.equal(cells, left) or torch.equal(cells, right)
        shifts.add(torch.equal(cells, left))
    assert shifts == {True, False}


def test_every_operation_of_timm_that_moves_pixels_is_known():
    still = {
        "AutoContrast", "Equalize", "Invert", "Posterize", "PosterizeIncreasing", "PosterizeOriginal", "Solarize",
        "SolarizeIncreasing", "SolarizeAdd", "Color", "ColorIncreasing", "Contrast", "ContrastIncreasing", "Brightness",
        "BrightnessIncreasing", "Sharpness", "SharpnessIncreasing", "Desaturate", "GaussianBlur", "GaussianBlurRand",
    }  # fmt: skip
    assert set(NAME_TO_OP) - supervit.token_labels._GEOMETRIC == still


def test_the_transform_takes_grey_images_and_goes_to_worker_processes():
    joint = pickle.loads(pickle.dumps(JointAugment(small_config("lvvit", in_chans=1))))
    picture, box, flipped, cells = joint(photo("L"))
    assert picture.shape == (1, 28, 28)
    assert box.shape == (4,)
    assert isinstance(flipped, bool)
    assert (cells.shape, cells.dtype) == ((7, 7), torch.int64)


def test_a_policy_of_unknown_geometry_is_refused():
    with pytest.raises(InputError, match="augmix-m3-w3"):
        JointAugment(MODEL, auto_augment="augmix-m3-w3")
