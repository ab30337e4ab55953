from .callbacks import EMA as EMA
from .callbacks import Throughput as Throughput
from .denoiser import DenoiserModule as DenoiserModule
from .habit import HabitModule as HabitModule
from .pictures import CalibrationPicture as CalibrationPicture
from .pictures import PlanPicture as PlanPicture
from .planner import PlannerModule as PlannerModule
from .value import ValueModule as ValueModule
