"""Writes the MLServer model repository: `digits`, `digits_undeclared` whose metadata says nothing, and `linear`."""

import json
import pathlib
import sys

import joblib
from sklearn.datasets import load_digits
from sklearn.svm import SVC

DECLARED = {
    "inputs": [{"name": "predict", "datatype": "FP32", "shape": [-1, 64]}],
    "outputs": [{"name": "predict", "datatype": "INT64", "shape": [-1, 1]}],
}


LINEAR = {
    "name": "linear",
    "implementation": "linear_runtime.Linear",
    "parameters": {"version": "v1"},
    "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 64]}],
    "outputs": [
        {"name": "label", "datatype": "INT64", "shape": [-1, 1]},
        {"name": "scores", "datatype": "FP32", "shape": [-1, 10]},
    ],
}


def write(folder, name, model, metadata):
    """Puts one scikit-learn model where MLServer finds it."""
    folder = folder / name
    folder.mkdir(parents=True, exist_ok=True)
    joblib.dump(model, folder / "model.joblib")
    settings = {
        "name": name,
        "implementation": "mlserver_sklearn.SKLearnModel",
        "parameters": {"uri": "./model.joblib", "version": "v1"},
        **metadata,
    }
    (folder / "model-settings.json").write_text(json.dumps(settings))


if __name__ == "__main__":
    images, labels = load_digits(return_X_y=True)
    svm = SVC(gamma=0.001, C=10.0).fit(images, labels)
    root = pathlib.Path(sys.argv[1])
    write(root, "digits", svm, DECLARED)
    write(root, "digits_undeclared", svm, {})
    (root / "linear").mkdir(exist_ok=True)
    (root / "linear" / "model-settings.json").write_text(json.dumps(LINEAR))
