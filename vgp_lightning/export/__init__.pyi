from .original import import_original as import_original
from .trained import export as export
