"""The one model and the one function that every server of the goodput bench answers with.

As a script: `digits.py FOLDER` trains and pickles `svm.joblib` and `forest.joblib` there, and writes images (64
little-endian floats each) to `images` and the labels that each model gives them (8 bytes each) to `svm.labels`, ...
"""

import os
import pathlib
import sys

import joblib
import numpy as np


def load():
    """Loads the pickle that the bench names, the same for all servers."""
    return joblib.load(os.environ["DIGITS"])


def answer(model, rows):
    """Returns labels [n] and probabilities [n, 10] of rows [n, 64]."""
    if hasattr(model, "predict_proba"):
        scores = model.predict_proba(rows)
    else:
        scores = np.exp(model.decision_function(rows))
        scores /= scores.sum(axis=1, keepdims=True)
    return scores.argmax(axis=1), scores.astype(np.float32)


def train(folder):
    from sklearn.datasets import load_digits
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.svm import SVC

    images, labels = load_digits(return_X_y=True)
    sent = images[:IMAGES].astype("<f4")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "images").write_bytes(sent.tobytes())
    for name, model in {
        "svm": SVC(gamma=0.001, C=10.0),
        "forest": RandomForestClassifier(n_estimators=100, random_state=0, n_jobs=1),
    }.items():
        joblib.dump(model.fit(images, labels), folder / f"{name}.joblib")
        found = np.concatenate([answer(model, row)[0] for row in sent[:, None]])
        (folder / f"{name}.labels").write_bytes(found.astype("<i8").tobytes())


IMAGES = 256

if __name__ == "__main__":
    train(pathlib.Path(sys.argv[1]))
