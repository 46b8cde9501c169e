"""Label maps made by a teacher: that they say what the teacher says, where it says it, and what bad input is answered with."""

import dataclasses

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from supervit import InputError
from supervit.cli import main
from supervit.errors import AssumptionWarning
from supervit.label import LabelConfig, label_folder, list_images, load_teacher, position_logits
from supervit.token_labels import read_label_map

CLASSES = ("bird", "cat", "dog")


def write_image(path, size=(50, 40)):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(len(path.name)).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)


def saved_teacher(path, name="test_resnet", num_classes=3):
    teacher = timm.create_model(name, num_classes=num_classes).eval()
    torch.save(teacher.state_dict(), path)
    return teacher


@pytest.fixture
def config(tmp_path):
    for name in CLASSES:
        for index in range(2):
            write_image(tmp_path / "data" / "train" / name / f"{'i' * (index + 1)}.png")
    saved_teacher(tmp_path / "teacher.pth")
    return LabelConfig(
        tmp_path / "data", tmp_path / "labels", "test_resnet", tmp_path / "teacher.pth", batch_size=4, workers=0, device="cpu"
    )


def test_each_image_gets_a_map_of_all_of_it_that_can_be_read(config):
    done = label_folder(config)
    assert (done.written, done.kept, done.damaged) == (6, 0, ())
    assert sorted(str(path.relative_to(config.out)) for path in config.out.rglob("*")) == sorted(
        [*CLASSES, *(f"{name}/{stem}.pt" for name in CLASSES for stem in ("i", "ii"))]
    )
    scores, classes = read_label_map(config.out / "cat" / "i.pt", 3)
    assert scores.shape == (3, 5, 5)  # 160 pixels, stride 32
    assert (scores.diff(dim=0) <= 0).all()
    assert (classes.sort(dim=0).values == torch.arange(3)[:, None, None]).all()


def test_the_map_is_the_teachers_answer_for_the_whole_image(config):
    label_folder(dataclasses.replace(config, size=1))
    scores, classes = read_label_map(config.out / "cat" / "i.pt", 3)
    teacher = load_teacher(config, 3)
    settings = timm.data.resolve_model_data_config(teacher)
    image = Image.open(config.root / "train" / "cat" / "i.png").resize((160, 160), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.asarray(image) / np.float32(255))
    images = ((pixels - torch.tensor(settings["mean"])) / torch.tensor(settings["std"])).permute(2, 0, 1).unsqueeze(0)
    expected = teacher(images)[0].softmax(dim=0)
    told = torch.zeros(3).scatter(0, classes[:, 0, 0], scores[:, 0, 0]).softmax(dim=0)
    assert torch.allclose(told, expected, atol=2e-3)  # float16


def test_classes_that_are_left_out_stand_at_the_mean_logit(config):
    label_folder(dataclasses.replace(config, top_k=2))
    scores, _ = read_label_map(config.out / "cat" / "i.pt", 3)
    assert scores.shape[0] == 2
    label_folder(dataclasses.replace(config, out=config.out / "all"))
    every, _ = read_label_map(config.out / "all" / "cat" / "i.pt", 3)
    assert torch.allclose(every.sum(dim=0), torch.zeros(()), atol=2e-3)
    assert torch.equal(every[:2], scores)


def test_a_second_run_goes_on_where_the_first_stopped(config):
    label_folder(config)
    again = config.out / "dog" / "i.pt"
    again.unlink()
    stamp = (config.out / "dog" / "ii.pt").stat().st_mtime_ns
    done = label_folder(config)
    assert (done.written, done.kept) == (1, 5)
    assert again.is_file()
    assert (config.out / "dog" / "ii.pt").stat().st_mtime_ns == stamp
    assert label_folder(config).written == 0


def test_damaged_images_are_named_and_the_rest_is_labelled(config):
    (config.root / "train" / "cat" / "bad.jpg").write_bytes(b"no image")
    done = label_folder(dataclasses.replace(config, batch_size=1, workers=1))
    assert done.written == 6
    assert len(done.damaged) == 1
    assert done.damaged[0].startswith("cat/bad.jpg: ")
    assert not (config.out / "cat" / "bad.pt").exists()


def test_the_command_says_what_it_wrote_kept_and_skipped(config, capsys):
    (config.root / "train" / "cat" / "bad.jpg").write_bytes(b"no image")
    call = ["label", "--root", str(config.root), "--out", str(config.out), "--teacher", config.teacher]
    main([*call, "--checkpoint", str(config.checkpoint), "--workers", "0", "--device", "cpu"])
    said = capsys.readouterr()
    assert f"wrote 6 label maps into {config.out}, kept 0, skipped 1 damaged images" in said.out
    assert "skipped a damaged image: cat/bad.jpg: " in said.err


# --- teachers -----------------------------------------------------------------------------------------------------


@torch.inference_mode()
@pytest.mark.parametrize(
    "name", ["test_resnet", "test_byobnet", "test_efficientnet", "test_nfnet", "swin_tiny_patch4_window7_224"]
)
def test_linear_heads_on_average_pooling_agree_with_the_teacher_in_the_mean(name):
    small = {"embed_dim": 12, "depths": (1, 1, 1, 1)} if name.startswith("swin") else {}
    teacher = timm.create_model(name, num_classes=3, **small).eval()
    images = torch.randn(2, *teacher.pretrained_cfg["input_size"])
    logits = position_logits(teacher, images)
    assert logits.shape[2] == logits.shape[3] > 1
    assert torch.allclose(logits.mean(dim=(2, 3)), teacher(images), atol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize(
    "options", [{}, {"global_pool": "avg"}, {"reg_tokens": 4}, {"class_token": False, "global_pool": "avg"}]
)
def test_transformers_give_patch_tokens_to_their_norm_and_head_in_place(options):
    teacher = timm.create_model("test_vit", num_classes=3, **options).eval()
    torch.nn.init.normal_(teacher.fc_norm.weight) if options.get("global_pool") else None
    images = torch.randn(2, 3, 160, 160)
    logits = position_logits(teacher, images)
    tokens = teacher.forward_features(images)[:, teacher.num_prefix_tokens :]
    expected = teacher.head(teacher.fc_norm(tokens)).unflatten(1, (10, 10)).permute(0, 3, 1, 2)
    assert torch.allclose(logits, expected, atol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("name", ["test_convnext", "mobilenetv3_small_050"])
def test_heads_with_norms_and_hidden_layers_answer_for_a_uniform_map_as_for_one_place(name):
    teacher = timm.create_model(name, num_classes=3).eval()
    images = torch.randn(1, *teacher.pretrained_cfg["input_size"])
    features = teacher.forward_features(images)
    logits = position_logits(teacher, images)
    uniform = features[:, :, 1:2, 2:3].expand_as(features)
    assert torch.allclose(logits[:, :, 1, 2], teacher.forward_head(uniform), atol=1e-5)


class Stub(torch.nn.Module):
    """A teacher with given features and logits."""

    num_classes = 3

    def __init__(self, features, logits=None):
        super().__init__()
        self.features, self.logits = features, logits

    def forward_features(self, images):
        return self.features

    def forward_head(self, features):
        return self.logits


@pytest.mark.parametrize(
    "features, form", [(torch.zeros(1, 197, 8), r"\(1, 197, 8\)"), (torch.zeros(1, 8), r"\(1, 8\)"), ([], "list")]
)
def test_a_teacher_without_a_map_of_places_is_refused(features, form):
    with pytest.raises(InputError, match=rf"Stub has no map of places \({form}\)"):
        position_logits(Stub(features), torch.zeros(1, 3, 32, 32))


def test_a_teacher_whose_head_does_not_answer_for_one_place_is_refused():
    with pytest.raises(InputError, match="Stub has no logits for one place"):
        position_logits(Stub(torch.zeros(1, 8, 2, 2), torch.zeros(1, 3)), torch.zeros(1, 3, 32, 32))


@pytest.mark.parametrize("wrapper", ["", "module.", "student.backbone."])
def test_the_averaged_weights_of_a_training_file_are_taken_whatever_stands_before_them_and_it_is_said(config, wrapper):
    good = torch.load(config.checkpoint, weights_only=True)
    both = {"state_dict": {name: value * 0 for name, value in good.items()}, "state_dict_ema": good}
    torch.save({key: {wrapper + name: value for name, value in held.items()} for key, held in both.items()}, config.checkpoint)
    with pytest.warns(AssumptionWarning, match=r"teacher.pth': took the weights of state_dict_ema \(there is state_dict too\)"):
        teacher = load_teacher(config, 3)
    assert all(torch.equal(value, good[name]) for name, value in teacher.state_dict().items())


# --- errors -------------------------------------------------------------------------------------------------------


def test_unknown_teachers_and_those_without_weights_are_refused(config):
    with pytest.raises(InputError, match="unknown teacher 'resnet10'; did you mean resnet10t"):
        label_folder(dataclasses.replace(config, teacher="resnet10"))
    name = next(name for name in timm.list_models() if not timm.models.is_model_pretrained(name))
    with pytest.raises(InputError, match=f"timm has no weights for the teacher '{name}'"):
        label_folder(dataclasses.replace(config, teacher=name, checkpoint=None))


def test_a_teacher_that_cannot_be_fetched_is_refused_with_the_reason(config, monkeypatch):
    def fail(*_args, **_options):
        raise OSError("no network\nand more")

    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(InputError, match=r"'test_resnet' cannot be had \(no network\)"):
        label_folder(dataclasses.replace(config, checkpoint=None))


def test_a_teacher_of_other_classes_is_refused(config, monkeypatch):
    with pytest.raises(InputError, match="do not fit the model"):
        label_folder(dataclasses.replace(config, num_classes=5))
    ready = timm.create_model("test_resnet", num_classes=7)
    monkeypatch.setattr(timm, "create_model", lambda *_args, **_options: ready)
    with pytest.raises(InputError, match="knows 7 classes, the data have 3"):
        label_folder(dataclasses.replace(config, checkpoint=None))
    assert label_folder(dataclasses.replace(config, checkpoint=None, num_classes=7)).written == 6


def test_folders_without_images_or_with_clashing_names_are_refused(tmp_path):
    with pytest.raises(InputError, match="no folder"):
        list_images(tmp_path / "train")
    (tmp_path / "train" / "cat").mkdir(parents=True)
    with pytest.raises(InputError, match="holds no images"):
        list_images(tmp_path / "train")
    write_image(tmp_path / "train" / "cat" / "sub" / "1.png")
    assert list_images(tmp_path / "train") == (["cat"], ["cat/sub/1.png"])
    write_image(tmp_path / "train" / "cat" / "sub" / "1.jpg")
    with pytest.raises(InputError, match="would share a label map"):
        list_images(tmp_path / "train")


@pytest.mark.parametrize("field", ["size", "top_k", "batch_size", "workers"])
def test_senseless_numbers_are_refused(config, field):
    with pytest.raises(InputError, match=field):
        dataclasses.replace(config, **{field: -1})
