"""Which images come in which order, in which batch, on which process, with which random numbers."""

import multiprocessing
from dataclasses import dataclass

import pytest
import torch
from PIL import Image

from supervit import InputError
from supervit.data import (
    DamagedImage,
    DataConfig,
    EpochLoader,
    ImageDataset,
    SourceConfig,
    batches_of,
    draw_images,
    open_dataset,
    webdataset,
)
from supervit.data._sources import Limited
from supervit.distributed import World
from tests.conftest import small_config
from tests.data_sets import write_shards


@dataclass(frozen=True)
class Numbered:
    """Image i is one pixel of brightness i."""

    count: int
    damaged: frozenset[int] = frozenset()
    classes = ("even", "odd")

    def __len__(self):
        return self.count

    def read(self, record):
        if record in self.damaged:
            raise DamagedImage("torn")
        return Image.new("L", (1, 1), record), record % 2

    def name_of(self, record):
        return f"image {record}"


def number_and_draw(image):
    """The image's number and a random one, the augmentation."""
    return torch.stack([torch.tensor(float(image.getpixel((0, 0)))), torch.rand(())])


def loader(source, batch_size=4, workers=0, **options):
    return EpochLoader(ImageDataset(source, number_and_draw), batch_size, workers, **options)


def numbers(batches):
    return [int(number) for images, _ in batches for number in images[:, 0]]


def assert_equal_batches(some, others):
    some, others = list(some), list(others)
    assert len(some) == len(others)
    for (images, labels), (other_images, other_labels) in zip(some, others, strict=True):
        assert torch.equal(images, other_images)
        assert torch.equal(labels, other_labels)


@pytest.fixture
def shards(tmp_path):
    """Streams of numbered images, by the sizes of their shards."""

    def open_shards(*sizes):
        return webdataset.open_split(SourceConfig("webdataset", write_shards(tmp_path, "train", sizes)), "train")

    return open_shards


@pytest.mark.parametrize("workers", [0, 2])
def test_a_training_epoch_has_every_image_once_in_whole_batches(workers):
    train = loader(Numbered(13), workers=workers, seed=0)
    batches = list(train.epoch())
    assert [len(labels) for _, labels in batches] == [4] * len(train) == [4, 4, 4]
    assert len(set(numbers(batches))) == 12
    assert all(int(image[0]) % 2 == label for images, labels in batches for image, label in zip(images, labels, strict=True))
    assert sorted(numbers(loader(Numbered(12), workers=workers, seed=0).epoch())) == list(range(12))


def test_order_and_augmentation_are_a_function_of_seed_and_epoch():
    train = loader(Numbered(12), seed=0)
    assert_equal_batches(train.epoch(1), loader(Numbered(12), seed=0).epoch(1))
    orders = [numbers(train.epoch(0)), numbers(train.epoch(1)), numbers(loader(Numbered(12), seed=1).epoch(0))]
    assert len({tuple(order) for order in orders}) == 3
    draws = {float(draw) for epoch in (0, 1) for images, _ in train.epoch(epoch) for draw in images[:, 1]}
    assert len(draws) == 24


def test_batches_do_not_depend_on_the_number_of_workers():
    assert_equal_batches(loader(Numbered(13), seed=0).epoch(2), loader(Numbered(13), workers=2, seed=0).epoch(2))
    val, val_with_workers = loader(Numbered(13)), loader(Numbered(13), workers=2)
    assert numbers(val.epoch()) == numbers(val_with_workers.epoch()) == list(range(13))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("first_batch", [1, 2, 3])
def test_an_epoch_can_be_entered_at_any_batch(first_batch, workers):
    train = loader(Numbered(12), workers=workers, seed=0)
    assert_equal_batches(train.epoch(1, first_batch), list(train.epoch(1))[first_batch:])


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("first_batch", [1, 2, 3, 6])
def test_an_epoch_of_a_stream_can_be_entered_at_any_batch_with_as_many_workers(shards, first_batch, workers):
    train = loader(shards(3, 9, 6, 6), workers=workers, seed=0)
    batches = list(train.epoch(1))
    assert len(batches) == 6
    assert_equal_batches(train.epoch(1, first_batch), batches[first_batch:])


def test_two_processes_together_train_on_what_one_of_twice_the_batch_does():
    alone = list(loader(Numbered(26), batch_size=8, seed=0).epoch(1))
    pair = [loader(Numbered(26), batch_size=4, seed=0, world=World(rank, 2)).epoch(1) for rank in range(2)]
    for (images, labels), first, second in zip(alone, *pair, strict=True):
        # Images are dealt in turns, each with the random numbers that its place in the epoch has.
        assert torch.equal(images, torch.stack([first[0], second[0]], 1).flatten(0, 1))
        assert torch.equal(labels, torch.stack([first[1], second[1]], 1).flatten())


@pytest.mark.parametrize("workers", [0, 2])
def test_two_processes_share_a_stream(shards, workers):
    pair = [loader(shards(*[4] * 8), batch_size=4, workers=workers, seed=0, world=World(rank, 2)) for rank in range(2)]
    assert [len(part) for part in pair] == [4, 4]
    assert sorted(number for part in pair for number in numbers(part.epoch())) == list(range(32))


@pytest.mark.parametrize("images", [1, 2, 13])
@pytest.mark.parametrize("processes, workers", [(1, 0), (2, 0), (3, 2)])
def test_evaluation_sees_each_image_once_over_processes_and_workers(images, processes, workers):
    parts = [loader(Numbered(images), workers=workers, world=World(rank, processes)) for rank in range(processes)]
    batches = [list(part.epoch()) for part in parts]
    assert [len(part) for part in parts] == [len(part) for part in batches]
    assert sorted(number for part in batches for number in numbers(part)) == list(range(images))


@pytest.mark.parametrize("processes, workers", [(1, 0), (1, 2), (2, 0), (3, 2)])
def test_evaluation_of_a_stream_sees_each_image_once_also_with_fewer_shards_than_workers(shards, processes, workers):
    source = shards(5, 1, 7)
    parts = [loader(source, workers=workers, world=World(rank, processes)) for rank in range(processes)]
    assert sorted(number for part in parts for number in numbers(part.epoch())) == list(range(13))
    assert numbers(loader(source).epoch()) == list(range(13))


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_an_epoch_of_a_stream_has_every_image_once_where_workers_have_equal_shares(shards, workers):
    train = loader(shards(8, 8, 8, 8), workers=workers, seed=0)
    orders = [numbers(train.epoch(epoch)) for epoch in range(2)]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(32))
    assert orders[0] != orders[1]


def test_a_worker_that_reaches_the_end_of_its_shards_starts_over(shards):
    train = loader(shards(1, 31), workers=2, seed=0)
    batches = list(train.epoch())
    assert [len(labels) for _, labels in batches] == [4] * len(train) == [4] * 8


def test_training_on_fewer_shards_than_workers_is_refused(shards):
    with pytest.raises(InputError, match="part 2 of 2 .*1 processes x 2 workers needs one; set workers lower"):
        list(loader(shards(20), workers=2, seed=0).epoch())


def test_repeats_draw_an_image_in_a_row_augmented_anew():
    batches = list(loader(Numbered(12), seed=0, repeats=3).epoch())
    drawn = torch.cat([images for images, _ in batches]).view(4, 3, 2)
    assert (drawn[:, :, 0] == drawn[:, :1, 0]).all()
    assert len(drawn[:, 0, 0].unique()) == 4
    assert len(drawn[:, :, 1].unique()) == 12


def test_repeats_are_refused_for_streams(shards):
    with pytest.raises(InputError, match="set repeats to 1"):
        loader(shards(4), seed=0, repeats=2)


def test_few_images_are_one_batch_and_too_few_are_refused():
    assert len(numbers(loader(Numbered(3), batch_size=100, seed=0).epoch())) == 3
    pair = [loader(Numbered(5), batch_size=100, seed=0, world=World(rank, 2)) for rank in range(2)]
    assert [len(set(numbers(part.epoch()))) for part in pair] == [2, 2]
    with pytest.raises(InputError, match="1 training images cannot be shared by 2 processes"):
        loader(Numbered(1), seed=0, world=World(0, 2))


def test_a_limit_takes_the_same_images_in_every_run():
    some = [Limited.draw(Numbered(100), 10) for _ in range(2)]
    assert some[0].indices == some[1].indices
    assert len(set(some[0].indices)) == len(some[0]) == 10
    assert sorted(numbers(loader(some[0], batch_size=5, seed=0).epoch())) == sorted(some[0].indices)
    assert some[0].name_of(0) == f"image {some[0].indices[0]}"
    config = DataConfig("digits", limit=20)
    assert len(open_dataset(config, "train", small_config(in_chans=1), augmentation=config)) == 20


@pytest.mark.parametrize("limit", [0, 101])
def test_a_limit_that_cannot_be_is_refused(limit, shards):
    with pytest.raises(InputError, match="is not in 1...100"):
        Limited.draw(Numbered(100), limit)
    with pytest.raises(InputError, match="not available for a stream"):
        Limited.draw(shards(4), 2)


@pytest.mark.parametrize("workers", [0, 2])
def test_damaged_images_are_replaced_in_training_and_left_out_in_evaluation(workers):
    source = Numbered(12, frozenset({3, 7}))
    for seed in (None, 0):
        data = loader(source, workers=workers, seed=seed, max_damaged=0.2)
        seen = numbers(data.epoch())
        assert data.damaged == {"image 3": "torn", "image 7": "torn"}
        assert set(seen) == set(range(12)) - {3, 7}
        assert len(seen) == (12 if seed is not None else 10)


def test_a_replacement_has_random_numbers_of_its_own():
    batches = list(loader(Numbered(12, frozenset({3, 7})), seed=0, max_damaged=0.2).epoch())
    draws = torch.cat([images[:, 1] for images, _ in batches])
    assert len(draws.unique()) == 12


@pytest.mark.parametrize("workers", [0, 2])
def test_more_damage_than_allowed_stops_in_one_line_that_names_it(workers):
    data = loader(Numbered(12, frozenset(range(4, 8))), workers=workers, max_damaged=0.3)
    with pytest.raises(
        InputError, match=r"4 of 12 .* max_damaged = 0\.3 .*'image 4' \(torn\).*, \.\.\.; replace them"
    ) as error:
        list(data.epoch())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_training_batch_of_nothing_but_damage_stops(workers):
    data = loader(Numbered(8, frozenset(range(8))), workers=workers, seed=0, max_damaged=1.0)
    with pytest.raises(InputError, match=r"^every image of a batch is damaged, such as 'image \d' \(torn\); check the data$"):
        list(data.epoch())
    assert not multiprocessing.active_children(), "the workers have not ended"


def test_evaluation_goes_past_a_batch_of_nothing_but_damage():
    data = loader(Numbered(12, frozenset(range(4, 8))), max_damaged=0.5)
    assert numbers(data.epoch()) == [0, 1, 2, 3, 8, 9, 10, 11]


def test_images_are_drawn_at_random_and_the_same_for_the_same_seed():
    images, labels = draw_images(loader(Numbered(50)), 10, seed=1)
    drawn = [int(number) for number in images[:, 0]]
    assert len(set(drawn)) == 10
    assert drawn != sorted(drawn)
    assert [number % 2 for number in drawn] == labels.tolist()
    again, _ = draw_images(loader(Numbered(50), batch_size=3), 10, seed=1)
    assert [int(number) for number in again[:, 0]] == drawn
    other, _ = draw_images(loader(Numbered(50)), 10, seed=2)
    assert [int(number) for number in other[:, 0]] != drawn
    assert len(draw_images(loader(Numbered(5)), 10)[0]) == 5


def test_damaged_images_are_not_drawn_but_noted():
    some = loader(Numbered(8, frozenset({3, 4})), max_damaged=0.5)
    images, _ = draw_images(some, 8)
    assert sorted(int(number) for number in images[:, 0]) == [0, 1, 2, 5, 6, 7]
    assert some.damaged == {"image 3": "torn", "image 4": "torn"}
    with pytest.raises(InputError, match="more than max_damaged = 0.1 allows"):
        draw_images(loader(Numbered(8, frozenset({3, 4})), max_damaged=0.1), 8)
    with pytest.raises(InputError, match="0 images cannot be drawn"):
        draw_images(some, 0)
    with pytest.raises(InputError, match="none of 1 images can be drawn"):
        draw_images(loader(Numbered(1, frozenset({0})), max_damaged=1.0), 1)


def test_of_a_stream_the_first_images_are_drawn(shards):
    images, labels = draw_images(loader(shards(4, 4)), 6)
    assert len(images) == len(labels) == 6


@pytest.mark.parametrize("workers", [0, 2])
def test_some_images_are_the_same_ones_of_a_list_and_of_a_stream(shards, workers):
    wanted = torch.tensor([1, 2, 5, 11])
    some = loader(Numbered(13), workers=workers)
    assert numbers(batches_of(some, wanted)) == wanted.tolist()
    whole = loader(shards(5, 1, 7), batch_size=3, workers=workers)
    order = numbers(whole.epoch())
    assert numbers(batches_of(whole, wanted)) == [order[place] for place in wanted]


def test_damaged_images_among_some_count_for_the_whole():
    some = loader(Numbered(20, frozenset({1, 2, 5})), max_damaged=0.1)
    assert numbers(batches_of(some, torch.arange(1, 5))) == [3, 4]
    assert list(some.damaged) == ["image 1", "image 2"]
    with pytest.raises(InputError, match="3 of 20 images cannot be read"):
        list(batches_of(some, torch.arange(5, 9)))
