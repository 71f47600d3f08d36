"""An independent classifier, which says what class an image shows."""

from dataclasses import dataclass

import numpy as np
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.svm import SVC

from compress.data import Dataset

MOST = 50_000  # images that it is trained on: its time grows with their square


@dataclass(frozen=True)
class Classifier:
    """model: a scikit-learn classifier of flattened images. accuracy: on real images it was not trained on."""

    model: object
    accuracy: float

    def classify(self, images: np.ndarray) -> np.ndarray:
        """Class of each image [n,c,h,w], int64 [n]."""
        return self.model.predict(images.reshape(len(images), -1))  # type: ignore[attr-defined]


def train_classifier(dataset: Dataset) -> Classifier:
    """A support vector machine trained on the training part and tested on the held-out part, on MOST images of each.

    Where the data set is too small to hold anything back its accuracy counts as 0.
    """
    parts = dataset.split()
    train, held_out = (part.held(MOST) for part in parts)
    flat, labels = train.images.flatten(1).numpy(), train.conditions["class_labels"].numpy()
    model = make_pipeline(PCA(min(64, *flat.shape), random_state=0), SVC(C=10.0, gamma="scale"))
    model.fit(flat, labels)
    if len(parts[1]) == len(dataset):
        return Classifier(model, 0.0)  # nothing was held back, so nothing is known of its accuracy
    accuracy = model.score(held_out.images.flatten(1).numpy(), held_out.conditions["class_labels"].numpy())
    return Classifier(model, float(accuracy))
