"""Two ranks with half a batch each have the loss and the gradient, and DINO's centre, of one process with all of it."""

import importlib
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from ssl_sweep.models.encoders import ENCODERS
from ssl_sweep.training.declarations import MethodDeclarations, declared

METHODS = {
    "barlow_twins": {"hidden_dim": 16, "dim": 6},
    "vicreg": {"hidden_dim": 16, "dim": 6},
    "swav": {"hidden_dim": 16, "dim": 6, "prototypes": 5, "local_crops": 0},
    "moco_v3": {"hidden_dim": 16, "dim": 6},
    "dino": {"hidden_dim": 16, "prototypes": 5},
}


def build(name: str) -> nn.Module:
    """A method in evaluation mode: batch statistics of the net are each rank's own, as on several devices anywhere."""
    torch.manual_seed(0)
    encoder = ENCODERS["resnet18"](16, width=8)
    method = importlib.import_module(f"ssl_sweep.methods.{name}").Method(encoder, **METHODS[name])
    return method.double().eval()


def views(index: int = 0, count: int = 1) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(1)
    batch = {name: torch.rand(8, 3, 16, 16, dtype=torch.float64, generator=rng) for name in ("first", "second")}
    return {name: view.chunk(count)[index] for name, view in batch.items()}


def step(method: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    loss, _ = method.loss(batch)
    loss.backward()
    declared(MethodDeclarations, method).after_step(0.5)
    center = method.state_dict().get("center", torch.zeros(()))
    return {"loss": loss.detach(), "gradient": method.encoder.net.conv1.weight.grad, "center": center}


def two_ranks(index: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=index, world_size=2)
    torch.save({name: step(build(name), views(index, 2)) for name in METHODS}, f"{folder}/{index}.pt")
    dist.destroy_process_group()


def test_two_ranks_are_one_batch(tmp_path: Path) -> None:
    mp.spawn(two_ranks, args=(str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{index}.pt") for index in range(2))
    for name in METHODS:
        whole = step(build(name), views())
        for key in ("loss", "gradient"):  # DDP means the gradients, too
            mean = (first[name][key] + second[name][key]) / 2
            torch.testing.assert_close(mean, whole[key], atol=1e-10, rtol=1e-8)
        for share in (first, second):
            torch.testing.assert_close(share[name]["center"], whole["center"], atol=1e-12, rtol=0)
    assert whole["center"].abs().sum() > 0
    assert first["vicreg"]["loss"] == second["vicreg"]["loss"]
