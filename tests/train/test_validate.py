"""Validation: the numbers of the whole fixed set, whoever computes them and in whatever batches."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from model.pretrain import PretrainModel
from raysys.config import RunConfig
from raysys.data.fixed_windows import FixedWindows
from raysys.evaluate import probe as probe_module
from raysys.evaluate.probe import probe_scores
from raysys.presets import PRESETS
from raysys.train import validate as module
from raysys.train.data import TrainingData
from raysys.train.validate import validate

CPU = torch.device("cpu")
LOSSES = ("val/loss", "val/contrastive", "val/accuracy")


def made(count: int, seed: int) -> FixedWindows:
    """Noise with onsets, every third window half empty."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((count, 3, 512)).astype(np.float32)
    p, s = rng.uniform(60, 160, count), rng.uniform(300, 400, count)
    valid = np.where(np.arange(count) % 3 == 1, 250, 512).astype(np.int32)
    for i in range(count):
        x[i, 0, int(p[i]) : int(p[i]) + 60] *= 6
        x[i, 1, int(s[i]) : int(s[i]) + 60] *= 6
        x[i, :, valid[i] :] = 0
    return FixedWindows(x, valid, p, s, np.zeros(count, bool), np.zeros(count, int), ("made",))


DATA = TrainingData(None, "", {}, None, validation=made(7, 0), probe_fit=made(12, 1), probe_score=made(9, 2))


@pytest.fixture(scope="module")
def config() -> RunConfig:
    return PRESETS["smoke"]().override({"loss.diversity_lambda": 1.0, "model.backbone.dropout": 0.3})


def model_of(config: RunConfig) -> PretrainModel:
    torch.manual_seed(0)
    return PretrainModel(config.model, config.mask, config.loss).eval()


@pytest.mark.parametrize("batch", [1, 3, 128])
def test_metrics_are_those_of_all_windows_with_draws_of_their_own(config, monkeypatch, batch):
    """Losses are means over windows, the tie score one over frames, codes are counted over the whole set."""
    monkeypatch.setattr(module, "BATCH", batch)
    model, windows = model_of(config), DATA.validation
    x, valid, ids = torch.tensor(windows.waveform), torch.tensor(windows.num_valid), torch.arange(7)
    sums, right, frames, counts = np.zeros(3), 0.0, 0.0, 0
    with torch.no_grad():
        for part in ids.split(batch):
            losses = model(x[part], valid[part], window_id=part)
            sums += len(part) * np.array([losses.total, losses.contrastive, losses.accuracy])
            tie = model.top1_tie(x[part], part, valid[part])
            right, frames, counts = right + tie[0].sum(), frames + tie[1].sum(), counts + losses.code_counts
    found = validate(model, config, DATA, 0, 1, CPU)
    assert [found[name] for name in LOSSES] == pytest.approx(sums / 7, rel=1e-5)
    assert found["val/top1_tie"] == pytest.approx(float(right / frames), rel=1e-5)
    assert torch.equal(found["counts"], counts.double())
    share = counts.double().numpy() / counts.sum(dim=1, keepdim=True).double().numpy()
    groups = [np.exp(-sum(p * np.log(p) for p in group if p > 0)) for group in share]
    assert [found[f"codebook/hard_perplexity_{g}"] for g in (0, 1)] == pytest.approx(groups, rel=1e-6)
    assert found["codebook/hard_perplexity"] == pytest.approx(sum(groups), rel=1e-6)
    assert found["codebook/used_fraction"] == pytest.approx((share > 0).mean())
    assert len({round(found[name], 4) for name in (*LOSSES, "val/top1_tie")}) == 4


def test_the_probe_is_fitted_to_its_one_set_and_scored_on_its_other(config):
    model = model_of(config)
    found = validate(model, config, DATA, 0, 1, CPU)
    center = 4 * np.arange(config.model.num_frames)  # of two convolutions of stride 2
    with torch.no_grad():
        expected = probe_scores(model.features, 32, center, DATA.probe_fit, DATA.probe_score, config.probe)
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-5)


def test_a_rank_takes_every_nth_window_and_draws_for_it_what_one_rank_would(config, monkeypatch):
    monkeypatch.setattr(module, "BATCH", 1)
    model = model_of(config)
    whole, even, odd = (validate(model, config, DATA, *place, CPU) for place in ((0, 1), (0, 2), (1, 2)))
    for name in LOSSES:
        assert whole[name] == pytest.approx((4 * even[name] + 3 * odd[name]) / 7, rel=1e-6)
    assert torch.equal(whole["counts"], even["counts"] + odd["counts"])


@pytest.mark.parametrize("training", [True, False])
def test_validation_drops_nothing_out_and_leaves_the_mode_as_it_was(config, training):
    model = model_of(config).train(training)
    expected = validate(model_of(config), config, DATA, 0, 1, CPU)
    found = validate(model, config, DATA, 0, 1, CPU)
    assert model.training == training
    assert {name: found[name] for name in expected if name != "counts"} == pytest.approx(
        {name: value for name, value in expected.items() if name != "counts"}
    )


class TwoRanks:
    """The collectives that validation asks of `torch.distributed`, between two threads of this process."""

    def __init__(self):
        self._met = threading.Barrier(2, timeout=60)
        self._values: list = [None, None]
        self._mine = threading.local()

    def run(self, function) -> list:
        """Returns what `function(rank)` returns on both ranks."""

        def rank(number: int):
            self._mine.rank = number
            return function(number)

        with torch.compiler.set_stance("force_eager"), ThreadPoolExecutor(2) as pool:
            return list(pool.map(rank, range(2)))

    def all_gather_object(self, parts: list, value) -> None:
        self._values[self._mine.rank] = value
        self._met.wait()
        parts[:] = self._values
        self._met.wait()

    def all_reduce(self, tensor: torch.Tensor) -> None:
        parts: list = [None, None]
        self.all_gather_object(parts, tensor.clone())
        tensor.copy_(parts[0] + parts[1])

    def is_available(self) -> bool:
        return True

    def is_initialized(self) -> bool:
        return hasattr(self._mine, "rank")

    def get_world_size(self) -> int:
        return 2

    def get_backend(self) -> str:
        return "gloo"


@pytest.fixture
def two_ranks(monkeypatch) -> TwoRanks:
    ranks = TwoRanks()
    monkeypatch.setattr(module, "dist", ranks)
    monkeypatch.setattr(probe_module, "dist", ranks)
    return ranks


def test_two_ranks_return_what_one_does_and_both_the_same(config, monkeypatch, two_ranks):
    monkeypatch.setattr(module, "BATCH", 1)
    models = model_of(config), model_of(config)
    both = two_ranks.run(lambda rank: validate(models[rank], config, DATA, rank, 2, CPU))
    expected = validate(models[0], config, DATA, 0, 1, CPU)
    for found in both:
        assert torch.equal(found.pop("counts"), expected["counts"])
        assert found == pytest.approx({name: value for name, value in expected.items() if name != "counts"}, rel=1e-6)
    assert both[0] == both[1]


def test_ranks_on_processors_that_round_otherwise_decide_by_the_same_numbers(config, monkeypatch, two_ranks):
    monkeypatch.setattr(module, "probe", lambda *arguments: {"probe/macro_ap": 0.5 + 1e-7 * arguments[3]})
    models = model_of(config), model_of(config)
    both = two_ranks.run(lambda rank: validate(models[rank], config, DATA, rank, 2, CPU))
    assert [found["probe/macro_ap"] for found in both] == [0.5, 0.5]
