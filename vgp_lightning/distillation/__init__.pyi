from .distillation import distill as distill
