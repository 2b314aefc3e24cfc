"""`python -m l2a_transfer` is `l2a-transfer`."""

from l2a_transfer.cli.main import main

main(prog_name="l2a-transfer")
