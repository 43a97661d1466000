"""Networks of SeisBench's behind the interface of ours: trained by the same loop, evaluated on the same windows.

This is one of the few files that import SeisBench, and only when such a network is asked for. Shapes: B windows, T samples.
"""

import logging

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.finetuned import every_sample, weighted_mean
from model.labels import Labels, event_targets, pick_targets
from model.picker import LABELS
from model.preprocess import RATE_HZ, highpass, valid_samples

log = logging.getLogger(__name__)

CLASSES = {"phasenet": "PhaseNet", "eqtransformer": "EQTransformer"}
WIDTH_S = 0.2
"""Standard deviation of the labels that both learn."""
MULTIPLE = 128
"""Of samples, that PhaseNet's poolings fit, beside the 3001 that it was made for."""
LOSS_WEIGHTS = (0.05, 0.4, 0.55)
"""Of detection, P and S in EQTransformer's loss (Mousavi et al. 2020)."""


def build_peer(name: str, window_samples: int, highpass_hz: float = 0.0) -> nn.Module:
    """Returns an untrained network of SeisBench's, "phasenet" or "eqtransformer", for windows of so many samples.

    It sees what ours would: `highpass_hz` is `model.highpass_hz`.
    """
    import seisbench.models as sbm

    if name == "phasenet":
        return PhaseNetPicker(sbm.PhaseNet(phases=LABELS), window_samples, highpass_hz)
    return EQTransformerPicker(sbm.EQTransformer(in_samples=window_samples), highpass_hz)


def published(source: str) -> nn.Module:
    """Returns weights that SeisBench publishes, in evaluation mode; offline they come from its cache.

    Args:
        source: "phasenet:instance", "eqtransformer:original" and the like.

    Raises:
        ValueError: no such weights, or neither network nor cache to take them from.
    """
    import seisbench.models as sbm

    name, _, weights = source.partition(":")
    try:
        network = getattr(sbm, CLASSES[name]).from_pretrained(weights)
    except Exception as error:  # of many kinds: no network, no such name, a damaged file
        known = (
            f"python -c 'import seisbench.models as m; print(m.{CLASSES[name]}.list_pretrained())' names what there is"
        )
        why, _, _ = str(error).partition("\n")
        raise ValueError(f"{source}: SeisBench does not load these weights ({why}): {known}") from error
    if network.sampling_rate != RATE_HZ:
        raise ValueError(f"{source} reads {network.sampling_rate} Hz, and windows have {RATE_HZ:g}: name other weights")
    if network.filter_args:
        log.warning("%s: its filter %s, which SeisBench's annotate applies, is left out", source, network.filter_args)
    picker = PhaseNetPicker(network, network.in_samples) if name == "phasenet" else EQTransformerPicker(network)
    return picker.eval()


class _Peer(nn.Module):
    """A network of SeisBench's with the preprocessing that it is used with."""

    def __init__(self, network: nn.Module, window_samples: int, highpass_hz: float = 0.0):
        super().__init__()
        self.network, self.window_samples, self.highpass_hz = network, window_samples, highpass_hz

    def _prepared(self, waveform: Tensor, num_valid: Tensor | None) -> Tensor:
        """Returns the waveform normalised as by the network's own `annotate`, zero where there is no data.

        SeisBench adds absolute constants to deviations, which ground motion in m/s would vanish beside: the largest value of the
        three components is taken out first.
        """
        x = waveform.float()
        inside = x.isfinite() & valid_samples(every_sample(x, num_valid), x.shape[-1])
        x = torch.where(inside, x, 0)
        x = _centred(x, inside)
        x = _centred(highpass(x, inside, self.highpass_hz), inside) if self.highpass_hz else x
        peak = x.abs().amax(dim=(1, 2), keepdim=True)
        order = ["ZNE".index(component) for component in self.network.component_order]
        return self.network.annotate_batch_pre((x / torch.where(peak > 0, peak, 1))[:, order], {})


def _centred(x: Tensor, inside: Tensor) -> Tensor:
    """x (B, C, T) without the mean of what is inside; zero elsewhere."""
    return (x - x.sum(dim=-1, keepdim=True) / inside.sum(dim=-1, keepdim=True).clamp_min(1)) * inside


class PhaseNetPicker(_Peer):
    """PhaseNet (Zhu & Beroza 2019), with the soft labels that our picker learns."""

    def forward(self, waveform: Tensor, num_valid: Tensor | None = None) -> Tensor:
        """Returns probabilities (B, 3, T) of P, S and noise."""
        return self._logits(waveform, num_valid).softmax(dim=1)

    def loss(self, waveform: Tensor, num_valid: Tensor | None, labels: Labels, keep: Tensor | None = None) -> Tensor:
        """Returns the cross-entropy with the soft labels, 0-dim (`model.picker.PhasePicker.loss`)."""
        valid = every_sample(waveform, num_valid)
        targets, weight = pick_targets(labels, valid, waveform.shape[-1], WIDTH_S * RATE_HZ)
        return self.soft_loss(waveform, num_valid, targets, weight, keep)

    def soft_loss(
        self, waveform: Tensor, num_valid: Tensor | None, targets: Tensor, weight: Tensor, keep: Tensor | None = None
    ) -> Tensor:
        """Returns the cross-entropy with given probabilities, 0-dim (`model.picker.PhasePicker.soft_loss`)."""
        logits = self._logits(waveform, num_valid)
        return weighted_mean(-(targets * logits.log_softmax(dim=1)).sum(dim=1), weight, keep)

    def _logits(self, waveform: Tensor, num_valid: Tensor | None) -> Tensor:
        order = [list(self.network.labels).index(wave) for wave in LABELS]
        samples = waveform.shape[-1]
        valid = every_sample(waveform, num_valid)
        if samples != self.network.in_samples:  # its layers fit these lengths only
            waveform = F.pad(waveform, (0, -samples % MULTIPLE))
        return self.network(self._prepared(waveform, valid), logits=True).float()[:, order, :samples]


class EQTransformerPicker(_Peer):
    """EQTransformer (Mousavi et al. 2020), with its own loss; the third of its probabilities is that of no detection."""

    def __init__(self, network: nn.Module, highpass_hz: float = 0.0):
        super().__init__(network, network.in_samples, highpass_hz)
        if list(network.phases) != ["P", "S"]:
            raise ValueError(f"an EQTransformer of the phases {network.phases} is none of P and S")

    def forward(self, waveform: Tensor, num_valid: Tensor | None = None) -> Tensor:
        """Returns probabilities (B, 3, T) of P, of S, and that no earthquake is there; they do not sum to 1."""
        detection, p, s = (x.sigmoid() for x in self._logits(waveform, num_valid))
        return torch.stack([p, s, 1 - detection], dim=1)

    def loss(self, waveform: Tensor, num_valid: Tensor | None, labels: Labels, keep: Tensor | None = None) -> Tensor:
        """Returns the weighted binary cross-entropies of detection, P and S, 0-dim."""
        valid, samples = every_sample(waveform, num_valid), waveform.shape[-1]
        picks, known = pick_targets(labels, valid, samples, WIDTH_S * RATE_HZ)
        event, surely = event_targets(labels, valid, samples)
        targets = (event[:, 0], picks[:, 0], picks[:, 1])
        total = waveform.new_zeros(())
        for weight, logits, target, of in zip(
            LOSS_WEIGHTS, self._logits(waveform, num_valid), targets, (surely, known, known), strict=True
        ):
            each = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
            total = total + weight * weighted_mean(each, of, keep)
        return total

    def _logits(self, waveform: Tensor, num_valid: Tensor | None) -> list[Tensor]:
        if waveform.shape[-1] != self.window_samples:
            raise ValueError(
                f"EQTransformer reads windows of {self.window_samples} samples, not {waveform.shape[-1]}: cut them so long"
            )
        return [x.float() for x in self.network(self._prepared(waveform, num_valid), logits=True)]
