"""The axes of an operating point, through everything that runs one: exits, rates per drop block, rectangular grids."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

import supervit
from supervit import InputError, Predictor, SuperViT, path_losses
from supervit.block import Block
from supervit.cascade import Cascade, Ladder
from supervit.cli import main
from supervit.complexity import Complexity
from supervit.data import SourceConfig, open_dataset
from supervit.export import export_model
from supervit.macs import executed_macs, macs, resumed_macs
from supervit.runtimes import as_runtime, open_artefact
from supervit.tokens import Tokens
from supervit.train import TrainConfig, run_training
from supervit.train.config import DataConfig
from tests.conftest import small_config, trained_like

EXITS = ["7/9", "7@0.7/9", "7@0.5/6", "7@0.9-0.5/8", "7/1"]


def cut_after(model, count):
    """The network of the first blocks alone, with the same norm and head."""
    config = model.config.replace(depth=count, drop_blocks=tuple(b for b in model.config.drop_blocks if b < count))
    cut = SuperViT(config).eval()
    own = cut.state_dict()
    cut.load_state_dict({name: weight for name, weight in model.state_dict().items() if name in own})
    return cut


# --- exits --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", EXITS)
@pytest.mark.parametrize("exact_savings", [True, False])
def test_an_exit_is_the_truncated_network(model, images, text, exact_savings):
    model = trained_like(SuperViT(model.config.replace(exact_savings=exact_savings))).eval()
    point = Complexity.of(text)
    cut = cut_after(model, point.exit_block)
    whole = Complexity(point.grid_size, point.keep_rate)
    expected = cut(images, whole)
    assert torch.equal(model(images, text), expected)
    for other, logits in zip((*EXITS, "7", "7@0.5"), model.forward_paths(images, [*EXITS, "7", "7@0.5"]), strict=True):
        torch.testing.assert_close(logits, model(images, other), atol=1e-6, rtol=1e-6)
    assert macs(model.config, point) == macs(cut.config, whole)
    assert executed_macs(model.config, point) == executed_macs(cut.config, whole)


@pytest.mark.parametrize("text", ["7/9", "7@0.7/9", "7/4"])
def test_an_exit_goes_on_from_a_prefix(model, images, text):
    prefix = model.encode_prefix(images, 7)
    assert torch.equal(model.resume(prefix, text), model(images, text))
    alone = executed_macs(model.config, text)
    assert 0 < resumed_macs(model.config, text) < alone


@pytest.mark.parametrize("points", [["7@0.7/9"], ["7/9", "7@0.7/9", "4@0.5/9"]])
def test_exits_export(model, images, points, tmp_path):
    export_model(model, "onnx", tmp_path / "onnx", points)
    runtime = open_artefact(tmp_path / "onnx")
    for text in points:
        torch.testing.assert_close(runtime.logits(images, text), model(images, text).detach(), atol=1e-5, rtol=1e-5)


def test_exits_of_several_depths_do_not_export_together(model, tmp_path):
    with pytest.raises(
        InputError, match=r"one graph cannot stop after different blocks \(7/9, 7\); export each exit on its own"
    ):
        export_model(model, "onnx", tmp_path / "onnx", ["7/9", "7"])
    assert not (tmp_path / "onnx").exists()


def test_cascades_of_exits_give_the_answers_of_their_rungs(model):
    images = torch.randn(12, 3, 28, 28)
    for rungs in (("7/2", "7/9", "7"), ("4/9", "7/2", "7@0.5", "7")):
        first = model(images, rungs[0]).softmax(1).amax(1)
        ladder = Ladder(tuple(map(Complexity.of, rungs)), (first.median().item(),) * (len(rungs) - 1))
        exits = Cascade(model, ladder, batch_size=4).predict(images)
        assert len(set(exits.rungs.tolist())) > 1
        for index, (rung, logits) in enumerate(zip(exits.rungs.tolist(), exits.logits, strict=True)):
            expected = model(images[index : index + 1], rungs[rung])[0]
            torch.testing.assert_close(logits, expected.detach(), atol=1e-5, rtol=1e-5)


def test_exits_are_on_the_menu_are_drawn_and_imitate_the_whole_network(images):
    config = small_config(exit_blocks=(6,), grid_sizes=(4, 7))
    assert [str(point) for point in config.space if point.grid_size == 7][-3:] == ["7@0.7", "7/6", "7"]
    model = SuperViT(config).train()
    paths = ["7", "7@0.5/6"]
    logits = model.forward_paths(images, paths)
    losses = path_losses(logits, paths, torch.tensor([0, 1]))
    own = torch.nn.functional.kl_div(
        logits[1].log_softmax(1), logits[0].detach().log_softmax(1), reduction="batchmean", log_target=True
    )
    torch.testing.assert_close(losses[1], own)


# --- keep rates of drop blocks ------------------------------------------------------------------------------------------


def test_rates_of_drop_blocks_are_single_drops_by_hand(images):
    model = trained_like(SuperViT(small_config())).eval()
    tokens = Tokens(model._embed(images, 7))
    for index, block in enumerate(model.blocks):
        if index in (3, 6, 9):
            kept = -(-round(10 * {3: 0.9, 6: 0.7, 9: 0.5}[index] * tokens.values.shape[1]) // 10) + 1
            tokens = Block.drop(block, tokens, kept)
        else:
            (tokens,) = block(tokens, tokens.values.shape[1])
    expected = model.head(model.norm(tokens.values)[:, 0])
    torch.testing.assert_close(model(images, "7@0.9-0.7-0.5"), expected, atol=1e-6, rtol=1e-6)


def test_one_rate_for_all_is_the_same_point(model, images):
    assert torch.equal(model(images, "7@0.7-0.7-0.7"), model(images, "7@0.7"))
    with pytest.raises(InputError, match="'7@0.7-0.5' has 2 keep rates for 3 drop blocks that are reached"):
        model(images, "7@0.7-0.5")


# --- rectangles ---------------------------------------------------------------------------------------------------------


def test_a_rectangle_takes_positions_between_those_of_the_nearest_square(images):
    model = trained_like(SuperViT(small_config())).eval()
    table = model.position_table((6, 8))
    assert table.shape == (1, 49, 24)
    assert torch.equal(table[:, :1], model.pos_embeds["7"][:, :1])
    with torch.no_grad():
        down = torch.arange(7.0).repeat_interleave(7).view(1, 49, 1).expand(-1, -1, 24)
        model.pos_embeds["7"][:, 1:] = down
    rows = model.position_table((6, 8))[0, 1:, 0].view(6, 8)
    assert (rows.diff(dim=0) > 0).all()
    torch.testing.assert_close(rows, rows[:, :1].expand(-1, 8))


def test_a_picture_turned_is_answered_alike_where_positions_are_alike():
    model = trained_like(SuperViT(small_config())).eval()
    for table in model.pos_embeds.values():
        table.data[:, 1:] = 0
    model.patch_embed.proj.weight.data.copy_(model.patch_embed.proj.weight + model.patch_embed.proj.weight.transpose(2, 3))
    wide = torch.randn(2, 3, 24, 32)
    torch.testing.assert_close(model(wide, "6x8@0.7"), model(wide.transpose(2, 3), "8x6@0.7"), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "size, text, message",
    [
        (
            (28, 28),
            "6x8",
            "images of 28x28 pixels have not the shape of grid size 6x8, which is 6 to 8; crop or pad them first",
        ),
        ((24, 32), "7", "images of 24x32 pixels have not the shape of grid size 7, which is square"),
        ((3, 4), "6x8", "images of 3x4 pixels are too small for grid size 6x8"),
    ],
)
def test_images_of_another_shape_are_refused(size, text, message):
    with pytest.raises(InputError, match=message):
        SuperViT(small_config())(torch.zeros(1, 3, *size), text)


@pytest.mark.parametrize("points", [["6x8@0.7"], ["6x8", "6x8@0.7", "9x12@0.5", "9x12"]])
def test_rectangles_export(points, tmp_path):
    model = trained_like(SuperViT(small_config())).eval()
    report = export_model(model, "onnx", tmp_path / "onnx", points)
    assert report.points[0].image_size == (24, 32)
    assert report.preprocessing.crop_size == ((24, 32) if len(points) == 1 else (36, 48))
    runtime = open_artefact(tmp_path / "onnx")
    for text in points:
        images = torch.randn(2, 3, 48, 64)
        torch.testing.assert_close(runtime.logits(images, text), model(images, text).detach(), atol=1e-5, rtol=1e-5)


def photograph(width, height, seed=0):
    colours = np.random.default_rng(seed).integers(0, 255, (height // 10, width // 10, 3), dtype=np.uint8)
    return Image.fromarray(colours).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("text", ["6x8@0.7", "12x16", "3x4"])
def test_the_predictor_sees_what_evaluation_sees_of_a_picture(text, tmp_path):
    model = trained_like(SuperViT(small_config())).eval()
    for name, size in (("a", (200, 150)), ("b", (150, 200)), ("c", (300, 120))):
        (tmp_path / "val/one").mkdir(parents=True, exist_ok=True)
        photograph(*size).save(tmp_path / f"val/one/{name}.png")
    config = model.config.view([Complexity.of(text)])
    assert config.image_size == config.pixels(Complexity.of(text).grid_size)
    dataset = open_dataset(SourceConfig("image_folder", tmp_path), "val", config)
    expected = [model(dataset[index][0].unsqueeze(0), text).softmax(1)[0] for index in range(3)]
    for image, probabilities in zip(sorted((tmp_path / "val/one").iterdir()), expected, strict=True):
        (answer,) = Predictor(model)(image, text)
        assert answer.probability == pytest.approx(probabilities.max().item(), abs=1e-5)
        assert answer.class_index == probabilities.argmax().item()
    jpeg = io.BytesIO()
    photograph(200, 150).save(jpeg, "JPEG")
    assert len(Predictor(model)([jpeg.getvalue(), photograph(640, 480)], text)) == 2


def test_a_model_of_rectangles_trains_evaluates_saves_and_answers(tmp_path, capsys):
    for split, count in (("train", 6), ("val", 2)):
        for number in range(2):
            folder = tmp_path / "photos" / split / f"class{number}"
            folder.mkdir(parents=True)
            for index in range(count):
                photograph(80, 60, seed=100 * number + index).save(folder / f"{index}.png")
    model = small_config(
        grid_sizes=((3, 4), (6, 8)), keep_rates=((0.9, 0.7, 0.5), 1.0), exit_blocks=(10,), num_classes=2, depth=12
    )
    data = DataConfig("image_folder", tmp_path / "photos", batch_size=6, workers=0)
    settings = {"epochs": 1, "warmup_epochs": 0, "plot": False, "throughput_repeats": 1}
    config = TrainConfig(model=model, data=data, out=tmp_path / "run", **settings)
    run_training(config)
    trained = supervit.load(tmp_path / "run" / "model")
    assert trained.config.image_size == (24, 32)
    assert [*trained.pos_embeds] == ["3x4", "6x8"]
    results = json.loads((tmp_path / "run" / "results.json").read_text())["results"]
    expected = ["3x4@0.9-0.7-0.5/10", "3x4@0.9-0.7-0.5", "3x4/10", "3x4"]
    assert [row["complexity"] for row in results][:4] == expected
    assert results[0]["grid_size"] == [3, 4]
    assert results[0]["exit_block"] == 10
    (answer,) = Predictor(trained, "6x8@0.9-0.7-0.5")(photograph(80, 60))
    assert 0 <= answer.probability <= 1
    assert as_runtime(trained).logits(torch.randn(1, 3, 24, 32), "3x4/10").shape == (1, 2)


def test_commands_run_rectangles_on_a_square_model(tmp_path, capsys):
    for number in range(2):
        (tmp_path / f"photos/val/class{number}").mkdir(parents=True)
        for index in range(3):
            photograph(80, 60, seed=10 * number + index).save(tmp_path / f"photos/val/class{number}/{index}.png")
    trained_like(SuperViT(small_config(num_classes=2))).save(tmp_path / "model")
    data = ["--data.root", str(tmp_path / "photos"), "--data.workers", "0", "--data.batch-size", "3"]
    model, points = str(tmp_path / "model"), ["--points", "6x8@0.7/9", "6x8@0.9-0.7-0.5"]
    main(["evaluate", model, *data, *points, "--repeats", "1", "--out", str(tmp_path / "table")])
    rows = json.loads((tmp_path / "table/results.json").read_text())["results"]
    assert [(row["grid_size"], row["exit_block"]) for row in rows] == [([6, 8], 9), ([6, 8], None)]
    costs = ["--accuracies", str(tmp_path / "table/results.json"), "--out", str(tmp_path / "costs")]
    main(["profile", model, *points, "--repeats", "1", "--batch-sizes", "2", *costs])
    main(["cascade", model, *data, *points, "--timed-images", "2", "--out", str(tmp_path / "exit")])
    main(["predict", model, str(tmp_path / "photos/val/class0/0.png"), "--point", "6x8@0.7", "--draw", str(tmp_path / "drawn")])
    assert (tmp_path / "drawn/0.png").exists()
    with pytest.raises(SystemExit, match="2"):
        main(["evaluate", model, *data, "--points", "6x8", "7", "--repeats", "0"])
    assert "grids 6x8 and 7 see images of different shapes; ask for one at a time" in capsys.readouterr().err


# --- prefix tokens and pooling ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {"reg_tokens": 4},
        {"class_token": False, "global_pool": "avg", "reducer": "received_attention"},
        {"class_token": False, "reg_tokens": 2, "global_pool": "avg", "fc_norm": True, "reducer": "mean_query"},
        {"reg_tokens": 1, "reducer": "tome", "global_pool": "avg"},
        {"reg_tokens": 3, "reducer": "evit"},
    ],
)
def test_any_number_of_prefix_tokens_survives_everything(fields, images, tmp_path):
    model = trained_like(SuperViT(small_config(**fields))).eval()
    prefix = model.num_prefix_tokens
    asked = ["7", "7@0.5", "7@0.7/9", "4@0.9-0.7-0.5"]
    for text, logits in zip(asked, model.forward_paths(images, asked), strict=True):
        torch.testing.assert_close(logits, model(images, text), atol=1e-5, rtol=1e-5)
    logits, trace = model(images, "7@0.5", trace=True)
    assert trace.last[trace.last >= 0].min() == prefix
    model.save(tmp_path / "model")
    again = supervit.load(tmp_path / "model")
    assert torch.equal(again(images, "7@0.5"), logits)
    export_model(model, "onnx", tmp_path / "onnx", ["7@0.5"])
    torch.testing.assert_close(open_artefact(tmp_path / "onnx").logits(images, "7@0.5"), logits.detach(), atol=1e-5, rtol=1e-5)


def test_weights_without_those_of_a_learned_reducer_start_it_fresh(model, images, tmp_path):
    model.save(tmp_path / "model")
    if model.config.family == "lvvit":
        pytest.skip("one family is enough")
    with pytest.warns(supervit.errors.AssumptionWarning, match="have none of the reducers, 30 tensors, which start fresh"):
        loaded = supervit.load(tmp_path / "model", reducer="dynamic_vit")
    torch.testing.assert_close(loaded(images, "7"), model(images, "7"))
    assert loaded.blocks[3].reducer.out_conv[0].weight.std() > 0.001
    loaded.save(tmp_path / "learned")
    again = supervit.load(tmp_path / "learned")
    assert torch.equal(again(images, "7@0.5"), loaded(images, "7@0.5"))
