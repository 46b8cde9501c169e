"""The loop: sample paths, one forward over their prefix tree, the summed objective, one update.

Every random choice is a function of the seed and of where the run stands (`seed_everything`), so there is no random state to
keep: what goes on from a checkpoint does what an uninterrupted run does.
"""

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import torch
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from tqdm import tqdm

from supervit.complexity import Complexity
from supervit.data import EpochLoader, seed_everything
from supervit.distributed import World
from supervit.errors import InputError, TrainingError, naming_lost_workers, reason_of
from supervit.evaluate import Accuracy, Result, evaluate, measure_throughput, runtime_environment, tabulate
from supervit.files import make_directory
from supervit.model import SuperViT
from supervit.pictures import check_plotting, picture_files
from supervit.pictures.curves import draw_curves
from supervit.report import write_report
from supervit.runtimes import as_runtime, pick_device
from supervit.token_labels import TokenLabels
from supervit.train.checkpoint import checkpoints, read_checkpoint, set_aside, way_on, write_checkpoint
from supervit.train.config import TrainConfig
from supervit.train.config_file import versions, write_config
from supervit.train.facts import differences, other_run, trajectory_of
from supervit.train.lock import locked
from supervit.train.log import RunLog, Window, WindowMeans
from supervit.train.optimizer import make_optimizer, make_scheduler
from supervit.train.start import make_start
from supervit.train.state import check_state
from supervit.train.step import GradientStep, compile_blocks, step_paths
from supervit.train.stopping import StopRequest

_MOST_OVERFLOWS = 50  # steps in a row; the scaler starts at 2^16 and halves in each


def run_training(config: TrainConfig, recipe: str | None = None) -> list[Result]:
    """Train one SuperViT and measure its operating points; under `torchrun`, one of the processes that do it together.

    Writes into `config.out`: `train_config.json`, `log.jsonl`, `checkpoints/`, at the end `model/` (what `supervit.load`
    takes), the table `results.{csv,json,md}` and the plots `tradeoff.{png,svg,pdf}` and `curves.{png,svg,pdf}`.

    SIGTERM, SIGHUP and Ctrl-C (SIGINT) write a checkpoint after the step in progress and exit with status 128 + the number of
    the signal (143, 129, 130); `resume` goes on from there, to the same weights that an uninterrupted run ends with. A second
    Ctrl-C ends the process at once.

    Args:
        config: What to do.
        recipe: Name of the recipe that the config was made of, to be noted in `train_config.json`.

    Returns:
        One result per operating point; images/s on the first process alone.

    Raises:
        InputError: the config, the data or the output directory cannot be used, or another run writes there.
        TrainingError: losses, gradients or weights are no longer finite, a file cannot be written, or a loader process was
            killed; the newest good checkpoint is kept.
    """
    with StopRequest() as stop:
        if config.plot:
            check_plotting()
        make_directory(config.out)
        world, device = World.join(config.device)
        try:
            with locked(config.out, world):
                run = _Run(config, world, pick_device(device), stop, recipe)
                run.train()
                return run.finish()
        finally:
            world.leave()


class _Run:
    """State of one training run."""

    def __init__(self, config: TrainConfig, world: World, device: torch.device, stop: StopRequest, recipe: str | None = None):
        self.world, self.device, self.stop = world, device, stop
        self.step = 0  # steps done
        self.saved_step = 0  # of the newest checkpoint
        self.overflows = 0  # steps in a row that were not finite
        self.began_at = self.saved_at = time.monotonic()
        self.named_damage: set[str] = set()
        self.accuracies: dict[Complexity, Accuracy] = {}  # of the newest evaluation
        try:
            with stop.interrupting():
                start = make_start(config, world)
        except KeyboardInterrupt:
            self._stop_if_asked()
            raise
        self._stop_if_asked()
        data = config.data
        self.model = start.model.to(device)
        self.model.set_grad_checkpointing(config.grad_checkpointing)
        self.config = replace(config, model=start.model.config)
        shared: dict[str, Any] = {"world": world, "max_damaged": data.max_damaged}
        self.train_loader = EpochLoader(start.train_set, data.batch_size, data.workers, config.seed, data.repeats, **shared)
        self.val_loader = EpochLoader(start.val_set, data.batch_size, data.workers, **shared)
        self.total_steps = config.all_epochs * len(self.train_loader)
        self.trajectory = trajectory_of(self.config, self.train_loader, start.init)
        self._make_trainers()
        self._open_directory()
        if world.is_main:
            write_config(config.out, config, recipe)
        self.log = RunLog(config.out, self.step, config.tensorboard, config.wandb) if world.is_main else None
        self._say(start.describe(self.config, len(self.train_loader), world.size))
        self._write_log("start", command=list(sys.argv), versions=versions())
        self._stop_if_asked()

    def _make_trainers(self) -> None:
        """What changes the weights: optimizer, schedule, scaler, average, gradients."""
        config = self.config
        self.optimizer = make_optimizer(self.model, config, self.world)
        self.scheduler = make_scheduler(self.optimizer, config, len(self.train_loader))
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.precision == "float16")
        self.ema = None
        if config.ema_decay is not None:
            self.ema = ModelEmaV3(self.model, decay=config.ema_decay, use_warmup=config.ema_warmup)
        if config.compile:
            compile_blocks(self.model)
        self.gradient_step = GradientStep(self.model, config, self.world, self.scaler)

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
            with suppress(OSError):  # the terminal or the next command of a pipe may be gone: no reason to lose the run
                tqdm.write(text)

    def _write_log(self, event: str, **values: Any) -> None:
        if self.log is not None:
            self.log.write(event, self.step, **values)

    # --- beginning, stopping and going on -------------------------------------------------------------------------

    def _open_directory(self) -> None:
        """Resume from the newest good checkpoint if asked to; never write over another run."""
        found = checkpoints(self.config.out)
        if found and not self.config.resume:
            raise InputError(f"{str(self.config.out)!r} holds a run already; resume it (--resume) or name another directory")
        if found:
            self._resume(found)

    def _resume(self, found: list[Path]) -> None:
        """Go on from the newest checkpoint that can be read; newer ones are set aside."""
        problems, out = [], str(self.config.out)
        for checkpoint in reversed(found):
            try:
                weights, state = read_checkpoint(checkpoint)
                differing = differences(state["trajectory"], self.trajectory)
                if not differing:
                    trained = (self.model, self.optimizer, self.scaler)
                    check_state(weights, state, *trained, self.total_steps, has_average=self.ema is not None)
            except InputError as error:
                problems.append(str(error))
                continue
            if differing:
                raise other_run(out, differing)
            self._load(weights, state)
            self._say(f"goes on after step {self.step} of {self.total_steps}")
            self.world.gather(None)  # all have read, so names may change
            for damaged, problem in zip(reversed(found), problems, strict=False):
                if self.world.is_main:
                    self._say(f"skipped a damaged checkpoint, now {set_aside(damaged)}: {problem}")
            return
        raise InputError(f"no checkpoint in {out!r} can be read: {'; '.join(problems)}; start anew")

    def _load(self, weights: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Take over a checkpoint that has been checked."""
        self.model.load_state_dict(weights)
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state["optimizer"]})
        self.scaler.load_state_dict(state["scaler"])
        if self.ema is not None:
            self.ema.module.load_state_dict(state["ema"])
        self.step = self.saved_step = state["step"]
        for name, change in differences(state["versions"], versions()).items():
            self._say(f"begun with another version of {name}, so the weights may differ from an uninterrupted run's ({change})")

    def _stop_if_asked(self) -> None:
        """End the run where a signal has asked any process to: all of them, at the same step; every process must ask."""
        if self.world.any(self.stop.asked):
            signum = max(self.world.gather(self.stop.signum))
            if self.step:
                self._save()
            self.world.gather(None)  # torchrun kills the others where one has ended: not before all is saved
            self._end(signum)

    def _end(self, signum: int) -> NoReturn:
        way = f"after step {self.step}; go on with --resume" if self.step else "before the first step: nothing is kept"
        self._say(f"stopped by {signal.Signals(signum).name} {way}")
        raise SystemExit(128 + signum)

    @contextmanager
    def _naming_checkpoint(self) -> Iterator[None]:
        """Within: what ends the run names the checkpoint to go on from."""
        try:
            with naming_lost_workers():
                yield
        except InputError as error:
            if self.step:
                with suppress(TrainingError):  # the first error is the one to be told
                    self._save()
            raise InputError(f"{error}; {way_on(self.config.out)}") from error
        except OSError as error:
            raise TrainingError(f"the run has stopped ({reason_of(error)}); {way_on(self.config.out)}") from error

    # --- training -------------------------------------------------------------------------------------------------

    def train(self) -> None:
        """All steps that are left, and the evaluation at the end."""
        options: dict[str, Any] = {"total": self.total_steps, "initial": self.step, "unit": "step", "mininterval": 1}
        with self._naming_checkpoint():
            with tqdm(**options, disable=None if self.world.is_main else True) as bar:
                while self.step < self.total_steps:
                    self._train_epoch(bar)
                    is_last = self.step == self.total_steps
                    if is_last or self.epoch % self.config.save_every == 0:
                        self._save()
                    self._stop_if_asked()
                    if is_last or self.epoch % self.config.eval_every == 0:
                        self._evaluate_epoch()
            if not self.accuracies:  # resumed after the last epoch
                self._evaluate_epoch()

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
            self._stop_if_asked()
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
        """Write a checkpoint, unless there is one, or the last update broke the weights: the loss shows that a step later."""
        self.saved_at = time.monotonic()
        if not self.world.is_main or self.saved_step == self.step:
            return
        for module in (self.model, self.ema.module if self.ema is not None else self.model):
            if not all(bool(value.isfinite().all()) for value in module.state_dict().values()):
                raise self._diverged(f"the weights are not finite after step {self.step}")
        state = {
            "step": self.step,
            "trajectory": self.trajectory,
            "versions": versions(),
            "optimizer": self.optimizer.state_dict()["state"],
            "scaler": self.scaler.state_dict(),
            "ema": self.ema.module.state_dict() if self.ema is not None else None,
        }
        write_checkpoint(self.config.out, self.step, self.model, state, self.config.keep_checkpoints)
        self.saved_step = self.step

    # --- measuring ------------------------------------------------------------------------------------------------

    def _evaluation_batches(self) -> Iterator[tuple[Any, ...]]:
        """What to evaluate on; after a signal no more than one batch, as the result is not wanted any more."""
        for batch in self.val_loader.epoch():
            yield batch
            if self.stop.asked:
                return

    def _evaluate_epoch(self) -> None:
        points = self.config.points
        accuracies = evaluate(self.evaluated_model, self._evaluation_batches(), points, self.world)
        self._stop_if_asked()
        self.accuracies = accuracies
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
        if not self.world.is_main:
            return tabulate(self.config.model, self.config.points, self.accuracies)
        with self._naming_checkpoint():
            return self._finish()

    def _check_alone(self) -> None:
        """End the run where a signal has asked this process, the only one that is left."""
        if self.stop.asked:
            self._end(self.stop.signum)

    def _finish(self) -> list[Result]:
        model, config, points = self.evaluated_model, self.config, self.config.points
        model.save(config.out / "model")
        if self.ema is not None and not config.evaluate_ema:
            self.ema.module.save(config.out / "model_ema")
        throughputs = None
        if config.throughput_repeats:
            limit = min(config.throughput_seconds, (time.monotonic() - self.began_at) / 10)
            said = f"at most about {limit:.1f} s" if limit else "no limit of time"
            self._say(f"measuring images/s of {len(points)} operating points ({said}; --throughput-repeats 0 leaves it out)")
            counts = (config.throughput_batch_size, config.throughput_repeats)
            limits: dict[str, Any] = {"seconds": limit, "each_once": True, "check": self._check_alone}
            throughputs = measure_throughput(model, points, *counts, **limits)
        self._check_alone()
        results = tabulate(config.model, points, self.accuracies, throughputs)
        images = next(iter(self.accuracies.values())).images
        context: dict[str, Any] = {"model": str(config.out / "model"), "fingerprint": model.fingerprint()}
        context |= {"data": config.data.name, "images": images, **runtime_environment(as_runtime(model))}
        title = f"One SuperViT, {len(points)} operating points ({config.data.name})"
        write_report(results, config.out, context, title, plot=config.plot)
        if config.plot:
            draw_curves(config.out / "log.jsonl", picture_files(config.out, "curves"))
        self._check_alone()
        return results


def _on_device(batch: tuple[Any, ...], device: torch.device) -> tuple[Tensor, Tensor, TokenLabels | None]:
    """Images, labels and token labels (if there are such), on their way to the device."""
    images, labels, *token_labels = batch
    tokens = TokenLabels._make(field.to(device, non_blocking=True) for field in token_labels[0]) if token_labels else None
    return images.to(device, non_blocking=True), labels.to(device, non_blocking=True), tokens
