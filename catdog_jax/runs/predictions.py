"""A model's predictions on photos, and how accurate they are."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Float, Int

from ..data.arrays import unlabelled
from ..data.splits import Split
from ..errors import InputError
from ..files import written_whole
from ..reports.tables import answer_line
from ..training.evaluation import check_fit, predict_logits
from ..training.losses import cross_entropy, label_classes
from ..training.metrics import predicted, probabilities, wilson_interval
from .experiment import Experiment


@dataclass(frozen=True, eq=False)
class Predictions:
    """A model's predictions on photos; with labels, also how accurate they are."""

    names: tuple[str, ...]
    """Of the photos."""
    class_names: tuple[str, ...]
    """In the order of the labels."""
    logits: Float[np.ndarray, "n outputs"]
    """The model's outputs."""
    labels: np.ndarray | None = None
    """Class numbers, or probabilities of the classes; None if unknown."""
    losses: Float[np.ndarray, " n"] | None = None
    """Of each photo, in nats; None without labels."""
    threshold: float = 0.0
    """A single logit above it means class 1."""
    sure_above: float = 0.0
    """Answers with less confidence, the largest probability, are called not sure."""

    def __str__(self) -> str:
        """A line for each photo: `a.jpg  cat  98.2 %`."""
        return "\n".join(map(answer_line, self.records()))

    @property
    def confidence(self) -> Float[np.ndarray, " n"]:
        """The largest probability for each photo."""
        return self.probabilities.max(axis=1)

    def records(self) -> list[dict[str, Any]]:
        """For each photo: `file`, the most probable `class`, whether `sure`, `probabilities`."""
        return [
            {
                "file": name,
                "class": self.class_names[int(np.argmax(shares))],
                # A tie, as from a model that died, is no answer.
                "sure": bool(
                    shares.max() >= self.sure_above and (shares == shares.max()).sum() == 1
                ),
                "probabilities": dict(zip(self.class_names, shares.tolist(), strict=True)),
            }
            for name, shares in zip(self.names, self.probabilities, strict=True)
        ]

    @property
    def probabilities(self) -> Float[np.ndarray, "n classes"]:
        """Probabilities of the classes."""
        return probabilities(self.logits, len(self.class_names))

    @property
    def classes(self) -> Int[np.ndarray, " n"]:
        """The predicted class of each photo, as counted by accuracy."""
        return predicted(self.logits, self.threshold)

    @property
    def true_classes(self) -> Int[np.ndarray, " n"]:
        """The class of each label.

        Raises:
            InputError: the photos have no labels.
        """
        if self.labels is None:
            raise InputError("these photos have no labels to compare the predictions with")
        return label_classes(self.labels)

    def confusion(self) -> Int[np.ndarray, "classes classes"]:
        """Counts of photos by true class (rows) and predicted class (columns).

        Photos whose largest output is not a class (of the post's 64) are in no column.
        """
        count = len(self.class_names)
        matrix = np.zeros((count, max(count, self.logits.shape[1])), int)
        np.add.at(matrix, (self.true_classes, self.classes), 1)
        return matrix[:, :count]

    def mistakes(self) -> Int[np.ndarray, " mistakes"]:
        """Indices of misclassified photos, the most confident mistake first."""
        wrong = np.flatnonzero(self.classes != self.true_classes)
        return wrong[np.argsort(-self.confidence[wrong], kind="stable")]

    def write_csv(self, path: Path) -> None:
        """Write one row per photo: name, class, predicted class, loss, probabilities."""
        names = [*self.class_names, *[""] * self.logits.shape[1]]
        known = self.labels is not None
        labels = [names[label] for label in self.true_classes] if known else [""] * len(self.names)
        losses = labels if self.losses is None else self.losses.tolist()
        with written_whole(path) as file:
            writer = csv.writer(file)
            writer.writerow(["photo", "class", "predicted", "loss", *self.class_names])
            rows = zip(
                self.names, labels, self.classes, losses, self.probabilities.tolist(), strict=True
            )
            for photo, label, guess, loss, shares in rows:
                writer.writerow([photo, label, names[guess], loss, *shares])


def predictions_of(
    model: nnx.Module,
    data: Split | np.ndarray,
    experiment: Experiment | None = None,
    class_names: Sequence[str] = (),
    *,
    checked: bool = False,
    logits: np.ndarray | None = None,
) -> Predictions:
    """Predictions with the loss, batch size, dtype and threshold of an experiment.

    Args:
        model: to ask.
        data: the photos.
        experiment: that trained the model.
        class_names: in the order of the labels.
        checked: skip the check whether images and labels fit the model.
        logits: if they are known already.
    """
    options = experiment or Experiment("")
    known = isinstance(data, Split)
    split = data if isinstance(data, Split) else unlabelled(data)
    loss, fixed = cross_entropy, False
    if experiment and known:
        from . import build  # half a second that photos without labels do without

        loss = build.loss_of(experiment, len(class_names))
        fixed = build.leaves_features_fixed(experiment, model)
    if not checked:
        check_fit(model, split, loss=loss)
    if logits is None:
        logits = predict_logits(
            model,
            split,
            batch_size=options.batch_size,
            dtype=options.dtype,
            mirror=options.mirror_test,
            by_features=fixed and not options.mirror_test,
        )
    names = class_names or tuple(map(str, range(max(2, logits.shape[1]))))
    return Predictions(
        names=split.names,
        class_names=tuple(names),
        logits=logits,
        labels=split.labels if known else None,
        losses=np.asarray(jax.jit(loss)(logits, split.labels)) if known else None,
        threshold=options.threshold,
    )


def judged(predictions: Predictions, experiment: Experiment) -> dict[str, Any]:
    """Loss, accuracy, counts and interval; for one logit, also accuracy at threshold 0."""
    logits, labels, losses = predictions.logits, predictions.true_classes, predictions.losses
    assert losses is not None  # there are labels
    correct, count = int(np.sum(predictions.classes == labels)), len(labels)
    result = {
        "loss": float(losses.mean(dtype=np.float64)),
        "accuracy": correct / count,
        "correct": correct,
        "count": count,
        "interval": wilson_interval(correct, count),
    }
    if logits.shape[-1] == 1 and experiment.threshold != 0.0:
        result["accuracy_at_half"] = float(np.mean(predicted(logits) == labels))
    return result
