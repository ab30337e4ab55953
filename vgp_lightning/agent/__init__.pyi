from .collection import collect as collect
from .controllers import PositionController as PositionController
from .environments import Agent as Agent
from .environments import make_environments as make_environments
from .environments import rollout as rollout
from .planning import PlanningAgent as PlanningAgent
