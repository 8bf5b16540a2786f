"""Loading estimators without running what a file says.

skops rebuilds an object from data and refuses types it was not told to trust. The list is ours: a list inside an
artifact would let a crafted artifact trust itself.
"""

from __future__ import annotations

import skops.io
from sklearn.base import BaseEstimator

from zaphod.errors import ModelLoadError

# Types beyond skops' own defaults that estimators of scikit-learn 1.9 are made of. None runs code when it is rebuilt.
TRUSTED_TYPES = frozenset(
    {
        "numpy.dtype",
        "sklearn._loss.link.HalfLogitLink",
        "sklearn._loss.link.IdentityLink",
        "sklearn._loss.link.Interval",
        "sklearn._loss.link.LogLink",
        "sklearn._loss.link.LogitLink",
        "sklearn._loss.link.MultinomialLogit",
        "sklearn._loss.loss.HalfBinomialLoss",
        "sklearn._loss.loss.HalfGammaLoss",
        "sklearn._loss.loss.HalfMultinomialLoss",
        "sklearn._loss.loss.HalfPoissonLoss",
        "sklearn._loss.loss.HalfSquaredError",
        "sklearn._loss.loss.HalfTweedieLoss",
        "sklearn._loss.loss.AbsoluteError",
        "sklearn._loss.loss.ExponentialLoss",
        "sklearn._loss.loss.HuberLoss",
        "sklearn._loss.loss.PinballLoss",
        "sklearn._loss._loss.CyHalfBinomialLoss",
        "sklearn._loss._loss.CyHalfGammaLoss",
        "sklearn._loss._loss.CyHalfMultinomialLoss",
        "sklearn._loss._loss.CyHalfPoissonLoss",
        "sklearn._loss._loss.CyHalfSquaredError",
        "sklearn._loss._loss.CyHalfTweedieLoss",
        "sklearn._loss._loss.CyAbsoluteError",
        "sklearn._loss._loss.CyExponentialLoss",
        "sklearn._loss._loss.CyHuberLoss",
        "sklearn._loss._loss.CyPinballLoss",
        "sklearn.ensemble._hist_gradient_boosting.binning._BinMapper",
        "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
        "sklearn.calibration._CalibratedClassifier",
        "sklearn.calibration._SigmoidCalibration",
        "sklearn.neighbors._kd_tree.KDTree",
        "sklearn.neighbors._ball_tree.BallTree",
        "sklearn.metrics._dist_metrics.EuclideanDistance64",
        "sklearn.tree._tree.Tree",
        "sklearn.compose._column_transformer._RemainderColsList",
        "collections.OrderedDict",
        "collections.defaultdict",
        # Through their extras. A Booster is rebuilt by the library's own parser from a buffer or a text.
        "xgboost.core.Booster",
        "xgboost.sklearn.XGBClassifier",
        "xgboost.sklearn.XGBRegressor",
        "xgboost.sklearn.XGBRFClassifier",
        "xgboost.sklearn.XGBRFRegressor",
        "lightgbm.basic.Booster",
        "lightgbm.sklearn.LGBMClassifier",
        "lightgbm.sklearn.LGBMRegressor",
    }
)


def dump_estimator(estimator: BaseEstimator) -> bytes:
    """The estimator as skops bytes. Two dumps of one estimator differ: hash what is stored, never dump again."""
    return bytes(skops.io.dumps(estimator))


def load_estimator(data: bytes) -> BaseEstimator:
    """Raises: ModelLoadError when the file is broken or holds a type outside the allow-list; the type is named."""
    try:
        unknown = set(skops.io.get_untrusted_types(data=data)) - TRUSTED_TYPES
    except Exception as error:  # skops raises many kinds for a broken archive
        raise ModelLoadError(f"Cannot read model.skops: it is broken ({type(error).__name__}).") from error
    if unknown:
        raise ModelLoadError(
            f"Cannot load model.skops: it holds types that are not trusted, {sorted(unknown)}. "
            "Build the model from scikit-learn's own classes."
        )
    try:
        return skops.io.loads(data, trusted=sorted(TRUSTED_TYPES))
    except ModuleNotFoundError as error:
        raise ModelLoadError(
            f"Cannot load model.skops: it needs {error.name}, which is not installed here. "
            f"Run `pip install -e '.[{error.name}]'` in Zaphod's folder."
        ) from error
    except Exception as error:  # as above
        raise ModelLoadError(f"Cannot load model.skops: {type(error).__name__}.") from error
