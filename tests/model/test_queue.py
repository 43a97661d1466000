"""The memory bank: what it remembers, in which order, and that negatives come from it."""

import math

import pytest
import torch

from model.comparison import TargetQueue
from tests.model.windows import batch, collapsed


def test_queue_remembers_first_in_first_out(pretrain):
    net = pretrain({"negatives": "queue", "queue_frames": 96, "pool_frames": 64})
    before = net.comparison.queue.targets.clone()
    net(batch())
    assert (net.comparison.queue.targets[:64] != before[:64]).any(1).all()
    assert (net.comparison.queue.targets[64:] == before[64:]).all()
    assert (net.comparison.queue.ids[:64] >= 0).all()
    net(batch())
    assert net.comparison.queue.next == 128 % 96
    assert (net.comparison.queue.targets[64:] != before[64:]).any(1).all()
    remembered = net.comparison.queue.targets.clone()
    net.eval()(batch())
    assert (net.comparison.queue.targets == remembered).all()


def test_the_code_of_a_remembered_target_stays_with_it(pretrain):
    """Half of the memory is the context itself, with the positive's code, and does not count; the rest is its opposite."""
    net = collapsed(pretrain({"negatives": "queue", "queue_frames": 50, "pool_frames": 20})).eval()
    torch.nn.init.zeros_(net.head.weight)
    with torch.no_grad():
        net.quantizer.output.weight.zero_()
        net.quantizer.output.bias.copy_(net.head.bias)
        net.comparison.queue.targets.copy_(net.head.bias * (1 - 2 * (torch.arange(50) % 2))[:, None])
        net.comparison.queue.ids.copy_(torch.arange(50) % 2)
        assert net(batch()).contrastive < 1e-6
        net.comparison.queue.ids.copy_(1 - torch.arange(50) % 2)
        assert net(batch()).contrastive > 1


def test_queue_takes_in_no_padding(pretrain):
    """Frames of padding are all alike, whereas no two remembered targets are."""
    net = pretrain({"negatives": "queue", "queue_frames": 40, "pool_frames": 40}, kind="none")
    net(batch(2), num_valid=torch.tensor([60, 256]))
    assert len(net.comparison.queue.targets.unique(dim=0)) == 40


def test_queue_replaces_its_oldest_entries_in_order():
    queue = TargetQueue(5, 2)
    first, second = torch.arange(6.0).view(3, 2), torch.arange(10.0, 18.0).view(4, 2)
    queue.push(first, torch.tensor([1, 2, 3]), torch.ones(3, dtype=bool))
    assert queue.ids.tolist() == [1, 2, 3, -1, -1]
    queue.push(second, torch.tensor([4, 5, 6, 7]), torch.ones(4, dtype=bool))
    assert queue.ids.tolist() == [6, 7, 3, 4, 5]
    assert torch.equal(queue.targets, torch.cat([second[2:], first[2:], second[:2]]))
    queue.push(first[:1], torch.tensor([8]), torch.ones(1, dtype=bool))
    assert queue.ids.tolist() == [6, 7, 8, 4, 5]


def test_queue_passes_over_what_is_not_valid_and_keeps_the_last_of_too_many():
    queue = TargetQueue(3, 1)
    targets = torch.arange(6.0)[:, None]
    queue.push(targets[:4], torch.arange(4), torch.tensor([False, True, False, True]))
    assert queue.ids.tolist() == [1, 3, -1]
    queue.push(targets, torch.arange(6), torch.tensor([True, True, False, True, True, True]))
    assert (queue.ids.tolist(), queue.targets.flatten().tolist(), queue.next) == ([5, 3, 4], [5.0, 3.0, 4.0], 1)


def test_queue_takes_in_no_window_without_signal_and_no_padding_though_there_is_room(pretrain):
    net = pretrain({"negatives": "queue", "queue_frames": 64, "pool_frames": 64}, kind="none")
    before = net.comparison.queue.targets.clone()
    x = batch(2)
    x[0] = 0
    net(x, num_valid=torch.tensor([256, 100]))
    changed = (net.comparison.queue.targets != before).any(1)
    assert 0 < changed.sum() <= 25, "masked frames among the 25 of the one window that has signal"
    assert net.comparison.queue.next == changed.sum()
    assert len(net.comparison.queue.targets.unique(dim=0)) == 64


def test_negatives_of_the_queue_are_what_it_remembers(pretrain):
    """A memory of nothing but the opposite of every context costs nothing; one of the context itself costs log(K + 1)."""
    net = pretrain({"negatives": "queue", "queue_frames": 50, "pool_frames": 20}, kind="none").eval()
    torch.nn.init.zeros_(net.head.weight)
    with torch.no_grad():
        net.head.bias.copy_(torch.randn(32))
        net.quantizer.output.weight.zero_()
        net.quantizer.output.bias.copy_(net.head.bias)
        net.comparison.queue.targets.copy_(-3 * net.head.bias.expand(50, 32))
        assert net(batch()).contrastive < 1e-6
        net.comparison.queue.targets.mul_(-1)
        assert net(batch()).contrastive.item() == pytest.approx(math.log(21), rel=1e-4)
        net.comparison.queue.targets[25:].mul_(-1)
        assert 0.5 < net(batch()).contrastive < math.log(21) - 0.2
