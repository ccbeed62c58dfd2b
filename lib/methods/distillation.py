"""Methods that hold the network to its own old answers on new images."""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from lib.methods.options import check_flag, check_number
from lib.methods.registry import method
from lib.precision import autocast
from lib.training import Method


@method("LwF", keeps="weights")
@dataclass
class LwF(Method):
    """Learning without Forgetting (Li & Hoiem 2016, equations 2 to 4; Hinton et al. 2015):

        loss = CE(new task) + strength * sum over old heads of mean over images of KL(old || new)

    where old and new are softmax(logits / temperature) of the network as it entered the round (the
    teacher) and of the network in training, on the new task's images. With one head per task each
    earlier task's outputs are a distribution of their own. With a shared head there is one, over
    the K outputs that the new labels also use: there the teacher's answers contradict the labels.

    Departs from the paper: KL instead of cross-entropy with the old answers (same gradient); the
    teacher answers the same augmented image in every step instead of once before training; no
    warm-up of the new head. Nothing is multiplied by temperature squared, as in common
    implementations, unless `scaled`.

    strength: at least 0; temperature: above 0; scaled: also multiply by temperature squared, which
    keeps the size of the gradient apart from the temperature. Stored between tasks: the weights. In
    round 3 and later the teacher is the network that has learned all earlier tasks. It runs in
    evaluation mode and in the student's precision; the student's own forward pass is the only one.
    (With batch norm the penalty is therefore not zero at the first step: the student answers from
    its batch's statistics, the teacher from its running ones.)
    """

    strength: float = 1.0
    temperature: float = 2.0
    scaled: bool = False

    steady = True  # the teacher's answer only launches work

    def __post_init__(self):
        check_number("strength", self.strength)
        check_number("temperature", self.temperature, above=True)
        check_flag("scaled", self.scaled)

    def before(self, model, task, context):
        self.teacher = copy.deepcopy(model).eval().requires_grad_(False)
        self.teacher.zero_grad(set_to_none=True)  # the copy brought the last step's gradients along
        self.precision = context.recipe.precision
        earlier = context.tasks[: context.round - 1]
        spans = sorted({(t.outputs.start, t.outputs.stop) for t in earlier})
        self.heads = [slice(*span) for span in spans]  # just one where the head is shared

    def penalty(self, model, x, y, outputs):
        with torch.no_grad(), autocast(self.precision, x.device):
            answers = self.teacher(x)
        answers, t = answers.to(outputs.dtype), self.temperature
        strength = self.strength * (t**2 if self.scaled else 1)
        return strength * sum(divergence(answers[:, h], outputs[:, h], t) for h in self.heads)

    def after(self, model, task, context):
        del self.teacher


def divergence(old: Tensor, new: Tensor, temperature: float) -> Tensor:
    """KL(softmax(old / T) || softmax(new / T)) in nats, mean over images; logits (B, K)."""
    log_old, log_new = (F.log_softmax(z / temperature, 1) for z in (old, new))
    return F.kl_div(log_new, log_old, log_target=True, reduction="batchmean")
