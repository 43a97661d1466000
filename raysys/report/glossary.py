"""What every number of a report means, and what a good value is."""

from collections.abc import Collection

from raysys.codebook_health import COLLAPSED_BELOW
from raysys.report.page import Section, pairs

_LIMIT = f"{100 * COLLAPSED_BELOW:g} % of the codes (search.min_perplexity_fraction)"

_RUN = {
    "step, window": "A step is one update of the weights; a window is one cut-out of a seismogram (three components, 100 Hz).",
    "contrastive loss": "How badly the model tells the hidden frame from K others of the same window, in nats. Guessing gives "
    "log(K + 1), so 4.62 at K = 100; lower is better, but only among runs with the same K, temperature and mask ratio, and "
    "only while the codebook is healthy: a collapsed codebook has a loss of 0.",
    "diversity loss": "1 - perplexity / codes, between 0 (all codes equally often) and 1 (one code). It enters the total with weight "
    "loss.diversity_lambda.",
    "perplexity": "How many codes are in use, counting rare ones less: 1 is total collapse, the number of codes V of a group is perfectly "
    "even use. Hard perplexity counts the chosen codes of the whole validation set; the training curve is that of the soft "
    f"probabilities and looks healthier. A codebook has collapsed when its hard perplexity is below {_LIMIT}.",
    "used fraction": "Fraction of all codes that were chosen at least once. Near 100 % proves little: a codebook that has collapsed by its "
    "perplexity can still use them all.",
    "probe/macro_ap": "Average precision with which a linear map of the frozen features finds frames at P and at S onsets, mean of the "
    "two; 1 is perfect, guessing gives the share of such frames (a few per cent or less). It compares between any runs on "
    "the same data. The yardstick is the same model before training.",
    "val/top1_tie": "Fraction of hidden frames that beat 100 negatives, ties shared, on a task that is the same for all runs; needs no "
    "labels. Guessing, and a collapsed codebook, give 1/101 = 0.0099. Higher is better.",
    "codes": "The quantiser names every frame by one code of each group. Codes that change at P and S and repeat across stations carry "
    "meaning.",
    "data wait": "Share of the time that training stood still for lack of data. Below 5 % the model is the bottleneck, as it should be.",
    "gradient norm": "Length of the gradient before clipping. Spikes are cut; if they come often, the learning rate is too high.",
}
_SWEEP = {
    "objective": "The number that ranks trials: probe/macro_ap or val/top1_tie. Both follow a protocol that no tuned value changes, so "
    "they compare between trials. The loss does not.",
    "rung": "A number of windows at which ASHA compares the trials that got there, and stops the worse ones.",
    "health gate": f"A trial whose hard perplexity is below {_LIMIT}, or whose loss is not finite, gets the score 0.",
    "importance": "Share of the variation of the score that one tuned value explains (functional ANOVA), at the first rung, where all "
    "trials have seen the same number of windows. From few trials it is a hint, not a fact.",
    "rank correlation": "Spearman's rho: +1 the higher the better, -1 the lower the better, 0 no monotonic relation (a best value in the "
    "middle also gives 0).",
    "compute saved": "1 - windows used / windows of all trials at full budget, failed trials left out.",
}


_FINETUNE = {
    "step, window": _RUN["step, window"],
    "dev split": "Records that no network learns from. Checkpoints, thresholds and the temperature are chosen on it, so scores on it flatter a "
    "little; the test split is used for nothing but the final numbers.",
    "hit rate": "Share of the windows with a labelled onset in which the highest probability lies within 0.1 s, or 0.5 s, of it. It needs no "
    "threshold. 0.5 s asks whether the phase was found, 0.1 s whether it was timed well.",
    "event AUC": "Probability that a window with an earthquake gets a higher score (largest 1 - noise) than one of noise: 0.5 is guessing, 1 is "
    "perfect.",
    "dev/score": "What checkpoints and trials are ranked by: for a picker the mean of the four hit rates (P and S, 0.1 and 0.5 s), for a detector "
    "the average precision of samples inside of earthquakes, for a classifier the mean of the recalls of its classes.",
    "label fraction": "Share of the labelled training traces that a network may learn from. Whole events are drawn, the same share of every data "
    "set; the number of steps stays the same.",
    "backbone, head": "The backbone turns a waveform into features and may come from pretraining; the head turns features into probabilities "
    "and always starts anew.",
    "data wait": _RUN["data wait"],
    "gradient norm": _RUN["gradient norm"],
}
_EVALUATION = {name: _FINETUNE[name] for name in ("dev split", "hit rate", "event AUC", "label fraction")} | {
    "interval": "95 % interval by the bootstrap: events are drawn anew with replacement, a thousand times, and the middle 95 % of the results kept. "
    "It tells how the number depends on which earthquakes happen to be in the test split, not how it depends on the seed of the training.",
    "paired difference": "Difference of two models on the same traces, with the interval of the difference. If it does not hold 0, another sample of "
    "earthquakes would hardly turn the order around.",
    "precision, recall, F1": "Of picks above the threshold: the share that lies at a label, the share of labels that has a pick, and the harmonic mean "
    "of both. Each pick and each label counts once; picks where nobody looked for phases do not count.",
    "threshold": "Probability from which a peak is a pick, chosen on dev for the best F1 within 0.5 s, for P and S by themselves.",
    "phase MCC": "Matthews' correlation between labelled and predicted phase, P or S, in windows of 10 s around one onset (Münchmeyer et al. 2022): "
    "0 is guessing, 1 is perfect.",
    "residual, MAE": "Time of a matched pick minus that of its label, in seconds; MAE is the mean of its size. Wrong arrivals within 0.5 s are in it.",
    "detection": "Earthquake or noise in windows of 30 s (Münchmeyer et al. 2022), by the largest 1 - noise.",
    "temperature, ECE": "Expected calibration error: mean distance between the probability of picks and the share of them that is right. 0.1 is ten "
    "points off. Dividing log-probabilities by one number, the temperature (Guo et al. 2017), removes most of it; above 1 the model was "
    "too sure.",
    "published": "Weights as others trained and published them, not fine-tuned here. They may have seen records of the test splits.",
}
_PICKING = {
    "pick": "The highest point of a curve of P or S where it exceeds the threshold; the curve must fall below half of it before another one.",
    "probability": "Of the pick, at the temperature of the picker: of picks with 0.8 about eight in ten should be right, on data like that it was "
    "tried on. Without an evaluation it is what the network says, which tends to be too sure.",
    "threshold": _EVALUATION["threshold"],
    "uncertainty of time": "One standard deviation, from the width of the peak; its scale is measured on dev.",
    "amplitude, signal over noise": "Largest amplitude of any component in the 2 s behind the onset; 20 log10 of the RMS in the second behind the onset "
    "over that in the two seconds before it.",
    "S minus P": "Time between the picks of S and P of one earthquake; proportional to the distance.",
}
_SWEEP_NEEDS = ("step, window", "contrastive loss", "perplexity", "used fraction", "probe/macro_ap", "val/top1_tie")
_FINETUNE_SWEEP_NEEDS = ("step, window", "dev split", "hit rate", "event AUC", "dev/score", "backbone, head")
_ONLY_PRETRAINING = ("objective", "health gate")


def glossary(runs: Collection[str], sweeps: Collection[str], evaluations: bool = False, picks: bool = False) -> Section:
    """Returns the section that explains the numbers of a page.

    Args:
        runs: tasks of the runs on it.
        sweeps: tasks of the sweeps on it.
        evaluations: whether it holds an evaluation.
        picks: whether it holds picks.
    """
    terms = {}
    if sweeps:
        terms |= _SWEEP if "pretrain" in sweeps else {k: v for k, v in _SWEEP.items() if k not in _ONLY_PRETRAINING}
    if "pretrain" in runs or "pretrain" in sweeps:
        terms |= _RUN if "pretrain" in runs else {k: _RUN[k] for k in _SWEEP_NEEDS}
    if set(runs) - {"pretrain"}:
        terms |= _FINETUNE
    elif set(sweeps) - {"pretrain"}:
        terms |= {k: _FINETUNE[k] for k in _FINETUNE_SWEEP_NEEDS}
    terms |= _EVALUATION if evaluations else {}
    terms |= _PICKING if picks else {}
    return Section("What the numbers mean", (f'<div class="glossary">{pairs(terms)}</div>',))
