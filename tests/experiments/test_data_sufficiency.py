"""The object in scikit-learn's way: any classifier, the Trainer, its callback and the display; all offline."""

import csv
import json

import numpy as np
import pytest
import torch
from datasets import Dataset
from sklearn.base import clone
from sklearn.datasets import make_classification
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier
from torch import nn
from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification
from transformers.modeling_outputs import SequenceClassifierOutput

from stillscape._errors import InputError
from stillscape._scores import read_scores
from stillscape.experiments import DataCurveCallback, DataSufficiency, read_result
from stillscape.report import DataCurveDisplay, write_report
from stillscape.sufficiency import forecast

SIZES = [20, 40, 80, 160]


@pytest.fixture(scope="module")
def blobs():
    X, y = make_classification(400, 8, n_informative=4, n_classes=3, class_sep=2.0, flip_y=0.02, random_state=0)
    return X, np.array(["image", "fern", "rust"])[y]


class Tiny(nn.Module):
    """One linear layer behind the Trainer's way of calling."""

    made = 0

    def __init__(self):
        super().__init__()
        Tiny.made += 1
        self.layer = nn.Linear(8, 3)

    def forward(self, x, labels=None):
        logits = self.layer(x)
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


class Pairs(torch.utils.data.Dataset):
    def __init__(self, X, y):
        self.X, self.y = torch.tensor(X, dtype=torch.float32), torch.tensor(y)

    def __len__(self):
        return len(self.X)

    def __getitem__(self, row):
        return {"x": self.X[row], "labels": self.y[row]}


@pytest.fixture(scope="module")
def numbers(blobs):
    return blobs[0][:120], np.unique(blobs[1], return_inverse=True)[1][:120]


def arguments(tmp_path, **changes):
    given = {"output_dir": str(tmp_path / "mine"), "num_train_epochs": 4, "learning_rate": 0.1, "disable_tqdm": True}
    return TrainingArguments(**(given | {"use_cpu": True, "logging_strategy": "no"} | changes))


# ---- any classifier of scikit-learn


@pytest.fixture(scope="module")
def fitted(blobs):
    model = make_pipeline(StandardScaler(), LogisticRegression())
    return DataSufficiency(model, sizes=SIZES, repeats=3, epsilon=0.05).fit(*blobs)


def test_results_are_attributes_and_the_result_is_that_of_a_run(fitted):
    assert fitted.status_ == fitted.result_["verdict"]["status"] == "reached"
    assert fitted.low_ <= fitted.k_star_ <= fitted.high_ <= 160
    assert fitted.report_.startswith("For Pipeline,")
    assert "rows" in fitted.report_
    assert "image" not in fitted.report_
    assert fitted.curve_["k"] == fitted.sizes_.tolist() == SIZES
    assert fitted.scores_.shape == (3, 4)
    np.testing.assert_allclose(fitted.scores_.mean(axis=0), fitted.curve_["mean"])
    (entry,) = fitted.result_["results"]
    assert {row["class"] for row in entry["per_class"]} == {"image", "fern", "rust"}
    assert entry["curves"]["heldout_loss"]["mean"][0] > entry["curves"]["heldout_loss"]["mean"][-1]


def test_every_row_is_scored_by_a_model_that_never_saw_it_on_nested_subsets(blobs):
    seen = []

    class Spy(GaussianNB):
        def fit(self, X, y):
            seen.append({float(x) for x in X[:, 0]})
            return super().fit(X, y)

        def predict_proba(self, X):
            assert not seen[-1] & {float(x) for x in X[:, 0]}
            return super().predict_proba(X)

    DataSufficiency(Spy(), sizes=[20, 40], repeats=2, folds=3).fit(*blobs)
    assert len(seen) == 3 * 2 * 2
    assert [len(rows) for rows in seen] == [20, 40] * 6
    assert all(small < large for small, large in zip(seen[::2], seen[1::2], strict=True))
    assert len({frozenset(rows) for rows in seen}) == 12


def test_it_is_an_estimator_as_scikit_learn_knows_them():
    made = DataSufficiency(GaussianNB(), sizes=3, epsilon=0.02)
    assert made.get_params()["epsilon"] == 0.02
    assert made.set_params(repeats=4).repeats == 4
    assert clone(made).get_params()["repeats"] == 4
    with pytest.raises(TypeError):
        DataSufficiency(GaussianNB(), None)


def tree(blobs, random_state, n_jobs=None):
    model = DecisionTreeClassifier(max_features=2)
    return DataSufficiency(model, sizes=[20, 40], repeats=2, random_state=random_state, n_jobs=n_jobs).fit(*blobs)


def test_the_same_state_gives_the_same_result(blobs):
    assert tree(blobs, 0).result_ == tree(blobs, 0).result_
    assert tree(blobs, 0).scores_.tolist() != tree(blobs, 1).scores_.tolist()


@pytest.mark.slow
def test_jobs_change_nothing(blobs):
    assert tree(blobs, 0).result_ == tree(blobs, 0, n_jobs=2).result_


def test_without_probabilities_there_is_no_loss_and_no_auroc(blobs):
    found = DataSufficiency(LinearSVC(), sizes=[20, 40], repeats=2).fit(*blobs)
    assert "heldout_loss" not in found.result_["results"][0]["curves"]
    with pytest.raises(InputError, match="LinearSVC has no predict_proba"):
        DataSufficiency(LinearSVC(), metric="auroc").fit(*blobs)


@pytest.mark.parametrize("question", [{"target": 0.7}, {"cost_per_image": 1.0, "value_per_point": 5.0}])
def test_other_questions(question, blobs):
    found = DataSufficiency(GaussianNB(), sizes=SIZES, repeats=2, **question).fit(*blobs)
    assert list(found.result_["results"][0]["criteria"])[-1].startswith("accuracy_")


def test_other_metrics_and_groups(blobs):
    X, y = blobs
    groups = np.arange(400) // 2
    found = DataSufficiency(GaussianNB(), sizes=[40, 80], repeats=2, metric="balanced_accuracy")
    found.fit(X, y, groups=groups)
    assert found.curve_["k"] == [40, 80]
    assert found.result_["question"]["num_groups"] == 200


def test_many_rows_are_held_out_once():
    X, y = make_classification(2100, 6, random_state=0)
    found = DataSufficiency(GaussianNB(), sizes=[50, 100], repeats=2).fit(X, y)
    assert found.result_["question"]["evaluation"] == "held-out set of 420"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "neither is given"),
        ({"estimator": GaussianNB(), "model_init": Tiny}, "both are given"),
        ({"estimator": GaussianNB(), "epsilon": 0.1, "target": 0.9}, "epsilon and target"),
        ({"estimator": GaussianNB(), "sizes": [20, 4000]}, "only 320 images are left"),
        ({"estimator": GaussianNB(), "metric": "beauty"}, "metric is 'beauty'"),
        ({"estimator": GaussianNB(), "repeats": 0}, "repeats is 0"),
        ({"estimator": GaussianNB(), "random_state": -1}, "random_state is -1"),
    ],
)
def test_bad_parameters_are_named(given, said, blobs):
    with pytest.raises(InputError, match=said):
        DataSufficiency(**given).fit(*blobs)


def test_bad_data_are_named(blobs):
    X, y = blobs
    for given, said in (
        ((X, None), "y is None"),
        ((X, y[:-1]), "X has 400 rows"),
        ((X, np.zeros(400)), "at least two are needed"),
    ):
        with pytest.raises(InputError, match=said):
            DataSufficiency(GaussianNB()).fit(*given)
    with pytest.raises(InputError, match="groups has shape"):
        DataSufficiency(GaussianNB()).fit(X, y, groups=[1, 2])


def test_saved_results_are_read_and_reported_like_those_of_a_run(fitted, tmp_path):
    fitted.save(tmp_path)
    assert read_result(tmp_path) == json.loads(json.dumps(fitted.result_))
    assert "Pipeline" in write_report(fitted.result_, tmp_path).read_text()
    with pytest.raises(InputError, match="call fit first"):
        DataSufficiency(GaussianNB()).save(tmp_path)


# ---- what the Trainer trains


def test_the_trainer_begins_anew_for_each_subset_and_leaves_random_states_alone(numbers, tmp_path):
    X, y = numbers
    args = arguments(tmp_path)
    Tiny.made, state = 0, torch.random.get_rng_state()
    made = DataSufficiency(model_init=Tiny, args=args, sizes=[20, 40], repeats=2, folds=2, epsilon=0.3)
    found = made.fit(Dataset.from_dict({"x": X.astype(np.float32).tolist(), "labels": y.tolist()}).with_format("torch"))
    assert torch.equal(state, torch.random.get_rng_state())
    assert Tiny.made >= 1 + 2 * 2 * 2
    assert found.report_.startswith("For Tiny,")
    assert found.curve_["mean"][-1] > 0.5
    assert (args.output_dir, args.seed) == (str(tmp_path / "mine"), 42)
    assert not (tmp_path / "mine").exists()
    again = clone(made).fit(Pairs(X, y))
    assert again.result_ == found.result_


def test_a_vision_transformer_is_trained_from_fresh_weights(tmp_path):
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 2
    pixels = rng.normal(size=(40, 3, 8, 8)) + labels[:, None, None, None]
    data = Dataset.from_dict({"pixel_values": pixels.astype(np.float32).tolist(), "labels": labels.tolist()})

    def make():
        sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        return ViTForImageClassification(ViTConfig(image_size=8, patch_size=4, num_labels=2, **sizes))

    made = DataSufficiency(model_init=make, args=arguments(tmp_path), sizes=[8, 16], repeats=2, folds=2, epsilon=0.5)
    found = made.fit(data.with_format("torch"))
    assert found.report_.startswith("For ViTForImageClassification,")
    assert found.scores_.shape == (2, 2)


def test_labels_come_from_the_dataset_or_from_y(numbers, tmp_path):
    X, y = numbers
    bare = Dataset.from_dict({"x": X.tolist(), "kind": y.tolist()})
    made = DataSufficiency(model_init=Tiny, args=arguments(tmp_path), sizes=[20, 40], repeats=2, folds=2)
    with pytest.raises(InputError, match="the dataset has the columns x, kind"):
        made.fit(bare)
    with pytest.raises(InputError, match="class numbers 0 to"):
        made.fit(bare, y + 3)
    with pytest.raises(InputError, match="holds no labels"):
        made.fit([{"x": row} for row in X])


def test_what_the_trainer_cannot_be_given(numbers, tmp_path):
    for given, said in (
        ({"model_init": Tiny()}, "model_init is a Tiny"),
        ({"model_init": Tiny, "trainer_options": {"train_dataset": 1}}, "trainer_options has train_dataset"),
    ):
        made = DataSufficiency(args=arguments(tmp_path), sizes=[20, 40], folds=2, **given)
        with pytest.raises(InputError, match=said):
            made.fit(Pairs(*numbers))


def test_outputs_that_do_not_fit_the_classes_are_named(numbers, tmp_path):
    X, y = numbers
    made = DataSufficiency(model_init=Tiny, args=arguments(tmp_path), sizes=[20, 40], folds=2)
    with pytest.raises(InputError, match="Set num_labels in model_init"):
        made.fit(Pairs(X, (y > 0).astype(int)))


# ---- the callback


def train(callback, numbers, tmp_path, count, *, evaluate_during=False, seed=0):
    X, y = numbers
    strategy = "epoch" if evaluate_during else "no"
    args = arguments(tmp_path, eval_strategy=strategy, seed=seed)
    before = (args.report_to, args.to_dict())
    trainer = Trainer(
        model=Tiny(), args=args, train_dataset=Pairs(X[:count], y[:count]), eval_dataset=Pairs(X[80:], y[80:]),
        callbacks=[callback],
        compute_metrics=lambda p: {"accuracy": float((p.predictions.argmax(1) == p.label_ids).mean())},
    )  # fmt: skip
    trainer.train()
    assert (args.report_to, args.to_dict()) == before
    return trainer


@pytest.mark.parametrize("evaluate_during", [True, False])
def test_the_callback_writes_a_table_that_the_forecast_reads(evaluate_during, numbers, tmp_path):
    path = tmp_path / "scores.csv"
    callback, last = DataCurveCallback(path, metric="accuracy"), []
    for count in (20, 40, 80, 20):
        trainer = train(callback, numbers, tmp_path, count, evaluate_during=evaluate_during)
        last.append(trainer.evaluate()["eval_accuracy"])
        trainer.evaluate()  # once more is no repeat
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert [(row["size"], row["repeat"]) for row in rows] == [("20", "0"), ("40", "0"), ("80", "0"), ("20", "1")]
    np.testing.assert_allclose([float(row["score"]) for row in rows], last)
    sizes, scores, name = read_scores(path)
    assert name == "score"
    assert forecast(sizes, scores, at=[160], kind="score").mean.shape == (1,)


def test_the_callback_says_what_it_cannot_find(numbers, tmp_path):
    with pytest.raises(InputError, match="metric is 'eval_beauty'; the evaluation gave"):
        train(DataCurveCallback(tmp_path / "s.csv", metric="beauty"), numbers, tmp_path, 20, evaluate_during=True)
    with pytest.raises(InputError, match="size is 0"):
        DataCurveCallback("s.csv", size=0)


# ---- the display


def test_the_display_measures_an_estimator_and_keeps_its_numbers(blobs, fitted):
    drawn = DataCurveDisplay.from_estimator(GaussianNB(), *blobs, sizes=[20, 40], repeats=2)
    assert drawn.ax_.figure is drawn.figure_
    header, rows = drawn.table()
    assert header[:4] == ("images", "accuracy", "low", "high")
    assert [row[0] for row in rows] == [20, 40]
    again = DataCurveDisplay.from_estimator(fitted)
    assert again.table() == DataCurveDisplay.from_result(fitted.result_).table()
    loss = DataCurveDisplay.from_estimator(fitted, metric="heldout_loss")
    assert loss.table()[0][1] == "heldout_loss"


def test_the_display_fits_what_is_not_fitted_and_draws_on_given_axes(blobs):
    from matplotlib.figure import Figure

    made = DataSufficiency(GaussianNB(), sizes=[20, 40], repeats=2)
    drawn = DataCurveDisplay.from_estimator(made, *blobs)
    assert hasattr(made, "result_")
    ax = Figure().add_subplot()
    assert drawn.plot(ax).ax_ is ax
    with pytest.raises(InputError, match="sizes given; a DataSufficiency has its own"):
        DataCurveDisplay.from_estimator(made, sizes=3)
