from .agent.controllers import PositionController as PositionController
from .agent.planning import PlanningAgent as PlanningAgent
from .data.module import MinariDataModule as MinariDataModule
from .pipeline.plan import Plan as Plan
from .pipeline.planner import ValueGuidedPlannerPipeline as ValueGuidedPlannerPipeline
from .shipped import example_planner as example_planner

__version__: str
