"""The estimators of tombola.sklearn are scikit-learn's own kind: checked by its checks, cloned, pickled, searched."""

import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits, make_classification
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch import nn

from tombola import TombolaError
from tombola.sklearn import BayesianTicketClassifier, BayesianTicketRegressor

SMALL = {"hidden_layer_sizes": (16,), "density": 0.5, "levels": 1, "epochs": 8, "samples": 4, "random_state": 0}
FAST = (
    "check_estimator_cloneable",
    "check_no_attributes_set_in_init",
    "check_parameters_default_constructible",
    "check_estimators_dtypes",
    "check_estimators_nan_inf",
    "check_estimators_pickle",
    "check_fit_idempotent",
    "check_n_features_in",
    "check_classifiers_one_label",
    "check_regressors_no_decision_function",
    "check_methods_subset_invariance",
    "check_dict_unchanged",
    "check_fit2d_1sample",
)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@parametrize_with_checks([BayesianTicketClassifier(**SMALL), BayesianTicketRegressor(**SMALL)])
def test_all_checks_of_scikit_learn_pass(estimator, check):
    check(estimator)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [BayesianTicketClassifier, BayesianTicketRegressor])
def test_quick_checks_of_scikit_learn_pass(kind):
    estimator = kind(**SMALL | {"epochs": 2})
    checks = parametrize_with_checks([estimator]).args[1]
    done = 0
    for own, check in checks:
        if getattr(check, "func", check).__name__ in FAST:
            check(own)
            done += 1
    assert done >= 10


@pytest.fixture(scope="module")
def curve():
    generator = np.random.RandomState(0)
    x = generator.uniform(-2, 2, (400, 1))
    return x, np.sin(2 * x[:, 0]) * 30 + 100 + 3 * generator.normal(size=400)


def test_a_classifier_prunes_to_the_density_and_predicts_by_name():
    x, y = make_classification(300, 8, n_informative=5, random_state=0)
    names = np.array(["no", "yes"])[y]
    found = BayesianTicketClassifier((32,), density=0.2, levels=2, epochs=10, random_state=0).fit(x, names)
    assert found.ticket_.density == pytest.approx(0.2, abs=0.01)
    assert found.score(x, names) > 0.85
    assert set(found.predict(x)) == {"no", "yes"}
    prediction = found.uncertainty(x)
    np.testing.assert_allclose(prediction.probs.sum(1), 1)
    assert (prediction.epistemic >= 0).all()
    again = BayesianTicketClassifier((32,), density=0.2, levels=2, epochs=10, random_state=0).fit(x, names)
    np.testing.assert_array_equal(again.predict_proba(x), found.predict_proba(x))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(found)).predict_proba(x), found.predict_proba(x))


def test_a_regressor_has_calibrated_intervals_in_the_unit_of_the_target(curve):
    x, y = curve
    found = BayesianTicketRegressor((64,), density=0.5, levels=1, epochs=40, random_state=0).fit(x[:300], y[:300])
    mean, std = found.predict(x[300:], return_std=True)
    low, high = found.predict_interval(x[300:])
    assert found.score(x[300:], y[300:]) > 0.95
    assert 2 < std.mean() < 7
    assert (low < mean).all()
    assert (mean < high).all()
    assert 0.8 <= ((low <= y[300:]) & (y[300:] <= high)).mean() <= 1


def test_settings_are_searched_cloned_and_checked():
    x, y = make_classification(120, 6, random_state=1)
    estimator = BayesianTicketClassifier(**SMALL | {"epochs": 4})
    search = GridSearchCV(
        make_pipeline(StandardScaler(), estimator), {"bayesianticketclassifier__density": [1.0, 0.3]}, cv=2
    )
    assert 0.5 < search.fit(x, y).best_score_ <= 1
    assert clone(estimator).get_params() == estimator.get_params()
    with pytest.raises(TombolaError, match="density is 0;"):
        estimator.set_params(density=0).fit(x, y)
    with pytest.raises(TombolaError, match="levels is 0;"):
        estimator.set_params(density=0.5, levels=0).fit(x, y)


def small_net(features, outputs):
    return nn.Sequential(nn.Linear(features, 12), nn.Tanh(), nn.Linear(12, outputs))


def test_a_network_of_the_users_own_is_fitted():
    x, y = make_classification(120, 6, random_state=1)
    found = BayesianTicketClassifier(**SMALL | {"model": small_net, "epochs": 4}).fit(x, y)
    assert isinstance(found.module_[1], nn.Tanh)
    assert pickle.loads(pickle.dumps(found)).predict(x).shape == (120,)


@pytest.mark.slow
def test_digits_at_a_tenth_of_the_weights():
    x, y = load_digits(return_X_y=True)
    assert cross_val_score(BayesianTicketClassifier(random_state=0), x, y, cv=3).mean() > 0.92
