"""How many epochs a search's pruner watches, and reasons why it could never prune anything."""

from collections.abc import Iterator, Mapping
from typing import Any

from ssl_sweep.knobs import methods
from ssl_sweep.knobs.evaluation import Evaluation
from ssl_sweep.knobs.problems import Finding
from ssl_sweep.spec.pruners import Wilcoxon
from ssl_sweep.spec.search import Search
from ssl_sweep.training.optimizers import num_epochs


def max_epochs(search: Search, pretrain: Mapping[str, Any], evaluate: Mapping[str, Mapping[str, Any]]) -> int:
    """The maximum number of epochs of the stage that an epoch pruner watches."""
    stage = search.prune_objective.metric.rpartition("/")[0]
    if stage == "pretrain":
        return max(map(num_epochs, pretrain_lengths(search, pretrain)))
    return Evaluation.epochs(search.at_highest(f"evaluate.{stage}", evaluate[stage]))


def pretrain_lengths(search: Search, pretrain: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The lengths that pretrainings can have, in epochs or in steps, as settings of `Recipe`; a range's by its ends."""
    epochs, steps, epoch_steps = (
        search.candidates(f"pretrain.{knob}", pretrain[knob]) for knob in ("epochs", "steps", "epoch_steps")
    )
    found = [{"epochs": None, "steps": n, "epoch_steps": each} for n in steps if n for each in epoch_steps]
    is_by_epochs = None in steps or "pretrain.epochs" in search.space
    return found + [{"epochs": n, "steps": None} for n in epochs if is_by_epochs and n is not None]


def pruning_findings(
    search: Search,
    method: Mapping[str, Any],
    pretrain: Mapping[str, Any],
    evaluate: Mapping[str, Mapping[str, Any]],
) -> Iterator[Finding]:
    """Yield the reasons why the pruner could never prune anything."""
    pruner = search.pruner
    if isinstance(pruner, Wilcoxon):
        yield from _too_few_seeds(pruner, len(search.seeds))
    elif not isinstance(pruner, str):
        varied = bool(search.cases or search.branches)
        pretrains = varied or methods.pretrains(method["name"])
        if search.prune_objective.metric.startswith("pretrain/") and not pretrains:
            message = f"is never reported, as method {method['name']} does not pretrain"
            remedy = "use `pruner: none`, or `maximize finetune/top1_val` with `finetune:` in evaluate"
            yield Finding(("prune_on",), search.prune_on, message, remedy)
        elif pruner.min_epochs > (most := max_epochs(search, pretrain, evaluate)):
            message = f"is more than the {most} epochs of {search.prune_objective.metric.partition('/')[0]}"
            yield Finding(("pruner", "min_epochs"), pruner.min_epochs, message, "lower it")


def _too_few_seeds(pruner: Wilcoxon, seeds: int) -> Iterator[Finding]:
    """The one-sided signed-rank test over n pairs has p >= 1 / 2^n, and a prune must save at least one seed."""
    least = next(n for n in range(pruner.min_seeds, 1001) if 0.5**n < pruner.p_threshold)
    if seeds <= least:
        message = f"can prune nothing of {seeds} seeds: p is below {pruner.p_threshold:g} from {least} seeds on"
        yield Finding(("pruner",), pruner.name, message, f"use `seeds: {least + 1}` or more, or raise p_threshold")
