"""The loop: it learns, writes what it promises, resumes, and stops when it must."""

import dataclasses
import json

import pytest
import torch

import supervit
from supervit import InputError, SuperViTConfig, TrainingError
from supervit.distributed import World
from supervit.recipes import load_recipe
from supervit.train import loop, run_training, step
from supervit.train.checkpoint import checkpoints, read_checkpoint
from supervit.train.optimizer import make_optimizer
from tests.data_sets import write_images


def tiny_run(out, **changes):
    """A run of the digits recipe on a network that takes seconds."""
    config = load_recipe("digits")
    model = config.model.replace(embed_dim=16, num_heads=2, depth=3, drop_blocks=(1,), grid_sizes=(3, 4))
    data = dataclasses.replace(config.data, batch_size=479)  # three steps an epoch
    small = {
        "epochs": 2,
        "warmup_epochs": 0,
        "throughput_batch_size": 2,
        "throughput_repeats": 1,
        "log_every": 2,
        "plot": False,
    }
    return dataclasses.replace(config, **{"model": model, "data": data, "out": out, **small, **changes})


def changed(config, changes):
    """The config with fields of its parts replaced, by dotted name."""
    for key, value in changes.items():
        owner, _, name = key.rpartition(".")
        if owner:
            config = dataclasses.replace(config, **{owner: dataclasses.replace(getattr(config, owner), **{name: value})})
        else:
            config = dataclasses.replace(config, **{name: value})
    return config


EVERYTHING = {"data.batch_size": 478, "data.mixup": 0.8, "data.workers": 2, "ema_decay": 0.9, "model.drop_path_rate": 0.3}


def weights(run):
    return supervit.load(run / "model").state_dict()


def log(run, event):
    entries = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [entry for entry in entries if entry["event"] == event]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "new"
    return out, run_training(tiny_run(out, plot=True))


def test_a_run_leaves_what_it_promises(finished):
    out, results = finished
    assert [str(result.complexity) for result in results] == ["3@0.5", "3@0.7", "3", "4@0.5", "4@0.7", "4"]
    assert all(result.top1 is not None and result.throughput_ips for result in results)
    expected = {"checkpoints", "log.jsonl", "model", "results.csv", "results.json", "results.md", "train_config.json"}
    assert {path.name for path in out.iterdir()} == expected | {
        f"{plot}.{kind}" for plot in ("tradeoff", "curves") for kind in ("png", "svg", "pdf")
    }
    assert [path.name for path in checkpoints(out)] == ["step-00000003", "step-00000006"]
    model = supervit.load(out / "model")
    assert model.config.class_names == tuple("0123456789")
    context = json.loads((out / "results.json").read_text())
    assert context["images"] == 360
    assert (context["fingerprint"], context["precision"]) == (model.fingerprint(), "float32")
    assert context["versions"]["torch"] == torch.__version__


def test_the_log_has_losses_per_path_rate_and_throughput(finished):
    out, _ = finished
    entries = log(out, "train")
    assert [(entry["epoch"], entry["step"]) for entry in entries] == [(1, 2), (1, 3), (2, 4), (2, 6)]
    assert all(entry["images_per_s"] > 0 and entry["lr"] > 0 for entry in entries)
    assert set(entries[0]["losses"]) <= {"3@0.5", "3@0.7", "3", "4@0.5", "4@0.7", "4"}
    assert set(log(out, "evaluate")[-1]["top1"]) == {"3@0.5", "3@0.7", "3", "4@0.5", "4@0.7", "4"}


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, {"paths": ("all",)}])
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


def test_damaged_images_are_counted_named_and_skipped(tmp_path, capsys):
    write_images(tmp_path / "data/train", 12, digits=1)
    write_images(tmp_path / "data/val", 4, digits=1)
    (tmp_path / "data/train/a/3.png").write_bytes(b"no image")
    (tmp_path / "data/val/b/1.png").write_bytes(b"")
    settings = {"data.name": "image_folder", "data.root": tmp_path / "data", "data.batch_size": 8, "data.max_damaged": 0.2}
    run = changed(tiny_run(tmp_path / "run", epochs=2), settings)
    run_training(run)
    entries = log(tmp_path / "run", "damaged")
    assert [(entry["image"], entry["count"]) for entry in entries] == [("a/3.png", 1), ("b/1.png", 2)]
    assert "skipped a damaged image, 1 so far: a/3.png" in capsys.readouterr().out
    assert json.loads((tmp_path / "run/results.json").read_text())["images"] == 7
    with pytest.raises(InputError, match=r"1 of 24 images cannot be read, more than max_damaged = 0.01 allows: 'a/3.png'"):
        run_training(changed(run, {"out": tmp_path / "strict", "data.max_damaged": 0.01}))


def test_micro_batches_are_the_same_step(tmp_path):
    for parts in (1, 3):
        run_training(tiny_run(tmp_path / f"{parts}", epochs=1, lr=1e-4, micro_batches=parts, clip_grad=0.5))
    for name, value in weights(tmp_path / "1").items():
        torch.testing.assert_close(value, weights(tmp_path / "3")[name], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("changes", [{"precision": "bfloat16"}, {"precision": "bfloat16", "grad_checkpointing": True}])
def test_a_run_in_lower_precision_keeps_float32_weights(tmp_path, changes):
    run_training(tiny_run(tmp_path, epochs=1, **changes))
    assert {value.dtype for value in weights(tmp_path).values()} == {torch.float32}
    assert all(torch.isfinite(torch.tensor(entry["loss"])) for entry in log(tmp_path, "train"))


def test_average_is_what_is_kept_and_differs(tmp_path):
    run_training(tiny_run(tmp_path, ema_decay=0.99))
    last = checkpoints(tmp_path)[-1]
    in_training = supervit.load(last).state_dict()
    assert not torch.equal(weights(tmp_path)["head.weight"], in_training["head.weight"])
    assert torch.equal(weights(tmp_path)["head.weight"], read_checkpoint(last)[1]["ema"]["head.weight"])


def test_another_run_is_never_written_over(finished):
    out, _ = finished
    before = (out / "log.jsonl").read_text()
    with pytest.raises(InputError, match="holds a run already; resume it"):
        run_training(tiny_run(out))
    with pytest.raises(InputError, match="was started with another lr, seed; resume needs the same"):
        run_training(tiny_run(out, resume=True, lr=5.0, seed=4, log_every=7, keep_checkpoints=5))
    assert (out / "log.jsonl").read_text() == before


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path, monkeypatch):
    original = step.path_losses

    def broken_in_the_second_epoch(logits, paths, *rest):
        losses = original(logits, paths, *rest)
        calls.append(1)
        return [loss * float("nan") for loss in losses] if len(calls) > 4 else losses

    calls: list[int] = []
    monkeypatch.setattr(step, "path_losses", broken_in_the_second_epoch)
    with pytest.raises(TrainingError, match=r"the loss of .*4.* not finite in step 4 .*; lower lr .*--init .*step-00000003"):
        run_training(tiny_run(tmp_path))
    (kept,) = checkpoints(tmp_path)
    assert all(value.isfinite().all() for value in supervit.load(kept).state_dict().values())


def test_a_first_epoch_that_is_not_finite_leaves_no_checkpoint(tmp_path):
    with pytest.raises(TrainingError, match="there is no checkpoint yet"):
        run_training(tiny_run(tmp_path, lr=1e30))
    assert checkpoints(tmp_path) == []


def test_weights_broken_by_the_last_update_are_not_saved(tmp_path, monkeypatch):
    """The loss is finite, the gradient is not: only the weights show it before the next step."""
    original = loop._Run._train_step

    def broken_in_the_last_step(self, *arguments):
        original(self, *arguments)
        if self.step == 6:
            with torch.no_grad():
                self.model.norm.weight[0] = float("inf")

    monkeypatch.setattr(loop._Run, "_train_step", broken_in_the_last_step)
    with pytest.raises(TrainingError, match=r"the weights are not finite after step 6.*--init .*step-00000003"):
        run_training(tiny_run(tmp_path, keep_checkpoints=1))
    assert [path.name for path in checkpoints(tmp_path)] == ["step-00000003"]


def unmoved(out, init, **changes):
    """A run that starts from weights and moves them by next to nothing."""
    config = tiny_run(out, epochs=1, lr=1e-12, warmup_lr=0.0, min_lr=0.0, init=str(init))
    return dataclasses.replace(config, **changes)


def test_a_run_starts_from_given_weights(finished, tmp_path):
    out, _ = finished
    run_training(unmoved(tmp_path / "run", out / "model"))
    for name, value in weights(out).items():
        torch.testing.assert_close(weights(tmp_path / "run")[name], value, atol=1e-6, rtol=0)


def test_given_weights_tell_the_architecture_and_the_config_the_rest(finished, tmp_path):
    out, _ = finished
    plain = {key: value for key, value in weights(out).items() if not key.startswith("pos_embeds.")}
    torch.save({**plain, "pos_embed": weights(out)["pos_embeds.4"]}, tmp_path / "timm.pth")
    wanted = SuperViTConfig(num_classes=0, num_heads=2, drop_blocks=(1,), in_chans=1, keep_rates=(0.6, 1.0), mean=(0.3,))
    results = run_training(unmoved(tmp_path / "run", tmp_path / "timm.pth", model=wanted))
    assert [str(result.complexity) for result in results] == ["2@0.6", "2", "3@0.6", "3", "4@0.6", "4"]
    trained = supervit.load(tmp_path / "run/model")
    assert (trained.config.embed_dim, trained.config.depth, trained.config.mean) == (16, 3, (0.3,))
    torch.testing.assert_close(trained.state_dict()["head.weight"], plain["head.weight"], atol=1e-6, rtol=0)


def test_other_classes_get_a_new_classifier(finished, tmp_path):
    out, _ = finished
    for classes, names in ((3, ()), (10, tuple("abcdefghij"))):
        other = supervit.load(out / "model")
        other.reset_classifier(classes)
        other.config = other.config.replace(class_names=names)
        other.save(tmp_path / f"{classes}")
        run_training(unmoved(tmp_path / f"run{classes}", tmp_path / f"{classes}"))
        trained = supervit.load(tmp_path / f"run{classes}/model")
        assert trained.config.class_names == tuple("0123456789")
        assert trained.head.bias.abs().max() < 1e-6  # fresh
        torch.testing.assert_close(trained.cls_token, other.cls_token, atol=1e-6, rtol=0)


def test_images_per_s_and_plot_can_be_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)  # no matplotlib
    with pytest.raises(InputError, match="the plot needs matplotlib; pip install"):
        run_training(tiny_run(tmp_path, plot=True))
    results = run_training(tiny_run(tmp_path, epochs=1, throughput_repeats=0))
    assert all(result.throughput_ips is None for result in results)
    assert not (tmp_path / "tradeoff.png").exists()


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
    assert [path.name for path in checkpoints(tmp_path)] == ["step-00000009"]


def test_gradient_is_clipped_once_over_the_whole_model(tmp_path, monkeypatch):
    norms = []
    original = torch.nn.utils.clip_grads_with_norm_

    def spy(parameters, limit, total):
        parameters = list(parameters)
        original(parameters, limit, total)
        norms.append(torch.cat([p.grad.flatten() for p in parameters if p.grad is not None]).norm().item())

    monkeypatch.setattr("supervit.train.loop.nn.utils.clip_grads_with_norm_", spy)
    run_training(tiny_run(tmp_path, epochs=1, clip_grad=0.01))
    assert len(norms) == 3
    assert max(norms) <= 0.0101
    assert all(entry["grad_norm"] > 0.01 for entry in log(tmp_path, "train"))  # the log says what it was before


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
    config = load_recipe("digits")
    model = supervit.SuperViT(config.model.replace(num_classes=10))
    for decay_positions in (True, False):
        groups = make_optimizer(model, dataclasses.replace(config, decay_positions=decay_positions), World()).param_groups
        decayed = {id(p) for group in groups if group["weight_decay"] for p in group["params"]}
        names = {name for name, p in model.named_parameters() if id(p) in decayed}
        assert ("pos_embeds.7" in names) == decay_positions
        assert not names & {"cls_token", "norm.weight", "head.bias"}
        assert {"head.weight", "blocks.0.attn.qkv.weight"} <= names
