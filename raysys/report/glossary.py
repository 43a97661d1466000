"""What every number of a report means, and what a good value is."""

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


def glossary(runs: bool, sweeps: bool) -> Section:
    """Returns the section that explains the numbers of runs, of sweeps, or of both."""
    terms = (_SWEEP if sweeps else {}) | (_RUN if runs else {k: _RUN[k] for k in _SWEEP_NEEDS})
    return Section("What the numbers mean", (f'<div class="glossary">{pairs(terms)}</div>',))


_SWEEP_NEEDS = ("step, window", "contrastive loss", "perplexity", "used fraction", "probe/macro_ap", "val/top1_tie")
