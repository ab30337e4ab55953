from .criticism import train_critic as train_critic
from .distillation import distill as distill
