"""What the tests of training share: the data of the smallest run, double precision, and Ray Train's side of a worker."""

from pathlib import Path
from types import SimpleNamespace

import pyarrow.fs as pafs
import pytest
import ray.train
import torch

from raysys.config import RunConfig
from raysys.presets import finetuning
from raysys.train import reporter
from raysys.train.data import TrainingData, prepare_training_data


@pytest.fixture(scope="session")
def data(smoke) -> TrainingData:
    """What the smallest run reads; nobody writes to it."""
    return prepare_training_data(smoke)


@pytest.fixture(scope="session")
def picking(smoke) -> RunConfig:
    """The smallest fine-tuning of a picker, from scratch."""
    return finetuning(smoke, "pick", "scratch").override({"train.val_windows": 64})


@pytest.fixture(scope="session")
def labelled(picking) -> TrainingData:
    """What it reads; nobody writes to it."""
    return prepare_training_data(picking).of_run(picking)


@pytest.fixture
def double():
    """Everything made in the test is in float64, where processors and math libraries hardly differ."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Context(SimpleNamespace):
    """Ray Train around a worker, as far as a reporter asks it, in one process."""

    def get_world_rank(self) -> int:
        """Of the worker."""
        return self.rank

    def get_world_size(self) -> int:
        """One, whatever the rank."""
        return 1

    def get_storage(self) -> SimpleNamespace:
        """A run's folder."""
        return SimpleNamespace(experiment_fs_path=str(self.folder / "run"), storage_filesystem=pafs.LocalFileSystem())


@pytest.fixture
def context(monkeypatch, tmp_path) -> Context:
    """The surroundings of rank 0; `registered` holds what Ray Train was told."""
    context = Context(rank=0, folder=tmp_path, registered=[], notice=None)

    def register(metrics, checkpoint, checkpoint_upload_mode):
        assert checkpoint_upload_mode == ray.train.CheckpointUploadMode.NO_UPLOAD
        context.registered.append((metrics["step"], checkpoint and Path(checkpoint.path).name))

    monkeypatch.setattr(ray.train, "get_context", lambda: context)
    monkeypatch.setattr(ray.train, "get_checkpoint", lambda: None)
    monkeypatch.setattr(ray.train, "get_preemption_info", lambda: context.notice)
    monkeypatch.setattr(ray.train, "report", register)
    monkeypatch.setattr(reporter, "broadcast_from_rank_zero", lambda value: value)
    return context
