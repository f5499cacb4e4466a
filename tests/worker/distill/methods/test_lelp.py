from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as functional
from threadpoolctl import threadpool_info, threadpool_limits

from tests.worker.distill.methods.answers import some_answers
from worker.distill.errors import InvalidJob
from worker.distill.methods.lelp import Lelp, Subclasses, _principal_directions, subclass_projection
from worker.distill.objectives import Answers, Combined, KnowledgeDistillation
from worker.distill.rows import Predictions

CLASSES, WIDTH, SUBCLASSES = 3, 12, 4


def a_teacher(rows: int = 300) -> Predictions:
    """Features that vary along some directions more than along others, and a classifier that reads them."""
    generator = np.random.default_rng(4)
    features = (generator.normal(size=(rows, WIDTH)) * np.linspace(0.3, 3, WIDTH) + 1.0).astype(np.float32)
    classifier = generator.normal(size=(CLASSES, WIDTH)).astype(np.float32)
    return Predictions(features @ classifier.T, features, classifier)


def begun(teacher: Predictions, subclasses: int = SUBCLASSES, alpha: float = 1.0) -> Subclasses:
    objective = Subclasses(Lelp(2.0, alpha, subclasses, 1.0))
    objective.begin(teacher, np.zeros(len(teacher.logits), np.int64))
    return objective


def answers_of(teacher: Predictions, rows: int = 16) -> Answers:
    assert teacher.features is not None
    given = some_answers(teacher=torch.from_numpy(teacher.logits[:rows]), student=torch.randn(rows, CLASSES))
    features = torch.randn(rows, WIDTH, generator=torch.Generator().manual_seed(2))
    return replace(given, student_features=features, teacher_features=torch.from_numpy(teacher.features[:rows]))


class TestSubclassProjection:
    def test_sees_nothing_that_the_classifier_sees(self) -> None:
        teacher = a_teacher()
        assert teacher.features is not None and teacher.classifier is not None  # noqa: PT018
        found = subclass_projection(teacher.features, teacher.logits.argmax(1), teacher.classifier, SUBCLASSES)
        assert np.abs(found.directions @ teacher.classifier.T).max() < 1e-5
        moved = teacher.features + np.random.default_rng(1).normal(size=(300, CLASSES)) @ teacher.classifier
        np.testing.assert_allclose(moved @ found.directions.T, teacher.features @ found.directions.T, atol=1e-4)

    def test_is_standardised_over_the_rows_of_its_class_and_takes_the_widest_directions(self) -> None:
        teacher = a_teacher()
        chosen = teacher.logits.argmax(1)
        assert teacher.features is not None and teacher.classifier is not None  # noqa: PT018
        found = subclass_projection(teacher.features, chosen, teacher.classifier, SUBCLASSES)
        for index in range(CLASSES):
            part = slice(index * SUBCLASSES, (index + 1) * SUBCLASSES)
            own = teacher.features[chosen == index]
            along = own @ found.directions[part].T - found.offsets[part]
            np.testing.assert_allclose(along.mean(0), 0, atol=1e-4)
            np.testing.assert_allclose(along.std(0), 1, atol=1e-4)
            # The same plane as that of the principal directions, found another way.
            unseen = own @ (np.eye(WIDTH) - np.linalg.pinv(teacher.classifier) @ teacher.classifier)
            _, _, principal = np.linalg.svd(unseen - unseen.mean(0), full_matrices=False)
            outside = (
                found.directions[part] - found.directions[part] @ principal[:SUBCLASSES].T @ principal[:SUBCLASSES]
            )
            assert np.abs(outside).max() < 1e-4

    def test_is_computed_by_one_thread(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Harm: other bits where a run goes on on a machine of other cores, under the name of an exact resume."""
        threads: list[int] = []

        def principal_directions(*given: Any) -> Any:
            threads.extend(library["num_threads"] for library in threadpool_info())
            return _principal_directions(*given)

        monkeypatch.setattr("worker.distill.methods.lelp._principal_directions", principal_directions)
        with threadpool_limits(2):
            begun(a_teacher())
        assert threads
        assert set(threads) == {1}

    def test_of_many_rows_and_of_few_is_the_same_computation(self) -> None:
        """The two ways to the principal directions: by the rows, and by their covariance."""
        teacher = a_teacher(rows=24)
        assert teacher.features is not None and teacher.classifier is not None  # noqa: PT018
        repeated = np.repeat(teacher.features, 3, 0)
        chosen = teacher.logits.argmax(1)
        few = subclass_projection(teacher.features, chosen, teacher.classifier, 2)
        many = subclass_projection(repeated, np.repeat(chosen, 3), teacher.classifier, 2)
        assert any((chosen == index).sum() <= WIDTH < 3 * (chosen == index).sum() for index in range(CLASSES))
        np.testing.assert_allclose(few.directions, many.directions, atol=1e-4)

    def test_a_class_of_few_rows_or_none_says_nothing_of_what_it_lacks(self) -> None:
        teacher = a_teacher()
        assert teacher.features is not None and teacher.classifier is not None  # noqa: PT018
        chosen = np.where(np.arange(300) < 2, 1, 0)  # none of class 2, two of class 1, which span one direction
        found = subclass_projection(teacher.features, chosen, teacher.classifier, SUBCLASSES)
        assert np.isfinite(found.directions).all()
        assert not found.directions[2 * SUBCLASSES :].any()
        assert np.linalg.matrix_rank(found.directions[SUBCLASSES : 2 * SUBCLASSES], tol=1e-4) == 1

    def test_of_rows_that_are_one_but_for_rounding_is_nothing(self) -> None:
        """Harm: what bf16 rounds away blown up to a variance of one, and taught."""
        teacher = a_teacher()
        assert teacher.features is not None and teacher.classifier is not None  # noqa: PT018
        features, chosen = teacher.features.copy(), np.arange(300) % 2
        features[chosen == 1] = 3.0 + 1e-3 * np.random.default_rng(0).normal(size=(150, WIDTH))
        found = subclass_projection(features, chosen, teacher.classifier, SUBCLASSES)
        assert not found.directions[SUBCLASSES : 2 * SUBCLASSES].any()
        assert found.directions[:SUBCLASSES].any()


class TestCheck:
    def test_refuses_a_classifier_that_sees_everything(self) -> None:
        objective = Combined(Subclasses(Lelp(2.0, 1.0, 4, 1.0)), [KnowledgeDistillation(2.0, 0.9)])
        objective.check(classes=4, width=5)
        with pytest.raises(InvalidJob, match="one of 5 classes on features of width 5 sees everything"):
            objective.check(classes=5, width=5)


class TestSubclasses:
    def test_of_one_each_are_plain_distillation(self) -> None:
        teacher = a_teacher()
        given = answers_of(teacher)
        torch.testing.assert_close(begun(teacher, 1, alpha=0.7)(given), KnowledgeDistillation(2.0, 0.7)(given))

    def test_loss_is_the_divergence_over_all_pairs_of_class_and_subclass(self) -> None:
        """Written out: both joint distributions, and their divergence; each sums up to that of the classes."""
        teacher = a_teacher()
        given, objective = answers_of(teacher), begun(teacher)
        assert given.teacher is not None and given.student_features is not None  # noqa: PT018
        assert given.teacher_features is not None
        head = objective.trained_beside()
        second = (given.student_features @ head["weight"].T + head["bias"]).view(-1, CLASSES, SUBCLASSES)
        target = functional.softmax(given.teacher / 2, -1)[..., None] * functional.softmax(
            objective.places(given.teacher_features), -1
        )
        student = functional.softmax(given.student / 2, -1)[..., None] * functional.softmax(second, -1)
        torch.testing.assert_close(target.sum(-1), functional.softmax(given.teacher / 2, -1), atol=1e-6, rtol=0)
        torch.testing.assert_close(student.sum(-1), functional.softmax(given.student / 2, -1), atol=1e-6, rtol=0)
        divergence = (target * (target.log() - student.log())).flatten(1).sum(1)
        of_classes = KnowledgeDistillation(2.0, 1.0)(given) / 4
        # The temperature has softened the classes alone.
        expected = 4 * of_classes + (divergence - of_classes)
        torch.testing.assert_close(objective(given), expected, atol=1e-5, rtol=1e-5)

    def test_teach_the_features_and_the_second_head(self) -> None:
        teacher = a_teacher()
        given, objective = answers_of(teacher), begun(teacher)
        assert given.student_features is not None
        features = given.student_features.requires_grad_()
        parameters = list(objective.trained_beside().values())
        optimizer = torch.optim.Adam([features, *parameters], lr=0.05)
        before = objective(given).mean()
        before.backward()
        assert features.grad is not None
        assert features.grad.abs().sum() > 0
        for _ in range(300):
            optimizer.zero_grad()
            objective(given).mean().backward()
            optimizer.step()
        # What is left is what the classes' own logits, which are held, differ by.
        left = (objective(given) - KnowledgeDistillation(2.0, 1.0)(given)).mean()
        assert left < 0.05 * (before - KnowledgeDistillation(2.0, 1.0)(given).mean())

    def test_begin_alike_every_time(self) -> None:
        first, again = begun(a_teacher()), begun(a_teacher())
        given = answers_of(a_teacher())
        assert torch.equal(first(given), again(given))
