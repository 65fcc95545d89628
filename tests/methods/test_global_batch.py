"""Two ranks with half a batch each have the loss, the gradient and the queue of one process with the whole batch."""

import importlib
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from ssl_sweep.contracts import made_images
from ssl_sweep.data.images import Shard
from ssl_sweep.data.views import Augment
from ssl_sweep.methods import drlim
from ssl_sweep.models.encoders import ENCODERS
from ssl_sweep.training.declarations import MethodDeclarations, declared

METHODS = {"simclr": {}, "leoclr": {"mechanism": "end_to_end"}, "moco": {"queue_size": 16, "symmetric": True}}


def build(name: str) -> nn.Module:
    """A method in evaluation mode: batch statistics are each rank's own, as on several devices anywhere."""
    torch.manual_seed(0)
    encoder = ENCODERS["resnet18"](16, width=8)
    method = importlib.import_module(f"ssl_sweep.methods.{name}").Method(encoder, dim=8, **METHODS[name])
    return method.double().eval()


def batch(index: int = 0, count: int = 1) -> dict[str, Tensor]:
    """Rank `index`'s share of eight images' views; an order is of the whole batch."""
    rng = torch.Generator().manual_seed(1)
    views = {
        name: torch.rand(8, 3, 16, 16, dtype=torch.float64, generator=rng) for name in ("first", "second", "whole")
    }
    orders = {f"{name}_order": torch.randperm(8, generator=rng) for name in ("first", "second")}
    return {name: view.chunk(count)[index] for name, view in views.items()} | orders


def step(method: nn.Module, views: dict[str, Tensor]) -> dict[str, Tensor]:
    loss, scalars = method.loss(views)
    loss.backward()
    declared(MethodDeclarations, method).after_step(0.5)
    queue = {"queue": method.state_dict().get("keys.queue.keys", torch.zeros(()))}
    return {"loss": loss.detach(), "gradient": method.encoder.net.conv1.weight.grad, **scalars, **queue}


def neighbours_step(share: slice | None = None) -> dict[str, Tensor]:
    """DrLIM's loss of eight labelled images, each with a neighbour, or of a rank's share of them."""
    torch.manual_seed(0)
    method = drlim.Method(ENCODERS["drlim"](16)).double()
    whole = made_images.batch(8)
    shard = None if share is None else Shard(whole.sizes, share, made_images.photographs(8).batch)
    own = whole if share is None else made_images.photographs(8).batch(torch.arange(8)[share])
    views = method.views(own._replace(shard=shard), Augment(16, flip=0.0), torch.Generator().manual_seed(1))
    loss, scalars = method.loss(views | {"image": views["image"].double()})
    loss.backward()
    return {"loss": loss.detach(), "gradient": next(method.encoder.parameters()).grad, **scalars}


def two_ranks(index: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=index, world_size=2)
    steps = {name: step(build(name), batch(index, 2)) for name in METHODS}
    steps["drlim"] = neighbours_step(slice(4 * index, 4 * index + 4))
    torch.save(steps, f"{folder}/{index}.pt")
    dist.destroy_process_group()


def test_two_ranks_are_one_batch(tmp_path: Path) -> None:
    mp.spawn(two_ranks, args=(str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{index}.pt") for index in range(2))
    wholes = {name: step(build(name), batch()) for name in METHODS} | {"drlim": neighbours_step()}
    for name, whole in wholes.items():
        for key in whole.keys() - {"queue"}:  # DDP means the gradients, too
            torch.testing.assert_close((first[name][key] + second[name][key]) / 2, whole[key], atol=1e-10, rtol=1e-8)
    expected = step(build("moco"), batch())["queue"]
    for share in (first, second):
        torch.testing.assert_close(share["moco"]["queue"], expected, atol=1e-10, rtol=0)
