"""Whatever has happened to the files of a run: it goes on from the newest checkpoint that is whole, or says why it cannot."""

import contextlib
import dataclasses
import json
import os
import random
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from supervit import InputError
from supervit.distributed import World
from supervit.train import loop, run_training
from supervit.train.checkpoint import DIGESTS_FILE, STATE_FILE, checkpoints, seal
from supervit.train.lock import locked
from supervit.train.state import check_state
from tests.integration.test_resume import assert_equal_weights
from tests.integration.test_train import tiny_run

SCALER = {"scale": 65536.0, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 2000, "_growth_tracker": 0}
FILES = ["model.safetensors", "config.json", STATE_FILE, DIGESTS_FILE]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run with an average, and its checkpoints after 2, 4 and 6 of 6 steps."""
    out = tmp_path_factory.mktemp("damaged") / "whole"
    config = tiny_run(out, epochs=3, ema_decay=0.9, keep_checkpoints=3, throughput_repeats=0)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, batch_size=700))
    run_training(config)
    assert [path.name for path in checkpoints(out)] == ["step-00000002", "step-00000004", "step-00000006"]
    return config


@pytest.fixture
def broken(whole, tmp_path):
    """A copy of the run, to be damaged."""
    shutil.copytree(whole.out, tmp_path / "broken")
    return dataclasses.replace(whole, out=tmp_path / "broken", resume=True)


def opened(config):
    """The run as it stands after it has resumed."""
    with loop.StopRequest() as stop, locked(config.out, World()):
        return loop._Run(config, World(), torch.device("cpu"), stop)


def assert_stands_at(run, whole, step):
    """The run has the step and all the state of the checkpoint of that step."""
    assert run.step == step
    checkpoint = whole.out / f"checkpoints/step-{step:08d}"
    for name, value in load_file(checkpoint / "model.safetensors").items():
        assert torch.equal(run.model.state_dict()[name], value)
    state = torch.load(checkpoint / STATE_FILE, weights_only=True)
    for name, value in state["ema"].items():
        assert torch.equal(run.ema.module.state_dict()[name], value)
    for index, moments in state["optimizer"].items():
        for name, value in moments.items():
            assert torch.equal(run.optimizer.state_dict()["state"][index][name], value)


def mutated(content, draw):
    """A file with one thing that happens to files."""
    at = draw.randrange(len(content))
    kind = draw.choice(["bit", "byte", "cut", "empty", "longer", "noise", "hole", "twice"])
    noise = draw.randbytes(draw.randrange(1, 2000))
    return {
        "bit": content[:at] + bytes([content[at] ^ 1 << draw.randrange(8)]) + content[at + 1 :],
        "byte": content[:at] + noise[:1] + content[at + 1 :],
        "cut": content[:at],
        "empty": b"",
        "longer": content + noise,
        "noise": noise,
        "hole": content[:at] + bytes(len(noise)) + content[at + len(noise) :],
        "twice": content + content,
    }[kind]


@pytest.mark.parametrize("seed", range(40))
def test_a_file_with_anything_in_it_makes_no_difference(whole, broken, seed):
    draw = random.Random(seed)
    newest = checkpoints(broken.out)[-1]
    path = newest / draw.choice(FILES)
    content = path.read_bytes()
    path.write_bytes(mutated(content, draw))
    is_same = path.read_bytes() == content
    assert_stands_at(opened(broken), whole, 6 if is_same else 4)
    assert (newest.parent / f"damaged-{newest.name}").exists() != is_same


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_or_a_folder_in_its_place_makes_no_difference(whole, broken, name):
    *_, before, newest = checkpoints(broken.out)
    (newest / name).unlink()
    (before / name).unlink()
    (before / name).mkdir()
    assert_stands_at(opened(broken), whole, 2)


@pytest.mark.parametrize("name", FILES)
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(whole, broken, name):
    newest = checkpoints(broken.out)[-1]
    (newest / name).unlink()
    os.mkfifo(newest / name)
    assert_stands_at(opened(broken), whole, 4)


@pytest.mark.parametrize("content", [None, "", "{", "[]", "null", '{"config": 3}', "\x00\xff", "[" * 100_000])
def test_the_settings_that_a_run_has_written_down_may_be_damaged(whole, broken, content):
    path = broken.out / "train_config.json"
    path.unlink()
    if content is not None:
        path.write_text(content)
    assert_stands_at(opened(broken), whole, 6)
    assert json.loads(path.read_text())["config"]["epochs"] == 3
    with pytest.raises(InputError, match=r"was started with another lr; resume needs the same \(lr: 0.003, now 0.5\)"):
        opened(dataclasses.replace(broken, lr=0.5))


def first(tensors):
    return next(iter(tensors))


def changed_tensor(tensors, change):
    name = first(tensors)
    tensors[name] = change(tensors[name])


def endless(versions):
    versions["torch"] = []
    versions["torch"].append(versions["torch"])


def with_nan(tensor):
    return torch.full_like(tensor, float("nan"))


STATES = {
    "no object": lambda state: [state],
    "a key less": lambda state: state.pop("scaler"),
    "a key more": lambda state: state.update(more=1),
    "another step": lambda state: state.update(step=4),
    "a step as text": lambda state: state.update(step="6"),
    "a step that is true": lambda state: state.update(step=True),
    "no step": lambda state: state.update(step=None),
    "no trajectory": lambda state: state.update(trajectory=None),
    "no versions": lambda state: state.update(versions=None),
    "tensors in the trajectory": lambda state: state["trajectory"].update(lr=torch.zeros(3)),
    "tensors in the versions": lambda state: state["versions"].update(torch=[torch.zeros(3)]),
    "a trajectory in itself": lambda state: state["trajectory"].update(lr=state["trajectory"]),
    "a list in itself": lambda state: endless(state["versions"]),
    "moments that are nested": lambda state: state["optimizer"][0].update(
        exp_avg=torch.nested.nested_tensor([torch.zeros(3), torch.zeros(3)])
    ),
    "no optimizer": lambda state: state.update(optimizer=None),
    "a list for an optimizer": lambda state: state.update(optimizer=[1, 2]),
    "parameter 1000": lambda state: state["optimizer"].update({1000: state["optimizer"][0]}),
    "parameter -1": lambda state: state["optimizer"].update({-1: state["optimizer"][0]}),
    "parameter x": lambda state: state["optimizer"].update(x=state["optimizer"][0]),
    "moments missing": lambda state: state["optimizer"][0].pop("exp_avg"),
    "moments of another shape": lambda state: state["optimizer"][0].update(exp_avg=torch.zeros(3)),
    "moments of another type": lambda state: state["optimizer"][0].update(
        exp_avg_sq=state["optimizer"][0]["exp_avg_sq"].half()
    ),
    "moments that are NaN": lambda state: state["optimizer"][0].update(exp_avg=with_nan(state["optimizer"][0]["exp_avg"])),
    "moments that are sparse": lambda state: state["optimizer"][0].update(exp_avg=state["optimizer"][0]["exp_avg"].to_sparse()),
    "moments that are none": lambda state: state["optimizer"][0].update(exp_avg=torch.zeros(3, device="meta")),
    "a step of the optimizer that is a number": lambda state: state["optimizer"][0].update(step=3),
    "no average": lambda state: state.update(ema=None),
    "an average with a name less": lambda state: state["ema"].pop(first(state["ema"])),
    "an average that is NaN": lambda state: changed_tensor(state["ema"], with_nan),
    "an average of another shape": lambda state: changed_tensor(state["ema"], lambda tensor: tensor[..., :1]),
    "a scaler with more": lambda state: state["scaler"].update(scale=float("nan")),
}


@pytest.mark.parametrize("change", STATES)
def test_a_state_that_does_not_fit_is_not_believed(whole, broken, change):
    newest = checkpoints(broken.out)[-1]
    state = torch.load(newest / STATE_FILE, weights_only=True)
    replaced = STATES[change](state)
    torch.save(replaced if change == "no object" else state, newest / STATE_FILE)
    seal(newest)
    assert_stands_at(opened(broken), whole, 4)


WEIGHTS = {
    "NaN": lambda weights: changed_tensor(weights, with_nan),
    "another shape": lambda weights: changed_tensor(weights, lambda tensor: torch.zeros(7)),
    "another type": lambda weights: changed_tensor(weights, lambda tensor: tensor.double()),
    "a name less": lambda weights: weights.pop(first(weights)),
    "a name more": lambda weights: weights.update(more=torch.zeros(1)),
}


@pytest.mark.parametrize("change", WEIGHTS)
def test_weights_that_do_not_fit_are_not_believed(whole, broken, change):
    newest = checkpoints(broken.out)[-1]
    weights = load_file(newest / "model.safetensors")
    WEIGHTS[change](weights)
    save_file(weights, newest / "model.safetensors")
    seal(newest)
    assert_stands_at(opened(broken), whole, 4)


def test_a_step_beyond_the_end_is_not_believed(whole, broken):
    newest = checkpoints(broken.out)[-1]
    state = torch.load(newest / STATE_FILE, weights_only=True)
    torch.save({**state, "step": 900}, newest / STATE_FILE)
    seal(newest)
    newest.rename(newest.with_name("step-00000900"))
    for odd in ("step-", "step-abc", "step-7", "step-00000009x", f"step-{10**30}"):
        (newest.parent / odd).write_text("")
    assert_stands_at(opened(broken), whole, 4)


def test_a_run_with_damaged_files_ends_where_it_would_have(whole, broken):
    for newest in checkpoints(broken.out)[1:]:
        (newest / "model.safetensors").write_bytes(b"no weights")
    (broken.out / "train_config.json").write_text("{")
    with (broken.out / "log.jsonl").open("a") as log:
        log.write('{"half a li')
    run_training(broken)
    assert_equal_weights(whole.out, broken.out)
    for line in (broken.out / "log.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)


def test_only_damaged_checkpoints_are_one_line(broken):
    for checkpoint in checkpoints(broken.out):
        (checkpoint / STATE_FILE).write_bytes(b"\x80\x04" + b"x" * 500)
    with pytest.raises(InputError, match=r"no checkpoint in .* can be read: .*; start anew") as refused:
        opened(broken)
    assert "\n" not in str(refused.value)
    assert "weights_only" not in str(refused.value)
    assert len(checkpoints(broken.out)) == 3


@pytest.mark.parametrize(
    "scaler, average, message",
    [
        ({}, None, None),
        ({"scale": 0.0}, None, None),
        ({"scale": float("nan")}, None, "scale of the scaler is nan"),
        ({"scale": -1.0}, None, "scale of the scaler is -1.0"),
        ({"growth_interval": True}, None, "growth_interval of the scaler is True"),
        ({"growth_factor": "2"}, None, "growth_factor of the scaler is '2'"),
        ({"more": 1.0}, None, "the scaler's state has not the entries of the run's"),
        ({}, {}, "it holds averaged weights, which the run has not"),
    ],
)
def test_the_state_of_a_scaler_and_an_average_that_the_run_has_not_are_looked_at(scaler, average, message):
    model = torch.nn.Linear(2, 2)
    state = {"step": 1, "optimizer": {}, "scaler": SCALER | scaler, "ema": average}
    run = (model, torch.optim.AdamW(model.parameters()), torch.amp.GradScaler("cpu"))
    with pytest.raises(InputError, match=message) if message else contextlib.nullcontext():
        check_state(model.state_dict(), state, *run, total_steps=2, has_average=False)
