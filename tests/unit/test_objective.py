import pytest
import torch
import torch.nn.functional as F

from supervit import Complexity, InputError, distillation_loss, path_losses

POINTS = [Complexity.of(text) for text in ("14", "14@0.5", "8", "8@0.7")]


def logits(count=4):
    return [torch.randn(6, 10, requires_grad=True) for _ in range(count)]


def test_labels_teach_uncut_paths_and_uncut_paths_teach_cut_ones():
    paths, labels = logits(), torch.randint(0, 10, (6,))
    losses = path_losses(paths, POINTS, labels)
    for uncut, cut in ((0, 1), (2, 3)):
        assert losses[uncut].item() == pytest.approx(F.cross_entropy(paths[uncut], labels).item(), rel=1e-6)
        teacher, student = paths[uncut].softmax(1), paths[cut].softmax(1)
        kl = (teacher * (teacher / student).log()).sum(dim=1).mean()
        assert losses[cut].item() == pytest.approx(kl.item(), rel=1e-5)


def test_labels_can_teach_every_path():
    paths, labels = logits(), torch.randint(0, 10, (6,))
    losses = path_losses(paths, POINTS, labels, label_smoothing=0.1, teacher="labels")
    expected = [F.cross_entropy(path, labels, label_smoothing=0.1) for path in paths]
    torch.testing.assert_close(torch.stack(losses), torch.stack(expected))


def test_the_teacher_is_detached():
    student, teacher = logits(2)
    distillation_loss(student, teacher).backward()
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None


def test_a_student_that_agrees_has_no_loss():
    (teacher,) = logits(1)
    assert distillation_loss(teacher, teacher).item() == pytest.approx(0, abs=1e-6)


def test_indices_and_probabilities_are_the_same_targets():
    paths, labels = logits(), torch.randint(0, 10, (6,))
    smooth = F.one_hot(labels, 10) * 0.9 + 0.01
    by_index = path_losses(paths, POINTS, labels, label_smoothing=0.1)
    by_probability = path_losses(paths, POINTS, smooth)
    torch.testing.assert_close(torch.stack(by_index), torch.stack(by_probability))


def test_the_order_of_paths_does_not_matter():
    paths, labels = logits(), torch.randint(0, 10, (6,))
    forward = torch.stack(path_losses(paths, POINTS, labels))
    backward = torch.stack(path_losses(paths[::-1], POINTS[::-1], labels))
    torch.testing.assert_close(forward, backward.flip(0))


def test_a_cut_path_without_its_teacher_is_refused():
    with pytest.raises(InputError, match="path 8@0.7 has no teacher; ask for 8 in the same step"):
        path_losses(logits(2), [POINTS[0], POINTS[3]], torch.zeros(6, dtype=torch.long))
