"""What `save_pretrained` and `push_to_hub` write: the model, its card, and files that others may read."""

import os
import re

import pytest
import torch
from huggingface_hub import ModelCard

from supervit import SuperViT
from supervit.complexity import Complexity
from supervit.evaluate import Accuracy
from supervit.macs import macs
from supervit.token_labels import write_label_map
from tests.conftest import small_config


def test_the_card_says_what_the_model_is_costs_and_how_it_is_used(model, tmp_path):
    model.save_pretrained(tmp_path)
    card = ModelCard.load(tmp_path / "README.md")
    assert (card.data.library_name, card.data.pipeline_tag) == ("supervit", "image-classification")
    assert {"image-classification", "supervit", model.config.family} <= set(card.data.tags)
    for point in model.config.space:
        assert f"| `{point}` | {macs(model.config, point) / 1e9:.3f} |" in card.text
    assert "top-1" not in card.text
    assert "Accuracy was not measured" in card.text
    assert "SuperViT.from_pretrained(" in card.text
    assert "supervit predict" in card.text


def test_the_card_has_top_1_where_it_is_known(model, tmp_path):
    known = {"7": 81.25, Complexity.of("4@0.5"): Accuracy(50.5, 80.0, 100), "3@0.9": 40.0}
    model.save_pretrained(tmp_path, model_card_kwargs={"accuracies": known, "repository": "someone/birds"})
    text = (tmp_path / "README.md").read_text()
    assert re.search(r"\| `7` \| .* \| 81\.25 \|", text)
    assert re.search(r"\| `4@0\.5` \| .* \| 50\.50 \|", text)
    assert re.search(r"\| `3@0\.9` \| .* \| 40\.00 \|", text)
    assert "# birds" in text
    assert 'from_pretrained("someone/birds")' in text


def test_the_example_of_the_card_runs(tmp_path):
    model = SuperViT(small_config())
    model.save_pretrained(tmp_path / "model", model_card_kwargs={"repository": str(tmp_path / "model")})
    torch.manual_seed(0)
    from PIL import Image

    Image.new("RGB", (40, 40)).save(tmp_path / "cat.jpg")
    code = re.search(r"```python\n(.*?)```", (tmp_path / "model/README.md").read_text(), re.DOTALL)[1]
    exec(code.replace("cat.jpg", str(tmp_path / "cat.jpg")), {})


def test_pushing_uploads_model_and_card(model, monkeypatch):
    uploaded = {}

    class Api:
        def __init__(self, **_options):
            pass

        def create_repo(self, repo_id, **_options):
            return type("Repo", (), {"repo_id": repo_id})

        def upload_folder(self, *, folder_path, **_options):
            uploaded.update({path.name: path.read_bytes() for path in folder_path.iterdir()})
            return "done"

    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", Api)
    model.push_to_hub("someone/model", model_card_kwargs={"accuracies": {"7": 70.0}})
    assert set(uploaded) == {"README.md", "config.json", "model.safetensors"}
    assert b"70.00" in uploaded["README.md"]


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_files_have_the_rights_of_the_umask(model, tmp_path, mask):
    before = os.umask(mask)
    try:
        model.save(tmp_path / "saved")
        model.save_pretrained(tmp_path / "hub")
        write_label_map(tmp_path / "labels" / "a.pt", torch.zeros(5, 2, 2), torch.zeros(5, 2, 2, dtype=torch.long))
    finally:
        os.umask(before)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 6
    assert {path.stat().st_mode & 0o777 for path in files} == {0o666 & ~mask}
