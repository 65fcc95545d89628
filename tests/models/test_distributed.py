"""Gathers: nothing with one process; with two, the global batch and its gradient."""

from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from ssl_sweep.models.batchnorm import shuffled
from ssl_sweep.models.distributed import broadcast, gather, gather_no_grad, rank, world_size

PER_RANK = 3


def test_one_process_gathers_itself() -> None:
    x = torch.randn(2, 3, requires_grad=True)
    assert gather(x) is x
    assert broadcast(x) is x
    assert torch.equal(gather_no_grad(x), x)
    assert not gather_no_grad(x).requires_grad
    assert (world_size(), rank()) == (1, 0)


def global_batch() -> Tensor:
    return torch.randn(2 * PER_RANK, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def contrast(own: Tensor, whole_batch: Tensor) -> Tensor:
    """A loss of a rank's own rows against the global batch, not linear in either."""
    return (own @ whole_batch.T).exp().mean()


def two_ranks(index: int, folder: str) -> None:
    """Each rank's share of every claim; results are left as files for the test to compare."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=index, world_size=2)
    own = global_batch().chunk(2)[index].requires_grad_()
    gathered = gather(own)
    contrast(own, gathered).backward()
    order = torch.tensor([5, 2, 0, 4, 1, 3])
    found = {
        "gathered": gathered.detach(),
        "no_grad": gather_no_grad(own),
        "grad": own.grad,
        "first": broadcast(torch.full((2,), float(index))),
        "shuffled": shuffled(lambda x: 2 * x, own, order),
        "normalised": shuffled(nn.BatchNorm1d(4, affine=False).double(), own, order),
    }
    torch.save(found, f"{folder}/{index}.pt")
    dist.destroy_process_group()


def test_two_ranks_see_the_global_batch(tmp_path: Path) -> None:
    mp.spawn(two_ranks, args=(str(tmp_path),), nprocs=2)
    found = [torch.load(tmp_path / f"{index}.pt") for index in range(2)]

    whole_batch = global_batch().requires_grad_()
    sum(contrast(own, whole_batch) for own in whole_batch.chunk(2)).backward()
    order = torch.tensor([5, 2, 0, 4, 1, 3])
    halves = torch.cat([nn.BatchNorm1d(4).double()(whole_batch[half]) for half in order.chunk(2)])
    for index, share in enumerate(found):
        torch.testing.assert_close(share["gathered"], whole_batch.detach())
        torch.testing.assert_close(share["no_grad"], whole_batch.detach())
        torch.testing.assert_close(share["grad"], whole_batch.grad.chunk(2)[index])
        torch.testing.assert_close(share["first"], torch.zeros(2))
        torch.testing.assert_close(share["shuffled"], 2 * whole_batch.detach().chunk(2)[index])
        torch.testing.assert_close(share["normalised"], halves[order.argsort()].detach().chunk(2)[index])
