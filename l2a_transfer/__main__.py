"""`python -m l2a_transfer` is `l2a-transfer`."""

from l2a_transfer.cli.main import main

if __name__ == "__main__":  # processes that are spawned import this module again
    main(prog_name="l2a-transfer")
