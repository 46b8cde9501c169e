"""The loop: sample paths, one forward over their prefix tree, the summed objective, one update.

Every random choice is a function of the seed and of where the run stands (`seed_everything`), so there is no random state to
keep: what goes on from a checkpoint does what an uninterrupted run does.
"""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from tqdm import tqdm

from supervit.complexity import Complexity
from supervit.data import EpochLoader, is_stream, open_dataset, seed_everything
from supervit.distributed import World
from supervit.errors import InputError, TrainingError
from supervit.evaluate import Accuracy, Result, evaluate, measure_throughput, runtime_environment, tabulate
from supervit.files import make_directory, read_object, refusing, write_json
from supervit.model import SuperViT
from supervit.pictures import check_plotting, picture_files
from supervit.pictures.curves import draw_curves
from supervit.report import write_report
from supervit.runtimes import as_runtime, pick_device
from supervit.token_labels import TokenLabels
from supervit.train.checkpoint import checkpoints, read_checkpoint, set_aside, write_checkpoint
from supervit.train.config import TrainConfig
from supervit.train.log import RunLog, Window, WindowMeans
from supervit.train.optimizer import make_optimizer, make_scheduler
from supervit.train.start import give_classes, load_start, with_classes
from supervit.train.step import GradientStep, compile_blocks, step_paths

_MOST_OVERFLOWS = 50  # steps in a row; the scaler starts at 2^16 and halves in each


def run_training(config: TrainConfig) -> list[Result]:
    """Train one SuperViT and measure its operating points; under `torchrun`, one of the processes that do it together.

    Writes into `config.out`: `train_config.json`, `log.jsonl`, `checkpoints/`, at the end `model/` (what `supervit.load`
    takes), the table `results.{csv,json,md}` and the plots `tradeoff.{png,svg,pdf}` and `curves.{png,svg,pdf}`.

    SIGTERM writes a checkpoint after the step in progress and exits with status 143; `resume` goes on from there, to the
    same weights that an uninterrupted run ends with.

    Returns:
        One result per operating point; images/s on the first process alone.

    Raises:
        InputError: the config, the data or the output directory cannot be used.
        TrainingError: losses, gradients or weights are no longer finite, or a checkpoint cannot be written; the newest good
            checkpoint is kept.
    """
    if config.plot:
        check_plotting()
    make_directory(config.out)
    world, device = World.join(config.device)
    try:
        run = _Run(config, world, pick_device(device))
        run.train()
        return run.finish()
    finally:
        world.leave()


class _Run:
    """State of one training run."""

    def __init__(self, config: TrainConfig, world: World, device: torch.device):
        self.world, self.device = world, device
        loaded = load_start(config.init, config.model) if config.init is not None else None
        model_config = config.model if loaded is None else loaded.config
        data = config.data
        if data.download:  # one process fetches, the others find it there
            if world.is_main:
                open_dataset(data, "val", model_config)
            world.gather(None)
        train_set = open_dataset(data, "train", model_config, augmentation=data)
        val_set = open_dataset(data, "val", model_config)
        seed_everything("weights", config.seed)
        if loaded is None:
            loaded = SuperViT(with_classes(config.model, train_set.classes))
        else:
            give_classes(loaded, train_set.classes)
        if data.token_labels is not None and not loaded.config.dense_head:
            raise InputError("token labels teach patch tokens, for which this model has no classifier; use an LV-ViT")
        self.model = loaded.to(device)
        self.model.set_grad_checkpointing(config.grad_checkpointing)
        self.config = config = replace(config, model=loaded.config)
        shared: dict[str, Any] = {"world": world, "max_damaged": data.max_damaged}
        self.train_loader = EpochLoader(train_set, data.batch_size, data.workers, config.seed, data.repeats, **shared)
        self.val_loader = EpochLoader(val_set, data.batch_size, data.workers, **shared)
        self.named_damage: set[str] = set()
        self.optimizer = make_optimizer(self.model, config, world)
        self.scheduler = make_scheduler(self.optimizer, config, len(self.train_loader))
        self.scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "float16")
        self.ema = None
        if config.ema_decay is not None:
            self.ema = ModelEmaV3(self.model, decay=config.ema_decay, use_warmup=config.ema_warmup)
        if config.compile:
            compile_blocks(self.model)
        self.gradient_step = GradientStep(self.model, config, world, self.scaler)
        self.step = 0  # steps done
        self.overflows = 0  # steps in a row that were not finite
        self.saved_at = time.monotonic()
        self.must_stop = False
        self.accuracies: dict[Complexity, Accuracy] = {}  # of the newest evaluation
        self._open_directory()
        self.log = RunLog(config.out, config.tensorboard, config.wandb) if world.is_main else None

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return self.step // len(self.train_loader)

    @property
    def evaluated_model(self) -> SuperViT:
        """The weights that are evaluated and kept as the model: the averaged ones if so configured."""
        return self.ema.module if self.ema is not None and self.config.evaluate_ema else self.model

    def _say(self, text: str) -> None:
        if self.world.is_main:
            tqdm.write(text)

    def _write_log(self, event: str, **values: Any) -> None:
        if self.log is not None:
            self.log.write(event, self.step, **values)

    # --- beginning and going on -----------------------------------------------------------------------------------

    def _open_directory(self) -> None:
        """Resume from the newest good checkpoint if asked to; never write over another run."""
        found = checkpoints(self.config.out)
        path = self.config.out / "train_config.json"
        if found and not self.config.resume:
            raise InputError(f"{str(self.config.out)!r} holds a run already; resume it (--resume) or name another directory")
        wanted = {**self.config.trajectory(), "processes": self.world.size}
        if is_stream(self.train_loader.dataset.source):  # whose order depends on how many share it out
            wanted["data.workers"] = self.config.data.workers
        if found:
            with refusing(f"cannot read {str(path)!r}", "start anew in another directory"):
                before = read_object(path)
            if differing := sorted(key for key in wanted if wanted[key] != before.get(key)):
                raise InputError(
                    f"the run in {str(self.config.out)!r} was started with another {', '.join(differing)}; "
                    "resume needs the same"
                )
            self._resume(found)
        if self.world.is_main:
            write_json(path, wanted)

    def _resume(self, found: list[Path]) -> None:
        """Go on from the newest checkpoint that can be read; newer ones are set aside."""
        problems = []
        for checkpoint in reversed(found):
            try:
                weights, state = read_checkpoint(checkpoint)
            except InputError as error:
                problems.append(str(error))
                continue
            self.model.load_state_dict(weights)
            self.optimizer.load_state_dict(state["optimizer"])
            self.scaler.load_state_dict(state["scaler"])
            if self.ema is not None:
                self.ema.module.load_state_dict(state["ema"])
            self.step = state["step"]
            self.world.gather(None)  # all have read, so names may change
            for damaged, problem in zip(reversed(found), problems, strict=False):
                if self.world.is_main:
                    self._say(f"skipped a damaged checkpoint, now {set_aside(damaged)}: {problem}")
            return
        raise InputError(f"no checkpoint in {str(self.config.out)!r} can be read: {'; '.join(problems)}; start anew")

    # --- training -------------------------------------------------------------------------------------------------

    def train(self) -> None:
        """All steps that are left."""
        total = self.config.all_epochs * len(self.train_loader)
        options: dict[str, Any] = {"total": total, "initial": self.step, "unit": "step", "mininterval": 1}
        with self._stopping_on_sigterm(), tqdm(**options, disable=None if self.world.is_main else True) as bar:
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
        self.scheduler.step(self.epoch)
        batches = self.train_loader.epoch(self.epoch, first_batch=self.step % len(self.train_loader))
        epoch_ends = (self.epoch + 1) * len(self.train_loader)
        window = Window()
        while self.step < epoch_ends:
            with window.waiting():
                batch = next(batches)
            self._train_step(batch, window)
            bar.update()
            if self.step % self.config.log_every == 0 or self.step == epoch_ends:
                self._log_window(window.read(self.world), bar)
                window = Window()
            if self.world.any(self.must_stop):
                self._save()
                self._say(f"stopped by SIGTERM after step {self.step}; go on with --resume")
                raise SystemExit(128 + signal.SIGTERM)
            if self.config.save_minutes and time.monotonic() - self.saved_at > 60 * self.config.save_minutes:
                self._save()

    def _train_step(self, batch: tuple[Any, ...], window: Window) -> None:
        """One update; nothing here waits for the device."""
        seed_everything("step", self.config.seed, self.step, self.world.rank)
        self.scheduler.step_update(self.step)
        paths = step_paths(self.config, self.step)
        images, labels, tokens = _on_device(batch, self.device)
        self.optimizer.zero_grad(set_to_none=True)
        losses = self.gradient_step(images, labels, tokens, paths)
        self.scaler.unscale_(self.optimizer)
        gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        if self.config.clip_grad is not None:
            nn.utils.clip_grads_with_norm_(self.model.parameters(), self.config.clip_grad, norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.ema is not None:
            self.ema.update(self.model, self.step)
        window.add(self.step, self._lr(), len(images), paths, losses, norm)
        self.step += 1

    def _lr(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])

    def _log_window(self, means: WindowMeans, bar: "tqdm[Any]") -> None:
        for good in means.is_good:
            self.overflows = 0 if good else self.overflows + 1
        if (bad := means.bad_step()) and (not self.scaler.is_enabled() or self.overflows >= _MOST_OVERFLOWS):
            raise self._diverged(bad)
        entry = means.entry()
        loss = "-" if entry["loss"] is None else f"{entry['loss']:.3f}"
        epoch = (self.step - 1) // len(self.train_loader) + 1
        bar.set_postfix(epoch=epoch, loss=loss, images_per_s=f"{means.images_per_s:.0f}", wait=f"{means.data_wait:.0%}")
        self._write_log("train", epoch=epoch, lr=self._lr(), **entry)
        self._log_damage(self.train_loader)

    def _log_damage(self, loader: EpochLoader) -> None:
        """Name the images that have been skipped since the last time, of all processes."""
        for damaged in self.world.gather(loader.damaged):
            loader.note(damaged)
        for name in loader.damaged.keys() - self.named_damage:
            self.named_damage.add(name)
            self._write_log("damaged", image=name, reason=loader.damaged[name], count=len(self.named_damage))
            self._say(f"skipped a damaged image, {len(self.named_damage)} so far: {name} ({loader.damaged[name]})")

    def _diverged(self, what: str) -> TrainingError:
        kept = checkpoints(self.config.out)
        hint = f"start anew from the last good weights: --init {kept[-1]}" if kept else "there is no checkpoint yet"
        return TrainingError(f"{what}; lower lr or set clip_grad; {hint}")

    def _save(self) -> None:
        """Write a checkpoint, unless the last update broke the weights: the loss shows that a step later."""
        self.saved_at = time.monotonic()
        if not self.world.is_main:
            return
        for module in (self.model, self.evaluated_model):
            if not all(bool(value.isfinite().all()) for value in module.state_dict().values()):
                raise self._diverged(f"the weights are not finite after step {self.step}")
        state = {
            "step": self.step,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "ema": self.ema.module.state_dict() if self.ema is not None else None,
        }
        write_checkpoint(self.config.out, self.step, self.model, state, self.config.keep_checkpoints)

    # --- measuring ------------------------------------------------------------------------------------------------

    def _evaluate_epoch(self) -> None:
        points = self.config.points
        self.accuracies = accuracies = evaluate(self.evaluated_model, self.val_loader.epoch(), points, self.world)
        self._log_damage(self.val_loader)
        top1 = {str(point): accuracy.top1 for point, accuracy in accuracies.items()}
        self._write_log("evaluate", epoch=self.epoch, top1=top1)
        dearest = max(points)
        self._say(
            f"epoch {self.epoch}/{self.config.all_epochs}: top-1 {accuracies[dearest].top1:.2f} % at {dearest}, "
            f"{min(top1.values()):.2f} % at the worst operating point"
        )

    def finish(self) -> list[Result]:
        """Write the final model, measure it, write table and plot."""
        model, config, points = self.evaluated_model, self.config, self.config.points
        if not self.world.is_main:
            return tabulate(config.model, points, self.accuracies)
        model.save(config.out / "model")
        if self.ema is not None and not config.evaluate_ema:
            self.ema.module.save(config.out / "model_ema")
        throughputs = None
        if config.throughput_repeats:
            throughputs = measure_throughput(model, points, config.throughput_batch_size, config.throughput_repeats)
        results = tabulate(config.model, points, self.accuracies, throughputs)
        images = next(iter(self.accuracies.values())).images
        context: dict[str, Any] = {"model": str(config.out / "model"), "fingerprint": model.fingerprint()}
        context |= {"data": config.data.name, "images": images, **runtime_environment(as_runtime(model))}
        title = f"One SuperViT, {len(points)} operating points ({config.data.name})"
        write_report(results, config.out, context, title, plot=config.plot)
        if config.plot:
            draw_curves(config.out / "log.jsonl", picture_files(config.out, "curves"))
        return results


def _on_device(batch: tuple[Any, ...], device: torch.device) -> tuple[Tensor, Tensor, TokenLabels | None]:
    """Images, labels and token labels (if there are such), on their way to the device."""
    images, labels, *token_labels = batch
    tokens = TokenLabels._make(field.to(device, non_blocking=True) for field in token_labels[0]) if token_labels else None
    return images.to(device, non_blocking=True), labels.to(device, non_blocking=True), tokens
