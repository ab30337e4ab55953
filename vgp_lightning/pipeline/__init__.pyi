from .planner import Plan as Plan
from .planner import StockEnvironment as StockEnvironment
from .planner import ValueGuidedPlannerPipeline as ValueGuidedPlannerPipeline
