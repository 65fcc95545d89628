"""The queue of keys: first in, first out, whatever the batch size."""

import torch
from torch import Tensor

from ssl_sweep.models.queue import Queue


def numbered(first: int, count: int) -> Tensor:
    return torch.arange(first, first + count).float().unsqueeze(1).expand(-1, 2)


def test_it_starts_with_random_keys_of_length_one() -> None:
    first, same = (Queue(16, 4, generator=torch.Generator().manual_seed(1)) for _ in range(2))
    torch.testing.assert_close(first.keys.norm(dim=1), torch.ones(16))
    assert torch.equal(first.keys, same.keys)
    assert not torch.equal(first.keys, Queue(16, 4, generator=torch.Generator().manual_seed(2)).keys)


def test_it_holds_the_newest_keys_when_the_batch_does_not_divide_its_size() -> None:
    queue = Queue(8, 2)
    for step in range(11):
        queue.enqueue(numbered(3 * step, 3))
        newest = range(max(0, 3 * step + 3 - 8), 3 * step + 3)
        assert set(newest) <= set(queue.keys[:, 0].tolist())
    assert int(queue.pointer) == 33 % 8


def test_the_oldest_key_lies_at_the_pointer() -> None:
    queue = Queue(4, 2)
    queue.enqueue(numbered(0, 3))
    queue.enqueue(numbered(3, 3))
    assert queue.keys[:, 0].tolist() == [4, 5, 2, 3]
    assert int(queue.pointer) == 2


def test_of_a_batch_larger_than_the_queue_the_last_keys_stay() -> None:
    queue = Queue(4, 2)
    queue.enqueue(numbered(0, 10))
    assert sorted(queue.keys[:, 0].tolist()) == [6, 7, 8, 9]


def test_it_holds_values_and_no_graph() -> None:
    queue = Queue(4, 2)
    keys = torch.ones(2, 2, dtype=torch.bfloat16, requires_grad=True)
    queue.enqueue(keys)
    assert not queue.keys.requires_grad
    assert queue.keys.dtype == torch.float32


def test_it_goes_on_after_a_resume() -> None:
    queue, resumed = Queue(5, 2), Queue(5, 2)
    queue.enqueue(numbered(0, 3))
    resumed.load_state_dict(queue.state_dict())
    for one in (queue, resumed):
        one.enqueue(numbered(3, 4))
    torch.testing.assert_close(resumed.state_dict(), queue.state_dict(), rtol=0, atol=0)
