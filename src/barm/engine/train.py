"""The optimisation of one step, for any method and any number of processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from barm.batch import Batch, Term, added, output_part
from barm.engine.backbone import frozen_part, train_mode, trained_groups
from barm.engine.checkpoint.differences import unlike
from barm.engine.config import StepRecipe
from barm.engine.finite import not_finite
from barm.engine.graphs import GraphedNetwork, GraphedTeacher
from barm.engine.runtime import Runtime, unwrap
from barm.engine.schedule import scheduled
from barm.errors import UserError
from barm.methods.base import Method
from barm.models.batch_norm import ordinary, refresh
from barm.models.frozen import Constant
from barm.words import count
from barm.words import verb as verb_of

NEW_HEAD = "new_head"  # the parameter group of the newest classifier
MAX_SKIPPED = 20  # updates in a row whose loss is not finite


class Progress(Protocol):
    """Interface of the function that reports an iteration."""

    def __call__(self, iteration: int, values: dict[str, float] | None, lr: float) -> None:
        """Report an iteration: finished iterations, weighted loss terms, learning rate.

        The terms include their sum as ``loss``; they are None for most iterations. The rate is that of the first group.
        """


class Outcome(NamedTuple):
    """Result of an update: weighted terms over all processes if requested, and whether a stop was requested."""

    values: dict[str, float] | None
    stop: bool


class StepTrainer:
    """Networks, optimiser and schedule of one step.

    Args:
        method: at its step.
        model: the network to train, placed on the device.
        teacher: the previous step's network, or None.
        recipe: the step's optimisation.
        total: number of updates.
        rt: the runtime.
        seed: of dropout; the generator is a function of (seed, step, iteration, rank), so a resumed step is the same.
    """

    def __init__(
        self,
        method: Method[Any, Any],
        model: nn.Module,
        teacher: Constant | None,
        recipe: StepRecipe,
        total: int,
        rt: Runtime,
        seed: int,
    ) -> None:
        self.method, self.recipe, self.total, self.rt, self.seed = method, recipe, total, rt, seed
        if not method.bn_frozen and recipe.batch_size == 1 and not rt.shares_statistics:
            raise UserError(
                "batch_size is 1, but batch norm is trained at this step and needs at least 2 images: raise "
                "batch_size, or freeze batch norm with --set method.freeze_bn=true (from step 1 on)"
            )
        groups = trained_groups(method, model, recipe, seed=_mix(seed, method.step.index))
        training = {id(p) for g in groups for p in g["params"]}
        for parameter in model.parameters():
            parameter.requires_grad_(id(parameter) in training)
        self.base_lrs = [g["lr"] for g in groups]
        warm = method.config.warm_start
        self.alone = int(warm.alone * total) if warm is not None and method.warms else 0  # updates of the new head
        self._others = [p for g in groups if g["name"] != NEW_HEAD for p in g["params"]] if self.alone else []
        sgd = torch.optim.SGD(
            [dict(g) for g in groups],
            lr=recipe.lr.new,
            momentum=recipe.momentum,
            nesterov=recipe.nesterov,
            weight_decay=recipe.weight_decay,
            fused=True,
        )
        for parameter in (p for g in groups for p in g["params"]):  # zeros do what the first update does by itself,
            sgd.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)  # also where that one is left out
        self.teacher, self._sgd = None if teacher is None else rt.teacher(teacher), sgd
        frozen = frozen_part(model, recipe)
        self.model, self.optimizer = rt.setup(model, sgd, trains_bn=not method.bn_frozen, frozen=frozen)
        # what a forward pass may change: the running statistics of batch norm, where it trains
        still = set() if frozen is None else {id(b) for b in frozen.buffers()}
        moving = [b for b in self.model.buffers() if b.is_floating_point() and id(b) not in still]
        self._moving = [] if method.bn_frozen else moving
        self.iteration = 0
        self._skipped, self._in_a_row = (torch.zeros((), dtype=torch.int64, device=rt.device) for _ in range(2))
        self.train_mode()
        self._set_rates()

    @property
    def network(self) -> nn.Module:
        """The trained network without wrappers and adapters, to be evaluated, stored and handed on."""
        return ordinary(unwrap(self.model))

    def release(self) -> None:
        """Free the memory that only updates need, after the last one."""
        for part in (self.teacher, *self.model.modules()):
            if isinstance(part, GraphedNetwork | GraphedTeacher):
                part.forget()
        if self.rt.device.type == "cuda":
            torch.cuda.empty_cache()

    def train_mode(self) -> None:
        """Put the network into training mode, as method and recipe say.

        While the new classifier trains alone, batch norm keeps its statistics.
        """
        network = unwrap(self.model)
        train_mode(self.method, network, self.recipe)
        if self.iteration < self.alone:
            for module in network.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()

    def update(self, batch: Batch, *, report: bool = True) -> Outcome:
        """Run one optimiser update on this process's part of the batch.

        Args:
            batch: images and labels, on the device.
            report: return the values of the loss; without them nothing here waits for the device.
        """
        rt = self.rt
        rt.enter()
        seeds = (self.seed, self.method.step.index, self.iteration)
        torch.manual_seed(_mix(*seeds))
        self.method.draw(unwrap(self.model))
        torch.manual_seed(_mix(*seeds, rt.rank))
        old, before = None if self.teacher is None else self.teacher(batch.image), self._statistics()
        new = self.model(rt.image(batch.image))
        terms = self._terms(new, old, batch)
        counts, stop, finite = self._agree(terms)
        parts = [
            t.weight * t.total * (rt.world / n).to(t.total.dtype) for t, n in zip(terms.values(), counts, strict=True)
        ]
        rt.backward(torch.stack(parts).sum())
        self._apply(self._sound(finite), before)
        for parameter in self._others if self.iteration < self.alone else ():
            self._sgd.state[parameter]["momentum_buffer"].zero_()
        self.iteration += 1
        if self.iteration == self.alone:
            self.train_mode()
        self._set_rates()
        return Outcome(
            self._values(terms, counts) if report else None, bool(stop) if report or rt.world == 1 else False
        )

    def _terms(self, new: Any, old: Any, batch: Batch) -> dict[str, Term]:
        """The objective's terms; images without labels, which follow the others, have those of the distillation."""
        own = self.recipe.batch_size
        if len(batch.image) == own or old is None:
            return self.method.loss(new, old, batch)
        terms, beside = (
            self.method.loss(output_part(new, images), output_part(old, images), batch.part(images))
            for images in (slice(own), slice(own, None))
        )
        shared = self.method.config.distillation
        return {name: added(term, beside[name]) if name in shared else term for name, term in terms.items()}

    def _agree(self, terms: dict[str, Term]) -> tuple[Tensor, Tensor | bool, Tensor]:
        """Agree between processes on counts, a request to stop, and a finite loss.

        DDP averages gradients, so a process contributes ``world * total / (sum of counts)``: then the average is the
        gradient of the mean over the global batch, whatever each process's own count. One reduction carries all.
        """
        rt, size = self.rt, len(terms)
        mine = torch.stack(
            [t.total.detach().double() for t in terms.values()]
            + [t.number.to(rt.device, torch.float64, non_blocking=True) for t in terms.values()]
        )
        if rt.world == 1:
            return mine[size:].clamp(min=1), bool(rt.stop_signal), torch.isfinite(mine).all()
        wish = torch.tensor([float(bool(rt.stop_signal))], dtype=torch.float64).to(rt.device, non_blocking=True)
        everyone = rt.all_sum(torch.cat([mine, wish]))
        return everyone[size:-1].clamp(min=1), everyone[-1], torch.isfinite(everyone).all()

    def _statistics(self) -> Tensor:
        """A copy of all buffers that a forward pass may change, side by side."""
        return torch.cat([b.flatten() for b in self._moving]) if self._moving else torch.empty(0)

    def _sound(self, finite: Tensor) -> Tensor:
        """Whether the loss and all gradients are finite: 0 x infinity leaves a loss as it is, its gradient no number.

        With a gradient scaler the loss alone decides: it looks at the gradients itself, which overflow until it has
        found its scale.
        """
        if self.rt.scales:
            return finite
        gradients = [p.grad for group in self._sgd.param_groups for p in group["params"] if p.grad is not None]
        return finite & torch.isfinite(torch.nn.utils.get_total_norm(gradients))

    def _apply(self, finite: Tensor, before: Tensor) -> None:
        """Update the parameters, or restore `before` where the update is not finite. This is decided on the device."""
        if not self.rt.scales:  # a gradient scaler finds that out by itself
            self._sgd.found_inf = (~finite).float()  # type: ignore[attr-defined]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self._moving:
            kept = torch.split(torch.where(finite, self._statistics(), before), [b.numel() for b in self._moving])
            for buffer, values in zip(self._moving, kept, strict=True):
                buffer.copy_(values.view_as(buffer))
        self._skipped = self._skipped + ~finite
        self._in_a_row = (self._in_a_row + 1) * ~finite

    def _values(self, terms: dict[str, Term], counts: Tensor) -> dict[str, float]:
        """The weighted means over all processes, and their sum."""
        totals = self.rt.all_sum(torch.stack([t.whole.double() for t in terms.values()]))
        weights = torch.tensor([t.weight for t in terms.values()], dtype=torch.float64, device=totals.device)
        values = (weights * totals / counts).tolist()
        return {"loss": sum(values), **dict(zip(terms, values, strict=True))}

    @property
    def skipped(self) -> int:
        """Number of updates that were skipped since the loss or its gradient was not finite."""
        return int(self._skipped)

    @property
    def skipped_in_a_row(self) -> int:
        """Number of skipped updates at the end, one after the other."""
        return int(self._in_a_row)

    def _set_rates(self) -> None:
        for base, param_group in zip(self.base_lrs, self.optimizer.param_groups, strict=True):
            still = self.iteration < self.alone and param_group["name"] != NEW_HEAD
            param_group["lr"] = 0.0 if still else scheduled(self.recipe, base, self.iteration, self.total)

    def check_finite(self) -> None:
        """Refuse weights that are not finite, in every process alike, and those that no update has changed.

        Raises:
            UserError: says which step, after how many updates, and what to change.
        """
        if self.iteration and self.skipped == self.iteration:
            raise UserError(
                f"step {self.method.step.index} diverged: loss or gradient was not finite in all of its "
                f"{count(self.iteration, 'updates')}, so nothing of that is stored: lower the learning rates "
                f"({'increment' if self.method.step.index else 'base'}.lr) in a new --out, or use --precision 32-true"
            )
        state = unwrap(self.model).state_dict()
        found = not_finite(state)
        if int(self.rt.all_sum(torch.tensor(len(found), device=self.rt.device))):
            index, updates = self.method.step.index, count(self.total, "updates")
            first = f"'{found[0]}' ({len(found)} of {len(state)} tensors)" if found else "those of another process"
            raise UserError(
                f"step {index} diverged: after {self.iteration} of {updates} weights are infinite or no "
                f"number, first {first}, so nothing of that is stored: lower the learning rates "
                f"({'increment' if index else 'base'}.lr) in a new --out, or use --precision 32-true"
            )

    def state_dict(self) -> dict[str, Any]:
        """The state from which a later process goes on with the next iteration, adapters by themselves."""
        return {
            "iteration": self.iteration,
            "world": self.rt.world,
            "skipped": self.skipped,
            "skipped_in_a_row": self.skipped_in_a_row,
            "model": unwrap(self.model).state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.rt.scaler_state(),
            "method": self.method.state_dict(),
        }

    def misfit(self, state: dict[str, Any]) -> str | None:
        """Describe what in a state does not fit this network and this step, or None."""
        own = self.state_dict()
        if min(state["iteration"], state["skipped"], state["skipped_in_a_row"]) < 0:
            return "it counts below 0"
        groups = state["optimizer"].get("param_groups")
        sizes = [[len(g["params"]) for g in own["optimizer"]["param_groups"]], _sizes(groups)]
        if sizes[0] != sizes[1]:
            return "the optimiser's groups are others"
        pairs = [("model", own["model"], state["model"]), ("method", own["method"], state["method"])]
        pairs.append(("optimizer", own["optimizer"]["state"], state["optimizer"].get("state")))
        return next((found for name, ours, given in pairs if (found := unlike(ours, given, name)) is not None), None)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`.

        Raises:
            UserError: if it has done more updates than the step has, or is that of another number of processes.
        """
        world = state.get("world", self.rt.world)  # versions before kept no record
        if world != self.rt.world:
            raise UserError(
                f"step {self.method.step.index} was stopped with {count(world, 'processes')}, now there "
                f"{verb_of(self.rt.world, 'are')} {self.rt.world}, so that the batch is another: resume it with {world}"
            )
        done = state["iteration"]
        if done > self.total:
            raise UserError(
                f"the saved state of step {self.method.step.index} has done {count(done, 'updates')}, but now the step "
                f"has only {self.total} of them: resume with the data, the number of processes and the settings that "
                "it was started with"
            )
        self.iteration = state["iteration"]
        self._skipped.fill_(state["skipped"])
        self._in_a_row.fill_(state["skipped_in_a_row"])
        unwrap(self.model).load_state_dict(state["model"])
        refresh(self.model)
        self.optimizer.load_state_dict(state["optimizer"])
        self.rt.load_scaler_state(state["scaler"])
        self.method.load_state_dict(state["method"])
        self.train_mode()
        self._set_rates()


def _sizes(groups: Any) -> list[int] | None:
    """Numbers of parameters of an optimiser's groups, or None for anything else."""
    known = isinstance(groups, list) and all(isinstance(g, dict) and isinstance(g.get("params"), list) for g in groups)
    return [len(g["params"]) for g in groups] if known else None


def calibrate(method: Method[Any, Any], teacher: Constant, batches: Iterable[Batch], rt: Runtime) -> None:
    """Run a method's calibration: the previous step's network over the step's images, once, before the training."""
    counts = torch.zeros((), dtype=torch.int64, device=rt.device)
    for batch in batches:
        counts = counts + method.observe(teacher(batch.image), batch)
    method.calibrate(rt.all_sum(counts))


def warm_start(
    method: Method[Any, Any], model: nn.Module, previous: Constant, batches: Iterable[Batch], rt: Runtime
) -> None:
    """Start the new classifier from the old ones: the previous network over the step's images, once."""
    sums = torch.zeros((), dtype=torch.float64, device=rt.device)
    for batch in batches:
        sums = sums + method.resemble(previous(batch.image), batch)
    method.warm(model, rt.all_sum(sums))


def train_step(
    trainer: StepTrainer,
    batches: Iterable[Batch],
    *,
    iterations_per_epoch: int,
    progress: Progress,
    save: Callable[[], None],
    save_every: int,
    log_every: int,
    names: Callable[[Batch], list[str]] = lambda batch: [],
) -> bool:
    """Run the remaining updates of a step.

    Args:
        trainer: fresh or restored.
        batches: exactly the remaining batches.
        iterations_per_epoch: the training mode is renewed at each epoch's start.
        progress: called after every update.
        save: stores the trainer's state.
        save_every: iterations between two calls of `save`.
        log_every: iterations between two values of the loss.
        names: the images of a batch, for the message about a loss that is not finite.

    Returns:
        True when the step is finished, False when someone asked to stop (the state is saved).

    Raises:
        UserError: after more than 20 updates in a row whose loss or gradient was not finite.
    """
    for batch in batches:
        if trainer.iteration % iterations_per_epoch == 0:
            trainer.train_mode()
        report = trainer.iteration % log_every == 0 or trainer.iteration + 1 == trainer.total
        outcome = trainer.update(batch, report=report)
        progress(trainer.iteration, outcome.values, trainer.optimizer.param_groups[0]["lr"])
        if report and trainer.skipped_in_a_row > MAX_SKIPPED:
            raise UserError(
                f"the loss or its gradient was not finite {trainer.skipped_in_a_row} times in a row, last at iteration "
                f"{trainer.iteration} on the images {', '.join(names(batch))}: lower the learning rates or use "
                "--precision 32-true"
            )
        if outcome.stop:
            save()
            return False
        if trainer.iteration % save_every == 0 and trainer.iteration < trainer.total:
            save()
    return True


def _mix(*numbers: int) -> int:
    """Mix several numbers to one seed."""
    seed = 0
    for number in numbers:
        seed = (seed * 1_000_003 + number + 1) % 2**63
    return seed
