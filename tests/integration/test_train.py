"""The loop: it learns, writes what it promises, resumes, and stops when it must."""

import dataclasses
import json

import pytest
import torch

import supervit
from supervit import InputError, TrainingError
from supervit.recipes import load_recipe
from supervit.train import run_training
from supervit.train.checkpoint import checkpoints, read_state


def tiny_run(out, **changes):
    """A run of the digits recipe on a network that takes seconds."""
    config = load_recipe("digits")
    model = config.model.replace(embed_dim=16, num_heads=2, depth=3, drop_blocks=(1,), grid_sizes=(3, 4))
    data = dataclasses.replace(config.data, batch_size=479)  # three steps an epoch
    small = {"epochs": 2, "warmup_epochs": 0, "throughput_batch_size": 2, "throughput_repeats": 1, "log_every": 2}
    return dataclasses.replace(config, **{"model": model, "data": data, "out": out, **small, **changes})


def weights(run):
    return supervit.load(run / "model").state_dict()


def log(run, event):
    entries = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [entry for entry in entries if entry["event"] == event]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "new"
    return out, run_training(tiny_run(out))


def test_a_run_leaves_what_it_promises(finished):
    out, results = finished
    assert [str(result.complexity) for result in results] == ["3@0.5", "3@0.7", "3", "4@0.5", "4@0.7", "4"]
    assert all(result.top1 is not None and result.throughput_ips for result in results)
    expected = {"checkpoints", "log.jsonl", "model", "results.csv", "results.json", "results.md", "train_config.json"}
    assert {path.name for path in out.iterdir()} == expected | {"tradeoff.png", "tradeoff.svg"}
    assert [path.name for path in checkpoints(out)] == ["epoch-0001", "epoch-0002"]
    model = supervit.load(out / "model")
    assert model.config.class_names == tuple("0123456789")
    context = json.loads((out / "results.json").read_text())
    assert context["images"] == 360
    assert context["versions"]["torch"] == torch.__version__


def test_the_log_has_losses_per_path_rate_and_throughput(finished):
    out, _ = finished
    entries = log(out, "train")
    assert [(entry["epoch"], entry["step"]) for entry in entries] == [(1, 2), (1, 3), (2, 4), (2, 6)]
    assert all(entry["images_per_s"] > 0 and entry["lr"] > 0 for entry in entries)
    assert set(entries[0]["losses"]) <= {"3@0.5", "3@0.7", "3", "4@0.5", "4@0.7", "4"}
    assert set(log(out, "evaluate")[-1]["top1"]) == {"3@0.5", "3@0.7", "3", "4@0.5", "4@0.7", "4"}


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"all_paths": True}])
def test_a_run_learns(tmp_path, changes):
    config = tiny_run(tmp_path, epochs=10, lr=3e-3, **changes)
    run_training(dataclasses.replace(config, data=dataclasses.replace(config.data, batch_size=64)))
    losses = [entry["losses"]["4"] for entry in log(tmp_path, "train")]
    assert losses[-1] < 0.85 * losses[0]


def test_a_run_is_a_function_of_its_seed(finished, tmp_path):
    out, _ = finished
    run_training(tiny_run(tmp_path / "same"))
    run_training(tiny_run(tmp_path / "other", seed=1))
    for name, value in weights(out).items():
        assert torch.equal(value, weights(tmp_path / "same")[name]), name
    assert not torch.equal(weights(out)["head.weight"], weights(tmp_path / "other")["head.weight"])


@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(tmp_path, monkeypatch, ema_decay):
    whole = tiny_run(tmp_path / "whole", epochs=3, ema_decay=ema_decay)
    run_training(whole)

    class Killed(Exception):
        pass

    from supervit.train import loop

    original = loop._Run._train_epoch

    def killed_in_the_second_epoch(self, bar):
        original(self, bar)
        if self.epoch == 1:
            raise Killed

    broken = dataclasses.replace(whole, out=tmp_path / "broken")
    monkeypatch.setattr(loop._Run, "_train_epoch", killed_in_the_second_epoch)
    with pytest.raises(Killed):
        run_training(broken)
    monkeypatch.setattr(loop._Run, "_train_epoch", original)
    run_training(dataclasses.replace(broken, resume=True))
    for name, value in weights(tmp_path / "whole").items():
        assert torch.equal(value, weights(tmp_path / "broken")[name]), name


def test_average_is_what_is_kept_and_differs(tmp_path):
    run_training(tiny_run(tmp_path, ema_decay=0.99))
    last = checkpoints(tmp_path)[-1]
    in_training = supervit.load(last).state_dict()
    assert not torch.equal(weights(tmp_path)["head.weight"], in_training["head.weight"])
    assert torch.equal(weights(tmp_path)["head.weight"], read_state(last)["ema"]["head.weight"])


def test_another_run_is_never_written_over(finished):
    out, _ = finished
    before = (out / "log.jsonl").read_text()
    with pytest.raises(InputError, match="holds a run already; resume it"):
        run_training(tiny_run(out))
    with pytest.raises(InputError, match="was started with another lr, seed; resume needs the same"):
        run_training(tiny_run(out, resume=True, lr=5.0, seed=4, log_every=7, keep_checkpoints=5))
    assert (out / "log.jsonl").read_text() == before


def test_a_damaged_state_is_named(finished, tmp_path):
    out, _ = finished
    path = checkpoints(out)[-1] / "training_state.pt"
    (tmp_path / "training_state.pt").write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match="cannot be read"):
        read_state(tmp_path)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path, monkeypatch):
    from supervit.train import loop

    original = loop.path_losses

    def broken_in_the_second_epoch(logits, paths, *rest):
        losses = original(logits, paths, *rest)
        calls.append(1)
        return [loss * float("nan") for loss in losses] if len(calls) > 4 else losses

    calls: list[int] = []
    monkeypatch.setattr(loop, "path_losses", broken_in_the_second_epoch)
    with pytest.raises(TrainingError, match=r"not finite in the steps up to 5 \(epoch 2, .*; lower lr .*--init .*epoch-0001"):
        run_training(tiny_run(tmp_path))
    (kept,) = checkpoints(tmp_path)
    assert all(value.isfinite().all() for value in supervit.load(kept).state_dict().values())


def test_a_first_epoch_that_is_not_finite_leaves_no_checkpoint(tmp_path):
    with pytest.raises(TrainingError, match="there is no checkpoint yet"):
        run_training(tiny_run(tmp_path, lr=1e30))
    assert checkpoints(tmp_path) == []


def test_weights_broken_by_the_last_update_are_not_saved(tmp_path, monkeypatch):
    """The loss is finite, the gradient is not: only the weights show it before the next step."""
    from supervit.train import loop

    original = loop._Run._update

    def broken_in_the_last_step(self, images, labels, paths, step):
        losses = original(self, images, labels, paths, step)
        if step == 5:
            with torch.no_grad():
                self.model.norm.weight[0] = float("inf")
        return losses

    monkeypatch.setattr(loop._Run, "_update", broken_in_the_last_step)
    with pytest.raises(
        TrainingError, match=r"the weights are not finite in the steps up to 5 \(epoch 2, .*--init .*epoch-0001"
    ):
        run_training(tiny_run(tmp_path, keep_checkpoints=1))
    assert [path.name for path in checkpoints(tmp_path)] == ["epoch-0001"]


def test_a_run_starts_from_given_weights(finished, tmp_path):
    out, _ = finished
    config = tiny_run(tmp_path / "run", epochs=1, lr=1e-12, warmup_lr=0.0, min_lr=0.0, init=str(out / "model"))
    run_training(config)
    for name, value in weights(out).items():
        torch.testing.assert_close(weights(tmp_path / "run")[name], value, atol=1e-6, rtol=0)
    other = supervit.load(out / "model")
    other.reset_classifier(3)
    other.save(tmp_path / "other")
    run_training(dataclasses.replace(config, out=tmp_path / "new_head", init=str(tmp_path / "other")))
    assert supervit.load(tmp_path / "new_head/model").num_classes == 10


def test_images_per_s_can_be_left_out(tmp_path):
    results = run_training(tiny_run(tmp_path, epochs=1, throughput_repeats=0))
    assert all(result.throughput_ips is None for result in results)


def test_a_finished_run_can_be_reported_again(finished):
    out, results = finished
    again = run_training(tiny_run(out, resume=True, throughput_repeats=0))
    assert [result.top1 for result in again] == [result.top1 for result in results]


def test_an_output_that_cannot_be_written_is_refused_before_anything_runs(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write to"):
        run_training(tiny_run(tmp_path / "file" / "run"))


def test_old_checkpoints_are_removed(tmp_path):
    run_training(tiny_run(tmp_path, epochs=3, keep_checkpoints=1))
    assert [path.name for path in checkpoints(tmp_path)] == ["epoch-0003"]


def test_gradient_is_clipped_once_over_the_whole_model(tmp_path, monkeypatch):
    norms = []
    original = torch.nn.utils.clip_grad_norm_

    def spy(parameters, limit):
        parameters = list(parameters)
        total = original(parameters, limit)
        norms.append(torch.cat([p.grad.flatten() for p in parameters if p.grad is not None]).norm().item())
        return total

    monkeypatch.setattr("supervit.train.loop.nn.utils.clip_grad_norm_", spy)
    run_training(tiny_run(tmp_path, epochs=1, clip_grad=0.01))
    assert len(norms) == 3
    assert max(norms) <= 0.0101


@pytest.mark.parametrize(
    "values, message",
    [
        ({"epochs": 0}, "epochs 0 must be more than 0"),
        ({"lr": float("nan")}, "lr nan"),
        ({"label_smoothing": 2}, "label_smoothing 2"),
        ({"ema_decay": 1.0}, "ema_decay 1.0"),
        ({"clip_grad": 0}, "clip_grad 0"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(values, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(load_recipe("digits"), **values)


def test_a_class_count_that_is_not_the_data_s_is_refused(tmp_path):
    config = tiny_run(tmp_path)
    with pytest.raises(InputError, match="num_classes 7, but the data have 10 classes; leave num_classes at 0"):
        run_training(dataclasses.replace(config, model=config.model.replace(num_classes=7)))


def test_weight_decay_spares_what_it_should():
    from supervit.train.loop import _make_optimizer

    config = load_recipe("digits")
    model = supervit.SuperViT(config.model.replace(num_classes=10))
    for decay_positions in (True, False):
        groups = _make_optimizer(model, dataclasses.replace(config, decay_positions=decay_positions)).param_groups
        decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
        names = {name for name, p in model.named_parameters() if id(p) in decayed}
        assert ("pos_embeds.7" in names) == decay_positions
        assert not names & {"cls_token", "norm.weight", "head.bias"}
        assert {"head.weight", "blocks.0.attn.qkv.weight"} <= names
