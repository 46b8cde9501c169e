import dataclasses
import json

import pytest
import torch

from supervit import Complexity, InputError, SuperViT
from supervit.cascade import Cascade, Ladder, climb_macs, confidence_of
from supervit.macs import executed_macs, resumed_macs
from tests.conftest import small_config
from tests.unit.test_macs import counted_macs


def ladder(*texts: str, thresholds=(), confidence="probability") -> Ladder:
    return Ladder(tuple(Complexity.of(text) for text in texts), tuple(thresholds), confidence)


def middle_thresholds(model, images, *texts):
    """Thresholds that about half of the images reach at each rung, far enough from any image to bear rounding."""
    thresholds = []
    for text in texts[:-1]:
        confidences = confidence_of(model(images, text), "probability").sort().values[len(images) // 4 : -len(images) // 4]
        widest = confidences.diff().argmax()
        thresholds.append(confidences[widest : widest + 2].mean().item())
    return thresholds


@pytest.mark.parametrize("texts", [("4@0.5", "7@0.7"), ("7@0.5", "7@0.7", "7"), ("4@0.5", "4", "7@0.5", "7"), ("5",)])
@pytest.mark.parametrize("batch_size", [1, 4, 64])
@pytest.mark.parametrize("answer", ["last", "mean"])
def test_images_get_the_answer_of_the_first_rung_that_is_sure(model, texts, batch_size, answer):
    images = torch.randn(23, 3, 28, 28)
    with torch.no_grad():
        rungs = dataclasses.replace(ladder(*texts, thresholds=middle_thresholds(model, images, *texts)), answer=answer)
        found = Cascade(model, rungs, batch_size).run(images.split(5))
        every = torch.stack(model.forward_paths(images, rungs.rungs))
    if answer == "mean":
        every = (every.softmax(dim=2).cumsum(dim=0) / torch.arange(1, len(texts) + 1)[:, None, None]).log()
    for index in range(len(images)):
        left_at = next(
            (
                rung
                for rung, threshold in enumerate(rungs.thresholds)
                if confidence_of(every[rung, index : index + 1], "probability") >= threshold
            ),
            len(texts) - 1,
        )
        assert found.rungs[index] == left_at
        torch.testing.assert_close(found.logits[index], every[left_at, index], atol=1e-4, rtol=1e-4)
        assert found.executed_macs[index] == sum(climb_macs(model.config, rungs.rungs)[: left_at + 1])
    if len(texts) > 1:
        assert len(found.rungs.unique()) > 1


def test_the_stated_macs_are_what_runs(model):
    images = torch.randn(12, 3, 28, 28)
    texts = ("7@0.5", "7@0.7", "4", "4@0.7")
    with torch.no_grad():
        cascade = Cascade(model, ladder(*texts, thresholds=middle_thresholds(model, images, *texts)), batch_size=4)
    assert counted_macs(lambda: cascade.predict(images)) == cascade.predict(images).executed_macs.sum()


def test_a_rung_of_the_same_grid_does_not_pay_for_the_prefix_again():
    config = small_config()
    first, second, third = climb_macs(config, [Complexity.of(text) for text in ("7@0.5", "7", "4")])
    assert first == executed_macs(config, "7@0.5")
    assert second == resumed_macs(config, "7") < executed_macs(config, "7")
    assert third == executed_macs(config, "4")
    apart = climb_macs(config, [Complexity.of(text) for text in ("7@0.5", "7")], shares_prefixes=False)
    assert apart == [executed_macs(config, "7@0.5"), executed_macs(config, "7")]


def test_batches_are_full_and_waiting_images_few(model, monkeypatch):
    sizes = []
    resume = SuperViT.resume
    monkeypatch.setattr(
        SuperViT, "resume", lambda self, prefix, point: sizes.append(len(prefix.values)) or resume(self, prefix, point)
    )
    nobody_is_sure = ladder("4@0.5", "4", "7", thresholds=(1.0, 1.0))
    Cascade(model, nobody_is_sure, batch_size=4).run(torch.randn(3, 3, 28, 28) for _ in range(6))
    assert sorted(sizes) == [2] * 3 + [4] * 12
    assert sizes[:3] == [4, 4, 4]  # the first batch is at the top before the second one starts


def test_confidences_are_in_order_of_certainty():
    logits = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [9.0, 0.0, 0.0], [99.0, 0.0, 0.0]])
    for kind, lowest in (("probability", 1 / 3), ("margin", 0.0), ("entropy", 0.0)):
        found = confidence_of(logits, kind)
        assert found[0] == pytest.approx(lowest, abs=1e-6)
        assert found[-1] == 1
        assert (found.diff() > 0).all()
        assert 0 <= found.min() <= found.max() <= 1


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: ladder(), "ladder of no rungs"),
        (lambda: ladder("4", "4", thresholds=(0.5,)), "ladder of 4, 4; name each rung once"),
        (lambda: ladder("4", "7"), "0 thresholds for 2 rungs"),
        (lambda: ladder("4", "7", thresholds=(1.5,)), r"thresholds \(1.5,\) are not all in"),
        (lambda: ladder("4", "7", thresholds=(float("nan"),)), "are not all in"),
        (lambda: ladder("4", confidence="sure"), "unknown confidence 'sure'"),
        (lambda: dataclasses.replace(ladder("4"), answer="best"), "unknown answer 'best'"),
        (lambda: confidence_of(torch.zeros(2, 1), "margin"), "at least two classes, the model has 1"),
        (lambda: confidence_of(torch.zeros(2, 3), "sure"), "unknown confidence 'sure'"),
        (lambda: Cascade(SuperViT(small_config()), ladder("4"), 0), "batch_size 0"),
        (lambda: Cascade(SuperViT(small_config()), ladder("4")).run([]), "no images to run"),
        (
            lambda: Cascade(SuperViT(small_config()), ladder("4")).run([torch.zeros(1, 3, 28, 28), torch.zeros(1, 3, 32, 32)]),
            r"\(3, 28, 28\) and \(3, 32, 32\) do not fit into one batch",
        ),
        (lambda: Cascade(SuperViT(small_config()), ladder("4")).predict(torch.zeros(1, 1, 28, 28)), "images of shape"),
    ],
)
def test_what_cannot_be_run_is_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_a_training_model_is_left_training():
    model = SuperViT(small_config())
    Cascade(model, ladder("4")).predict(torch.randn(1, 3, 28, 28))
    assert model.training


def test_a_ladder_for_another_model_is_refused():
    model = SuperViT(small_config())
    rungs = dataclasses.replace(ladder("4"), model=model.fingerprint())
    assert len(Cascade(model, rungs).predict(torch.randn(1, 3, 28, 28)).rungs) == 1
    with pytest.raises(InputError, match=f"the ladder is for model {model.fingerprint()}, not for this one"):
        Cascade(SuperViT(small_config()), rungs)


def test_ladders_are_read_as_they_were_written(tmp_path):
    written = dataclasses.replace(ladder("4@0.5", "7", thresholds=(1 / 3,), confidence="margin"), model="0123456789abcdef")
    written.save(tmp_path / "new" / "ladder.json")
    for file in (tmp_path / "new" / "ladder.json", str(tmp_path / "new" / "ladder.json")):
        assert Ladder.load(file) == written


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "is not a ladder"),
        ("[]", "is not a ladder .it holds no JSON object"),
        ({"confidence": None, "more": 1}, "nothing else"),
        ({"rungs": ["4", "x"]}, "complexity 'x' does not parse"),
        ({"thresholds": ["0.5"]}, "is not a ladder"),
        ({"rungs": 4}, "is not a ladder"),
        ({"confidence": ["margin"]}, "is not a ladder"),
        ({"answer": "best"}, "unknown answer 'best'"),
    ],
)
def test_files_that_are_no_ladder_are_refused(tmp_path, content, message):
    if isinstance(content, dict):
        content = json.dumps(ladder("4", "7", thresholds=(0.5,)).to_dict() | content)
    (tmp_path / "ladder.json").write_text(content)
    with pytest.raises(InputError, match=message):
        Ladder.load(tmp_path / "ladder.json")
    with pytest.raises(InputError, match="is not a ladder"):
        Ladder.load(tmp_path / "missing.json")
