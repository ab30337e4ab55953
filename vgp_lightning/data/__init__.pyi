from .module import MinariDataModule as MinariDataModule
from .returns import discounted_returns as discounted_returns
