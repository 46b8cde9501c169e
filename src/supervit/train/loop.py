"""The loop: sample paths, one forward over their prefix tree, the summed objective, one update."""

import json
import math
import random
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from tqdm import tqdm

from supervit.complexity import Complexity, sample_paths
from supervit.data import EpochLoader, open_dataset, seed_everything
from supervit.errors import InputError, TrainingError
from supervit.evaluate import Accuracy, Result, environment, evaluate, measure_throughput, pick_device, tabulate
from supervit.model import SuperViT
from supervit.objective import path_losses
from supervit.report import check_plotting, write_report
from supervit.storage import make_directory, write_text
from supervit.train.checkpoint import checkpoints, read_state, write_checkpoint
from supervit.train.config import TrainConfig
from supervit.train.log import RunLog, Window
from supervit.train.optimizer import make_optimizer, make_scheduler
from supervit.train.start import give_classes, load_start, with_classes

_AUTOCAST = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


def run_training(config: TrainConfig) -> list[Result]:
    """Train one SuperViT and measure its operating points.

    Writes into `config.out`: `train_config.json`, `log.jsonl`, `checkpoints/`, at the end `model/` (what `supervit.load`
    takes), the table `results.{csv,json,md}` and the plot `tradeoff.{png,svg}`.

    SIGTERM writes a checkpoint after the step in progress and exits with status 143; `resume` goes on from there, to the
    same weights that an uninterrupted run ends with.

    Returns:
        One result per operating point of the menu.

    Raises:
        InputError: the config, the data or the output directory cannot be used.
        TrainingError: the loss or the weights are no longer finite; the newest good checkpoint is kept.
    """
    if config.plot:
        check_plotting()
    make_directory(config.out)
    run = _Run(config)
    run.train()
    return run.finish()


class _Run:
    """State of one training run."""

    def __init__(self, config: TrainConfig):
        self.device = pick_device(config.device)
        loaded = load_start(config.init, config.model) if config.init is not None else None
        model_config = config.model if loaded is None else loaded.config
        train_set = open_dataset(config.data, "train", model_config, augmentation=config.data)
        val_set = open_dataset(config.data, "val", model_config)
        seed_everything(config.seed)
        if loaded is None:
            loaded = SuperViT(with_classes(config.model, train_set.classes))
        else:
            give_classes(loaded, train_set.classes)
        self.model = loaded.to(self.device)
        self.model.set_grad_checkpointing(config.grad_checkpointing)
        self.config = config = replace(config, model=loaded.config)
        self.train_loader = EpochLoader(train_set, config.data.batch_size, config.data.workers, config.seed)
        self.val_loader = EpochLoader(val_set, config.data.batch_size, config.data.workers)
        self.optimizer = make_optimizer(self.model, config)
        self.scheduler = make_scheduler(self.optimizer, config, len(self.train_loader))
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.precision == "float16")
        self.ema = ModelEmaV3(self.model, decay=config.ema_decay, use_warmup=True) if config.ema_decay is not None else None
        self.step = 0  # steps done
        self.random_state: dict[str, Any] | None = None  # of the checkpoint, until the loop has taken it
        self.must_stop = False
        self.accuracies: dict[Complexity, Accuracy] = {}  # of the newest evaluation
        self._open_directory()
        self.log = RunLog(config.out / "log.jsonl")

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return self.step // len(self.train_loader)

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
        self.scaler.load_state_dict(state["scaler"])
        if self.ema is not None:
            self.ema.module.load_state_dict(state["ema"])
        self.step, self.random_state = state["step"], state["random_state"]

    def train(self) -> None:
        """All steps that are left."""
        total = self.config.epochs * len(self.train_loader)
        options: dict[str, Any] = {"total": total, "initial": self.step, "unit": "step", "disable": None, "mininterval": 1}
        with self._stopping_on_sigterm(), tqdm(**options) as bar:
            while self.step < total:
                self._train_epoch(bar)
                is_last = self.step == total
                if is_last or self.epoch % self.config.save_every == 0:
                    self._save()
                if is_last or self.epoch % self.config.eval_every == 0:
                    self._evaluate_epoch()
        if not self.accuracies:  # resumed after the last epoch
            self._evaluate_epoch()

    @contextmanager
    def _stopping_on_sigterm(self) -> Iterator[None]:
        """Within: SIGTERM asks the loop to stop after the step in progress (signals reach the main thread alone)."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def ask_to_stop(_signal: int, _frame: FrameType | None) -> None:
            self.must_stop = True

        before = signal.signal(signal.SIGTERM, ask_to_stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    def _train_epoch(self, bar: "tqdm[Any]") -> None:
        """The steps from here to the end of the epoch."""
        self.model.train()
        window = Window()
        done = self.step % len(self.train_loader)
        batches = self.train_loader.epoch(self.epoch)
        for _ in islice(batches, done):
            pass  # loaded once more, so that workers draw the random numbers that they drew before
        if self.random_state is not None:
            _set_random_state(self.random_state)
            self.random_state = None
        for images, labels in batches:
            self.scheduler.step_update(self.step)
            paths = self._paths(self.step)
            window.add(len(labels), paths, self._update(images.to(self.device), labels.to(self.device), paths))
            self.step += 1
            bar.update()
            if self.step % self.config.log_every == 0 or self.step % len(self.train_loader) == 0:
                self._log_window(window, bar)
                window = Window()
            if self.must_stop:
                tqdm.write(f"stopped by SIGTERM after step {self.step}; wrote {self._save()}; go on with --resume")
                raise SystemExit(128 + signal.SIGTERM)

    def _paths(self, step: int) -> tuple[Complexity, ...]:
        space = self.config.model.space
        return tuple(space) if self.config.all_paths else sample_paths(space, self.config.seed, step)

    def _update(self, images: Tensor, labels: Tensor, paths: tuple[Complexity, ...]) -> Tensor:
        """One step; the losses of the paths, detached."""
        self.optimizer.zero_grad(set_to_none=True)
        dtype = _AUTOCAST[self.config.precision]
        total = torch.zeros(len(paths), device=self.device)
        parts = self.config.micro_batches
        for part_images, part_labels in zip(images.chunk(parts), labels.chunk(parts), strict=True):
            with torch.autocast(self.device.type, dtype, enabled=dtype is not None):
                logits = self.model(part_images, paths)
            losses = path_losses([path.float() for path in logits], paths, part_labels, self.config.label_smoothing)
            share = torch.stack(losses) * (len(part_labels) / len(labels))
            self.scaler.scale(share.sum()).backward()
            total += share.detach()
        if self.config.clip_grad is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_grad)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.ema is not None:
            self.ema.update(self.model, self.step)
        return total

    def _log_window(self, window: Window, bar: "tqdm[Any]") -> None:
        losses, epoch = window.mean_losses(), (self.step - 1) // len(self.train_loader) + 1
        if bad := [str(path) for path, loss in losses.items() if not math.isfinite(loss)]:
            raise self._diverged(f"the loss of {', '.join(bad)} is")
        total = window.mean_total()
        bar.set_postfix(epoch=epoch, loss=f"{total:.3f}", images_per_s=f"{window.throughput_ips():.0f}")
        self.log.write(
            event="train", epoch=epoch, step=self.step, loss=total, lr=self._lr(), images_per_s=window.throughput_ips(),
            losses={str(path): loss for path, loss in losses.items()},
        )  # fmt: skip

    def _diverged(self, what: str) -> TrainingError:
        kept = checkpoints(self.config.out)
        hint = f"start anew from the last good weights: --init {kept[-1]}" if kept else "there is no checkpoint yet"
        return TrainingError(
            f"{what} not finite in the steps up to {self.step} (learning rate {self._lr():.3g}); "
            f"lower lr or set clip_grad; {hint}"
        )

    def _lr(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])

    def _save(self) -> Path:
        """Write a checkpoint, unless the last update broke the weights: the loss shows that a step later."""
        for module in (self.model, self.evaluated_model):
            if not all(bool(value.isfinite().all()) for value in module.state_dict().values()):
                raise self._diverged("the weights are")
        state = {
            "step": self.step,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "ema": self.ema.module.state_dict() if self.ema is not None else None,
            "random_state": _random_state() if self.step % len(self.train_loader) else None,  # an epoch seeds itself
        }
        return write_checkpoint(self.config.out, self.step, self.model, state, self.config.keep_checkpoints)

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
        title = f"One SuperViT, {len(points)} operating points ({config.data.name})"
        write_report(results, config.out, context, title, plot=config.plot)
        return results


def _random_state() -> dict[str, Any]:
    """State of the random generators of this process, in types that a safe load takes."""
    numpy_state = np.random.get_state(legacy=False)
    return {
        "python": random.getstate(),
        "numpy": json.dumps(numpy_state, default=lambda array: array.tolist()),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def _set_random_state(state: dict[str, Any]) -> None:
    random.setstate(state["python"])
    numpy_state = json.loads(state["numpy"])
    numpy_state["state"]["key"] = np.array(numpy_state["state"]["key"], dtype=np.uint32)
    np.random.set_state(numpy_state)
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
