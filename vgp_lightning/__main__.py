"""``python -m vgp_lightning``: the command line."""

from vgp_lightning.cli.command import main

main()
