"""The command line: ``vgp VERB ...``, its options, its help, and what it says when something is wrong."""

from vgp_lightning.cli.command import main

__all__ = ["main"]
