"""Index rows and networks made by hand."""

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from raysys.data.index import SCHEMA

_EMPTY = {"string": "", "double": np.nan, "float": 1.0, "list<item: double>": [], "list<item: string>": []}


def made_table(*rows: dict) -> pa.Table:
    """Returns an index; what a row does not say is empty. A trace has 100 Hz and 6,000 samples."""
    usual = {"dataset": "made", "split": "test", "rate_hz": 100.0, "num_samples": 6000, "num_components": 3}
    usual |= {"components": "ZNE", "dtype": "<f4", "scale": 1.0}
    columns = {}
    for field in SCHEMA:
        default = _EMPTY.get(str(field.type), 0)
        columns[field.name] = [
            (usual | {"trace_name": f"t{k}"} | row).get(field.name, default) for k, row in enumerate(rows)
        ]
    return pa.table(columns, schema=SCHEMA)


class Oracle(nn.Module):
    """A picker that reads the answer out of the waveform: probabilities are components, noise is the rest."""

    def __init__(self, window_samples: int = 2000):
        super().__init__()
        self.window_samples, self.scale = window_samples, nn.Parameter(torch.ones(()))

    def forward(self, waveform, num_valid=None):
        """Returns the first two components as P and S."""
        p, s = waveform[:, 0] * self.scale, waveform[:, 1]
        return torch.stack([p, s, (1 - p - s).clamp_min(0)], dim=1)


class Jumpy(nn.Module):
    """A picker whose probability is that of a sudden rise of the amplitude on the vertical (P) and on the others (S)."""

    def __init__(self, window_samples: int = 2048):
        super().__init__()
        self.window_samples, self.sharpness = window_samples, nn.Parameter(torch.ones(()))

    def forward(self, waveform, num_valid=None):
        """Returns probabilities (B, 3, T)."""
        x = (waveform - waveform.mean(dim=-1, keepdim=True)).abs()
        x = torch.stack([x[:, 0], x[:, 1:].sum(dim=1)], dim=1)
        behind = nn.functional.avg_pool1d(nn.functional.pad(x, (0, 49)), 50, 1)
        before = nn.functional.avg_pool1d(nn.functional.pad(x, (300, 0)), 300, 1)[..., : x.shape[-1]]
        rise = ((behind + 1e-30).log() - (before + 1e-6 * x.amax(dim=-1, keepdim=True) + 1e-30).log()).clamp(-5, 5)
        p, s = (0.48 * torch.sigmoid(self.sharpness * rise - 1)).unbind(dim=1)
        return torch.stack([p, s, 1 - p - s], dim=1)
