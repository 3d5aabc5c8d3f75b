"""Run the command line: ``python -m numbattn``."""

from numbattn.cli import main

if __name__ == "__main__":
    main(prog_name="numbattn")
