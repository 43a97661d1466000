"""The metrics of a classifier on whole windows."""

import numpy as np
from sklearn.metrics import confusion_matrix

from raysys.evaluate.intervals import Auc, Metric, OfSums
from raysys.evaluate.readings import Readings


def class_metrics(split: str, readings: Readings, classes: tuple[str, ...]) -> dict[str, Metric]:
    """Returns accuracy, the mean of the recalls of the classes, and the AUC of each class against the others.

    Args:
        split: name, that of the metrics begins with it.
        readings: of the windows of the split; those of an unknown class do not count.
        classes: names, in the order of the probabilities.
    """
    known = readings.group >= 0
    right = known & (readings.class_probability.argmax(axis=1) == readings.group)
    of_class = readings.group[:, None] == np.arange(len(classes))
    columns = np.concatenate([of_class & right[:, None], of_class], axis=1).astype(float)
    count = int(known.sum())

    def accuracy(sums: np.ndarray) -> np.ndarray:
        return sums[..., : len(classes)].sum(axis=-1) / sums[..., len(classes) :].sum(axis=-1)

    def mean_recall(sums: np.ndarray) -> np.ndarray:
        return (sums[..., : len(classes)] / sums[..., len(classes) :]).mean(axis=-1)

    metrics: dict[str, Metric] = {
        f"{split}_accuracy": OfSums(columns, accuracy, count),
        f"{split}_mean_recall": OfSums(columns, mean_recall, count),
    }
    for k, name in enumerate(classes):
        mine = of_class[:, k]
        metrics[f"{split}_auc_{name}"] = Auc(mine, known & ~mine, readings.class_probability[:, k])
    return metrics


def confusion(readings: Readings, classes: tuple[str, ...]) -> dict[str, list]:
    """Returns how many windows of each class (rows) are taken for each class (columns)."""
    known = readings.group >= 0
    given, taken = readings.group[known], readings.class_probability[known].argmax(axis=1)
    counts = confusion_matrix(given, taken, labels=range(len(classes))) if len(given) else np.zeros((len(classes),) * 2)
    return {"classes": list(classes), "counts": counts.astype(int).tolist()}
