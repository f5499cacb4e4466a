"""Plain knowledge distillation."""

from typing import Literal

from app.schemas.methods.base import Alpha, MethodParameters, Temperature


class KnowledgeDistillation(MethodParameters):
    """Match the teacher's softened probabilities."""

    kind = "objective"
    title = "Knowledge distillation"
    summary = "KL divergence to the teacher's softened probabilities, mixed with the hard labels."
    source = "Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network, 2015 (arXiv:1503.02531)."

    type: Literal["kd"] = "kd"
    temperature: Temperature = 2.0
    alpha: Alpha = 0.9
