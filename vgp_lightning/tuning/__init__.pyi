from .search import tune as tune
