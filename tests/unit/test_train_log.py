"""What a run writes down, and when the learning rate changes."""

import json
import sys
from types import SimpleNamespace

import pytest
import torch

from supervit import Complexity, InputError
from supervit.distributed import World
from supervit.recipes import load_recipe
from supervit.train.log import RunLog, Window
from supervit.train.optimizer import make_optimizer, make_scheduler
from tests.integration.test_train import changed

SEVEN, CUT = Complexity(7), Complexity(7, 0.5)


def a_window():
    window = Window()
    window.add(0, 0.1, 8, (SEVEN, CUT), torch.tensor([1.0, 0.5]), torch.tensor(2.0))
    window.add(1, 0.2, 8, (SEVEN,), torch.tensor([float("inf")]), torch.tensor(3.0))
    window.add(2, 0.3, 8, (SEVEN,), torch.tensor([3.0]), torch.tensor(float("nan")))
    return window


def test_a_window_has_means_over_its_good_steps():
    with (window := a_window()).waiting():
        pass
    means = window.read(World())
    entry = means.entry()
    assert entry["losses"] == {"7@0.5": 0.5, "7": 1.0}
    assert (entry["loss"], entry["grad_norm"], entry["skipped_steps"]) == (1.5, 2.0, 2)
    assert 0 <= entry["data_wait"] < 1
    assert means.is_good == [True, False, False]
    assert means.bad_step() == "the loss of 7 is not finite in step 1 (learning rate 0.2)"
    json.dumps(entry, allow_nan=False)


def test_a_bad_gradient_is_told_from_a_bad_loss():
    window = Window()
    window.add(4, 1e-3, 8, (SEVEN,), torch.tensor([3.0]), torch.tensor(float("inf")))
    means = window.read(World())
    assert means.bad_step() == "the gradient is not finite in step 4 (learning rate 0.001)"
    assert means.entry()["loss"] is None


def test_a_log_is_cut_back_to_the_step_that_a_run_goes_on_from(tmp_path):
    log = RunLog(tmp_path)
    for step in range(0, 60, 10):
        log.write("train", step, text='"step": 99')
    kept = log.path.read_text().splitlines()[:4]
    log.path.write_text("\n".join([*kept, '{"step": "x"}', "damaged", "[1]", '{"step": 31}', '{"step": 3']))
    RunLog(tmp_path, 30).write("start", 30)
    lines = log.path.read_text().splitlines()
    assert lines[:-1] == [*kept, '{"step": "x"}', "damaged", "[1]"]
    assert (json.loads(lines[-1])["event"], json.loads(lines[-1])["step"]) == ("start", 30)


def test_numbers_go_to_tensorboard(tmp_path, monkeypatch):
    written = []

    class SummaryWriter:
        def __init__(self, directory, purge_step):
            written.append((directory, purge_step))

        def add_scalar(self, *scalar):
            written.append(scalar)

        def flush(self):
            written.append("flush")

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=SummaryWriter))
    RunLog(tmp_path, 4, tensorboard=True).write("train", 7, loss=1.5, losses={"7@0.5": 0.5, "7": None}, text="no number")
    assert written == [(str(tmp_path / "tensorboard"), 5), ("train/loss", 1.5, 7), ("train/losses/7@0.5", 0.5, 7), "flush"]
    assert json.loads((tmp_path / "log.jsonl").read_text())["losses"] == {"7@0.5": 0.5, "7": None}


def test_numbers_go_to_weights_and_biases(tmp_path, monkeypatch):
    written = []
    run = SimpleNamespace(log=lambda numbers, step: written.append((numbers, step)))
    wandb = SimpleNamespace(init=lambda **options: written.append(options) or run)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    (tmp_path / "mine").mkdir()
    RunLog(tmp_path / "mine", wandb="project").write("evaluate", 3, top1={"7": 90.0})
    assert written[0] == {"project": "project", "dir": tmp_path / "mine", "id": "mine", "name": "mine", "resume": "allow"}
    assert written[1] == ({"evaluate/top1/7": 90.0}, 3)


@pytest.mark.parametrize("option, module", [({"tensorboard": True}, "torch.utils.tensorboard"), ({"wandb": "p"}, "wandb")])
def test_a_log_that_is_not_installed_is_refused(tmp_path, monkeypatch, option, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match="pip install"):
        RunLog(tmp_path, **option)


def rates(config, steps_per_epoch):
    """The learning rate of each step, as the loop asks for it."""
    model = torch.nn.Linear(2, 2)
    model.no_weight_decay = set
    optimizer = make_optimizer(model, config, World())
    scheduler = make_scheduler(optimizer, config, steps_per_epoch)
    found = []
    for step in range(config.all_epochs * steps_per_epoch):
        if step % steps_per_epoch == 0:
            scheduler.step(step // steps_per_epoch)
        scheduler.step_update(step)
        found.append(optimizer.param_groups[0]["lr"])
    return found


def test_the_rate_of_the_papers_recipe_changes_once_an_epoch():
    config = changed(load_recipe("deit_small"), {"epochs": 10, "data.batch_size": 512})
    found = rates(config, 4)
    assert all(len(set(found[epoch * 4 : epoch * 4 + 4])) == 1 for epoch in range(10))
    assert found[0] == pytest.approx(1e-6)
    assert found[20] == pytest.approx((5e-4 - 1e-5) * 0.5 + 1e-5)  # half way: the cosine counts the warm-up epochs too
    assert config.min_lr < found[-1] < found[20] < max(found) < 5e-4


def test_the_rate_of_a_step_changes_each_step_and_stays_low_in_the_cooldown():
    config = changed(load_recipe("digits"), {"epochs": 3, "cooldown_epochs": 2, "warmup_epochs": 1.0})
    found = rates(config, 10)
    assert len(set(found[:30])) == 30
    assert found[30:] == [config.min_lr] * 20
    assert config.all_epochs == 5


def test_the_papers_recipes_have_the_papers_numbers():
    """Reference: section 3 of the released implementation's facts (docs/parity.md)."""
    deit, lvvit = load_recipe("deit_small"), load_recipe("lvvit_small")
    assert (deit.epochs, deit.lr, deit.lr_batch_size, deit.min_lr, deit.warmup_epochs) == (300, 5e-4, 512, 1e-5, 5)
    assert (deit.data.mixup, deit.data.cutmix, deit.data.repeats, deit.data.random_erasing) == (0.8, 1.0, 3, 0.25)
    assert (deit.ema_decay, deit.evaluate_ema, deit.model.drop_path_rate, deit.label_smoothing) == (0.99996, False, 0.1, 0.1)
    assert (lvvit.all_epochs, lvvit.lr, lvvit.lr_batch_size, lvvit.ema_decay) == (310, 1.6e-3, None, 0.99992)
    assert (lvvit.data.mix_token, lvvit.data.mixes, lvvit.data.repeats) == (1.0, False, 1)
    assert (lvvit.data.train_interpolation, lvvit.model.crop_pct) == ("random", 0.9)
    for name, field in (("cross_entropy", "teacher"), ("all_paths", "paths"), ("larger_grid", "teacher")):
        one = load_recipe(name).trajectory()
        assert [key for key, value in deit.trajectory().items() if one[key] != value] == [field]
    for name, field in (("sizes_only", "keep_rates"), ("rates_only", "grid_sizes"), ("antialias", "resize")):
        one = load_recipe(name).model.to_dict()
        assert [key for key, value in deit.model.to_dict().items() if one[key] != value] == [field]


def test_a_log_that_leads_nowhere_is_refused_in_one_line(tmp_path):
    (tmp_path / "log.jsonl").symlink_to(tmp_path / "log.jsonl")
    with pytest.raises(InputError, match=r"cannot write '.*log\.jsonl' \(.*symbolic links.*\); make room, or move it away"):
        RunLog(tmp_path).write("start", 0)
