"""Recordings in other formats (HDF5, npz, CSV, parquet, LeRobot) to Minari datasets."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
