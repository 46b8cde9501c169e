"""The loop: sample paths, one forward over their prefix tree, the summed objective, one update."""

import json
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from timm.optim import param_groups_weight_decay
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from tqdm import tqdm

from supervit.checkpoints import load
from supervit.complexity import Complexity, sample_paths
from supervit.config import SuperViTConfig
from supervit.data import EpochLoader, open_dataset, seed_everything
from supervit.errors import InputError, TrainingError
from supervit.evaluate import Accuracy, Result, environment, evaluate, measure_throughput, pick_device, tabulate
from supervit.model import SuperViT
from supervit.objective import path_losses
from supervit.report import check_plotting, write_report
from supervit.storage import load_state_dict, make_directory, write_text
from supervit.train.checkpoint import checkpoints, read_state, write_checkpoint
from supervit.train.config import TrainConfig


def run_training(config: TrainConfig) -> list[Result]:
    """Train one SuperViT and measure its operating points.

    Writes into `config.out`: `train_config.json`, `log.jsonl`, `checkpoints/`, at the end `model/` (what `supervit.load`
    takes), the table `results.{csv,json,md}` and the plot `tradeoff.{png,svg}`.

    Returns:
        One result per operating point of the menu.

    Raises:
        InputError: the config, the data or the output directory cannot be used.
        TrainingError: the loss is no longer finite; the newest good checkpoint is kept.
    """
    check_plotting()
    make_directory(config.out)
    run = _Run(config)
    run.train()
    return run.finish()


class _Run:
    """State of one training run."""

    def __init__(self, config: TrainConfig):
        self.device = pick_device(config.device)
        train_set = open_dataset(config.data, "train", config.model, augmentation=config.data)
        val_set = open_dataset(config.data, "val", config.model)
        self.config = config = replace(config, model=_with_classes(config.model, train_set.classes))
        self.train_loader = EpochLoader(train_set, config.data.batch_size, config.data.workers, config.seed)
        self.val_loader = EpochLoader(val_set, config.data.batch_size, config.data.workers)
        seed_everything(config.seed)
        self.model = SuperViT(config.model).to(self.device)
        if config.init is not None:
            _start_from(self.model, config.init)
        self.optimizer = _make_optimizer(self.model, config)
        self.scheduler = _make_scheduler(self.optimizer, config, len(self.train_loader))
        self.ema = ModelEmaV3(self.model, decay=config.ema_decay, use_warmup=True) if config.ema_decay is not None else None
        self.epoch = 0
        self.accuracies: dict[Complexity, Accuracy] = {}  # of the newest evaluation
        self._open_directory()
        self.log = RunLog(config.out / "log.jsonl")

    @property
    def step(self) -> int:
        """Steps done at the start of the current epoch."""
        return self.epoch * len(self.train_loader)

    @property
    def evaluated_model(self) -> SuperViT:
        """The averaged weights where there are such, else the weights in training."""
        return self.ema.module if self.ema is not None else self.model

    def _open_directory(self) -> None:
        """Resume from the newest checkpoint if asked to; never write over another run."""
        found = checkpoints(self.config.out)
        path = self.config.out / "train_config.json"
        if found and not self.config.resume:
            raise InputError(f"{str(self.config.out)!r} holds a run already; resume it (--resume) or name another directory")
        wanted = self.config.trajectory()
        if found:
            before = json.loads(path.read_text())
            if differing := sorted(key for key in wanted if wanted[key] != before.get(key)):
                raise InputError(
                    f"the run in {str(self.config.out)!r} was started with another {', '.join(differing)}; "
                    "resume needs the same"
                )
            self._load(found[-1])
        write_text(path, json.dumps(wanted, indent=2) + "\n")

    def _load(self, checkpoint: Path) -> None:
        state = read_state(checkpoint)
        self.model.load_state_dict(SuperViT.from_pretrained(checkpoint).state_dict())
        self.optimizer.load_state_dict(state["optimizer"])
        if self.ema is not None:
            self.ema.module.load_state_dict(state["ema"])
        self.epoch = state["epoch"]

    def train(self) -> None:
        """All epochs that are left."""
        steps = len(self.train_loader)
        with tqdm(total=self.config.epochs * steps, initial=self.step, unit="step", disable=None, mininterval=1) as bar:
            while self.epoch < self.config.epochs:
                self._train_epoch(bar)
                self.epoch += 1
                is_last = self.epoch == self.config.epochs
                if is_last or self.epoch % self.config.save_every == 0:
                    self._save()
                if is_last or self.epoch % self.config.eval_every == 0:
                    self._evaluate_epoch()
        if not self.accuracies:  # resumed after the last epoch
            self._evaluate_epoch()

    def _train_epoch(self, bar: "tqdm[Any]") -> None:
        self.model.train()
        window = _Window()
        start = self.step
        for index, (images, labels) in enumerate(self.train_loader.epoch(self.epoch)):
            step = start + index
            self.scheduler.step_update(step)
            paths = self._paths(step)
            window.add(len(labels), paths, self._update(images.to(self.device), labels.to(self.device), paths, step))
            bar.update()
            if (step + 1) % self.config.log_every == 0 or index + 1 == len(self.train_loader):
                self._log_window(window, step, bar)
                window = _Window()

    def _paths(self, step: int) -> tuple[Complexity, ...]:
        space = self.config.model.space
        return tuple(space) if self.config.all_paths else sample_paths(space, self.config.seed, step)

    def _update(self, images: Tensor, labels: Tensor, paths: tuple[Complexity, ...], step: int) -> Tensor:
        """One step; the losses of the paths, detached."""
        losses = torch.stack(path_losses(self.model(images, paths), paths, labels, self.config.label_smoothing))
        self.optimizer.zero_grad(set_to_none=True)
        losses.sum().backward()
        if self.config.clip_grad is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_grad)
        self.optimizer.step()
        if self.ema is not None:
            self.ema.update(self.model, step)
        return losses.detach()

    def _log_window(self, window: "_Window", step: int, bar: "tqdm[Any]") -> None:
        losses = window.mean_losses()
        if bad := [str(path) for path, loss in losses.items() if not math.isfinite(loss)]:
            raise self._diverged(f"the loss of {', '.join(bad)} is", step)
        total = window.mean_total()
        bar.set_postfix(epoch=self.epoch + 1, loss=f"{total:.3f}", images_per_s=f"{window.throughput_ips():.0f}")
        self.log.write(
            event="train", epoch=self.epoch + 1, step=step + 1, loss=total, lr=self._lr(), images_per_s=window.throughput_ips(),
            losses={str(path): loss for path, loss in losses.items()},
        )  # fmt: skip

    def _diverged(self, what: str, step: int) -> TrainingError:
        kept = checkpoints(self.config.out)
        hint = f"start anew from the last good weights: --init {kept[-1]}" if kept else "there is no checkpoint yet"
        return TrainingError(
            f"{what} not finite in the steps up to {step} (epoch {self.epoch + 1}, learning rate {self._lr():.3g}); "
            f"lower lr or set clip_grad; {hint}"
        )

    def _lr(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])

    def _save(self) -> None:
        """Write a checkpoint, unless the last update broke the weights: the loss shows that a step later."""
        for module in {self.model, self.evaluated_model}:
            if not all(bool(value.isfinite().all()) for value in module.state_dict().values()):
                self.epoch -= 1
                raise self._diverged("the weights are", self.step + len(self.train_loader) - 1)
        state = {
            "epoch": self.epoch,
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.module.state_dict() if self.ema is not None else None,
        }
        write_checkpoint(self.config.out, self.epoch, self.model, state, self.config.keep_checkpoints)

    def _evaluate_epoch(self) -> None:
        self.accuracies = accuracies = evaluate(self.evaluated_model, self.val_loader.epoch())
        top1 = {str(point): accuracy.top1 for point, accuracy in accuracies.items()}
        self.log.write(event="evaluate", epoch=self.epoch, top1=top1)
        largest = self.config.model.space.largest
        tqdm.write(
            f"epoch {self.epoch}/{self.config.epochs}: top-1 {accuracies[largest].top1:.2f} % at {largest}, "
            f"{min(top1.values()):.2f} % at the worst operating point"
        )

    def finish(self) -> list[Result]:
        """Write the final model, measure it, write table and plot."""
        model, config = self.evaluated_model, self.config
        model.save(config.out / "model")
        points, accuracies, throughputs = list(config.model.space), self.accuracies, None
        if config.throughput_repeats:
            throughputs = measure_throughput(model, points, config.throughput_batch_size, config.throughput_repeats)
        results = tabulate(config.model, points, accuracies, throughputs)
        images = next(iter(accuracies.values())).images
        context = {"model": str(config.out / "model"), "data": config.data.name, "images": images, **environment(self.device)}
        write_report(results, config.out, context, title=f"One SuperViT, {len(points)} operating points ({config.data.name})")
        return results


class _Window:
    """Losses and time of the steps since the last log entry; kept on the device until they are read."""

    def __init__(self) -> None:
        self.images = 0
        self.start = time.perf_counter()
        self.totals: list[Tensor] = []
        self.losses: dict[Complexity, list[Tensor]] = {}

    def add(self, images: int, paths: tuple[Complexity, ...], losses: Tensor) -> None:
        self.images += images
        self.totals.append(losses.sum())
        for path, loss in zip(paths, losses.unbind(), strict=True):
            self.losses.setdefault(path, []).append(loss)

    def mean_losses(self) -> dict[Complexity, float]:
        return {path: float(torch.stack(self.losses[path]).mean()) for path in sorted(self.losses)}

    def mean_total(self) -> float:
        return float(torch.stack(self.totals).mean())

    def throughput_ips(self) -> float:
        return self.images / (time.perf_counter() - self.start)


class RunLog:
    """A log of JSON objects, one a line, each with the time (Unix seconds); appended to when a run goes on."""

    def __init__(self, path: Path):
        self.path = path

    def write(self, **values: Any) -> None:
        """Append one entry."""
        with self.path.open("a") as file:
            file.write(json.dumps({"time": round(time.time(), 3), **values}) + "\n")


def _with_classes(model: SuperViTConfig, classes: list[str]) -> SuperViTConfig:
    if model.num_classes not in (0, len(classes)):
        raise InputError(f"num_classes {model.num_classes}, but the data have {len(classes)} classes; leave num_classes at 0")
    return model.replace(num_classes=len(classes)).replace(class_names=tuple(classes))


def _start_from(model: SuperViT, source: str) -> None:
    """Fill a model with the weights of a file or directory; a classifier for other classes keeps its fresh start."""
    config = model.config
    told = {
        name: getattr(config, name) for name in ("num_heads", "grid_sizes", "keep_rates", "drop_blocks", "residual_divisor")
    }
    loaded = load(source, **told)
    state = loaded.state_dict()
    if loaded.num_classes != config.num_classes:
        classifiers = ("head.", "aux_head.")
        state = {key: value for key, value in state.items() if not key.startswith(classifiers)}
        state |= {key: value for key, value in model.state_dict().items() if key.startswith(classifiers)}
    load_state_dict(model, state, source)


def _make_optimizer(model: SuperViT, config: TrainConfig) -> torch.optim.Optimizer:
    undecayed = {name for name in model.no_weight_decay() if not (config.decay_positions and name.startswith("pos_embeds."))}
    groups = param_groups_weight_decay(model, config.weight_decay, no_weight_decay_list=undecayed)
    return torch.optim.AdamW(groups, lr=config.lr, eps=1e-8, fused=True)


def _make_scheduler(optimizer: torch.optim.Optimizer, config: TrainConfig, steps_per_epoch: int) -> CosineLRScheduler:
    """Linear warm-up, then cosine, per step."""
    return CosineLRScheduler(
        optimizer,
        t_initial=config.epochs * steps_per_epoch,
        lr_min=config.min_lr,
        warmup_t=min(round(config.warmup_epochs * steps_per_epoch), config.epochs * steps_per_epoch - 1),
        warmup_lr_init=config.warmup_lr,
        t_in_epochs=False,
    )
