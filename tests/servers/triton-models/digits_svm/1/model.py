"""Classifies the UCI handwritten digits. Serves `digits_svm` and `digits_forest`; Triton batches neither."""

import numpy as np
import triton_python_backend_utils as pb_utils
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.svm import SVC


class TritonPythonModel:
    def initialize(self, args):
        images, labels = load_digits(return_X_y=True)
        if args["model_name"] == "digits_svm":
            model = SVC(gamma=0.001, C=10.0).fit(images, labels)
            self.scores = model.decision_function
        else:
            model = RandomForestClassifier(n_estimators=100, random_state=0, n_jobs=1).fit(images, labels)
            self.scores = model.predict_proba

    def execute(self, requests):
        # Request by request: what a batch holds is the caller's doing alone.
        return [self.answer(pb_utils.get_input_tensor_by_name(request, "x").as_numpy()) for request in requests]

    def answer(self, images):
        scores = self.scores(images).astype(np.float32)
        labels = scores.argmax(axis=1).astype(np.int64)[:, None]
        return pb_utils.InferenceResponse([pb_utils.Tensor("label", labels), pb_utils.Tensor("proba", scores)])
