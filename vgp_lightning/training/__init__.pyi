from .callbacks import EMA as EMA
from .callbacks import CalibrationPicture as CalibrationPicture
from .callbacks import PlanPicture as PlanPicture
from .callbacks import Throughput as Throughput
from .planner import DenoiserModule as DenoiserModule
from .planner import PlannerModule as PlannerModule
from .planner import ValueModule as ValueModule
