from .collection import collect as collect
from .planning import Agent as Agent
from .planning import PlanningAgent as PlanningAgent
from .planning import PositionController as PositionController
from .planning import make_environments as make_environments
from .planning import rollout as rollout
