"""``python -m vgp_lightning.cli``: the command line, as torchrun starts it."""

from vgp_lightning.cli.command import main

main()
