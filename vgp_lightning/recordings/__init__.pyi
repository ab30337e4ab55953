from .importing import import_data as import_data
