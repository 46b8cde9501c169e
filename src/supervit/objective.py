"""The training objective: labels teach the uncut paths, each cut path imitates the uncut one of its grid (Eq. 10)."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from supervit.complexity import Complexity
from supervit.errors import InputError


def path_losses(
    logits: Sequence[Tensor], complexities: Sequence[Complexity | str], targets: Tensor, label_smoothing: float = 0.0
) -> list[Tensor]:
    """The loss of each path; Eq. 10 is their sum.

        uncut: CE(p_g1, y)        cut: KL(p_g1 || p_gm), p_g1 detached

    Args:
        logits: Logits (B, K) of each path, as from `SuperViT.forward_paths`.
        complexities: The paths, in the same order; with every cut one also the uncut one of its grid size.
        targets: Class indices (B) or class probabilities (B, K).
        label_smoothing: Share of the target spread over all classes, in [0, 1].

    Returns:
        One scalar per path: batch means, temperature 1.

    Raises:
        InputError: a cut path comes without its teacher.

    Source: paper section 3.3; released implementation.
    Differs: the paper prints KL(p_gm, p_g1); the direction here is the released one, which its results were made with.
    """
    points = [Complexity.of(complexity) for complexity in complexities]
    uncut = {point: path for point, path in zip(points, logits, strict=True) if point.is_uncut}
    losses = []
    for point, path in zip(points, logits, strict=True):
        if point.is_uncut:
            losses.append(F.cross_entropy(path, targets, label_smoothing=label_smoothing))
        elif point.uncut in uncut:
            losses.append(distillation_loss(path, uncut[point.uncut]))
        else:
            raise InputError(f"path {point} has no teacher; ask for {point.uncut} in the same step")
    return losses


def distillation_loss(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """KL(teacher || student), mean over the batch, of logits (B, K); no gradient reaches the teacher."""
    log_student, log_teacher = student_logits.log_softmax(dim=-1), teacher_logits.detach().log_softmax(dim=-1)
    return F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True)
