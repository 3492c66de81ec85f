"""What a model answered about photos, as plain arrays: what pages about quality are made from."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, Int


@dataclass(frozen=True, eq=False)
class Answers:
    """A model's answers about photos whose class is known."""

    names: tuple[str, ...]
    class_names: tuple[str, ...]
    labels: Int[np.ndarray, " n"]
    predicted: Int[np.ndarray, " n"]
    """May be beyond the classes: an output that is none of them."""
    probabilities: Float[np.ndarray, "n classes"]
    brightness: Float[np.ndarray, " n"]
    """Mean pixel, 0…1; NaN if unknown."""
    megapixels: Float[np.ndarray, " n"]
    """Of the photo as it was before it was resized; NaN if unknown."""

    def __len__(self) -> int:
        return len(self.names)

    @property
    def right(self) -> Bool[np.ndarray, " n"]:
        """Whether the predicted class is the true one."""
        return self.predicted == self.labels

    @property
    def confidence(self) -> Float[np.ndarray, " n"]:
        """The largest probability of a class."""
        return self.probabilities.max(axis=1)

    def confusion(self) -> Int[np.ndarray, "classes outputs"]:
        """Counts by true class (rows) and answer; further columns are outputs that are no class."""
        count = len(self.class_names)
        matrix = np.zeros((count, max(count, int(self.predicted.max(initial=0)) + 1)), int)
        np.add.at(matrix, (self.labels, self.predicted), 1)
        return matrix

    def most_wrong(self, count: int) -> list[int]:
        """The mistakes it was surest of, by index."""
        wrong = np.flatnonzero(~self.right)
        return wrong[np.argsort(-self.confidence[wrong], kind="stable")][:count].tolist()

    def least_sure(self, count: int) -> list[int]:
        """The photos it was least sure of, by index, right or wrong."""
        return np.argsort(self.confidence, kind="stable")[:count].tolist()

    def doubted(self, most: float) -> list[int]:
        """Photos to whose label it gives a probability of at most `most`, the lowest first."""
        given = self.probabilities[np.arange(len(self)), self.labels]
        low = np.flatnonzero((given <= most) & ~self.right)
        return low[np.argsort(given[low], kind="stable")].tolist()

    def answer(self, index: int) -> str:
        """`Class cats, answer dogs, 98.2 % sure`."""
        label, said = int(self.labels[index]), int(self.predicted[index])
        answer = self.class_names[said] if said < len(self.class_names) else "none of them"
        sure = f"{100 * self.confidence[index]:.1f} % sure"
        return f"Class {self.class_names[label]}, answer {answer}, {sure}"


def together(parts: Sequence[Answers]) -> Answers:
    """The answers of several splits as one."""
    arrays = ("labels", "predicted", "probabilities", "brightness", "megapixels")
    return replace(
        parts[0],
        names=tuple(name for part in parts for name in part.names),
        **{name: np.concatenate([getattr(part, name) for part in parts]) for name in arrays},
    )
