"""How well rows sit in their clusters, where no truth can tell: the simplified silhouette.

Of a row at distance a from its own cluster's centroid and at distance b from the nearest other one it is
(b - a) / max(a, b): towards 1 in a cluster far from all others, below 0 nearer to another one. It takes one look at a
row, where the silhouette takes all pairs (Vendramin, Campello, Hruschka 2010, Statistical Analysis and Data Mining
3:209).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.spatial.distance
from numpy.typing import NDArray

from zaphod.columns import Columns
from zaphod.sklearn_predictor import SklearnPredictor


@dataclass(frozen=True, slots=True)
class Clusters:
    """Centroids between the features that a clusterer's last step sees. centroids: shape (n_clusters, n_features)."""

    reference: SklearnPredictor
    numbers: NDArray[np.int64]
    centroids: NDArray[np.float64]

    @classmethod
    def of(cls, reference: SklearnPredictor, sample: Columns) -> Clusters:
        """The means of the sample's clusters. Raises: PredictionError."""
        labels = reference.predict(sample).labels
        assert labels is not None
        features = reference.features(sample)
        numbers = np.unique(labels).astype(np.int64)
        return cls(reference, numbers, np.stack([features[labels == number].mean(axis=0) for number in numbers]))

    def silhouettes(self, columns: Columns, labels: NDArray[np.generic]) -> NDArray[np.float64]:
        """Shape (n_rows,); 0 where there is no other cluster, or the sample had no row of the row's own.

        Raises: PredictionError.
        """
        if len(self.numbers) < 2:
            return np.zeros(columns.num_rows)
        distances = scipy.spatial.distance.cdist(self.reference.features(columns), self.centroids)
        is_own = np.asarray(labels)[:, None] == self.numbers
        own = np.where(is_own, distances, 0.0).sum(axis=1)
        nearest = np.where(is_own, np.inf, distances).min(axis=1)
        larger = np.maximum(own, nearest)
        known = is_own.any(axis=1) & (larger > 0)
        silhouettes: NDArray[np.float64] = np.divide(nearest - own, larger, out=np.zeros(len(larger)), where=known)
        return silhouettes
