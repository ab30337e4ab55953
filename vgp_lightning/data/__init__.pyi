from .describing import describe as describe
from .module import MinariDataModule as MinariDataModule
from .plain import write_episodes as write_episodes
from .returns import discounted_returns as discounted_returns
