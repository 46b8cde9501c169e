"""Augmentation: every policy runs at every level, and what fails is named."""

import os
import random
import signal
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image

from supervit import InputError
from supervit.augmentation import create_augmentation, operations
from supervit.cli import main
from supervit.data import DataConfig, EpochLoader, ImageDataset, open_dataset, seed_everything
from supervit.data._dataset import _transform
from supervit.recipes import load_recipe, recipe_names
from supervit.token_labels import JointAugment
from tests.conftest import small_config
from tests.data_sets import write_folder

POLICIES = ["rand-m9-mstd0.5-inc1", "rand-m15-mmax30-n2", "rand-m20-mmax20-inc1", "original-mstd0.5", "v0", "v0r-mstd3", "3a"]
POLICIES += ["augmix-m9-w3", "originalr"]


def picture(mode="RGB"):
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (8, 6, 3), dtype=np.uint8)).convert(mode)


def run_often(ops, mode, draws):
    """Each operation, as often as a run of so many images might draw it, each time at another level."""
    image = picture(mode)
    for op in ops:
        op.prob = 1.0
    for seed in range(draws):
        random.seed(seed)
        random.choice(ops)(image)


def test_the_policy_of_every_recipe_runs_on_20000_images():
    recipes = {load_recipe(name).data.auto_augment: load_recipe(name) for name in recipe_names()}
    assert "rand-m9-mstd0.5-inc1" in recipes
    for policy, recipe in recipes.items():
        ops = list(operations(_transform(recipe.model, recipe.data).transform))
        assert bool(ops) == (policy is not None)
        if ops:
            assert any(op.name == "PosterizeIncreasing" for op in ops)
            run_often(ops, "RGB", 20_000)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_runs_at_every_level(policy, channels):
    model = small_config(in_chans=channels)
    transform = _transform(model, DataConfig(auto_augment=policy)).transform
    run_often(list(operations(transform)), "L" if channels == 1 else "RGB", 2_000)


def test_a_posterize_operation_keeps_a_bit_and_draws_as_before():
    ours = {op.name: op for op in operations(_transform(small_config(), DataConfig()).transform)}["PosterizeIncreasing"]
    assert [ours.level_fn(level, {}) for level in (0.0, 5.0, 10.0, 30.0)] == [(4,), (2,), (1,), (1,)]


def test_the_augmentation_of_token_labels_keeps_a_bit_too():
    joint = JointAugment(small_config(), auto_augment="rand-m10-p1-inc1-n30")
    for seed in range(40):
        seed_everything(seed)
        assert joint(picture())[0].isfinite().all()


def test_pictures_are_those_of_timm_with_the_same_seed():
    from timm.data import create_transform

    options = {"input_size": (3, 28, 28), "is_training": True, "auto_augment": "rand-m5-mstd0.5-inc1", "re_prob": 0.5}
    for seed in range(20):
        seed_everything(seed)
        ours = create_augmentation(**options)(picture())
        seed_everything(seed)
        assert torch.equal(ours, create_transform(**options)(picture()))


# --- what fails -------------------------------------------------------------------------------------------------------


class Explosive:
    """A transform that fails on some images."""

    def __call__(self, image):
        raise ZeroDivisionError("bits must\nbe positive")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_transform_that_fails_is_named_with_the_image_in_one_line(tmp_path, workers):
    dataset = open_dataset(DataConfig(root=write_folder(tmp_path)), "train", small_config())
    dataset = ImageDataset(dataset.source, Explosive())
    with pytest.raises(InputError, match=r"^the transform Explosive fails on the image '(cat|dog)/\d\.png' \(") as error:
        list(EpochLoader(dataset, 4, workers, seed=0, max_damaged=1.0).epoch())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("token_labels", [False, True])
def test_an_operation_of_a_policy_that_fails_is_named(tmp_path, token_labels):
    data = DataConfig(root=write_folder(tmp_path), auto_augment="rand-m9-p1-n8-inc1")
    dataset = open_dataset(data, "train", small_config(), data)
    transform = JointAugment(small_config(), auto_augment=data.auto_augment) if token_labels else dataset.transform.transform
    for op in operations(transform):
        op.level_fn = lambda level, hparams: 1 / 0
    dataset = ImageDataset(dataset.source, transform)
    names = {op.name for op in operations(transform)}
    with pytest.raises(InputError, match="division by zero") as error:
        dataset.load(0, seed=0)
    assert any(f"the transform {name} fails on the image" in str(error.value) for name in names)


@dataclass(frozen=True)
class Deadly:
    """A source whose reader is killed, as the system does where memory runs out."""

    classes = ("a",)
    parent: int

    def __len__(self):
        return 8

    def read(self, record):
        if os.getpid() != self.parent:
            os.kill(os.getpid(), signal.SIGKILL)
        return picture(), 0

    def name_of(self, record):
        return str(record)


@pytest.mark.parametrize("seed", [None, 0])
def test_a_killed_worker_is_told_in_one_line(seed):
    loader = EpochLoader(ImageDataset(Deadly(os.getpid()), lambda image: torch.zeros(1)), 4, 1, seed)
    with pytest.raises(InputError, match="a process that loads images was killed .* use fewer workers") as error:
        list(loader.epoch())
    assert "\n" not in str(error.value)


def test_the_command_line_tells_of_a_killed_worker_wherever_pytorch_does(monkeypatch, capsys):
    def lose(_arguments, _output):
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")

    monkeypatch.setattr("supervit.cli._run", lose)
    with pytest.raises(SystemExit, match="2"):
        main(["macs", "deit_tiny"])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("supervit: error: a process that loads images was killed")
