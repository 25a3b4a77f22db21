import numpy as np

from gcvit_flax.features import nearest_neighbors
from gcvit_flax.features.labeled import LabeledFeatures
from gcvit_flax.features.nearest_neighbors import nearest_neighbors_top1


def predicted(train: LabeledFeatures, query: np.ndarray, k: int) -> int:
    """The class with the largest sum of exp(cosine similarity / 0.07) over the k most similar images, in float64."""
    values = train.values.astype(np.float64)
    cosines = values @ query / np.linalg.norm(values, axis=1) / np.linalg.norm(query)
    nearest = np.argsort(-cosines)[:k]
    return int(np.bincount(train.labels[nearest], np.exp(cosines[nearest] / 0.07), minlength=3).argmax())


def drawn(seed: int, count: int) -> LabeledFeatures:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, count)
    values = rng.normal(size=(count, 4)) + np.eye(4)[labels]
    return LabeledFeatures((values * rng.uniform(0.1, 9, (count, 1))).astype(np.float32), labels.astype(np.int32))


def test_votes_are_weighted_by_cosine_similarity(monkeypatch):
    monkeypatch.setattr(nearest_neighbors, "_QUERIES_AT_A_TIME", 32)  # The last part is smaller.
    train, queries, neighbors = drawn(0, 60), drawn(1, 80), (1, 4, 9, 60)
    found = nearest_neighbors_top1(train, queries, neighbors, 3)
    expected = {
        k: np.mean([predicted(train, query, k) == label for query, label in zip(*vars(queries).values(), strict=True)])
        for k in neighbors
    }
    assert found == expected and len({*found.values()}) > 2


def test_weights_decide_against_the_majority():
    """One image like the query outweighs two at a right angle to it; zeros are like nothing."""
    train = LabeledFeatures(np.float32([[2, 0], [0, 1], [0, 3], [0, 0]]), np.int32([0, 1, 1, 1]))
    queries = LabeledFeatures(np.float32([[0.5, 0.1]]), np.int32([0]))
    assert nearest_neighbors_top1(train, queries, (1, 4), 2) == {1: 1.0, 4: 1.0}
