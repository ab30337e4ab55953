from .plan import Plan as Plan
from .planner import ValueGuidedPlannerPipeline as ValueGuidedPlannerPipeline
from .settings import Settings as Settings
from .stock import StockEnvironment as StockEnvironment
