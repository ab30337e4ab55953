from .server import play as play
from .session import Session as Session
