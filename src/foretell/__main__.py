"""``python -m foretell`` is the command line."""

from foretell.cli import app

if __name__ == "__main__":
    app()
