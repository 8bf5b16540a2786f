"""The pipelines of the catalogue, unfitted."""

from __future__ import annotations

import enum
from dataclasses import dataclass

import numpy as np
from sklearn import (
    calibration,
    cluster,
    compose,
    covariance,
    cross_decomposition,
    decomposition,
    discriminant_analysis,
    ensemble,
    feature_selection,
    gaussian_process,
    impute,
    kernel_approximation,
    kernel_ridge,
    linear_model,
    model_selection,
    multiclass,
    multioutput,
    naive_bayes,
    neighbors,
    neural_network,
    preprocessing,
    svm,
    tree,
)
from sklearn.base import BaseEstimator
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, OrdinalEncoder, StandardScaler

from examples.transactions import CATEGORIES, FEATURES, NUMBERS

CLASSIFIERS = "Classifiers"
REGRESSORS = "Regressors"
DETECTORS = "Outlier detectors and clusterers"
NUMBER_TRANSFORMERS = "Transformers of numbers"
CATEGORY_TRANSFORMERS = "Encoders of categories"
MATRIX_TRANSFORMERS = "Transformers of all features"
TREES_AFTER = "Trees after transformers"


class Target(enum.Enum):
    """What is learnt."""

    TWO_CLASSES = enum.auto()
    THREE_CLASSES = enum.auto()
    NUMBER = enum.auto()
    POSITIVE_NUMBER = enum.auto()
    TWO_NUMBERS = enum.auto()
    TWO_LABELS = enum.auto()
    FLAGS = enum.auto()
    NOTHING = enum.auto()


@dataclass(frozen=True)
class Case:
    """One pipeline. fields: of the transactions, in order."""

    section: str
    name: str
    estimator: BaseEstimator
    target: Target
    fields: tuple[str, ...] = FEATURES


def one_hot() -> Pipeline:
    """Null is a category of its own, an unseen one is none."""
    return make_pipeline(
        SimpleImputer(strategy="constant", fill_value="missing"),
        OneHotEncoder(handle_unknown="ignore", sparse_output=False),
    )


def prepared(
    model: BaseEstimator,
    *,
    numbers: BaseEstimator | None = None,
    categories: BaseEstimator | None = None,
    then: BaseEstimator | None = None,
) -> Pipeline:
    """Numbers imputed and scaled, categories one-hot, unless said otherwise; then the model."""
    columns = ColumnTransformer(
        [
            ("numbers", numbers or make_pipeline(SimpleImputer(strategy="median"), StandardScaler()), list(NUMBERS)),
            ("categories", categories or one_hot(), list(CATEGORIES)),
        ]
    )
    middle = [] if then is None else [("then", then)]
    return Pipeline([("columns", columns), *middle, ("model", model)])


def logistic() -> LogisticRegression:
    """Few iterations: what it learns is not the point."""
    return LogisticRegression(max_iter=100)


def forest() -> ensemble.RandomForestClassifier:
    """Small."""
    return ensemble.RandomForestClassifier(10, max_depth=5, random_state=0)


def boosting() -> ensemble.HistGradientBoostingClassifier:
    """Small."""
    return ensemble.HistGradientBoostingClassifier(max_iter=10, random_state=0)


def name_of(model: BaseEstimator) -> str:
    """The class and what differs from its defaults, but for sizes and seeds."""
    shown = {
        key: value
        for key, value in model.get_params(deep=False).items()
        if key in _SHOWN and value != type(model)().get_params()[key]
    }
    return f"{type(model).__name__}({', '.join(f'{key}={value!r}' for key, value in shown.items())})".removesuffix("()")


_SHOWN = frozenset({"loss", "kernel", "activation", "power", "add_indicator", "encode", "output_distribution", "norm"})


def classifiers() -> list[Case]:
    """Each on two and on three classes where that differs."""
    single = [
        linear_model.RidgeClassifier(),
        linear_model.Perceptron(),
        linear_model.SGDClassifier(loss="hinge"),
        linear_model.SGDClassifier(loss="log_loss"),
        linear_model.SGDClassifier(loss="modified_huber"),
        svm.LinearSVC(),
        svm.SVC(kernel="rbf"),
        svm.SVC(kernel="poly"),
        svm.NuSVC(nu=0.2),
        naive_bayes.GaussianNB(),
        naive_bayes.BernoulliNB(),
        discriminant_analysis.LinearDiscriminantAnalysis(),
        discriminant_analysis.QuadraticDiscriminantAnalysis(reg_param=0.1),
        neural_network.MLPClassifier((20,), max_iter=20, random_state=0),
        neural_network.MLPClassifier((20,), activation="logistic", max_iter=20, random_state=0),
        tree.DecisionTreeClassifier(max_depth=8, random_state=0),
        tree.ExtraTreeClassifier(max_depth=8, random_state=0),
        ensemble.RandomForestClassifier(50, min_samples_leaf=3, random_state=0),
        ensemble.ExtraTreesClassifier(50, min_samples_leaf=3, random_state=0),
        ensemble.GradientBoostingClassifier(n_estimators=20, random_state=0),
        ensemble.HistGradientBoostingClassifier(max_iter=30, random_state=0),
        ensemble.AdaBoostClassifier(n_estimators=20, random_state=0),
        ensemble.BaggingClassifier(n_estimators=10, max_features=0.7, random_state=0),
        neighbors.NearestCentroid(),
        neighbors.KNeighborsClassifier(),
    ]
    cases = [
        Case(CLASSIFIERS, f"{name_of(model)}, {words}", prepared(model), kind)
        for model in (logistic(), *single)
        for words, kind in (("two classes", Target.TWO_CLASSES), ("three classes", Target.THREE_CLASSES))
    ]
    members = [("linear", logistic()), ("forest", forest()), ("bayes", naive_bayes.GaussianNB())]
    threshold = model_selection.FixedThresholdClassifier(logistic(), threshold=0.2, response_method="predict_proba")
    composed = [
        ("LogisticRegressionCV", linear_model.LogisticRegressionCV(Cs=2, cv=2, max_iter=50)),
        ("GradientBoostingClassifier, exponential loss",
         ensemble.GradientBoostingClassifier(loss="exponential", n_estimators=20, random_state=0)),
        ("AdaBoostClassifier of LogisticRegression", ensemble.AdaBoostClassifier(logistic(), n_estimators=4)),
        ("BaggingClassifier of LogisticRegression", ensemble.BaggingClassifier(logistic(), n_estimators=4)),
        ("VotingClassifier, soft", ensemble.VotingClassifier(members, voting="soft", weights=[1, 2, 1])),
        ("VotingClassifier, hard", ensemble.VotingClassifier(members)),
        ("StackingClassifier", ensemble.StackingClassifier(members, final_estimator=logistic(), cv=2)),
        ("CalibratedClassifierCV, sigmoid", calibration.CalibratedClassifierCV(svm.LinearSVC(), cv=2)),
        ("CalibratedClassifierCV, isotonic", calibration.CalibratedClassifierCV(forest(), method="isotonic", cv=2)),
        ("CalibratedClassifierCV, temperature", calibration.CalibratedClassifierCV(logistic(), method="temperature")),
        ("OneVsRestClassifier", multiclass.OneVsRestClassifier(logistic())),
        ("FixedThresholdClassifier", threshold),
        ("GridSearchCV", model_selection.GridSearchCV(logistic(), {"C": [0.1, 1.0]}, cv=2)),
    ]  # fmt: skip
    cases += [Case(CLASSIFIERS, name, prepared(model), Target.TWO_CLASSES) for name, model in composed]
    labels, flags = Target.TWO_LABELS, Target.FLAGS
    several = [
        ("DecisionTreeClassifier, two targets", tree.DecisionTreeClassifier(max_depth=8, random_state=0), labels),
        ("RandomForestClassifier, two targets",
         ensemble.RandomForestClassifier(50, min_samples_leaf=3, random_state=0), labels),
        ("ExtraTreesClassifier, two targets",
         ensemble.ExtraTreesClassifier(50, min_samples_leaf=3, random_state=0), labels),
        ("MultiOutputClassifier of LogisticRegression", multioutput.MultiOutputClassifier(logistic()), labels),
        ("MultiOutputClassifier of HistGradientBoostingClassifier",
         multioutput.MultiOutputClassifier(boosting()), labels),
        ("KNeighborsClassifier, two targets", neighbors.KNeighborsClassifier(), labels),
        ("ClassifierChain, three flags", multioutput.ClassifierChain(logistic(), order=[2, 0, 1]), flags),
        ("OneVsRestClassifier, three flags", multiclass.OneVsRestClassifier(logistic()), flags),
        ("MLPClassifier, three flags", neural_network.MLPClassifier((20,), max_iter=20, random_state=0), flags),
        ("RidgeClassifier, three flags", linear_model.RidgeClassifier(), flags),
    ]  # fmt: skip
    cases += [Case(CLASSIFIERS, name, prepared(model), kind) for name, model, kind in several]
    counts = make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder(handle_unknown="ignore"))
    numbered = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    three = Target.THREE_CLASSES
    own = ensemble.HistGradientBoostingClassifier(max_iter=20, categorical_features=list(CATEGORIES), random_state=0)
    return [
        *cases,
        Case(CLASSIFIERS, "MultinomialNB on categories", make_pipeline(counts, naive_bayes.MultinomialNB()), three,
             CATEGORIES),
        Case(CLASSIFIERS, "ComplementNB on categories", make_pipeline(counts, naive_bayes.ComplementNB()), three,
             CATEGORIES),
        Case(CLASSIFIERS, "CategoricalNB on categories",
             make_pipeline(SimpleImputer(strategy="most_frequent"), numbered, naive_bayes.CategoricalNB()), three,
             CATEGORIES),
        Case(CLASSIFIERS, "HistGradientBoostingClassifier with categories of its own", own, Target.TWO_CLASSES),
        Case(CLASSIFIERS, "RandomForestClassifier that was trained on nulls",
             ensemble.RandomForestClassifier(20, max_depth=6, random_state=0), three, NUMBERS),
    ]  # fmt: skip


def regressors() -> list[Case]:
    """One target, several, and targets that were transformed."""
    process = gaussian_process.kernels.ConstantKernel() * gaussian_process.kernels.RBF()
    plain = [
        linear_model.LinearRegression(),
        linear_model.Ridge(),
        linear_model.Lasso(0.01),
        linear_model.ElasticNet(0.01),
        linear_model.BayesianRidge(),
        linear_model.ARDRegression(),
        linear_model.HuberRegressor(),
        linear_model.QuantileRegressor(alpha=0.01),
        linear_model.OrthogonalMatchingPursuit(),
        linear_model.SGDRegressor(random_state=0),
        linear_model.RANSACRegressor(random_state=0),
        cross_decomposition.PLSRegression(3),
        svm.LinearSVR(),
        svm.SVR(),
        svm.NuSVR(),
        kernel_ridge.KernelRidge(kernel="rbf"),
        gaussian_process.GaussianProcessRegressor(process, optimizer=None, normalize_y=True, alpha=0.1),
        neural_network.MLPRegressor(hidden_layer_sizes=(20, 10), activation="tanh", max_iter=20, random_state=0),
        tree.DecisionTreeRegressor(max_depth=8, random_state=0),
        ensemble.RandomForestRegressor(50, random_state=0),
        ensemble.ExtraTreesRegressor(50, min_samples_leaf=3, random_state=0),
        ensemble.GradientBoostingRegressor(n_estimators=30, random_state=0),
        ensemble.HistGradientBoostingRegressor(max_iter=30, random_state=0),
        ensemble.AdaBoostRegressor(n_estimators=20, random_state=0),
        ensemble.BaggingRegressor(n_estimators=10, random_state=0),
        neighbors.KNeighborsRegressor(),
    ]
    positive = [
        linear_model.PoissonRegressor(),
        linear_model.GammaRegressor(),
        linear_model.TweedieRegressor(power=1.5),
        ensemble.HistGradientBoostingRegressor(loss="poisson", max_iter=20, random_state=0),
    ]
    members = [("linear", Ridge()), ("forest", ensemble.RandomForestRegressor(10, max_depth=5, random_state=0))]
    small = ensemble.HistGradientBoostingRegressor(max_iter=10, random_state=0)
    composed = [
        ("VotingRegressor", ensemble.VotingRegressor(members), Target.NUMBER),
        ("StackingRegressor", ensemble.StackingRegressor(members, cv=2), Target.NUMBER),
        ("TransformedTargetRegressor, log1p",
         compose.TransformedTargetRegressor(Ridge(), func=np.log1p, inverse_func=np.expm1), Target.POSITIVE_NUMBER),
        ("TransformedTargetRegressor, StandardScaler",
         compose.TransformedTargetRegressor(small, transformer=StandardScaler()), Target.NUMBER),
        ("TransformedTargetRegressor, QuantileTransformer",
         compose.TransformedTargetRegressor(Ridge(), transformer=preprocessing.QuantileTransformer(n_quantiles=50)),
         Target.NUMBER),
        ("Ridge, two targets", Ridge(), Target.TWO_NUMBERS),
        ("RandomForestRegressor, two targets",
         ensemble.RandomForestRegressor(10, max_depth=6, random_state=0), Target.TWO_NUMBERS),
        ("MultiOutputRegressor", multioutput.MultiOutputRegressor(small), Target.TWO_NUMBERS),
        ("RegressorChain", multioutput.RegressorChain(Ridge(), order=[1, 0]), Target.TWO_NUMBERS),
    ]  # fmt: skip
    return [
        *[Case(REGRESSORS, name_of(model) if type(model) is not gaussian_process.GaussianProcessRegressor
               else "GaussianProcessRegressor", prepared(model), Target.NUMBER) for model in plain],
        *[Case(REGRESSORS, name_of(model), prepared(model), Target.POSITIVE_NUMBER) for model in positive],
        *[Case(REGRESSORS, name, prepared(model), kind) for name, model, kind in composed],
    ]  # fmt: skip


def detectors() -> list[Case]:
    """Nothing is learnt but the rows."""
    models = [
        ensemble.IsolationForest(n_estimators=50, random_state=0),
        svm.OneClassSVM(nu=0.1),
        linear_model.SGDOneClassSVM(random_state=0),
        neighbors.LocalOutlierFactor(novelty=True),
        cluster.KMeans(5, n_init=2, random_state=0),
        cluster.MiniBatchKMeans(5, n_init=2, random_state=0),
    ]
    ellipse = make_pipeline(SimpleImputer(), StandardScaler(), covariance.EllipticEnvelope(random_state=0))
    return [
        *[Case(DETECTORS, name_of(model), prepared(model), Target.NOTHING) for model in models],
        Case(DETECTORS, "EllipticEnvelope on numbers", ellipse, Target.NOTHING, NUMBERS),
    ]


def number_transformers() -> list[Case]:
    """Each after an imputer and before a logistic regression."""
    steps = [
        StandardScaler(with_mean=False),
        preprocessing.MinMaxScaler(),
        preprocessing.MinMaxScaler(clip=True),
        preprocessing.MaxAbsScaler(),
        preprocessing.RobustScaler(),
        preprocessing.PowerTransformer(),
        preprocessing.QuantileTransformer(n_quantiles=100),
        preprocessing.QuantileTransformer(n_quantiles=100, output_distribution="normal"),
        preprocessing.KBinsDiscretizer(encode="onehot", quantile_method="averaged_inverted_cdf"),
        preprocessing.KBinsDiscretizer(encode="ordinal", quantile_method="averaged_inverted_cdf"),
        preprocessing.Binarizer(threshold=100.0),
        preprocessing.SplineTransformer(4),
        preprocessing.PolynomialFeatures(2, include_bias=False),
    ]
    scaled = StandardScaler()
    named = [
        ("SimpleImputer with indicators", SimpleImputer(add_indicator=True)),
        ("SimpleImputer, most frequent", SimpleImputer(strategy="most_frequent")),
        ("FeatureUnion with MissingIndicator",
         FeatureUnion([("filled", SimpleImputer()), ("missing", impute.MissingIndicator())])),
        ("KNNImputer", impute.KNNImputer()),
        ("FunctionTransformer, log1p",
         make_pipeline(SimpleImputer(), preprocessing.MinMaxScaler(clip=True), FunctionTransformer(np.log1p))),
        ("FunctionTransformer, tanh", make_pipeline(SimpleImputer(), scaled, FunctionTransformer(np.tanh))),
        ("FunctionTransformer of your own", make_pipeline(SimpleImputer(), FunctionTransformer(double))),
    ]  # fmt: skip
    return [
        *[Case(NUMBER_TRANSFORMERS, name_of(step) + (" with clip" if getattr(step, "clip", False) else ""),
               prepared(logistic(), numbers=make_pipeline(SimpleImputer(), step, scaled_after(step))),
               Target.THREE_CLASSES) for step in steps],
        *[Case(NUMBER_TRANSFORMERS, name, prepared(logistic(), numbers=step), Target.THREE_CLASSES)
          for name, step in named],
    ]  # fmt: skip


def scaled_after(step: BaseEstimator) -> BaseEstimator | str:
    """Sparse output cannot be centred."""
    is_sparse = getattr(step, "encode", "") == "onehot"
    return "passthrough" if is_sparse else StandardScaler()


def double(values: np.ndarray) -> np.ndarray:
    """Code of one's own, which no converter can read."""
    return values * 2


def category_transformers() -> list[Case]:
    """Each before a logistic regression; nulls and unseen categories among the rows."""
    unknown = {"handle_unknown": "use_encoded_value", "unknown_value": -1, "encoded_missing_value": -2}
    named = [
        ("OneHotEncoder, ignore", OneHotEncoder(handle_unknown="ignore")),
        ("OneHotEncoder, error", OneHotEncoder()),
        ("OneHotEncoder, infrequent", OneHotEncoder(handle_unknown="infrequent_if_exist", max_categories=4)),
        ("OneHotEncoder, drop first", OneHotEncoder(drop="first", handle_unknown="ignore")),
        ("OrdinalEncoder", OrdinalEncoder(**unknown)),
        ("OrdinalEncoder, infrequent", OrdinalEncoder(**unknown, max_categories=4)),
        ("TargetEncoder", preprocessing.TargetEncoder(random_state=0)),
    ]
    numbers = [
        ColumnTransformer(
            [
                ("hour", encoder, ["hour", "num_day"]),
                ("rest", make_pipeline(SimpleImputer(), StandardScaler()), ["amount", "distance_km"]),
            ]
        )
        for encoder in (OneHotEncoder(handle_unknown="ignore"), OneHotEncoder())
    ]
    return [
        *[Case(CATEGORY_TRANSFORMERS, name, prepared(logistic(), categories=step), Target.THREE_CLASSES)
          for name, step in named],
        Case(CATEGORY_TRANSFORMERS, "OneHotEncoder of whole numbers, ignore", make_pipeline(numbers[0], logistic()),
             Target.THREE_CLASSES, NUMBERS),
        Case(CATEGORY_TRANSFORMERS, "OneHotEncoder of whole numbers, error", make_pipeline(numbers[1], logistic()),
             Target.THREE_CLASSES, NUMBERS),
    ]  # fmt: skip


def matrix_transformers() -> list[Case]:
    """Each after one-hot and scaling, before a logistic regression."""
    steps = [
        decomposition.PCA(6),
        decomposition.IncrementalPCA(6),
        decomposition.TruncatedSVD(6, random_state=0),
        decomposition.FastICA(4, random_state=0),
        discriminant_analysis.LinearDiscriminantAnalysis(),
        feature_selection.SelectKBest(k=10),
        feature_selection.SelectFromModel(logistic()),
        feature_selection.VarianceThreshold(0.05),
        preprocessing.Normalizer(),
        preprocessing.Normalizer("l1"),
        kernel_approximation.Nystroem(n_components=20, random_state=0),
        kernel_approximation.RBFSampler(n_components=20, random_state=0),
        cluster.KMeans(4, n_init=1, random_state=0),
    ]
    return [
        Case(MATRIX_TRANSFORMERS, type(step).__name__ + (", l1" if getattr(step, "norm", "") == "l1" else ""),
             prepared(logistic(), then=step), Target.THREE_CLASSES)
        for step in steps
    ]  # fmt: skip


def trees_after() -> list[Case]:
    """A split asks for more than a few digits: what comes before has to be right to the last bit."""
    scale = make_pipeline(SimpleImputer(), preprocessing.PowerTransformer())
    normal = preprocessing.QuantileTransformer(n_quantiles=50, output_distribution="normal")
    return [
        Case(TREES_AFTER, f"{type(model).__name__} after {name}", pipeline, Target.TWO_CLASSES)
        for model in (boosting(), forest())
        for name, pipeline in (
            ("PowerTransformer", prepared(model, numbers=scale)),
            ("QuantileTransformer to normal", prepared(model, numbers=make_pipeline(SimpleImputer(), normal))),
            ("log1p of nulls", prepared(model, numbers=FunctionTransformer(np.log1p))),
            ("TargetEncoder", prepared(model, categories=preprocessing.TargetEncoder(random_state=0))),
            ("PCA", prepared(model, then=decomposition.PCA(6))),
        )
        if not (name == "log1p of nulls" and type(model) is not ensemble.HistGradientBoostingClassifier)
    ]


CASES: tuple[Case, ...] = (
    *classifiers(),
    *regressors(),
    *detectors(),
    *number_transformers(),
    *category_transformers(),
    *matrix_transformers(),
    *trees_after(),
)
