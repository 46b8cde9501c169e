"""The training objective: labels teach the uncut paths, each cut path imitates the uncut one of its grid (Eq. 10)."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from supervit.complexity import Complexity
from supervit.errors import InputError
from supervit.options import Teacher


def path_losses(
    logits: Sequence[Tensor],
    complexities: Sequence[Complexity | str],
    targets: Tensor,
    label_smoothing: float = 0.0,
    teacher: Teacher = "own_grid",
) -> list[Tensor]:
    """The loss of each path; Eq. 10 is their sum.

        uncut: CE(p_g1, y)        cut: KL(p_g1 || p_gm), p_g1 detached

    Args:
        logits: Logits (B, K) of each path, as from `SuperViT.forward_paths`.
        complexities: The paths, in the same order.
        targets: Class indices (B) or class probabilities (B, K).
        label_smoothing: Share of the target spread over all classes, in [0, 1].
        teacher: `own_grid`: each cut path imitates the uncut one of its grid size, which must be among the paths.
            `larger_grid`: moreover the uncut ones imitate that of the largest grid, which the labels teach (ours, after the
            in-place distillation of Yu and Huang, "Universally Slimmable Networks", 2019). `labels`: cross-entropy
            everywhere (the paper's Figure 4b).

    Returns:
        One scalar per path: batch means, temperature 1.

    Raises:
        InputError: a cut path comes without its teacher.

    Source: paper section 3.3; released implementation.
    Differs: the paper prints KL(p_gm, p_g1); the direction here is the released one, which its results were made with.
    """
    points = [Complexity.of(complexity) for complexity in complexities]
    by_point = dict(zip(points, logits, strict=True))
    losses = []
    for point, path in zip(points, logits, strict=True):
        teaching = _teacher_of(point, points, teacher)
        if teaching is None:
            losses.append(F.cross_entropy(path, targets, label_smoothing=label_smoothing))
        elif teaching in by_point:
            losses.append(distillation_loss(path, by_point[teaching]))
        else:
            raise InputError(f"path {point} has no teacher; ask for {teaching} in the same step")
    return losses


def _teacher_of(point: Complexity, points: Sequence[Complexity], teacher: Teacher) -> Complexity | None:
    """The path that a path imitates; None where the labels teach it."""
    if teacher == "labels":
        return None
    if not point.is_uncut:
        return point.uncut
    largest = max(points).uncut
    return largest if teacher == "larger_grid" and point != largest else None


def distillation_loss(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """KL(teacher || student), mean over the batch, of logits (B, K); no gradient reaches the teacher."""
    log_student, log_teacher = student_logits.log_softmax(dim=-1), teacher_logits.detach().log_softmax(dim=-1)
    return F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)
