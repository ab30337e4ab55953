from .comparison import compare as compare
from .evaluation import evaluate as evaluate
from .evaluation import evaluate_agent as evaluate_agent
from .publishing import publish as publish
